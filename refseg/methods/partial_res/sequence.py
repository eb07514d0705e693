"""Boxes and masks as sequences of coordinate tokens, and back.

    rec     [TASK] x1 y1 x2 y2                        -> x1 y1 x2 y2 END
    res     [TASK] x1 y1 ... xN yN                    -> x1 y1 ... xN yN END
    multi   [BOX] x1 y1 x2 y2 [MASK] x1 y1 ... xN yN  -> x1 y1 x2 y2 END x1 y1 ... xN yN END

One vocabulary for x and y: bins 0 .. K - 1 of the net image's side, then END, which also fills up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refseg.methods.partial_res.config import LossConfig, PartialResConfig, SequenceConfig
from refseg.ops.contours import outer_contour, quantise, sample
from refseg.types import Batch

#: Coordinates of a box: its upper left corner, then its lower right one.
CORNERS = 4


@dataclass(frozen=True)
class Layout:
    """Which positions hold what. parts: the number of coordinates behind each task token."""

    parts: tuple[int, ...]

    @classmethod
    def of(cls, config: PartialResConfig) -> Layout:
        """Of the configured task."""
        contour = 2 * config.sequence.points
        return cls({"rec": (CORNERS,), "res": (contour,), "multi": (CORNERS, contour)}[config.task])

    @property
    def length(self) -> int:
        """T: a task token and the coordinates of each part."""
        return sum(self.parts) + len(self.parts)

    @property
    def axes(self) -> list[int]:
        """Of each coordinate, 0 for x and 1 for y."""
        return [place % 2 for part in self.parts for place in range(part)]

    def split(self, tokens: Tensor) -> list[Tensor]:
        """What belongs to the coordinates, [B, L] or [B, L, D], part by part."""
        return list(torch.split(tokens, list(self.parts), dim=1))


@dataclass(frozen=True)
class Targets:
    """What the loss compares with. tokens: [B, L] int64, the coordinates in, END as filling.
    wanted: [B, T] int64 out. weights: [B, T] float32. known: [B] bool, rows with all their labels.
    """

    tokens: Tensor
    wanted: Tensor
    weights: Tensor
    known: Tensor


def targets(
    batch: Batch, config: PartialResConfig, rng: np.random.Generator | None = None
) -> Targets:
    """From the batch's boxes and masks, as the task needs them. rng: of `sequence.shuffle`.

    A row whose box is not stated, or whose mask is not known, is not known; nothing is learned
    from it.
    """
    layout, end = Layout.of(config), config.sequence.bins
    known = np.ones(len(batch), np.bool_)
    found = []
    if config.task != "res":
        found.append(_box_tokens(batch, end, known))
    if config.task != "rec":
        found.append(_mask_tokens(batch, config.sequence, known, rng))
    tokens = torch.from_numpy(np.concatenate(found, axis=1))
    ended = [torch.nn.functional.pad(part, (0, 1), value=end) for part in layout.split(tokens)]
    wanted = torch.cat(ended, dim=1)
    weights = token_weights(wanted, config)
    device = batch.words.device
    return Targets(
        tokens.to(device), wanted.to(device), weights.to(device), torch.from_numpy(known).to(device)
    )


def jittered(tokens: Tensor, layout: Layout, bins: int, spread: float) -> Tensor:
    """Coordinates [B, L]; those of outlines are moved by Gaussian noise of `spread` bins.

    Two draws of torch's generator: one move of all of a row's x and one of all its y, and one of
    each coordinate. The result stays in 0 .. bins - 1; END stays END.
    """
    return torch.cat(
        [
            part if part.shape[1] == CORNERS else _moved(part, bins, spread)
            for part in layout.split(tokens)
        ],
        dim=1,
    )


def _moved(outline: Tensor, bins: int, spread: float) -> Tensor:
    rows, count = outline.shape
    whole = torch.randn(rows, 2, device=outline.device).repeat(1, count // 2)
    each = torch.randn(rows, count, device=outline.device)
    moved = outline + (spread * (whole + each)).round().long()
    return torch.where(outline < bins, moved.clamp(0, bins - 1), outline)


def token_weights(wanted: Tensor, config: PartialResConfig) -> Tensor:
    """[B, T] float32: END counts little in "res", the first coordinate more in the others."""
    loss: LossConfig = config.loss
    weights = torch.ones(wanted.shape)
    if config.task == "res":
        return weights.masked_fill(wanted == config.sequence.bins, loss.end)
    weights[:, 0] = loss.first
    return weights


def contour_tokens(mask: NDArray[np.bool_], config: SequenceConfig) -> NDArray[np.int64]:
    """[H, W] bool net -> [2N]: x, y, x, y, ... of the contour's points, END where there are fewer.

    A mask whose contour encloses nothing is END alone.
    """
    tokens = np.full(2 * config.points, config.bins, np.int64)
    contour = outer_contour(mask, edges=config.contour == "uniform")
    x, y = contour.T
    if x @ np.roll(y, -1) == y @ np.roll(x, -1):  # no area: on pixel centres, a dot or a line
        return tokens
    points = sample(contour, config.points, config.contour)
    size = np.array([mask.shape[1], mask.shape[0]])
    written = quantise(points, size, config.bins).reshape(-1)
    tokens[: len(written)] = written
    return tokens


def shuffled(tokens: NDArray[np.int64], points: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The same points [B, 2N] in one other order for all rows (SeqTR); END stays at the end."""
    order = rng.permutation(points)
    moved = tokens.reshape(len(tokens), points, 2)[:, order]
    return moved.reshape(len(tokens), -1)


def _box_tokens(batch: Batch, bins: int, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    tokens = np.full((len(batch), CORNERS), bins, np.int64)
    if batch.boxes is None:
        known[:] = False
        return tokens
    boxes = batch.boxes.cpu().numpy()
    stated = np.isfinite(boxes).all(axis=1)
    known &= stated
    if stated.any():
        height, width = batch.geometry[0].net_hw
        tokens[stated] = quantise(boxes[stated], np.array([width, height] * 2), bins)
    return tokens


def _mask_tokens(
    batch: Batch,
    config: SequenceConfig,
    known: NDArray[np.bool_],
    rng: np.random.Generator | None,
) -> NDArray[np.int64]:
    tokens = np.full((len(batch), 2 * config.points), config.bins, np.int64)
    if batch.masks is None or batch.has_mask is None:
        known[:] = False
        return tokens
    has_mask = batch.has_mask.cpu().numpy()
    known &= has_mask
    masks = batch.masks.cpu().numpy() > 0.5
    for row in np.flatnonzero(has_mask):
        tokens[row] = contour_tokens(masks[row], config)
    if rng is not None and config.shuffle:
        chosen = rng.random(len(tokens)) < config.shuffle
        whole = chosen & (tokens < config.bins).all(axis=1)
        tokens[whole] = shuffled(tokens[whole], config.points, rng)
    return tokens
