"""All stages of TRIS with masks that choose, with few pairs, with pictures of any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from refseg import models
from refseg.data.catalog import open_data, open_records
from refseg.methods.tris.refine import refine
from refseg.nn.clip_pair import PairConfig
from refseg.ops.files import sha256_file
from refseg.recipes import training, tris_stages
from refseg.recipes.base import Recipe
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.runner import run_recipe
from refseg.recipes.tris_data import part_of
from refseg.recipes.tris_edges import read_refiner
from refseg.recipes.tris_select import Selected
from refseg.types import Labels
from tests.recipes.partial_small import Watch, card, manifest, objects, watched
from tests.recipes.tris_small import TEXT, VISION, small_pair, small_tris


@pytest.fixture(scope="module")
def pair(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_encoder(small_pair(world), tmp_path_factory.mktemp("pair") / "run", progress="none")


def run(recipe: Recipe, folder: Path) -> Path:
    run_recipe(recipe, folder, progress="none")
    return folder


@pytest.fixture
def positive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every map is positive somewhere: two steps do not teach that."""
    select = tris_stages.select_maps

    def lifted(*given: Any) -> Selected:
        found = select(*given)
        middle = found.maps.mean(axis=(1, 2), keepdims=True)
        return replace(found, maps=found.maps - middle)

    monkeypatch.setattr(tris_stages, "select_maps", lifted)


# -- masks that choose ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_masks(world: Path, pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    told = ("select=mIoU", "data.labels=text+mask", "tris.edge_crop=64", "data.limit=30")
    recipe = small_tris(world, pair, *told)
    with watched() as watch:
        return run(recipe, tmp_path_factory.mktemp("tris") / "run"), watch


def test_masks_that_choose_are_told(by_masks: tuple[Path, Watch]) -> None:
    folder, _ = by_masks
    for name in ("respond", "segment"):
        told = card(folder / name)
        assert told["labels used"].startswith("text+mask; encoders: ")
        assert told["labels granted"] == "text+mask"
        assert told["weights"].startswith("best mIoU on val under the protocol original, at step ")
        assert told["weights"].endswith("; the choice saw text+mask")
        assert (told["evaluation"]["chosen by"], told["evaluation"]["protocol"]) == (
            "mIoU",
            "original",
        )
        assert {"mIoU (original, val)", "oIoU (original, val)"} <= told["metrics"].keys()
        assert not any("margin" in key for key in told["metrics"])
    assert card(folder / "segment")["labels used"].endswith("masks that its own step 1 proposed")
    assert not (folder / "refine/data/labels.json").read_text().count('"labels seen here": "mask')


def test_masks_that_choose_are_seen_by_nothing_else(
    by_masks: tuple[Path, Watch], world: Path
) -> None:
    """Between the two networks no mask of people is opened; step 2 learns from its own alone."""
    folder, watch = by_masks
    for name in ("select", "edges", "refine"):
        assert manifest(folder / name)["labels"] == "text"
        assert not watch.masks[name]
    assert set(watch.pseudo) == {"segment"}
    val = open_data(world, "val", Labels())
    refs = {val.entry(row).ref_id for row in range(len(val))}
    assert watch.masks["segment"] <= objects(world, refs)
    assert watch.masks["segment"]


# -- two encoders --------------------------------------------------------------------------------


@pytest.mark.usefixtures("positive")
def test_each_step_sees_by_weights_of_its_own(world: Path, pair: Path, tmp_path: Path) -> None:
    """Step 1 by one pair, step 2 by one of another size; all that went in is told and hashed."""
    wider = PairConfig(vision=VISION.model_copy(update={"width": 12}), text=TEXT)
    other = run_encoder(small_pair(world, pair=wider), tmp_path / "pair", progress="none")
    base = small_tris(world, pair, "data.limit=30", "tris.edge_crop=64")
    two = [f"weights.respond={pair}", f"weights.vision={other}", "method.vision.width=12"]
    recipe = apply_overrides(base, two)
    folder = run(recipe, tmp_path / "run")
    hashes = {one: sha256_file(one / "model.safetensors") for one in (pair, other)}
    first, last = (manifest(folder / name)["inputs"] for name in ("respond", "segment"))
    assert first["weights.vision"] == last["weights.respond"] == hashes[pair]
    assert last["weights.vision"] == hashes[other]
    assert {str(pair), str(other)} <= card(folder / "segment")["starts from"].keys()
    assert str(other) not in card(folder / "respond")["starts from"]


# -- few pairs -----------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[RecipeBatches]:
    """What was learned from, training by training."""
    made: list[RecipeBatches] = []

    def batches(*given: Any) -> RecipeBatches:
        made.append(RecipeBatches(*given))
        return made[-1]

    monkeypatch.setattr(training, "RecipeBatches", batches)
    return made


