"""Others' CLIP and GroupViT as models: the same numbers, what the card says, loud refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg import models
from refseg.convert import UNSEEN, convert, read_model
from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from refseg.errors import ConfigError, ModelError, RefsegError, RunError
from refseg.nn.clip import PIXEL_MEAN
from refseg.types import Sample
from tests.hub_toys import PLACES, edit, hub_clip, hub_groupvit
from tests.nn.clip_toys import config as pair_config
from tests.nn.clip_toys import own_folder, pair

TEXTS = ("the red ball", "left cup")


def samples() -> list[Sample]:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    return [Sample(f"{n}", image, text, 1, n, n) for n, text in enumerate(TEXTS)]


# -- the same numbers ----------------------------------------------------------------------------


@torch.no_grad()
def test_a_clip_answers_with_its_own_weights(tmp_path: Path) -> None:
    theirs = hub_clip(tmp_path / "clip")
    made = convert(str(tmp_path / "clip"), tmp_path / "out")
    loaded = models.load(tmp_path / "out")
    assert (loaded.name, loaded.method_name) == ("out", "maskclip")
    batch = loaded.batch(samples(), share_images=True)
    found = loaded.method(batch)
    own = theirs(
        input_ids=batch.words, pixel_values=batch.images, attention_mask=batch.word_mask.long()
    )
    torch.testing.assert_close(found.whole, own.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.texts, own.text_embeds, atol=1e-5, rtol=1e-4)
    for one, other in zip(made.predict(samples()), loaded.predict(samples()), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.mask.shape == (40, 60)
        assert one.mask.any()


@torch.no_grad()
@pytest.mark.parametrize("safe", [True, False])
def test_a_groupvit_answers_with_its_own_weights(safe: bool, tmp_path: Path) -> None:
    theirs = hub_groupvit(tmp_path / "groupvit", safe=safe)
    made = convert(str(tmp_path / "groupvit"), tmp_path / "out")
    loaded = models.load(tmp_path / "out")
    assert loaded.method_name == "groupvit"
    batch = loaded.batch(samples(), share_images=True)
    found = loaded.method(batch)
    own = theirs(
        input_ids=batch.words, pixel_values=batch.images, attention_mask=batch.word_mask.long()
    )
    images = loaded.method._images(found.segments.mean(dim=1))
    torch.testing.assert_close(images, own.image_embeds, atol=1e-5, rtol=1e-4)
    texts = loaded.method._texts(found.sentences)
    torch.testing.assert_close(texts, own.text_embeds, atol=1e-5, rtol=1e-4)
    for one, other in zip(made.predict(samples()), loaded.predict(samples()), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_our_own_small_pair(tmp_path: Path) -> None:
    """As `refseg train clip_scenes` leaves it: pixels are ImageNet's, the data is named."""
    folder = tmp_path / "clip"
    hub_clip(folder)  # for its tokenizer
    wide = pair_config("resnet")
    wide = wide.model_copy(update={"text": wide.text.model_copy(update={"vocab_size": 600})})
    made = type(pair("resnet"))(wide)
    own_folder(folder, made)
    pixels = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    about = {"labels": "text", "data": "scenes@12000"}
    edit(folder / "config.json", refseg=about, pixels=pixels)
    model = read_model(str(folder))
    assert model.card["data"] == f"{UNSEEN}; before: scenes@12000"
    assert model.card["labels used"] == "text (of the pre-training pairs)"
    assert (model.preprocess.size, model.preprocess.mean) == (64, IMAGENET_MEAN)
    assert len(model.predict(samples())) == 2


# -- what a model is told ------------------------------------------------------------------------


