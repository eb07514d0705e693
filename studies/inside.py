"""What VEGA holds inside while it answers: pixel tokens, words, visual expressions, selections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.errors import ModelError
from refseg.models import Model
from refseg.types import Prediction, Sample

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Inside:
    """One expression. N pixels on a grid `hw`, T real tokens ([CLS] and [SEP] included), width D.

    pixels: [N, D]. language, visual: [T, D], the two halves of what the decoder hears.
    scores: [T, N] cosine of every token with every pixel. selected: [T, N] bool.
    pieces: the T word pieces.
    """

    prediction: Prediction
    pixels: Array
    language: Array
    visual: Array
    scores: Array
    selected: NDArray[np.bool_]
    hw: tuple[int, int]
    pieces: tuple[str, ...]


def look_inside(model: Model, samples: Sequence[Sample]) -> list[Inside]:
    """Ask every sample and keep what passes between the parts.

    Raises ModelError for a model without both halves of the guidance set.
    """
    method = model.method
    guidance = getattr(method.config, "guidance", "")
    if "visual" not in guidance or guidance == "visual" or method.select.relate is None:
        raise ModelError(
            f"model {model.name} has no language and visual expressions side by side",
            remedy="this study needs VEGA with guidance language+visual or enhanced+visual",
        )
    seen: dict[str, Any] = {}

    def keep_pixels(module: Any, inputs: Any, output: Any) -> None:
        seen["pixels"] = output

    def keep_guidance(module: Any, inputs: Any) -> None:
        seen["guidance"], seen["mask"] = inputs[1], inputs[2]

    hooks = [
        method.select.pixels.register_forward_hook(keep_pixels),
        method.decoder.register_forward_pre_hook(keep_guidance),
    ]
    try:
        method.eval()
        with torch.inference_mode():
            batch = model.batch(samples, share_images=True).to(model.device)
            outputs = method(batch)
            predictions = method.decode(outputs, batch)
    finally:
        for hook in hooks:
            hook.remove()
    length = batch.words.shape[1]
    language, visual = seen["guidance"][:, :length], seen["guidance"][:, length:]
    told = []
    for row, sample in enumerate(samples):
        real = batch.word_mask[row]
        told.append(
            Inside(
                predictions[row],
                _array(seen["pixels"][row]),
                _array(language[row][real]),
                _array(visual[row][real]),
                _array(outputs.selected.scores[row][real]),
                outputs.selected.selected[row][real].cpu().numpy(),
                outputs.selection_hw,
                tuple(model.tokenizer.pieces(sample.text)),
            )
        )
    return told


def _array(values: torch.Tensor) -> Array:
    array: Array = values.detach().float().cpu().numpy()
    return array


def cells_of(mask: NDArray[np.bool_], hw: tuple[int, int]) -> Array:
    """The share of every cell of a grid `hw` that a mask [H, W] covers, [h * w]."""
    rows = _spread(mask.shape[0], hw[0])
    columns = _spread(mask.shape[1], hw[1])
    shares = rows @ mask.astype(np.float64) @ columns.T
    return shares.reshape(-1).astype(np.float32)


def _spread(old: int, new: int) -> NDArray[np.float64]:
    """[new, old]: the share of every new cell that every old pixel covers."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    places = np.arange(old)
    overlap = np.minimum(high, places + 1) - np.maximum(low, places)
    return np.asarray(overlap.clip(0) * new / old, np.float64)


def unit(vectors: Array) -> Array:
    """Rows scaled to length one, so that distances are about directions."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12))
