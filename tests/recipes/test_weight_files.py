"""Files of weights, by themselves and in folders of others, and captions: read, told and hashed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg import models
from refseg.errors import ModelError, RunError
from refseg.methods.vega import Vega
from refseg.nn.weights import weight_file
from refseg.ops.files import sha256_file
from refseg.recipes import stages
from refseg.recipes.base import Recipe, TokenConfig, WeightsConfig
from refseg.recipes.building import build
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.starts import encoder_labels, find_starts, start_hashes
from refseg.train.config import TrainConfig
from tests.methods.toy import vega_config
from tests.recipes.tris_small import small_pair

OPEN_CLIP = "open_clip_model.safetensors"


def started(**weights: Path) -> Recipe:
    return Recipe(
        name="toy",
        method_name="vega",
        method=vega_config(),
        tokens=TokenConfig(max_words=12),
        weights=WeightsConfig(**{key: str(path) for key, path in weights.items()}),
        train=TrainConfig(steps=1),
    )


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    """An encoder's folder."""
    folder = tmp_path / "swin"
    folder.mkdir()
    state = Vega(vega_config()).encoder.pyramid.swin.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"refseg": {"labels": "box+attributes"}}')
    return folder


def test_a_file_starts_what_its_folder_does(swin: Path) -> None:
    file = swin / "model.safetensors"
    assert models.find_encoder(str(file)) == weight_file(str(file)) == weight_file(str(swin))
    made = []
    for where in (swin, file):
        torch.manual_seed(0)
        made.append(build(started(vision=where), ["a red ball"]).method.state_dict())
    one, other = made
    assert all(torch.equal(one[key], other[key]) for key in one)
    name = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(one[f"encoder.pyramid.swin.{name}"], load_file(file)[name])


def test_a_file_says_what_its_folder_does(swin: Path, tmp_path: Path) -> None:
    """So that naming the file hides no labels."""
    file = swin / "model.safetensors"
    assert find_starts(started(vision=file).weights).parts == {str(file): "box+attributes"}
    alone = shutil.copy(file, tmp_path / "alone.safetensors")
    assert encoder_labels(models.find_encoder(str(alone))) == "not stated"


def test_a_file_is_hashed_as_its_folder_is(swin: Path, tmp_path: Path) -> None:
    file = swin / "model.safetensors"
    known = {"weights.vision": sha256_file(file)}
    assert start_hashes(started(vision=file)) == start_hashes(started(vision=swin)) == known
    parts = dict.fromkeys(("vision", "text", "calibrator", "edges"), file)
    assert start_hashes(started(**parts)) == {
        f"weights.{part}": known["weights.vision"] for part in parts
    }
    assert start_hashes(started(vision=tmp_path / "gone.safetensors")) == {}
    with pytest.raises(ModelError, match=r"no folder .*gone\.safetensors"):
        models.find_encoder(str(tmp_path / "gone.safetensors"))


def test_the_file_of_an_openclip_folder_is_hashed(tmp_path: Path) -> None:
    """Beside the usual one, whose hash stays under its own name."""
    (tmp_path / OPEN_CLIP).write_bytes(b"both towers")
    key = "weights.calibrator.open_clip"
    told = {key: sha256_file(tmp_path / OPEN_CLIP)}
    assert start_hashes(started(calibrator=tmp_path)) == told
    (tmp_path / "model.safetensors").write_bytes(b"an image tower")
    told["weights.calibrator"] = sha256_file(tmp_path / "model.safetensors")
    assert start_hashes(started(calibrator=tmp_path)) == told
    for part in ("vision", "text", "calibrator", "edges"):  # not known to runs from before
        assert {f"weights.{part}", f"weights.{part}.open_clip"} <= stages.ADDED


def test_other_captions_are_another_run(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    encoder = small_pair(tmp_path / "world" / "scenes")
    run_encoder(encoder, tmp_path / "run", progress="none")
    path = tmp_path / "run/train/manifest.json"
    manifest = json.loads(path.read_text())
    captions = tmp_path / "world" / "captions.jsonl"
    assert manifest["inputs"]["captions"] == sha256_file(captions)
    captions.write_text(captions.read_text().replace("red", "blue"))
    with pytest.raises(RunError, match="other inputs: captions"):
        run_encoder(encoder, tmp_path / "run", progress="none")
    del manifest["inputs"]["captions"]  # as runs have it that began before
    path.write_text(json.dumps(manifest))
    run_encoder(encoder, tmp_path / "run", progress="none")