def test_the_card_says_what_was_seen(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    card = convert(str(tmp_path / "clip"), tmp_path / "out").card
    assert card["data"] == UNSEEN
    assert card["labels used"] == "text (of the pre-training pairs)"
    assert card["made from"] == "clip", "a folder's name, not where it lies"
    told = (tmp_path / "out" / "README.md").read_text()
    assert UNSEEN in told
    assert str(tmp_path) not in told


def test_pixels_are_as_the_weights_know_them(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    hub_groupvit(tmp_path / "groupvit")
    assert read_model(str(tmp_path / "clip")).preprocess.mean == PIXEL_MEAN
    assert read_model(str(tmp_path / "groupvit")).preprocess.mean == IMAGENET_MEAN
    said = tmp_path / "groupvit" / "preprocessor_config.json"
    said.write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    found = read_model(str(tmp_path / "groupvit")).preprocess
    assert (found.size, found.mean, found.std) == (32, (0.1, 0.2, 0.3), (1, 1, 1))
    for broken in ("{", "[]", '{"image_mean": 3}'):
        said.write_text(broken)
        with pytest.raises(ModelError, match=r"broken .*preprocessor_config\.json"):
            read_model(str(tmp_path / "groupvit"))


def test_settings_change_the_model(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    settings = ["method.residual=true", "method.prompt=the {}", "preprocess.size=48", "max_words=5"]
    made = convert(str(tmp_path / "clip"), tmp_path / "out", settings)
    loaded = models.load(tmp_path / "out")
    assert loaded.method.config.residual
    assert loaded.method.config.prompt == "the {}"
    assert (loaded.preprocess.size, loaded.tokenizer.max_words) == (48, 5)
    for one, other in zip(made.predict(samples()), loaded.predict(samples()), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    plain = read_model(str(tmp_path / "clip"))
    assert plain.tokenizer.max_words == PLACES
    prompted = read_model(str(tmp_path / "clip"), ["method.prompt=the red {}"])
    assert prompted.tokenizer.max_words == PLACES - 2
    with torch.no_grad():
        framed = prompted.method(prompted.batch(samples()[1:])).texts
        told = plain.method._texts(
            plain.batch([Sample("", samples()[0].image, "the red left cup", 1, 0, 0)])
        )
    torch.testing.assert_close(framed, told)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["method.residul=true"], "residul"),
        (["method.prompt=a photo"], "no one place"),
        (["method.text.width=64"], "other shapes"),
        (["method_name=groupvit"], "weights of maskclip"),
        (["max_words=99"], "takes 24"),
        ([f"method.prompt={'the ' * 22}{{}}"], "leaves 2 of 24 places"),
        (["preprocess.size=4"], "preprocess.size"),
    ],
)
def test_settings_that_do_not_fit(settings: list[str], told: str, tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    with pytest.raises(RefsegError, match=told):
        convert(str(tmp_path / "clip"), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


# -- refusals ------------------------------------------------------------------------------------


def refused(folder: Path, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        convert(str(folder), folder.parent / "out")
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("make", [hub_clip, hub_groupvit])
def test_missing_weights_are_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "hub")
    (tmp_path / "hub" / "model.safetensors").unlink()
    refused(tmp_path / "hub", "no weights in")
    refused(tmp_path / "nowhere", "no folder")


@pytest.mark.parametrize("make", [hub_clip, hub_groupvit])
def test_a_missing_tensor_is_named(make: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make(tmp_path / "hub")
    path = tmp_path / "hub" / "model.safetensors"
    state = {k: v for k, v in load_file(path).items() if "final_layer_norm.bias" not in k}
    save_file(state, path)
    refused(tmp_path / "hub", r"missing .*final_layer_norm\.bias")


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    refused(tmp_path / "clip", "no tokenizer in")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    hub_groupvit(tmp_path / "groupvit")
    edit(tmp_path / "groupvit" / "config.json", text_config__vocab_size=100)
    refused(tmp_path / "groupvit", r"other shapes: net\.text_model\.embeddings\.token_embedding")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision_config__hidden_act": "relu"}, "hidden_act=relu, which is not built here"),
        ({"text_config__layer_norm_eps": 0.1}, "layer_norm_eps=0.1"),
        ({"vision_config__assign_mlp_ratio": [1, 4]}, r"assign_mlp_ratio=\[1, 4\]"),
        ({"vision_config__num_attention_heads": 5}, "describes no GroupViT: vision.heads"),
        ({"projection_dim": "many"}, "describes no GroupViT: embed"),
        ({"vision_config__num_group_tokens": [5, 4, 0]}, "other shapes"),
    ],
)
def test_a_groupvit_of_another_build_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    hub_groupvit(tmp_path / "groupvit")
    edit(tmp_path / "groupvit" / "config.json", **changes)
    refused(tmp_path / "groupvit", told)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    convert(str(tmp_path / "clip"), tmp_path / "model")
    with pytest.raises(ModelError, match="is a refseg model already"):
        convert(str(tmp_path / "model"), tmp_path / "again")
    swin = tmp_path / "swin"
    swin.mkdir()
    (swin / "config.json").write_text('{"model_type": "swin"}')
    torch.save({"swin.layernorm.bias": torch.zeros(2)}, swin / "pytorch_model.bin")
    refused(swin, "holds no CLIP")
    for broken in ("{", "[]"):
        (swin / "config.json").write_text(broken)
        refused(swin, r"config\.json")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    hub_clip(tmp_path / "clip")
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    with pytest.raises(RunError, match="is there already"):
        convert(str(tmp_path / "clip"), out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    convert(str(tmp_path / "clip"), out)
    with pytest.raises(ConfigError, match="valid here"):
        read_model(str(tmp_path / "clip"), ["size=3"])


def test_the_way_is_told_where_a_model_is_asked_for(tmp_path: Path) -> None:
    for make, name in ((hub_clip, "clip"), (hub_groupvit, "groupvit")):
        make(tmp_path / name)
        with pytest.raises(ModelError, match="is an encoder") as caught:
            models.load(tmp_path / name)
        assert f"refseg models convert {tmp_path / name} --out DIR" in caught.value.remedy
    for name in ("maskclip", "groupvit"):
        with pytest.raises(ModelError, match=f"{name} is a method") as caught:
            models.find_model(name)
        assert "refseg models convert" in caught.value.remedy
