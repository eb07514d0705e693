"""From similarities to masks in px."""

from __future__ import annotations

from torch import Tensor

from refseg.ops.masks import response_in_px, stretched
from refseg.types import Batch, Prediction


def decode(similarity: Tensor, batch: Batch, threshold: float) -> list[Prediction]:
    """Cosines [B, h, w] -> predictions: brought to px (bilinear), stretched to 0..1, >= threshold.

    The order is that of Shatter and Gather's evaluation. A map that is the same everywhere gives an
    empty mask. score: (1 + the mean cosine inside the mask) / 2, since a stretched map reaches 1
    in every picture and tells nothing of it; 0 for an empty mask.
    """
    predictions = []
    maps = similarity.detach().float().cpu().numpy()
    for values, geometry in zip(maps, batch.geometry, strict=True):
        in_px = response_in_px(values, geometry)
        mask = stretched(in_px) >= threshold
        score = (1 + float(in_px[mask].mean())) / 2 if mask.any() else 0.0
        predictions.append(
            Prediction(
                mask,
                min(max(score, 0.0), 1.0),
                geometry,
                stretched(values),
                maps={"similarity": values},
            )
        )
    return predictions
