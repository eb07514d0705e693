"""Pictures with the masks of all their objects: what a proposal extractor learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.data.collate import collate_pictures
from refseg.data.objects import flip_objects
from refseg.data.pictures import PictureSource
from refseg.data.transforms import PreprocessConfig
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.pretraining import ProposalLearner
from refseg.types import Batch, Labels, Picture

#: Pictures scored at once.
AT_ONCE = 50


@dataclass
class PictureBatches:
    """make_batch(indices, epoch): pictures with their objects, without expressions.

    rows: of the source's records. mirror: chance that a picture is mirrored, drawn by (seed,
    epoch, index). labels: what of the objects is shown.
    """

    source: PictureSource
    rows: Sequence[int]
    preprocess: PreprocessConfig
    labels: Labels
    mirror: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, indices: list[int], epoch: int) -> Batch:
        """The pictures of these indices, mirrored or not."""
        pictures = []
        for index in indices:
            picture = self.source.picture(self.rows[index], labels=self.labels)
            rng = np.random.default_rng([self.seed, epoch, index])
            pictures.append(mirrored(picture) if rng.random() < self.mirror else picture)
        return collate_pictures(pictures, self.preprocess)


def mirrored(picture: Picture) -> Picture:
    """Left to right: pixels and objects."""
    objects, width = picture.objects, picture.image.shape[1]
    return replace(
        picture,
        image=np.ascontiguousarray(picture.image[:, ::-1]),
        objects=None if objects is None else flip_objects(objects, width),
    )


@dataclass(frozen=True)
class Coverage:
    """How well proposals cover the objects of held-out pictures, in the net frame.

    "oracle IoU": mean over objects of the best IoU of any proposal. "oracle recall": share of
    objects that some proposal covers with IoU > 0.5. "matched IoU": mean IoU under the matching.
    """

    batches: PictureBatches

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        assert isinstance(learner, ProposalLearner)
        device = next(learner.parameters()).device
        count = len(self.batches)
        best, matched = [], []
        for start in range(0, count, AT_ONCE):
            indices = list(range(start, min(start + AT_ONCE, count)))
            batch = self.batches(indices, 0).to(device)
            one, other = _coverage(learner, batch)
            best.append(one)
            matched.append(other)
        top = torch.cat(best)
        return {
            "oracle IoU": float(top.mean()),
            "oracle recall": float((top > 0.5).float().mean()),
            "matched IoU": float(torch.cat(matched).mean()),
        }


def _coverage(learner: ProposalLearner, batch: Batch) -> tuple[Tensor, Tensor]:
    """For each known object of the batch the best IoU, and that of its own proposal."""
    objects = objects_of(batch)
    proposals = learner(batch)
    matching = learner.extractor.match(proposals, objects)
    targets, known = learner.extractor.targets(objects)
    logits = F.interpolate(
        proposals.levels[-1].masks.float(), targets.shape[2:], mode="bilinear", align_corners=False
    )
    ours, theirs = (logits > 0).flatten(2).float(), targets.flatten(2).float()
    overlap = torch.einsum("inp,ikp->ikn", ours, theirs)
    union = ours.sum(dim=2)[:, None] + theirs.sum(dim=2)[:, :, None] - overlap
    iou = overlap / union.clamp(min=1)
    own = iou.gather(2, matching.proposal.clamp(min=0)[..., None])[..., 0]
    own = own.masked_fill(matching.proposal < 0, 0.0)
    return iou.amax(dim=2)[known], own[known]
