"""What no words are needed for. A method that does not beat these has learned nothing.

Each answers `predict(samples)` as a model does. "largest-object" looks at the annotations of all
objects in the image (not at which is meant), so it is an oracle of sizes and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.data.maskfile import read_mask_file
from refseg.data.records import MaskFile
from refseg.errors import UnknownName
from refseg.ops.masks import decode_segmentation
from refseg.types import Geometry, Prediction, Sample

PREFIX = "baseline:"
NAMES = ("baseline:whole-image", "baseline:centre-disc", "baseline:largest-object")
DISC_RADIUS = 0.25  # of the shorter side

Mask = NDArray[np.bool_]
HW = tuple[int, int]


class Baseline:
    """Masks that a rule gives, whatever the words say."""

    def __init__(self, name: str, labels: str, rule: Callable[[Sample], Mask]) -> None:
        self.name = name
        self.card: dict[str, Any] = {"labels used": labels}
        self._rule = rule

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample, without response maps."""
        return [Prediction(self._rule(s), 1.0, _same_size(_hw(s))) for s in samples]


def make_baseline(name: str, dataset: ReferDataset) -> Baseline:
    """The baseline `name`, one of NAMES, for a data set. Raises UnknownName."""
    if name == NAMES[0]:
        return Baseline(name, "none", lambda sample: np.ones(_hw(sample), bool))
    if name == NAMES[1]:
        return Baseline(name, "none", lambda sample: centre_disc(_hw(sample)))
    if name == NAMES[2]:
        return Baseline(name, "masks of all objects in the image", LargestObject(dataset))
    raise UnknownName("baseline", name, NAMES)


def centre_disc(hw: HW) -> Mask:
    """[H, W] bool: a disc in the middle, its radius `DISC_RADIUS` of the shorter side."""
    height, width = hw
    rows, columns = np.ogrid[:height, :width]
    squared = (rows + 0.5 - height / 2) ** 2 + (columns + 0.5 - width / 2) ** 2
    return np.asarray(squared <= (DISC_RADIUS * min(hw)) ** 2, bool)


class LargestObject:
    """The object with the most pixels among all that are annotated in the sample's image."""

    def __init__(self, dataset: ReferDataset) -> None:
        self._dataset = dataset
        ids = dataset.records.column("images", "image_id")
        self._row_of = {int(image_id): row for row, image_id in enumerate(ids.tolist())}
        self._last: tuple[int, Mask] | None = None

    def __call__(self, sample: Sample) -> Mask:
        if self._last is None or self._last[0] != sample.image_id:
            self._last = (sample.image_id, self._largest(sample))
        return self._last[1]

    def _largest(self, sample: Sample) -> Mask:
        hw = _hw(sample)
        largest = np.zeros(hw, bool)
        for row in self._dataset.records.annotation_rows(self._row_of[sample.image_id]):
            mask = self._mask(row, hw)
            if mask.sum() > largest.sum():
                largest = mask
        return largest

    def _mask(self, row: int, hw: HW) -> Mask:
        records = self._dataset.records
        segmentation = records.segmentation(row)
        if segmentation is None:
            return np.zeros(hw, bool)
        if isinstance(segmentation, MaskFile):
            return read_mask_file(self._dataset.folder, segmentation, hw)
        return decode_segmentation(segmentation, hw, rasteriser=records.meta.rasteriser)[0]


def _hw(sample: Sample) -> HW:
    return sample.image.shape[0], sample.image.shape[1]


def _same_size(hw: HW) -> Geometry:
    return Geometry(hw, hw, (1.0, 1.0))
