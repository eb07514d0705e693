"""From segments and who won them to masks in px. Letters: B texts, I images, G segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from refseg.ops.masks import response_in_px
from refseg.types import Batch, Geometry, Prediction

Maps = NDArray[np.float32]


def decode(shares: Tensor, margins: Tensor, scale: float, batch: Batch) -> list[Prediction]:
    """Shares [I, G, h, w] and margins [B, G] -> predictions: the union of all segments won.

    A pixel belongs to the segment with the largest share there, of shares brought to px
    (bilinear); a segment is won where its margin is positive. Where none is, nothing is meant
    (`empty`). score: the chance against the dummy, sigmoid(scale * margin), a mean over the mask's
    pixels; 0 for an empty mask. There is no response: a threshold would ask another question.
    """
    maps = shares.detach().float().cpu().numpy()
    margins = margins.detach().float().cpu()
    won = (margins > 0).numpy()
    chance = (scale * margins).double().sigmoid().numpy()
    seen: dict[tuple[int, Geometry], NDArray[np.int32]] = {}
    predictions = []
    for row, (image, geometry) in enumerate(
        zip(batch.image_of.tolist(), batch.geometry, strict=True)
    ):
        key = (image, geometry)
        if key not in seen:  # an image's segments serve all its texts
            seen[key] = segments_in_px(maps[image], geometry)
        mask = won[row][seen[key]]
        score = float(chance[row][seen[key]][mask].mean()) if mask.any() else 0.0
        inner = {
            "won": maps[image][won[row]].sum(axis=0, dtype=np.float32),
            "segments": maps[image].argmax(axis=0).astype(np.float32),
        }
        nothing = not won[row].any()
        predictions.append(Prediction(mask, score, geometry, empty=nothing, maps=inner))
    return predictions


def segments_in_px(shares: Maps, geometry: Geometry) -> NDArray[np.int32]:
    """[G, h, w] -> which segment each pixel belongs to, [H, W]; the first of equals.

    One map after the other: all in px at once would be G times a large image.
    """
    best = response_in_px(shares[0], geometry)
    which = np.zeros(best.shape, np.int32)
    for number, one in enumerate(shares[1:], start=1):
        values = response_in_px(one, geometry)
        which[values > best] = number
        np.maximum(best, values, out=best)
    return which
