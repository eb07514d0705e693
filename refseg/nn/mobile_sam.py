"""MobileSAM: the mask of what a box holds. One pass over the image, then any number of boxes.

`MobileSam.encode` makes the embedding of an image, `MobileSam.masks` answers boxes about it. The
encoder is ours (`refseg.nn.tiny_vit`); prompt encoder and mask decoder are SAM's as transformers
has them, the decoder run for many boxes at once by `refseg.nn.sam_decoder`. Weights come from the
published checkpoint through `refseg.nn.sam_convert`.

Sources: Zhang et al., "Faster Segment Anything", arXiv:2306.14289; Kirillov et al., "Segment
Anything", ICCV 2023. Letters: N boxes, S the net's side (1024 px), C channels (256), G places a
side of the embedding (64), L = 4G cells a side of the logits (256), H x W px of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from refseg.errors import DataError, ImageError
from refseg.nn.guard import guard_torchvision
from refseg.nn.sam_decoder import decode_single
from refseg.nn.tiny_vit import TinyVit, TinyVitConfig
from refseg.nn.weights import load_state, read_state
from refseg.ops.boxes import boxes_to_net, clip_boxes
from refseg.ops.images import corner_geometry
from refseg.ops.masks import content_rectangle
from refseg.types import Geometry

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of ImageNet: red, green, blue
PIXEL_STD = (58.395, 57.12, 57.375)
NORM_EPS = 1e-5  # of the decoder's transformer; transformers' own default for SAM is 1e-6
NOWHERE = -32.0  # logit of every cell of a box that holds nothing
STRIP_VALUES = 2**22  # full-size logits held at a time (16 MiB)


class MobileSamConfig(BaseModel):
    """Sizes of the model. Defaults are the published one's; tests have smaller ones.

    side: S. mlp_width, heads: of the decoder's transformer, whose width is the encoder's `out`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: TinyVitConfig = TinyVitConfig()
    side: int = 1024
    mlp_width: int = 2048
    heads: int = 8

    @model_validator(mode="after")
    def _whole_places(self) -> MobileSamConfig:
        if self.side % self.encoder.stride:
            raise ValueError(f"side {self.side} is no multiple of {self.encoder.stride}")
        return self


@dataclass(frozen=True)
class Embedded:
    """An image as the network knows it.

    embedding: [1, C, G, G] float32, on the model's device. geometry: the image lies at the upper
    left of the net's square; what is right of it or below is padding.
    """

    embedding: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class BoxMasks:
    """The masks of N boxes.

    logits: [N, L, L] float32 over the net's square, padding included, on the model's device;
    above 0 is mask. iou: [N] float32, how well the model thinks each mask fits (0..1 with some
    overshoot; 0 for a box that holds nothing). geometry: the image's.
    """

    logits: Tensor
    iou: NDArray[np.float32]
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.logits)

    def in_px(self, rows: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Masks in the px frame, [n, H, W] bool: of the boxes `rows`, in that order, or of all.

        Besides the answer it needs some 50 MiB, however large the image is.
        """
        chosen = range(len(self)) if rows is None else rows
        masks = np.empty((len(chosen), *self.geometry.original_hw), bool)
        for mask, row in zip(masks, chosen, strict=True):
            for top, strip in upsampled(self.logits[row], self.geometry):
                mask[top : top + len(strip)] = (strip > 0).cpu().numpy()
        return masks


class MobileSam(nn.Module):
    """Encoder, prompt encoder and mask decoder; frozen, always in evaluation mode."""

    def __init__(self, config: MobileSamConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MobileSamConfig()
        self.encoder = TinyVit(config.encoder)
        self.prompt_encoder, self.mask_decoder = sam_parts(config)
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path, config: MobileSamConfig | None = None) -> Self:
        """A model with the weights that `refseg.nn.sam_convert.convert` made, as .safetensors.

        config: the published sizes unless given. Raises ModelError when the file is absent,
        damaged, or of another model.
        """
        model = cls(config)
        load_state(model, read_state(path), source=str(path))
        return model

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever holds it is told to do."""
        del mode
        return super().train(False)

    def encode(self, image: NDArray[np.uint8]) -> Embedded:
        """The embedding of one RGB image, [H, W, 3] uint8, of any size.

        Raises ImageError for any other array. The long side becomes S, by Pillow's bilinear
        resize of the bytes, which averages where it shrinks: what the weights were trained with.
        """
        _check_image(image)
        geometry = corner_geometry(image.shape[:2], self.config.side)
        _, _, width, height = content_rectangle(geometry)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        side = self.config.side
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(resized)).to(self.pixel_mean.device)
            normal = (pixels.permute(2, 0, 1) - self.pixel_mean) / self.pixel_std
            # After normalising: the padding is 0, the mean colour.
            square = F.pad(normal, (0, side - width, 0, side - height))[None]
            # Channels last in memory: a sixth less time on a CPU.
            embedding = self.encoder(square.contiguous(memory_format=torch.channels_last))
        # A copy made out here is an ordinary tensor, which autograd may keep.
        return Embedded(embedding.clone(), geometry)

    def masks(self, embedded: Embedded, boxes: NDArray[Any], *, at_once: int = 4) -> BoxMasks:
        """One mask for each box, [N, 4] xyxy px; what lies outside the image is cut off.

        A box that has no area inside the image gets an empty mask. Coordinates go to the model as
        they are, with exclusive far edges, as its users do it. at_once: boxes decoded together,
        each with some 35 MB of temporaries; on a CPU more than a few are slower.
        Raises DataError for boxes that are not [N, 4] finite numbers.
        """
        boxes_px = clip_boxes(_checked(boxes), embedded.geometry.original_hw)
        some = np.flatnonzero((boxes_px[:, 2:] > boxes_px[:, :2]).all(axis=1))
        boxes_net = torch.from_numpy(boxes_to_net(boxes_px[some], embedded.geometry))
        cells = 4 * embedded.embedding.shape[-1]
        logits = embedded.embedding.new_full((len(boxes_px), cells, cells), NOWHERE)
        iou = np.zeros(len(boxes_px), np.float32)
        for first in range(0, len(some), at_once):
            rows = some[first : first + at_once]
            small, fit = self._decode(embedded.embedding, boxes_net[first : first + at_once])
            logits[torch.from_numpy(rows).to(logits.device)] = small
            iou[rows] = fit.cpu().numpy()
        return BoxMasks(logits, iou, embedded.geometry)

    @torch.inference_mode()
    def _decode(self, embedding: Tensor, boxes_net: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, L, L] and predicted IoU [n] of boxes [n, 4] in the net frame."""
        corners, no_mask = self.prompt_encoder(
            input_points=None,
            input_labels=None,
            input_boxes=boxes_net[None].to(embedding.device),
            input_masks=None,
        )
        image = (embedding + no_mask)[0]
        return decode_single(self.mask_decoder, image, self._places(), corners[0])

    def _places(self) -> Tensor:
        """SAM's position codes of the places of the embedding, [C, G, G]."""
        side = self.config.side // self.config.encoder.stride
        centres = (torch.arange(side, device=self.pixel_mean.device) + 0.5) / side
        xy = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
        codes: Tensor = self.prompt_encoder.shared_embedding(xy)
        return codes.permute(2, 0, 1)


