"""The annotated objects of a batch, or a word on how to get them."""

from __future__ import annotations

from dataclasses import replace

from torch.nn.functional import pad

from refseg.errors import DataError
from refseg.types import Batch, NetObjects


def objects_of(batch: Batch) -> NetObjects:
    """The batch's annotated objects, K >= 1: where no image has any, one place of padding.

    Raises DataError for a batch without.
    """
    if batch.objects is None:
        raise DataError(
            "the annotated objects of the images are needed, and the batch has none",
            remedy="open the data with objects=True",
        )
    return batch.objects if batch.objects.known.shape[1] else _padded(batch.objects)


def _padded(objects: NetObjects) -> NetObjects:
    """No objects [I, 0] -> padding [I, 1]: neither head nor matcher has to think of K = 0."""
    boxes, masks, has_mask = objects.boxes, objects.masks, objects.has_mask
    return replace(
        objects,
        known=pad(objects.known, (0, 1)),
        ann_ids=pad(objects.ann_ids, (0, 1), value=-1),
        boxes=None if boxes is None else pad(boxes, (0, 0, 0, 1), value=float("nan")),
        masks=None if masks is None else pad(masks, (0, 0, 0, 0, 0, 1)),
        has_mask=None if has_mask is None else pad(has_mask, (0, 1)),
    )


def missing(what: str, kind: str) -> DataError:
    """The error for objects whose `what` was not granted."""
    return DataError(
        f"the proposals need the {what} of all objects, which are not here",
        remedy=f'open the data with objects=True and the label "{kind}"',
    )