@pytest.mark.usefixtures("positive")
@pytest.mark.parametrize(
    ("name", "view"), [("tris_scenes", "sentence"), ("tris_scenes_paper", "ref")]
)
def test_a_limit_is_for_all_stages(
    name: str, view: Any, world: Path, pair: Path, tmp_path: Path, looked_at: list[RecipeBatches]
) -> None:
    told = ("data.limit=6", "tris.edge_crop=64", "tris.train.seed=3", "train.seed=5")
    recipe = small_tris(world, pair, *told, name=name)
    assert recipe.data.view == view
    folder = run(recipe, tmp_path / "run")
    one, two = looked_at
    # What a draw by step 1's seed leaves.
    data = open_data(world, "train", Labels(), view=view)
    drawn = [data.entry(row) for row in subset(len(data), 6, 3)]
    refs, sentences = {e.ref_id for e in drawn}, {e.sent_id for e in drawn}
    taken = [one.dataset.entry(row) for row in one.rows]
    assert len(taken) == 6
    assert {e.ref_id for e in taken} == refs
    # Each ref has a map, of one of these sentences.
    selected, records = Selected.read(folder / "select"), open_records(world)
    assert set(selected.ref_ids) == refs
    assert len(selected.ref_ids) == len(refs)
    rows = {ref.ref_id: ref.sent_rows for ref in records.refs()}
    for ref_id, number in zip(selected.ref_ids, selected.sentence, strict=True):
        sent_id = records.sentence(rows[ref_id][number]).sent_id
        assert view == "ref" or sent_id in sentences
    # Pseudo masks are about them alone, and step 2 learns from the same pairs.
    labels = json.loads((folder / "refine/data/labels.json").read_text())
    split = open_data(world, "train", Labels(), view="ref")
    assert labels["left_out"]["not learned from"] == len(split) - len(refs)
    assert (
        labels["asked"] == len(refs) == sum(labels["counts"][k] for k in ("refs", "nothing found"))
    )
    assert labels["images"] == len(
        {split.entry(r).image_id for r in range(len(split)) if split.entry(r).ref_id in refs}
    )
    learned = [two.dataset.entry(row) for row in two.rows]
    assert 0 < len(learned) <= 6
    if view == "sentence":
        assert {e.sent_id for e in learned} <= sentences
        kept = labels["counts"]["expressions"]
        assert len(two.dataset) == kept > len(learned)
    assert f"{len(learned)} items" in card(folder / "segment")["data"]


# -- pictures of any size ------------------------------------------------------------------------

SIZES = ((40, 72), (72, 40), (30, 34), (96, 100))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red and a blue square on grey, on the left and on the right, in pictures of four sizes."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    (folder / "images").mkdir(parents=True)
    rows = ["image,text,split"]
    for number, (height, width) in enumerate(SIZES * 2):
        picture = np.full((height, width, 3), 128, np.uint8)
        side = height // 3
        picture[side : 2 * side, 2 : 2 + width // 4] = (220, 20, 20)
        picture[side : 2 * side, -width // 4 - 2 : -2] = (20, 20, 220)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        split = "val" if number == 7 else "train"
        rows += [f"{number}.png,{text},{split}" for text in ("the red square", "the blue square")]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.usefixtures("positive")
def test_pseudo_masks_are_in_the_pictures_own_pixels(
    photos: Path, pair: Path, tmp_path: Path
) -> None:
    """They are what one gets of the kept maps step by step, with interpolation by torch."""
    recipe = small_tris(photos, pair, "tris.edge_crop=64")
    folder, part = run(recipe, tmp_path / "run"), part_of(recipe)
    selected = Selected.read(folder / "select")
    source = open_data(photos, "train", Labels(), view="ref")
    made = open_data(folder / "refine" / "data", "train", Labels.parse("text+mask"), view="ref")
    masks = {(s.image_id, s.text): s.mask for s in (made[row] for row in range(len(made)))}
    look = read_refiner(folder / "edges", recipe, part, selected).look
    sizes = set()
    for row in range(len(source)):
        sample = source[row]
        hw = sample.image.shape[:2]
        logits = torch.from_numpy(np.array(selected.maps[selected.row_of[sample.ref_id]]))
        net = F.interpolate(logits[None, None], (64, 64), mode="bilinear").relu()
        px = F.interpolate(net, hw, mode="bilinear", align_corners=True)[0, 0]
        response = (px / (px.max() + 1e-5)).numpy()
        (twin,) = refine(response[None], *look(sample.image), part.refine, (hw[0], hw[1]))
        found = masks.get((sample.image_id, sample.text), np.zeros(hw, bool))
        assert found is not None
        assert found.shape == hw
        assert (found != twin.mask).mean() < 0.01
        sizes |= {hw} if found.any() else set()
    assert len(sizes) > 1
    model = models.load(folder / "model")
    samples = [source[row] for row in range(len(source))]
    assert tuple(model.batch(samples).images.shape[2:]) == (64, 64)
    for sample, prediction in zip(samples, model.predict(samples), strict=True):
        assert prediction.mask.shape == sample.image.shape[:2]
