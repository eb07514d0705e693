"""Small MobileSAMs with lively random weights, and the published file's names for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from refseg.nn.mobile_sam import MobileSam, MobileSamConfig
from refseg.nn.tiny_vit import TinyVitConfig

TOY = MobileSamConfig(
    encoder=TinyVitConfig(
        widths=(4, 4, 6, 8), depths=(1, 1, 2, 1), heads=(2, 3, 2), windows=(2, 3, 2), out=16
    ),
    side=64,
    mlp_width=24,
    heads=2,
)

Shape = tuple[int, ...]


def toy(seed: int = 0, config: MobileSamConfig = TOY) -> MobileSam:
    """All parameters random, those that start as zeros or ones too."""
    model = MobileSam(config)
    lively(model, seed)
    return model


def lively(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))


def published(config: MobileSamConfig = TOY, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as the published file has it, for a model of `config`, random values."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    shapes = {**dict(_encoder(config)), **dict(_prompts(config)), **dict(_decoder(config))}
    for name, shape in shapes.items():
        state[name] = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = state[name].square() + 0.1
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    return state


def _encoder(config: MobileSamConfig) -> Iterator[tuple[str, Shape]]:
    sizes, root = config.encoder, "image_encoder"
    first, last, out = sizes.widths[0], sizes.widths[3], sizes.out
    yield from _normed(f"{root}.patch_embed.seq.0", (first // 2, 3, 3, 3))
    yield from _normed(f"{root}.patch_embed.seq.2", (first, first // 2, 3, 3))
    for stage, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
        for block in range(depth):
            name = f"{root}.layers.{stage}.blocks.{block}"
            if stage == 0:
                inner = width * sizes.expansion
                yield from _three(name, (width, inner, inner, width))
            else:
                yield from _attention_block(name, width, stage, sizes)
        if stage < 3:
            wider = sizes.widths[stage + 1]
            yield from _three(f"{root}.layers.{stage}.downsample", (width, wider, wider, wider))
    yield from _pair(f"{root}.norm_head", (last,))
    yield from _pair(f"{root}.head", (1000, last))
    yield f"{root}.neck.0.weight", (out, last, 1, 1)
    yield from _pair(f"{root}.neck.1", (out,))
    yield f"{root}.neck.2.weight", (out, out, 3, 3)
    yield from _pair(f"{root}.neck.3", (out,))


def _attention_block(
    name: str, width: int, stage: int, sizes: TinyVitConfig
) -> Iterator[tuple[str, Shape]]:
    heads, window = sizes.heads[stage - 1], sizes.windows[stage - 1]
    inner = width * sizes.expansion
    yield f"{name}.attn.attention_biases", (heads, window * window)
    yield from _pair(f"{name}.attn.norm", (width,))
    yield from _pair(f"{name}.attn.qkv", (3 * width, width))
    yield from _pair(f"{name}.attn.proj", (width, width))
    yield from _pair(f"{name}.mlp.norm", (width,))
    yield from _pair(f"{name}.mlp.fc1", (inner, width))
    yield from _pair(f"{name}.mlp.fc2", (width, inner))
    yield from _normed(f"{name}.local_conv", (width, 1, 3, 3))


def _prompts(config: MobileSamConfig) -> Iterator[tuple[str, Shape]]:
    width, root = config.encoder.out, "prompt_encoder"
    yield f"{root}.pe_layer.positional_encoding_gaussian_matrix", (2, width // 2)
    for index in range(4):
        yield f"{root}.point_embeddings.{index}.weight", (1, width)
    yield f"{root}.not_a_point_embed.weight", (1, width)
    yield f"{root}.no_mask_embed.weight", (1, width)
    yield from _pair(f"{root}.mask_downscaling.0", (4, 1, 2, 2))
    yield from _pair(f"{root}.mask_downscaling.1", (4,))
    yield from _pair(f"{root}.mask_downscaling.3", (16, 4, 2, 2))
    yield from _pair(f"{root}.mask_downscaling.4", (16,))
    yield from _pair(f"{root}.mask_downscaling.6", (width, 16, 1, 1))


def _decoder(config: MobileSamConfig) -> Iterator[tuple[str, Shape]]:
    width, root = config.encoder.out, "mask_decoder"
    transformer = f"{root}.transformer"
    for layer in range(2):
        name = f"{transformer}.layers.{layer}"
        yield from _attention(f"{name}.self_attn", width, width)
        yield from _attention(f"{name}.cross_attn_token_to_image", width, width // 2)
        yield from _attention(f"{name}.cross_attn_image_to_token", width, width // 2)
        yield from _pair(f"{name}.mlp.lin1", (config.mlp_width, width))
        yield from _pair(f"{name}.mlp.lin2", (width, config.mlp_width))
        for norm in range(1, 5):
            yield from _pair(f"{name}.norm{norm}", (width,))
    yield from _attention(f"{transformer}.final_attn_token_to_image", width, width // 2)
    yield from _pair(f"{transformer}.norm_final_attn", (width,))
    yield f"{root}.iou_token.weight", (1, width)
    yield f"{root}.mask_tokens.weight", (4, width)
    for index, shape in ((0, (width, width // 4, 2, 2)), (3, (width // 4, width // 8, 2, 2))):
        yield f"{root}.output_upscaling.{index}.weight", shape
        yield f"{root}.output_upscaling.{index}.bias", shape[1:2]
    yield from _pair(f"{root}.output_upscaling.1", (width // 4,))
    for token in range(4):
        yield from _mlp(f"{root}.output_hypernetworks_mlps.{token}", width, width // 8)
    yield from _mlp(f"{root}.iou_prediction_head", width, 4)


def _pair(name: str, weight: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def _normed(name: str, weight: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.c.weight", weight
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{part}", weight[:1]
    yield f"{name}.bn.num_batches_tracked", ()


def _three(name: str, widths: Shape) -> Iterator[tuple[str, Shape]]:
    yield from _normed(f"{name}.conv1", (widths[1], widths[0], 1, 1))
    yield from _normed(f"{name}.conv2", (widths[2], 1, 3, 3))
    yield from _normed(f"{name}.conv3", (widths[3], widths[2], 1, 1))


def _attention(name: str, width: int, inner: int) -> Iterator[tuple[str, Shape]]:
    for part in ("q_proj", "k_proj", "v_proj"):
        yield from _pair(f"{name}.{part}", (inner, width))
    yield from _pair(f"{name}.out_proj", (width, inner))


def _mlp(name: str, width: int, out: int) -> Iterator[tuple[str, Shape]]:
    for layer, rows in ((0, width), (1, width), (2, out)):
        yield from _pair(f"{name}.layers.{layer}", (rows, width))
