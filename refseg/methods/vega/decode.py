"""From VEGA's probabilities to masks in px."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from refseg.ops.masks import response_in_px
from refseg.types import Batch, Prediction


def decode(
    probability: Tensor, global_scores: Tensor | None, scores_hw: tuple[int, int], batch: Batch
) -> list[Prediction]:
    """probability [B, h, w] -> predictions, thresholded at 0.5 after resizing to px.

    score: mean probability inside the mask (0 when the mask is empty). maps: "cls_similarity",
    the CLS token's cosine with each pixel, where the model has one.
    """
    net_hw = batch.geometry[0].net_hw
    full = F.interpolate(probability[:, None].float(), net_hw, mode="bilinear")[:, 0]
    responses = full.detach().cpu().numpy()
    cls = None if global_scores is None else global_scores.detach().float().cpu().numpy()
    predictions = []
    for index, geometry in enumerate(batch.geometry):
        response = responses[index]
        in_px = response_in_px(response, geometry)
        mask = in_px > 0.5
        score = float(in_px[mask].mean()) if mask.any() else 0.0
        maps = {} if cls is None else {"cls_similarity": cls[index].reshape(scores_hw)}
        predictions.append(Prediction(mask, score, geometry, response, maps=maps))
    return predictions
