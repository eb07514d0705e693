"""What edges are learned from in TRIS: squares out of pictures, with the seeds of a ref on them.

RUN/edges/seeds/REF.png   the seeds of a ref, [H, W] px, while edges are learned
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refseg.data.dataset import ReferDataset
from refseg.data.transforms import PreprocessConfig
from refseg.methods.tris.edges import EdgeBatch
from refseg.methods.tris.seeds import IGNORE, SeedConfig, Smooth, on_grid, seeds, unsmoothed
from refseg.ops.crf import SEEDS, How, label_probability
from refseg.ops.crf import refine as kept_to_outlines
from refseg.ops.files import atomic_write_bytes
from refseg.recipes.tris_select import Selected

Rgb = NDArray[np.uint8]
#: Factors that pictures are resized by while edges are learned.
SCALES = (0.5, 1.5)


def smoother(how: How) -> Smooth:
    """How seeds keep to outlines; see `refseg.ops.crf.refine`."""
    return unsmoothed if how == "none" else partial(_smoothed, how=how)


def _smoothed(image: Rgb, labels: NDArray[np.bool_], *, how: How) -> NDArray[np.bool_]:
    return kept_to_outlines(image, label_probability(labels), how, SEEDS) > 0.5


@dataclass(frozen=True)
class KeptSeeds:
    """(ref id, picture [H, W, 3] uint8 RGB) -> the ref's seeds [H, W] uint8, both px.

    They are made at the picture's own size, for which the CRF's sigmas are meant. A CRF takes long
    and each epoch asks again: what was made is kept in `folder`, a few kB a ref, for all workers
    and for a start that goes on. preprocess: of the network that the maps are of.
    """

    selected: Selected
    preprocess: PreprocessConfig
    config: SeedConfig
    smooth: How
    folder: Path

    def __call__(self, ref_id: int, picture: Rgb) -> NDArray[np.uint8]:
        path = self.folder / f"{ref_id}.png"
        known = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if known is not None:
            return np.asarray(known, np.uint8)
        response = self.selected.in_px(ref_id, self.preprocess.geometry(hw_of(picture)))
        made = seeds(response, picture, self.config, smoother(self.smooth))
        atomic_write_bytes(path, cv2.imencode(".png", made)[1].tobytes())
        return made


@dataclass
class EdgeBatches:
    """make_batch(indices, epoch) for the loop: squares of `crop` px out of pictures, with the seeds
    of one of their refs: resized by 0.5 to 1.5, mirrored and cut at random by (seed, epoch, index),
    as in IRNet.

    The scale is that of px, at which edges are looked for afterwards, not the network's of the
    maps. A smaller picture lies somewhere in its square; around it is `colour`, and no seed.

    plain: nothing is drawn and no seeds are made: the upper left square at 1:1, of which IRNet
    takes the mean displacement. That is of what `Refiner` will see but for what a larger picture
    has further right and below; other scales would have other displacements.
    """

    dataset: ReferDataset
    seeds: KeptSeeds
    rows: Sequence[int]
    crop: int
    colour: tuple[int, int, int]
    seed: int = 0
    plain: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, indices: list[int], epoch: int) -> EdgeBatch:
        squares, labels = zip(*(self._square(index, epoch) for index in indices), strict=True)
        return EdgeBatch(in_unit(np.stack(squares)), torch.from_numpy(np.stack(labels)).long())

    def _square(self, index: int, epoch: int) -> tuple[Rgb, NDArray[np.uint8]]:
        """A picture [crop, crop, 3] and its seeds on the grid."""
        entry = self.dataset.entry(self.rows[index])
        picture = self.dataset.image(entry.image_row)
        if self.plain:  # for the mean displacement, which reads no seeds
            rng, found = None, np.full(hw_of(picture), IGNORE, np.uint8)
        else:
            rng = np.random.default_rng([self.seed, epoch, index])
            found = self.seeds(entry.ref_id, picture)
        placed, size = placing(hw_of(picture), self.crop, rng), (self.crop, self.crop)
        shown = cv2.warpAffine(picture, placed, size, borderValue=self.colour)
        moved = cv2.warpAffine(found, placed, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE)
        return np.asarray(shown, np.uint8), on_grid(np.asarray(moved, np.uint8))


def placing(hw: tuple[int, int], crop: int, rng: np.random.Generator | None) -> NDArray[np.float64]:
    """[2, 3] from px of a picture to px of a square of `crop`, pixel centres at whole numbers.

    rng: of the factor, the place and the side; a larger picture covers the square, a smaller one
    lies within it. None: 1:1, from the upper left corner.
    """
    if rng is None:
        return np.eye(2, 3)
    factor = rng.uniform(*SCALES)
    offset = rng.random(2) * (crop - factor * np.array(hw[::-1]))
    scale = np.array([factor, factor])
    if rng.random() < 0.5:
        scale, offset = scale * (-1, 1), np.array([crop - offset[0], offset[1]])
    centre = scale * 0.5 + offset - 0.5
    return np.array([[scale[0], 0, centre[0]], [0, scale[1], centre[1]]])


def in_unit(pictures: Rgb) -> Tensor:
    """[B, H, W, 3] uint8 RGB -> [B, 3, H, W] float32 in 0..1, contiguous."""
    return (torch.from_numpy(pictures).float() / 255).permute(0, 3, 1, 2).contiguous()


def hw_of(picture: Rgb) -> tuple[int, int]:
    """Rows and columns."""
    return picture.shape[0], picture.shape[1]
