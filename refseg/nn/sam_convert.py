"""From the published file of MobileSAM to the names and shapes of `refseg.nn.mobile_sam`.

The file (`mobile_sam.pt`, Apache-2.0) is a plain state dict. Its encoder has a batch norm after
each convolution, which is folded into the convolution here: w' = w g / sqrt(v + eps) and
b' = b - m g / sqrt(v + eps), with g, b the norm's scale and offset, m, v its mean and variance.
Its classifier, of no use in MobileSAM, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from refseg.errors import ModelError
from refseg.nn.mobile_sam import MobileSam, MobileSamConfig
from refseg.nn.weights import load_state, read_state

BATCH_NORM_EPS = 1e-5
CONV, NORM = ".c.weight", ".bn."
UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.")

# (pattern in the file's names, ours); each is tried on each name, in this order.
_RENAMES = (
    (r"^image_encoder\.", "encoder."),
    (r"^encoder\.patch_embed\.seq\.", "encoder.stem."),
    (r"^encoder\.layers\.", "encoder.stages."),
    (r"^(encoder\.stages\.\d+)\.downsample\.", r"\1.merge."),
    (r"\.attention_biases$", ".biases"),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.transformer\.layers\.(\d+)\.norm(\d)\.", r".transformer.layers.\1.layer_norm\2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
)


def convert(path: Path, config: MobileSamConfig | None = None) -> dict[str, Tensor]:
    """The state of a `MobileSam` from the published checkpoint at `path`.

    The file is read without running code from it. Raises ModelError when it is absent, damaged,
    or when what it holds is not exactly the weights of this model.
    """
    state = translate(read_state(path))
    load_state(MobileSam(config), state, source=str(path))
    return state


def translate(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names, float32, batch norms folded. Unknown names are kept.

    Raises ModelError for a convolution without its batch norm, or the other way round.
    """
    state = {}
    for key, value in published.items():
        if UNUSED.match(key):
            continue
        if key.endswith(CONV):
            layer = key.removesuffix(CONV)
            weight, bias = _folded(value, _norm_of(layer, published))
            state[renamed(f"{layer}.weight")], state[renamed(f"{layer}.bias")] = weight, bias
        elif NORM in key:
            _need(published, key.split(NORM)[0] + CONV)
        else:
            state[renamed(key)] = value.float().contiguous()
    return state


def renamed(key: str) -> str:
    """Our name of a parameter of the published file."""
    for pattern, ours in _RENAMES:
        key = re.sub(pattern, ours, key)
    return key


def _norm_of(layer: str, published: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Scale, offset, mean and variance of the batch norm after `layer`."""
    names = [f"{layer}{NORM}{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return tuple(_need(published, name).double() for name in names)


def _need(published: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in published:
        raise ModelError(f"the weights lack {name}", remedy="get the file again")
    return published[name]


def _folded(weight: Tensor, norm: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that does what both did; float64 in between."""
    scale, offset, mean, variance = norm
    factor = scale / (variance + BATCH_NORM_EPS).sqrt()
    folded = weight.double() * factor[:, None, None, None]
    return folded.float().contiguous(), (offset - mean * factor).float()
