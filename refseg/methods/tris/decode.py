"""From TRIS's logits to masks in px, of either step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.ops.masks import response_in_px
from refseg.types import Batch, Prediction


def decode(logits: Tensor, batch: Batch) -> list[Prediction]:
    """logits [B, h, w] -> predictions: what is positive after resizing to net, then to px.

    score: mean probability inside the mask (0 when the mask is empty). Both resizings follow pixel
    areas; the released script's second one aligns corners, as the protocol "tris" does.
    """
    net_hw = batch.geometry[0].net_hw
    net = F.interpolate(logits[:, None].float(), net_hw, mode="bilinear", align_corners=False)
    net = net[:, 0].detach().cpu()
    predictions = []
    for row, response, geometry in zip(net, net.sigmoid(), batch.geometry, strict=True):
        in_px = response_in_px(row.numpy(), geometry)
        mask = in_px > 0
        sure = torch.from_numpy(in_px[mask]).sigmoid()
        score = float(sure.mean()) if mask.any() else 0.0
        predictions.append(Prediction(mask, score, geometry, response.numpy()))
    return predictions