def sam_parts(config: MobileSamConfig) -> tuple[Any, Any]:
    """SAM's prompt encoder and mask decoder, not trained, alike in transformers 4.57 and 5."""
    guard_torchvision()
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

    width, stride = config.encoder.out, config.encoder.stride
    decoder = SamMaskDecoderConfig(
        hidden_size=width,
        mlp_dim=config.mlp_width,
        num_attention_heads=config.heads,
        iou_head_hidden_dim=width,
        layer_norm_eps=NORM_EPS,
    )
    prompts = SamPromptEncoderConfig(hidden_size=width, image_size=config.side, patch_size=stride)
    # Of SAM's own image encoder only the position codes are made; their spread is hidden_size / 2.
    vision = SamVisionConfig(hidden_size=2, num_pos_feats=width // 2)
    whole = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    # A whole SamModel would set it; without, version 4 cannot run the decoder.
    whole.mask_decoder_config._attn_implementation = "eager"
    return SamPromptEncoder(whole), SamMaskDecoder(whole.mask_decoder_config)


def upsampled(logits: Tensor, geometry: Geometry) -> Iterator[tuple[int, Tensor]]:
    """Logits [L, L] of one mask at the image's size, a strip at a time: (first row, [k, W]).

    As SAM does it: to S x S, padding cut off, to H x W, each time bilinear without antialiasing.
    Rows and columns do not depend on each other, so all rows' work is done on narrow strips.
    """
    side = geometry.net_hw[0]
    _, _, inner_w, inner_h = content_rectangle(geometry)
    height, width = geometry.original_hw
    tall = _wider(logits.T, side).T[:inner_h]
    step = max(STRIP_VALUES // max(width, side), 1)
    for top in range(0, height, step):
        rows = torch.arange(top, min(top + step, height), device=logits.device)
        at = ((rows.double() + 0.5) * (inner_h / height) - 0.5).clamp(min=0)
        above = at.long()
        below = (above + 1).clamp(max=inner_h - 1)
        share = (at - above).to(tall.dtype)[:, None]
        strip = tall[above].lerp(tall[below], share)
        yield top, _wider(_wider(strip, side)[:, :inner_w], width)


def _wider(values: Tensor, width: int) -> Tensor:
    """[k, w] -> [k, width], linear."""
    return F.interpolate(values[:, None], width, mode="linear", align_corners=False)[:, 0]


def _check_image(image: NDArray[Any]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"an array of shape {image.shape} and type {image.dtype} is no RGB image",
            remedy="give uint8 of shape [H, W, 3], as refseg.ops.images.load_image does",
        )


def _checked(boxes: NDArray[Any]) -> NDArray[np.float64]:
    found = np.asarray(boxes, np.float64)
    if not found.size:
        return np.empty((0, 4))
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise DataError(
            f"boxes of shape {found.shape}, or not finite: {found.tolist()!r:.80}",
            remedy="give [N, 4] finite numbers: x0, y0, x1, y1 in pixels",
        )
    return found
