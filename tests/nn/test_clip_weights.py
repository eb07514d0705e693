"""CLIP's weights in everybody's files: the same answers, one tower alone, errors that name keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refseg.errors import ModelError
from refseg.nn.clip import (
    PIXEL_MEAN,
    PIXEL_STD,
    ClipVision,
    ClipVisionConfig,
    ClipWords,
    Pixels,
)
from refseg.nn.clip_pair import ClipPair
from refseg.nn.clip_resnet import ClipResNet, ClipResNetConfig
from refseg.nn.clip_weights import load_clip_part, read_pair, read_pixels
from tests.nn.clip_toys import config, hub_clip, openai_file, openai_names, own_folder, pair, same


def answers(made: ClipPair) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    size = made.config.vision.image_size
    words, mask = torch.randint(1, 20, (3, 6)), torch.arange(6) < torch.tensor([[4], [6], [2]])
    with torch.no_grad():
        seen, read = made.embed_images(torch.randn(2, 3, size, size)), made.embed_texts(words, mask)
        return seen, read, made.similarity(seen, read)


# -- files in each spelling ----------------------------------------------------------------------


@pytest.mark.parametrize("vision", ["resnet", "vit"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_openais_names(vision: str, name: str, tmp_path: Path) -> None:
    made = pair(vision)
    openai_file(tmp_path, made, name)
    for where in (tmp_path, str(tmp_path), tmp_path / name):
        found = read_pair(where)
        assert found.config == made.config
        assert same(found, made)
        assert not found.training
    for ours, expected in zip(answers(found), answers(made), strict=True):
        assert torch.equal(ours, expected)


def test_half_precision_becomes_whole(tmp_path: Path) -> None:
    """OpenAI's files are of float16."""
    made = pair("resnet")
    state = {k: v.half() if v.is_floating_point() else v for k, v in openai_names(made).items()}
    torch.save({"state_dict": state}, tmp_path / "clip.pth")
    found = read_pair(tmp_path / "clip.pth")
    for value, own in zip(found.state_dict().values(), made.state_dict().values(), strict=True):
        assert value.dtype == own.dtype
        torch.testing.assert_close(value, own, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("old", [False, True])
def test_hugging_faces_names(heads: int, old: bool, tmp_path: Path) -> None:
    model = hub_clip(tmp_path, heads)
    if old:  # their files of 2021 had index tables among the weights, in a .bin
        state = dict(load_file(tmp_path / "model.safetensors"))
        state["text_model.embeddings.position_ids"] = torch.arange(9)[None]
        state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    found = read_pair(tmp_path)
    assert found.config.text.heads == found.config.vision.heads == heads  # type: ignore[union-attr]
    words = torch.tensor([[18, 3, 4, 19, 0, 0], [18, 5, 6, 7, 8, 19]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        out = model(input_ids=words, pixel_values=images, attention_mask=mask)
        seen, read = found.embed_images(images), found.embed_texts(words, mask.bool())
        similar = found.similarity(seen, read)
    torch.testing.assert_close(seen, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read, out.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(similar, out.logits_per_image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vision", ["resnet", "vit"])
def test_our_own_folders(vision: str, tmp_path: Path) -> None:
    made = pair(vision)
    assert same(read_pair(own_folder(tmp_path, made)), made)
    told = json.loads((tmp_path / "config.json").read_text())
    told["pair"]["text"]["heads"] = 3
    for wrong in ({"refseg": {}}, told):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match=r"config\.json describes no CLIP"):
            read_pair(tmp_path)


def test_a_pair_says_what_its_pixels_were(tmp_path: Path) -> None:
    made = pair("resnet")
    own_folder(tmp_path, made, pixels={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    expected = Pixels(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert read_pair(tmp_path).pixels == read_pixels(tmp_path) == expected
    for wrong in ({"mean": [0.1, 0.2]}, {"std": [0.1, 0.0, 0.1]}, {"size": 3}, 7):
        own_folder(tmp_path, made, pixels=wrong)
        for read in (read_pair, read_pixels):
            with pytest.raises(ModelError, match=r"config\.json describes no CLIP"):
                read(tmp_path)


def test_a_file_that_says_nothing_knows_clips_pixels(tmp_path: Path) -> None:
    own, openai, hub = (tmp_path / name for name in ("own", "openai", "hub"))
    for folder in (own, openai, hub):
        folder.mkdir()
    own_folder(own, pair("vit"))
    openai_file(openai, pair("resnet"))
    hub_clip(hub)
    for where in (own, openai, openai / "model.safetensors", hub):
        assert read_pair(where).pixels == read_pixels(where) == Pixels()
    assert (Pixels().mean, Pixels().std) == (PIXEL_MEAN, PIXEL_STD)


def test_a_folder_of_open_clip(tmp_path: Path) -> None:
    """Its model.safetensors may be a tower alone, in names of another library."""
    made = pair("resnet")
    openai_file(tmp_path, made, "open_clip_model.safetensors")
    save_file({"stem.conv1.conv.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"open_clip_config\.json, which tells the activation"):
        read_pair(tmp_path)
    settings = tmp_path / "open_clip_config.json"
    settings.write_text(json.dumps({"model_cfg": {"embed_dim": 6}}))
    with pytest.raises(ModelError, match="activation gelu"):
        read_pair(tmp_path)
    settings.write_text(json.dumps({"model_cfg": {"embed_dim": 6, "quick_gelu": True}}))
    assert same(read_pair(tmp_path), made)


# -- one tower -----------------------------------------------------------------------------------


def towers(seed: int) -> Iterator[tuple[str, ClipResNet | ClipVision | ClipWords]]:
    """Whose file, and a module for one part of it."""
    torch.manual_seed(seed)
    for vision in ("resnet", "vit"):
        made = config(vision)
        yield vision, ClipWords(made.text)
    assert isinstance(made.vision, ClipVisionConfig)
    yield "vit", ClipVision(made.vision)
    resnet = config("resnet").vision
    assert isinstance(resnet, ClipResNetConfig)
    yield "resnet", ClipResNet(resnet)
    yield "resnet", ClipResNet(resnet.model_copy(update={"pool": False}))


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("write", [openai_file, own_folder])
def test_one_tower_of_a_file(index: int, write: Any, tmp_path: Path) -> None:
    vision, module = list(towers(3))[index]
    made = pair(vision)
    write(tmp_path, made)
    load_clip_part(module, str(tmp_path))
    whole = made.text if isinstance(module, ClipWords) else made.vision
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    if isinstance(module, ClipResNet) and module.attnpool is None:
        assert not any("attnpool" in key for key in module.state_dict())
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(module.eval()(images)[-1], whole(images)[-1])


def test_one_tower_of_hugging_faces_files(tmp_path: Path) -> None:
    """A tower's own file will do: config.json is then its own, too."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    both, alone = tmp_path / "both", tmp_path / "alone"
    model = hub_clip(both, heads=4)
    text = model.config.text_config.to_dict() | {"projection_dim": 6}
    tower = CLIPTextModelWithProjection(CLIPTextConfig(**text))
    tower.text_model.load_state_dict(model.text_model.state_dict())
    tower.text_projection.load_state_dict(model.text_projection.state_dict())
    tower.save_pretrained(alone)
    wanted = config("vit").text.model_copy(update={"heads": 4})
    for folder in (both, alone):
        module = ClipWords(wanted)
        load_clip_part(module, str(folder))
        assert torch.equal(module.projection.weight, model.text_projection.weight)
    with pytest.raises(ModelError, match=r"missing vision\."):
        read_pair(alone)


def test_other_heads_fit_the_shapes_and_are_refused(tmp_path: Path) -> None:
    hub, openai = tmp_path / "hub", tmp_path / "openai"
    openai.mkdir()
    hub_clip(hub, heads=4)
    openai_file(openai, pair("resnet"))
    made = config("resnet", pool_heads=4)
    assert isinstance(made.vision, ClipResNetConfig)
    for module, folder, said in (
        (ClipWords(made.text), hub, r"text tower of .*hub has 4 heads, not 2"),
        (ClipResNet(made.vision), openai, r"vision tower of .*openai has 2 heads, not 4"),
    ):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        with pytest.raises(ModelError, match=said):
            load_clip_part(module, str(folder))
        assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


# -- what does not fit ---------------------------------------------------------------------------


def changed(folder: Path, vision: str, **changes: Any) -> str:
    """What is said of an OpenAI file with other tensors; None takes one out."""
    state = {**openai_names(pair(vision)), **{k.replace("__", "."): v for k, v in changes.items()}}
    save_file({k: v for k, v in state.items() if v is not None}, folder / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        read_pair(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    assert "missing vision.layer2.0.bn3.bias" in changed(
        tmp_path, "resnet", visual__layer2__0__bn3__bias=None
    )
    assert "unknown visual.stranger" in changed(tmp_path, "vit", visual__stranger=torch.zeros(1))
    for key in (
        "token_embedding__weight",
        "text_projection",
        "logit_scale",
        "positional_embedding",
    ):
        assert re.search(r"missing (text\.|logit)", changed(tmp_path, "vit", **{key: None}))
    for key in ("proj", "conv1__weight", "positional_embedding", "ln_post__bias"):
        assert "missing vision." in changed(tmp_path, "vit", **{f"visual__{key}": None})
    for key in ("attnpool__c_proj__weight", "attnpool__q_proj__weight", "layer1__0__conv1__weight"):
        assert "missing vision." in changed(tmp_path, "resnet", **{f"visual__{key}": None})


def test_other_shapes_are_named(tmp_path: Path) -> None:
    said = changed(tmp_path, "resnet", visual__layer4__0__conv2__weight=torch.zeros(9, 9, 3, 3))
    assert "vision.layer4.0.conv2.weight (9, 9, 3, 3) instead of (32, 32, 3, 3)" in said
    said = changed(tmp_path, "vit", text_projection=torch.zeros(128, 7))
    assert "vision.embed is 6 and text.embed 7" in said
    said = changed(tmp_path, "vit", transformer__resblocks__1__attn__in_proj_weight=torch.zeros(5))
    assert "text.clip.encoder.layers.1.self_attn.in_proj_weight" in said


def test_a_layer_that_is_missing_in_between_is_named(tmp_path: Path) -> None:
    state = openai_names(pair("vit"))
    kept = {k: v for k, v in state.items() if not k.startswith("transformer.resblocks.0.ln_1")}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing text\.clip\.encoder\.layers\.0\.layer_norm1"):
        read_pair(tmp_path)


def test_a_tower_that_does_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    openai_file(tmp_path, pair("resnet"))
    vit = config("vit").vision
    assert isinstance(vit, ClipVisionConfig)
    module = ClipVision(vit)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ModelError, match=r"\(vision\) do not fit: missing clip\."):
        load_clip_part(module, str(tmp_path))
    deeper = config("resnet").text.model_copy(update={"layers": 3})
    with pytest.raises(ModelError, match=r"\(text\) do not fit: missing clip\.encoder\.layers\.2"):
        load_clip_part(ClipWords(deeper), str(tmp_path))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_other_activations_are_refused(tmp_path: Path) -> None:
    hub_clip(tmp_path, act="gelu")
    with pytest.raises(ModelError, match="activation gelu, not with OpenAI's quick_gelu"):
        read_pair(tmp_path)


def test_hugging_faces_weights_need_their_settings(tmp_path: Path) -> None:
    hub_clip(tmp_path)
    for content, said in (("[]", "no JSON object"), ("{", "no JSON object"), (None, "the heads")):
        if content is None:
            (tmp_path / "config.json").unlink()
        else:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=said):
            read_pair(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["RN50.pt", "pytorch_model.bin"])
def test_programs_are_not_run_and_how_to_convert_them_is_told(name: str, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / name))
    for where in (tmp_path, tmp_path / name):
        with pytest.raises(ModelError, match=r"TorchScript archive") as caught:
            read_pair(where)
        assert name in caught.value.message
        assert "convert it once" in caught.value.remedy
        assert "model.safetensors" in caught.value.remedy


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights in"):
        read_pair(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        read_pair(tmp_path / "nowhere")
    save_file({"bert.embeddings.norm": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds no CLIP \(its first name: bert\.embeddings\.norm"):
        read_pair(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="cannot read weights"):
        load_clip_part(ClipWords(config("vit").text), str(tmp_path))
