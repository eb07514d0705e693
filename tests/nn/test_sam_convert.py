"""The published file of MobileSAM: its names, folded batch norms, errors that name the thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from refseg.errors import ModelError
from refseg.nn.mobile_sam import MobileSam, MobileSamConfig
from refseg.nn.sam_convert import convert, renamed, translate
from tests.nn.sam_toys import TOY, published

# One sample of each pattern that is renamed; `published` has their shapes.
SAMPLES = {
    "image_encoder.layers.2.blocks.1.attn.attention_biases": (
        "encoder.stages.2.blocks.1.attn.biases"
    ),
    "image_encoder.layers.1.blocks.0.mlp.norm.bias": "encoder.stages.1.blocks.0.mlp.norm.bias",
    "image_encoder.neck.3.weight": "encoder.neck.3.weight",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.shared_embedding.positional_embedding"
    ),
    "prompt_encoder.point_embeddings.2.weight": "prompt_encoder.point_embed.2.weight",
    "prompt_encoder.point_embeddings.3.weight": "prompt_encoder.point_embed.3.weight",
    "prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
    "prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
    "mask_decoder.transformer.layers.1.norm3.weight": (
        "mask_decoder.transformer.layers.1.layer_norm3.weight"
    ),
    "mask_decoder.transformer.layers.0.mlp.lin1.weight": (
        "mask_decoder.transformer.layers.0.mlp.lin1.weight"
    ),
    "mask_decoder.transformer.norm_final_attn.bias": (
        "mask_decoder.transformer.layer_norm_final_attn.bias"
    ),
    "mask_decoder.output_upscaling.0.weight": "mask_decoder.upscale_conv1.weight",
    "mask_decoder.output_upscaling.1.weight": "mask_decoder.upscale_layer_norm.weight",
    "mask_decoder.output_upscaling.3.bias": "mask_decoder.upscale_conv2.bias",
    "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias": (
        "mask_decoder.output_hypernetworks_mlps.2.proj_in.bias"
    ),
    "mask_decoder.iou_prediction_head.layers.1.weight": (
        "mask_decoder.iou_prediction_head.layers.0.weight"
    ),
    "mask_decoder.iou_prediction_head.layers.2.weight": (
        "mask_decoder.iou_prediction_head.proj_out.weight"
    ),
}


def test_the_published_sizes_are_covered_and_nothing_is_left_over() -> None:
    """`published` was compared with the real file: names, shapes and types agree."""
    file = published(MobileSamConfig())
    assert len(file) == 439
    assert sum(value.numel() for value in file.values()) == 10_140_231
    state = translate(file)
    with torch.device("meta"):
        wanted = MobileSam().state_dict()
    assert state.keys() == wanted.keys()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}


def test_no_two_names_become_one() -> None:
    names = [key for key in published() if ".bn." not in key]
    assert len({renamed(key) for key in names}) == len(names)


@pytest.mark.parametrize("name", SAMPLES)
def test_values_go_to_their_names(name: str) -> None:
    file = published()
    assert torch.equal(translate(file)[SAMPLES[name]], file[name])


@pytest.mark.parametrize(
    ("layer", "ours", "stride", "groups"),
    [
        ("patch_embed.seq.2", "stem.2", 2, 1),
        ("layers.0.blocks.0.conv2", "stages.0.blocks.0.conv2", 1, 16),
        ("layers.1.downsample.conv3", "stages.1.merge.conv3", 1, 1),
        ("layers.3.blocks.0.local_conv", "stages.3.blocks.0.local_conv", 1, 8),
    ],
)
def test_a_folded_convolution_does_what_both_did(
    layer: str, ours: str, stride: int, groups: int
) -> None:
    file = published()
    weight = file[f"image_encoder.{layer}.c.weight"]
    out, per_group, kernel, _ = weight.shape
    channels = per_group * groups
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out)
    conv.load_state_dict({"weight": weight})
    prefix = f"image_encoder.{layer}.bn."
    norm.load_state_dict({k.removeprefix(prefix): v for k, v in file.items() if prefix in k})
    x = torch.randn(2, channels, 6, 7)
    state = translate(file)
    folded = state[f"encoder.{ours}.weight"], state[f"encoder.{ours}.bias"]
    with torch.no_grad():
        expected = norm.eval()(conv(x))
        found = nn.functional.conv2d(x, *folded, stride, kernel // 2, groups=groups)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_converted_file_loads(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "mobile_sam.pt")
    state = convert(tmp_path / "mobile_sam.pt", TOY)
    save_file(state, tmp_path / "mobile_sam.safetensors")
    model = MobileSam.load(tmp_path / "mobile_sam.safetensors", TOY)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    found = model.masks(model.encode(np.full((9, 7, 3), 90, np.uint8)), np.array([[1, 1, 5, 8]]))
    assert found.logits.isfinite().all()


def drop(name: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda file: file.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("image_encoder.patch_embed.seq.0.bn.running_var"), r"seq\.0\.bn\.running_var"),
        (drop("image_encoder.patch_embed.seq.0.c.weight"), r"seq\.0\.c\.weight"),
        (drop("image_encoder.neck.2.weight"), r"missing encoder\.neck\.2\.weight"),
        (drop("mask_decoder.iou_token.weight"), r"missing mask_decoder\.iou_token"),
        (lambda file: file.update(stranger=torch.zeros(1)), "unknown stranger"),
        (
            lambda file: file.update({"image_encoder.neck.1.bias": torch.zeros(3)}),
            r"encoder\.neck\.1\.bias \(3,\) instead of \(16,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], Any], said: str, tmp_path: Path
) -> None:
    file = published()
    change(file)
    torch.save(file, tmp_path / "mobile_sam.pt")
    with pytest.raises(ModelError, match=said):
        convert(tmp_path / "mobile_sam.pt", TOY)


def test_another_size_is_refused(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "toy.pt")
    with pytest.raises(ModelError, match=r"toy\.pt"):
        convert(tmp_path / "toy.pt")


class Bomb:
    """A pickle that would write a file when read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "exploded"
    torch.save({**published(), "x": Bomb(trap)}, tmp_path / "mobile_sam.pt")
    with pytest.raises(ModelError, match=r"mobile_sam\.pt"):
        convert(tmp_path / "mobile_sam.pt", TOY)
    assert not trap.exists()


def test_absent_and_truncated_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mobile_sam.pt"
    with pytest.raises(ModelError, match="no weights at"):
        convert(path, TOY)
    torch.save(published(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"mobile_sam\.pt"):
        convert(path, TOY)
