"""Putting a trained model into the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg import models
from refseg.doctor import shipped
from refseg.errors import ConfigError, ModelError
from refseg.nn.clip import Pixels
from refseg.nn.clip_weights import read_pair
from studies import bundle as bundling
from tests.methods.toy import toy_model
from tests.nn.clip_toys import own_folder, pair


def test_a_bundle_is_whole_small_and_nearly_the_same(tmp_path: Path) -> None:
    trained = toy_model("vega")
    models.save(tmp_path / "run" / "model", trained)
    for _ in range(2):  # the second replaces the first
        folder = bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["toy"]
    assert shipped(folder).status == "ok"
    back = models.load(folder)
    assert (back.name, back.min_score) == ("toy", 0.0)
    one, other = trained.method.state_dict(), back.method.state_dict()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6)
    bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints", min_score=0.2)
    assert models.load(folder).min_score == 0.2
    models.save(tmp_path / "run" / "model", models.load(folder))
    bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints")
    assert models.load(folder).min_score == 0.2
    with pytest.raises(ConfigError, match="out of range"):
        bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints", min_score=5)
    assert shipped(folder).status == "ok"


def test_a_bundled_card_names_no_place(tmp_path: Path) -> None:
    trained = toy_model("vega")
    trained.card = {
        "data": "/home/me/data/refcoco and ~/data/refcoco+, split train, 1/2 of it",
        "command": 'refseg train photos --set data.name=/a/b/refcoco --set "data.also=[/a/plus]"'
        " --out ../runs/photos",
        "steps": 7,
    }
    models.save(tmp_path / "run" / "model", trained)
    card = models.load(bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints")).card
    assert card["data"] == "refcoco and refcoco+, split train, 1/2 of it"
    assert card["command"] == (
        'refseg train photos --set data.name=refcoco --set "data.also=[plus]" --out photos'
    )
    assert card["steps"] == 7
    licensed = "Apache-2.0, text+mask; encoders: swin-scenes (box+attributes)"
    assert bundling.without_places(licensed) == licensed


def test_too_big_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.save(tmp_path / "run" / "model", toy_model("vega"))
    monkeypatch.setattr(bundling, "LIMIT_BYTES", 1000)
    with pytest.raises(ModelError, match="would be"):
        bundling.bundle(tmp_path / "run", "toy", tmp_path / "checkpoints")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_encoder_is_bundled_beside_the_models(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = tmp_path / "run" / "model"
    run.mkdir(parents=True)
    weight = torch.randn(4, 3)
    save_file({"table": weight, "index": torch.arange(3)}, run / "model.safetensors")
    (run / "config.json").write_text("{}")
    for _ in range(2):
        folder = bundling.bundle_encoder(tmp_path / "run", "toy", tmp_path / "checkpoints")
    assert folder == tmp_path / "checkpoints" / "encoders" / "toy"
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]
    assert shipped(folder).status == "ok"
    state = load_file(folder / "model.safetensors")
    assert state["table"].dtype == torch.float16
    torch.testing.assert_close(state["table"].float(), weight, rtol=1e-3, atol=1e-6)
    assert torch.equal(state["index"], torch.arange(3))
    assert torch.equal(load_file(run / "model.safetensors")["table"], weight)  # left as it was


def test_a_bundled_pair_says_what_its_pixels_were(tmp_path: Path) -> None:
    """Written by its run, or, of an older one, as its recipe has them."""
    own = Pixels(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    told = own.model_dump(mode="json")
    for name, written in (("new", {"pixels": told}), ("old", {})):
        run = tmp_path / name
        (run / "model").mkdir(parents=True)
        own_folder(run / "model", pair("resnet"), **written)
        (run / "recipe.json").write_text(json.dumps({"preprocess": {"size": 64, **told}}))
        folder = bundling.bundle_encoder(run, name, tmp_path / "checkpoints")
        assert shipped(folder).status == "ok"
        assert read_pair(folder).pixels == own
        about = json.loads((folder / "config.json").read_text())
        assert set(about) == {"pair", "pixels", "refseg"}
