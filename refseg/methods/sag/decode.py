"""From relevance to masks in px.

Letters: I images, B sentences, S draws, K slots, N = h w patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.sag.config import AnswerConfig
from refseg.ops.crf import MASKS, RMI, refine
from refseg.ops.masks import response_in_px, stretched
from refseg.types import Batch, Geometry, Prediction

if TYPE_CHECKING:
    from refseg.methods.sag.model import SagOutputs

Map = NDArray[np.float32]
SETTINGS = {"masks": MASKS, "rmi": RMI}
#: The threshold of the protocol `sag`.
PROTOCOL = 0.5
#: Entities that are told of.
TOLD = 3


def relevance(outputs: SagOutputs, scheme: str) -> Tensor:
    """M [B, h, w] float32 in 0..1, a mean over draws.

    sum: of A^slot weighted by A^fuse. max, min: A^slot of the slot whose A^fuse is largest or
    smallest. (The plain mean of all slots, which the paper has too, is 1 / K everywhere: slots
    share each patch.) Without slots M is A^fuse, over the patches.
    """
    fuse, attention = outputs.fuse, outputs.attention
    if attention is None:
        maps = fuse.mean(dim=1)
    elif scheme == "sum":
        maps = torch.einsum("bsk,bskn->bn", fuse, attention[outputs.image_of]) / fuse.shape[1]
    else:
        best = fuse.argmax(dim=2) if scheme == "max" else fuse.argmin(dim=2)  # [B, S]
        draws = torch.arange(fuse.shape[1], device=fuse.device)
        maps = attention[outputs.image_of[:, None], draws, best].mean(dim=1)
    return maps.view(len(maps), *outputs.hw)


def decode(outputs: SagOutputs, batch: Batch, config: AnswerConfig) -> list[Prediction]:
    """One prediction per sentence: M to px, stretched to 0..1 there, then >= threshold.

    A flat map, as of a single slot or patch, says nothing about where; its mask is empty. Any other
    has a pixel at least. score: mean of M inside the mask, 0 when it is empty. response: M on the
    grid, stretched, of which the protocol `sag` makes the same mask; None where it would make
    another: with a CRF or another threshold than its own, so that no protocol scores what was not
    answered, and among the maps instead. maps: see `_told`.
    Raises ConfigError when a CRF is asked for and the batch brings no originals.
    """
    maps = relevance(outputs, config.scheme).detach().cpu().numpy()
    # Twice is as once but for the scale, and a response of 0..1 is one that others can cut, too.
    responses = [stretched(one) for one in maps]
    same = config.crf == "none" and config.threshold == PROTOCOL
    rows = zip(maps, responses, _in_px(responses, batch, config), _told(outputs), strict=True)
    predictions = []
    for (one, response, in_px, told), geometry in zip(rows, batch.geometry, strict=True):
        mask = in_px >= config.threshold
        score = _inside(one, mask, geometry)
        scored = response if same else None
        maps_told = told if same else {"response": response, **told}
        predictions.append(Prediction(mask, score, geometry, scored, maps=maps_told))
    return predictions


def _in_px(responses: list[Map], batch: Batch, config: AnswerConfig) -> Iterator[Map]:
    """Maps on the grid -> each in px, stretched to 0..1, and after the CRF if asked for."""
    in_px = (
        stretched(response_in_px(one, place))
        for one, place in zip(responses, batch.geometry, strict=True)
    )
    # One by one unless they are needed together: those of a large image would fill the memory.
    return in_px if config.crf == "none" else iter(_kept_to_outlines(list(in_px), batch, config))


def _kept_to_outlines(maps: list[Map], batch: Batch, config: AnswerConfig) -> list[Map]:
    """The stretched maps after a CRF; those of one image share its lattice."""
    if batch.originals is None:
        raise ConfigError(
            f'answer.crf is "{config.crf}", which looks at the image in px, and the batch has none',
            remedy="make batches by `Model.batch`, of images with pixels, or set answer.crf=none",
        )
    settings = replace(SETTINGS[config.crf_settings], scale=config.crf_scale)
    kept, image_of = list(maps), batch.image_of.tolist()
    for number, image in enumerate(batch.originals):
        rows = [row for row, own in enumerate(image_of) if own == number]
        if not rows:
            continue
        found = refine(image, np.stack([maps[row] for row in rows]), config.crf, settings)
        for row, one in zip(rows, found, strict=True):
            kept[row] = one
    return kept


def _inside(response: Map, mask: NDArray[np.bool_], geometry: Geometry) -> float:
    """The mean of a map on the grid inside a mask in px; 0 without a pixel."""
    if not mask.any():
        return 0.0
    return float(response_in_px(response, geometry)[mask].mean().clip(0, 1))


def _told(outputs: SagOutputs) -> list[Mapping[str, Map]]:
    """For each sentence maps on the grid [h, w], of the first draw; none without slots.

    relevance: A^fuse of the entity that has most of a patch. entities: the number of that entity's
    group, from 0 on. entity_1, entity_2, entity_3: A^slot of the most relevant ones.
    """
    if outputs.attention is None:
        return [{}] * len(outputs.fuse)
    attention = torch.unflatten(outputs.attention[:, 0], 2, outputs.hw).detach().cpu()
    fuse, groups = outputs.fuse[:, 0].detach().cpu(), outputs.groups.cpu()
    holder = attention.argmax(dim=1)  # [I, h, w] of [I, K, h, w]
    entities = groups[holder].float().numpy()
    told: list[Mapping[str, Map]] = []
    for weights, image in zip(fuse, outputs.image_of.tolist(), strict=True):
        best = weights.topk(min(TOLD, len(weights))).indices.tolist()
        told.append(
            {"relevance": weights[holder[image]].numpy(), "entities": entities[image]}
            | {f"entity_{n}": attention[image, k].numpy() for n, k in enumerate(best, 1)}
        )
    return told
