"""A ViT learned from what occurs in whole pictures: what it reads and does not, its loss by a loop,
its scores, that it learns, and that a method starts from it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.data.scenes.serial import read_scenes
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, DataError, UnknownName
from refseg.methods.encoders.attributes import (
    AttributeBatch,
    AttributeNamer,
    AttributeNamerConfig,
)
from refseg.nn.vit import ViTVision, ViTVisionConfig
from refseg.nn.weights import load_hub_part, read_state
from refseg.recipes.attributes import (
    AttributeBatches,
    MeanPrecision,
    occurring,
    read_attributed,
    summary,
    vocabulary,
)
from refseg.recipes.catalog import get_encoder
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.provenance import identity
from refseg.recipes.starts import encoder_labels
from studies.bundle import bundle_encoder
from tests.recipes.sag_small import VIT, WITHHELD, opened, small_vit

NET = PreprocessConfig(size=32)
NAMES = [(name, value) for name, values in vocabulary().items() for value in values]


# -- what is read --------------------------------------------------------------------------------


def test_attributes_are_those_of_a_loop(world: Path) -> None:
    for _, scene in list(read_scenes(world.parent))[:6]:
        found = occurring(scene.objects)
        assert found.shape == (len(NAMES),)
        for (name, value), there in zip(NAMES, found, strict=True):
            told = [tuple(getattr(o, part) for part in name.split("+")) for o in scene.objects]
            assert there == (value in told), (name, value)


def test_pairs_are_of_one_thing() -> None:
    """A red ball and a blue cube are no blue ball."""
    assert ("kind+colour", ("ball", "blue")) in NAMES
    assert len(NAMES) == len(set(NAMES)) == 27 + 8 * 19
    assert {len(values) for name, values in vocabulary().items() if "+" not in name} == {
        8, 10, 3, 2, 4,
    }  # fmt: skip


def test_neither_place_nor_count_is_a_label(world: Path) -> None:
    """The same attributes whatever else the record says of the objects."""
    _, scene = next(iter(read_scenes(world.parent)))
    moved = [
        replace(one, box_xyxy=(0.0, 0.0, 1.0, 1.0), centre_xy=(0.5, 0.5), area=1, depth=9.0,
                position_world=(0.0, 0.0, 0.0), radius=0.1, yaw=0.0, visible_share=0.4)
        for one in scene.objects
    ]  # fmt: skip
    twice = tuple(reversed([*moved, *moved]))
    np.testing.assert_array_equal(occurring(scene.objects), occurring(twice))


def test_pictures_come_with_their_own_attributes(world: Path) -> None:
    found = read_attributed(str(world), "train", NET, 5)
    assert found.images.shape == (5, 32, 32, 3)
    scenes = [occurring(scene.objects).tolist() for _, scene in read_scenes(world.parent)]
    assert all(row in scenes for row in found.present.tolist())
    assert len({tuple(row) for row in found.present.tolist()}) > 1


def test_other_data_is_refused(tmp_path: Path, world: Path) -> None:
    (tmp_path / "drawn").mkdir()
    with pytest.raises(DataError, match="is no rendered world"):
        read_attributed(str(tmp_path / "drawn"), "train", NET, None)
    with pytest.raises(UnknownName, match="trian"):
        read_attributed(str(world), "trian", NET, None)


def test_pictures_are_mirrored_by_a_draw_of_their_own(world: Path) -> None:
    pictures = read_attributed(str(world), "train", NET, 4)
    batches, plain = (AttributeBatches(pictures, NET, mirror, 0) for mirror in (0.5, 0.0))
    mirrored = same = 0
    for epoch in range(8):
        batch, straight = batches([0, 3], epoch), plain([0, 3], epoch)
        for row in range(2):
            flipped = torch.equal(batch.images[row], straight.images[row].flip(-1))
            mirrored, same = mirrored + flipped, same + (not flipped)
        assert torch.equal(batches([3], epoch).images[0], batch.images[1])
        assert torch.equal(batch.present, torch.from_numpy(pictures.present[[0, 3]]))
    assert mirrored > 3 < same


# -- the loss and the scores ---------------------------------------------------------------------


def test_the_loss_is_its_loop() -> None:
    torch.manual_seed(0)
    learner = AttributeNamer(AttributeNamerConfig(vision=VIT, groups=(2, 3))).eval()
    batch = AttributeBatch(torch.randn(3, 3, 32, 32), torch.rand(3, 5) < 0.5)
    with torch.no_grad():
        logits = learner(batch)
        loss = float(learner.loss(logits, batch)["total"])
        patches = learner.vision(batch.images)
    total = 0.0
    for first, size in ((0, 2), (2, 3)):
        for image in range(3):
            for a in range(first, first + size):
                # Of the mean patch, which is the mean of what each patch says.
                said = [float(learner.head(patch)[a].detach()) for patch in patches[image]]
                chance = 1 / (1 + np.exp(-np.mean(said)))
                right = chance if batch.present[image, a] else 1 - chance
                total -= np.log(right) / (3 * size)
    assert loss == pytest.approx(total, rel=1e-4)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    learner = AttributeNamer(AttributeNamerConfig(vision=VIT, groups=(2, 3)))
    batch = AttributeBatch(torch.randn(2, 3, 32, 32), torch.rand(2, 5) < 0.5)
    learner.loss(learner(batch), batch)["total"].backward()
    grouped = [p for group in learner.parameter_groups() for p in group.parameters]
    assert all(p.grad is not None and bool(p.grad.any()) for p in grouped)


def test_scores_are_of_the_attributes_that_occur() -> None:
    present = np.zeros((4, len(NAMES)), np.bool_)
    present[:2, 0] = present[:1, 1] = present[3, 8] = True  # two kinds, a colour
    scores = np.where(present, 1.0, 0.0)
    scores[3, 0] = 2.0  # one wrong before both right: 1/2, 2/3 ... each tied: 2 of 3
    found = summary(scores, present)
    assert set(found) == {"kind", "colour", "all", "all, guessed"}
    assert found["kind"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["colour"] == 1
    assert found["all"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found["all, guessed"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)


def test_held_out_pictures_are_scored_together(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are looked at at a time."""
    pictures = read_attributed(str(world), "train", NET, 5)
    groups = tuple(len(values) for values in vocabulary().values())
    learner = AttributeNamer(AttributeNamerConfig(vision=VIT, groups=groups)).eval()
    score = MeanPrecision(AttributeBatches(pictures, NET, 0.0, 0))
    whole = score(learner)
    monkeypatch.setattr("refseg.recipes.attributes.TOGETHER", 2)
    assert score(learner) == pytest.approx(whole)


