"""The ViT adapter: transformers' own patches, any size, the hub's weights by old and new names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refseg.errors import ConfigError, ModelError
from refseg.nn.positions import sine_table
from refseg.nn.vit import ViTVision, ViTVisionConfig
from refseg.nn.weights import canonical, load_hub_part

SMALL = {"image_size": 32, "patch": 8, "width": 16, "layers": 3, "heads": 2, "mlp_width": 24}


def vit(seed: int = 0, **changes: Any) -> ViTVision:
    torch.manual_seed(seed)
    made = ViTVision(ViTVisionConfig.model_validate({**SMALL, "drop_path": 0.0, **changes})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("hw", [(32, 32), (48, 48), (16, 40)])
def test_it_is_transformers_vit_without_the_first_token(hw: tuple[int, int]) -> None:
    made, images = vit(), torch.randn(2, 3, *hw)
    with torch.no_grad():
        expected = made.vit(images, interpolate_pos_encoding=hw != (32, 32)).last_hidden_state
        found = made(images)
    torch.testing.assert_close(found, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert made.grid(hw) == (hw[0] // 8, hw[1] // 8)


def test_patches_run_along_rows_from_the_top() -> None:
    """Without layers' mixing: only the patch that changed changes."""
    made, images = vit(), torch.zeros(1, 3, 32, 32)
    for layer in made.layers:
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.weight.data.zero_()
    changed = images.clone()
    changed[:, :, 8:16, 24:32] = 1
    with torch.no_grad():
        moved = (made(changed) - made(images)).abs().sum(dim=2)[0]
    assert moved.nonzero().flatten().tolist() == [7]


def test_vit_s_has_its_size() -> None:
    """22.2 M with the classifier of 1,000 classes, whose layer has 385,000."""
    with torch.device("meta"):
        made = ViTVision(ViTVisionConfig())
    assert sum(p.numel() for p in made.parameters()) == 22_196_584 - 385_000
    assert made.grid((384, 384)) == (24, 24)
    assert len(made.layers) == 12


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the spelling of the hub's files, `encoder.layer.0.attention.attention.query`."""
    return {canonical(key): value for key, value in state.items()}


@pytest.mark.parametrize("task", [True, False])
@pytest.mark.parametrize("spelling", ["as saved", "old", "new"])
def test_weights_from_a_hub_folder(task: bool, spelling: str, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=24, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(7)
    theirs = (ViTForImageClassification if task else ViTModel)(config).eval()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if spelling == "old":
        save_file(old_names(load_file(file)), file)
        start = "vit." if task else ""
        names = set(load_file(file))
        assert f"{start}encoder.layer.0.attention.attention.query.weight" in names
        assert f"{start}encoder.layer.2.attention.output.dense.bias" in names
        assert f"{start}encoder.layer.1.intermediate.dense.weight" in names
        assert f"{start}encoder.layer.1.output.dense.weight" in names
        assert f"{start}encoder.layer.1.layernorm_before.weight" in names
    elif spelling == "new":
        save_file({k: v.clone() for k, v in theirs.state_dict().items()}, file)
    made = vit()
    module, prefix = made.hub_part()
    load_hub_part(module, str(tmp_path), prefix=prefix)
    inner = theirs.vit if task else theirs
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = inner(images).last_hidden_state[:, 1:]
        torch.testing.assert_close(made(images), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"layers": 2}, {"image_size": 40}, {"patch": 16}])
def test_weights_of_another_vit_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    vit(**changes).vit.save_pretrained(tmp_path)
    made, before = vit(), vit()
    with pytest.raises(ModelError):
        load_hub_part(made.vit, str(tmp_path), prefix="vit.")
    assert same(made, before)


def test_other_names_stay_as_they_are() -> None:
    for name in (
        "encoder.layers.0.mlp.fc1.weight",  # CLIP
        "vision_model.encoder.stages.0.layers.0.mlp.fc1.weight",  # GroupViT
        "bert.encoder.layer.0.output.dense.weight",
        "transformer.layers.0.norm1.weight",
    ):
        assert canonical(name) == name


def test_positions_start_from_sines() -> None:
    torch.manual_seed(0)
    made = ViTVision(ViTVisionConfig.model_validate(SMALL))
    table = made.vit.embeddings.position_embeddings[0, 1:]
    assert torch.equal(table, sine_table(4, 16))


def test_branches_are_left_out_while_training_alone_and_more_of_them_deeper() -> None:
    made, images = vit(drop_path=0.5), torch.randn(1, 3, 32, 32).expand(64, -1, -1, -1)
    with torch.no_grad():
        whole = made(images)
        assert torch.equal(whole, vit()(images))
        torch.manual_seed(0)
        made.train()
        inputs: list[Tensor] = []
        for layer in made.layers:
            layer.register_forward_hook(lambda *args: inputs.append(args[2]))
        made(images)
    kinds = [len(torch.unique(x.flatten(1).round(decimals=4), dim=0)) for x in inputs]
    # The first layer always runs whole; each later one may lose either branch or both.
    assert kinds[0] == 1
    assert kinds[1] == 4
    assert kinds[2] > 8


def test_what_is_left_out_is_made_up_for() -> None:
    made = vit(drop_path=0.5).train()
    end = [p for p in made.layers[-1].modules() if isinstance(p, nn.Linear)][-1]
    torch.manual_seed(0)
    with torch.no_grad():
        out = end(torch.ones(4000, 1, 24))
        end.eval()
        whole = end(torch.ones(1, 1, 24))
    share = (out.abs().sum(dim=(1, 2)) > 0).float().mean()
    assert float(share) == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(out.mean(dim=0, keepdim=True), whole, atol=0.06, rtol=0.06)


def test_a_gradient_reaches_everything() -> None:
    made = vit().train()
    made(torch.randn(2, 3, 48, 32)).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim > 1:
            assert parameter.grad.abs().sum() > 0, name


def test_channels_last_images_are_made_contiguous() -> None:
    """Some strided convolutions of torch 2.13 crash in their backward on this layout."""
    made = vit().train()
    made(torch.randn(2, 32, 32, 3).permute(0, 3, 1, 2)).square().sum().backward()
    assert next(made.parameters()).grad is not None


@pytest.mark.parametrize("hw", [(33, 32), (32, 36), (4, 32), (0, 0)])
def test_images_that_are_no_whole_patches_are_refused(hw: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"{hw[1]} x {hw[0]} px") as caught:
        vit()(torch.zeros(1, 3, *hw))
    assert "preprocess.size" in caught.value.remedy


def test_wrong_settings_are_refused() -> None:
    for unfit in ({"heads": 3}, {"image_size": 33}):
        with pytest.raises(ConfigError):
            ViTVisionConfig.model_validate({**SMALL, **unfit})
    for wrong in ({"kind": "swin"}, {"drop_path": 1.0}, {"layers": 0}, {"pool": True}):
        with pytest.raises(ValidationError):
            ViTVisionConfig.model_validate({**SMALL, **wrong})