# -- a whole run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, while which neither box nor mask nor category of the data set is read."""
    folder = tmp_path_factory.mktemp("vit") / "run"
    with opened() as seen:
        run_encoder(small_vit(world), folder, progress="none", command="refseg train vit_small")
    tables = {table for table, _ in seen}
    assert "images" in tables
    assert not tables & WITHHELD
    return folder


def test_the_run_says_what_it_saw(run: Path) -> None:
    told = json.loads((run / "model" / "config.json").read_text())
    assert told["model_type"] == "vit"
    assert told["refseg"]["labels"] == "attributes of whole pictures"
    assert encoder_labels(run / "model") == "attributes of whole pictures"
    card = (run / "model" / "README.md").read_text()
    assert "- **labels used**: attributes of whole pictures\n" in card
    assert "- **mean average precision, kind+colour**: " in card
    assert "- **mean average precision, all, guessed**: " in card
    manifest = json.loads((run / "train" / "manifest.json").read_text())
    assert manifest["labels"] == "attributes of whole pictures"
    assert {"recipe", "data", "objects"} <= manifest["inputs"].keys()


def test_a_method_starts_from_it(run: Path) -> None:
    vision = ViTVision(VIT)
    module, prefix = vision.hub_part()
    load_hub_part(module, str(run / "model"), prefix=prefix)
    stored = read_state(run / "model" / "model.safetensors")
    for name, value in module.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_it_is_bundled_as_the_others_are(run: Path, tmp_path: Path) -> None:
    """In half precision, and loaded in full."""
    folder = bundle_encoder(run, "vit-small", tmp_path)
    assert encoder_labels(folder) == "attributes of whole pictures"
    module, prefix = ViTVision(VIT).hub_part()
    load_hub_part(module, str(folder), prefix=prefix)
    for name, value in read_state(run / "model" / "model.safetensors").items():
        assert torch.allclose(module.state_dict()[name], value, atol=1e-3), name
        assert module.state_dict()[name].dtype == torch.float32


def test_a_finished_run_is_left_alone(run: Path, world: Path) -> None:
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    run_encoder(small_vit(world), run, progress="none")
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_learning_tells_what_there_is(world: Path, tmp_path: Path) -> None:
    """Eighty steps on two dozen pictures; guessing has the share of pictures with an attribute."""
    wanted = small_vit(world)
    changed = {"steps": 80, "batch_size": 8, "lr": 3e-3, "evaluate_every": 80, "save_every": 80}
    data = wanted.data.model_copy(update={"evaluate": "train", "evaluate_limit": 16})
    train = wanted.train.model_copy(update=changed)
    run_encoder(
        wanted.model_copy(update={"data": data, "train": train}), tmp_path / "run", progress="none"
    )
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    scores = {
        line.partition("precision, ")[2].partition("**")[0]: float(line.split()[-1].rstrip("%"))
        for line in card.splitlines()
        if "mean average precision" in line
    }
    assert scores["all"] > scores["all, guessed"] + 10


# -- the recipe ----------------------------------------------------------------------------------


def test_the_small_vit_fits_a_core() -> None:
    """0.17 GMAC an image."""
    vit = get_encoder("vit_scenes").vit
    tokens = (vit.image_size // vit.patch) ** 2 + 1
    layer = 4 * vit.width**2 + 2 * vit.width * vit.mlp_width + 2 * tokens * vit.width
    patches = (tokens - 1) * 3 * vit.patch**2 * vit.width
    assert (tokens * vit.layers * layer + patches) / 1e9 == pytest.approx(0.169, abs=0.001)
    model = ViTVision(vit)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.49e6, rel=0.02)


def test_only_its_own_kind_counts_a_vit_in() -> None:
    """Runs of other encoders that began before there was one go on."""
    assert "vit" in identity(get_encoder("vit_scenes"))
    assert "pair" not in identity(get_encoder("vit_scenes"))
    for name in ("swin_scenes", "bert_scenes", "clip_scenes", "proposals_scenes"):
        assert "vit" not in identity(get_encoder(name))


def test_pictures_that_patches_do_not_fill_are_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.size 36 is no whole number of patches"):
        apply_overrides(small_vit(world), ["preprocess.size=36"])
    with pytest.raises(ConfigError, match="heads"):
        apply_overrides(small_vit(world), ["vit.heads=3"])


def test_its_pixels_are_those_of_the_method() -> None:
    recipe = get_encoder("vit_scenes")
    assert isinstance(recipe, EncoderRecipe)
    assert recipe.preprocess.mean == recipe.preprocess.std == (0.5, 0.5, 0.5)
    assert isinstance(recipe.vit, ViTVisionConfig)
