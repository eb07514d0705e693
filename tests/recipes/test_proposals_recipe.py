"""A Mask2Former learned alone: its batches, its scores by loops, and what starts from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refseg.data.collate import collate_pictures
from refseg.data.pictures import PictureSource, open_source
from refseg.data.scenes.model import KINDS
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, LabelsError, ModelError
from refseg.methods.mutual.config import Mask2FormerExtractorConfig, PointConfig
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.pretraining import ProposalLearner
from refseg.nn.vision import SwinVisionConfig
from refseg.nn.weights import read_state
from refseg.recipes import masks
from refseg.recipes.base import Recipe, WeightsConfig
from refseg.recipes.building import build
from refseg.recipes.catalog import get_recipe
from refseg.recipes.encoders import EncoderData, EncoderRecipe
from refseg.recipes.masks import Coverage, PictureBatches, mirrored
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.starts import find_starts
from refseg.train.config import TrainConfig
from refseg.types import Batch, Labels, Picture
from tests.worlds import WORLD_IMAGES

SIDE = 64
NET = PreprocessConfig(size=SIDE)
SEEN = Labels.parse("mask+category")
SWIN = SwinVisionConfig(
    image_size=SIDE, width=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), window=4, drop_path=0.0,
    absolute_positions=True,
)  # fmt: skip
TINY = Mask2FormerExtractorConfig(
    backbone=SWIN, classes=KINDS, queries=5, width=32, heads=2, mlp_width=32, layers=1,
    pixel_layers=1, pixel_mlp_width=32, points=PointConfig(points=40), backbone_lr_scale=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(cache: Path) -> Path:
    return cache / f"scenes-v1-0-{WORLD_IMAGES}" / "scenes"


@pytest.fixture(scope="module")
def source(world: Path) -> PictureSource:
    return open_source(str(world))


def recipe(world: Path, **changes: Any) -> EncoderRecipe:
    train = TrainConfig(
        steps=4, batch_size=2, lr=1e-3, evaluate_every=2, save_every=1, log_every=1, cpu=True
    )
    made = EncoderRecipe(
        name="tiny_proposals",
        kind="proposals",
        proposals=TINY,
        data=EncoderData(name=str(world), evaluate="val", evaluate_limit=2),
        preprocess=NET,
        train=train,
    )
    return made.model_copy(update=changes)


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("proposals") / "run"
    return run_encoder(recipe(world), run, progress="none", command="refseg train tiny")


# -- batches -----------------------------------------------------------------------------------


def all_pictures(source: PictureSource, count: int) -> list[Picture]:
    return [source.picture(row, labels=SEEN) for row in range(count)]


def test_mirrors_turn_masks_as_they_turn_pixels(source: PictureSource) -> None:
    for picture in all_pictures(source, 4):
        turned = mirrored(picture)
        assert picture.objects is not None
        assert turned.objects is not None
        assert picture.objects.masks is not None
        assert turned.objects.masks is not None
        assert turned.objects.categories == picture.objects.categories
        for old, new in zip(picture.objects.masks, turned.objects.masks, strict=True):
            assert old is not None
            assert new is not None
            for y, x in np.argwhere(old)[::37].tolist():
                there = old.shape[1] - 1 - x
                assert new[y, there]
                np.testing.assert_array_equal(turned.image[y, there], picture.image[y, x])
            assert new.sum() == old.sum()
        twice = mirrored(turned)
        np.testing.assert_array_equal(twice.image, picture.image)


def same_batch(one: Batch, other: Batch, place: int, there: int) -> bool:
    """The pictures at two places of two batches are the same with all their objects."""
    ours, theirs = objects_of(one), objects_of(other)
    count = int(ours.known[place].sum())
    assert ours.masks is not None
    assert theirs.masks is not None
    return (
        torch.equal(one.images[place], other.images[there])
        and int(theirs.known[there].sum()) == count
        and torch.equal(ours.masks[place, :count], theirs.masks[there, :count])
    )


def test_draws_depend_on_seed_epoch_and_index_alone(source: PictureSource) -> None:
    rows = list(range(8))
    make = PictureBatches(source, rows, NET, SEEN, mirror=0.5, seed=3)
    assert len(make) == 8
    pictures = all_pictures(source, 8)
    plain = collate_pictures(pictures, NET)
    turned = collate_pictures([mirrored(picture) for picture in pictures], NET)
    seen = set()
    for epoch in range(3):
        batch = make(rows, epoch)
        assert len(batch) == 0
        alone = make([5], epoch)
        assert same_batch(alone, batch, 0, 5)
        for row in rows:
            kinds = (same_batch(batch, plain, row, row), same_batch(batch, turned, row, row))
            assert sum(kinds) == 1
            seen.add((row, kinds))
    assert len(seen) > 8  # in some epochs so, in others so
    never = PictureBatches(source, rows, NET, SEEN)(rows, 0)
    assert all(same_batch(never, plain, row, row) for row in rows)
    always = PictureBatches(source, rows, NET, SEEN, mirror=1.0)(rows, 0)
    assert all(same_batch(always, turned, row, row) for row in rows)


# -- scores ------------------------------------------------------------------------------------


def learner_of(seed: int = 0, **changes: Any) -> ProposalLearner:
    torch.manual_seed(seed)
    made = ProposalLearner(TINY.model_copy(update=changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def looped(learner: ProposalLearner, batches: PictureBatches) -> dict[str, float]:
    best, own = [], []
    for index in range(len(batches)):
        batch = batches([index], 0)
        objects = objects_of(batch)
        assert objects.masks is not None
        proposals = learner(batch)
        matching = learner.extractor.match(proposals, objects)
        assert proposals.masks is not None
        logits = F.interpolate(proposals.masks, (SIDE, SIDE), mode="bilinear")[0]
        ours = (logits > 0).numpy()
        for column in range(objects.masks.shape[1]):
            wanted = objects.masks[0, column].numpy()
            if not wanted.any():
                continue
            found = [(one & wanted).sum() / max((one | wanted).sum(), 1) for one in ours]
            best.append(max(found))
            k = int(matching.proposal[0, column])
            own.append(found[k] if k >= 0 else 0.0)
    return {
        "oracle IoU": float(np.mean(best)),
        "oracle recall": float(np.mean(np.array(best) > 0.5)),
        "matched IoU": float(np.mean(own)),
    }


@pytest.mark.parametrize("queries", [5, 2])
def test_coverage_is_its_loop(
    source: PictureSource, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer proposals than objects some have none of their own."""
    monkeypatch.setattr(masks, "AT_ONCE", 3)
    learner, batches = learner_of(queries=queries), PictureBatches(source, range(7), NET, SEEN)
    with torch.no_grad():
        found = Coverage(batches)(learner)
    assert found == pytest.approx(looped(learner, batches), rel=1e-4)
    assert found["oracle IoU"] >= found["matched IoU"] > 0


def test_perfect_proposals_cover_everything(
    source: PictureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, batches = learner_of(queries=9), PictureBatches(source, range(4), NET, SEEN)

    def perfect(self: ProposalLearner, batch: Batch) -> Any:
        objects = objects_of(batch)
        assert objects.masks is not None
        blank = torch.zeros(len(batch.images), 9, SIDE, SIDE)
        blank[:, : objects.masks.shape[1]] = objects.masks.float()
        found = ProposalLearner.extract_of(self, batch)  # type: ignore[attr-defined]
        last = replace(found.levels[-1], masks=20 * blank - 10)
        return replace(found, levels=(*found.levels[:-1], last))

    monkeypatch.setattr(ProposalLearner, "extract_of", ProposalLearner.forward, raising=False)
    monkeypatch.setattr(ProposalLearner, "forward", perfect)
    with torch.no_grad():
        found = Coverage(batches)(learner)
    assert found == {"oracle IoU": 1.0, "oracle recall": 1.0, "matched IoU": 1.0}


# -- runs --------------------------------------------------------------------------------------


def bits(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_interrupted_and_resumed_it_has_the_same_bits(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, left = PictureBatches.__call__, 4

    def fail(self: PictureBatches, indices: list[int], epoch: int) -> Batch:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return call(self, indices, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PictureBatches, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            run_encoder(recipe(world), tmp_path / "run", progress="none")
    assert not (tmp_path / "run" / "model").exists()
    again = run_encoder(recipe(world), tmp_path / "run", progress="none")
    assert bits(again) == bits(trained)
    started = len(json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"])
    assert started == 2
    before = trained.stat().st_mtime_ns
    assert run_encoder(recipe(world), trained.parent, progress="none") == trained
    assert trained.stat().st_mtime_ns == before


def test_the_folder_says_what_it_is(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["model_type"] == "mask2former"
    assert config["refseg"]["labels"] == "mask+category"
    card = (trained / "README.md").read_text()
    for name in ("oracle IoU", "oracle recall", "matched IoU"):
        assert f"**{name}**" in card
    assert "refseg train tiny" in card
    manifest = json.loads((trained.parent / "train" / "manifest.json").read_text())
    assert manifest["labels"] == "mask+category"
    assert {"recipe", "data", "items"} <= manifest["inputs"].keys()


def starting(trained: Path, extractor: Mask2FormerExtractorConfig, **weights: str) -> Recipe:
    head = ("width=16", "heads=2", "layers=1", "mlp_width=32")
    told = [
        *(f"method.{part}.{one}" for part in ("text", "generator", "selection") for one in head),
        "method.text.vocab_size=200", "method.generator.vocab_size=200",
        "method.selection.score_width=16", "method.generator.max_words=8",
        "tokens.source=data", "tokens.vocabulary=200", "tokens.max_words=8",
    ]  # fmt: skip
    made = apply_overrides(get_recipe("mutual_scenes"), told)
    method = made.method.model_copy(update={"extractor": extractor})
    start = WeightsConfig(**weights)
    return made.model_copy(update={"method": method, "preprocess": NET, "weights": start})


def test_a_method_starts_from_the_whole_of_it(trained: Path) -> None:
    wanted = starting(trained, TINY, proposals=str(trained))
    model = build(wanted, ["left red ball"])
    stored = read_state(trained / "model.safetensors")
    state = model.method.extractor.whole.state_dict()
    assert state.keys() == stored.keys()
    for name, value in state.items():
        assert torch.equal(value, stored[name]), name
    assert find_starts(wanted.weights).parts == {str(trained): "mask+category"}


def test_a_backbone_starts_from_its_backbone(trained: Path) -> None:
    """`weights.vision` of the same folder: the rest stays as it was drawn."""
    stored = read_state(trained / "model.safetensors")
    torch.manual_seed(0)
    model = build(starting(trained, TINY, vision=str(trained)), ["left red ball"])
    whole, vision = model.method.extractor.whole, model.method.extractor.vision
    loaded = {id(part) for part in vision.state_dict(keep_vars=True).values()}
    equal = {True: 0, False: 0}
    for name, value in whole.state_dict(keep_vars=True).items():
        if id(value) in loaded:
            assert torch.equal(value, stored[name]), name
        else:
            equal[torch.equal(value, stored[name])] += 1
    assert loaded
    assert equal[False] > equal[True]


@pytest.mark.parametrize(
    "changes",
    [{"queries": 7}, {"width": 64}, {"layers": 2}, {"classes": KINDS[:3]}, {"pixel_layers": 2}],
)
def test_a_folder_of_another_size_is_refused(trained: Path, changes: dict[str, Any]) -> None:
    other = TINY.model_copy(update=changes)
    with pytest.raises(ModelError) as caught:
        build(starting(trained, other, proposals=str(trained)), ["left red ball"])
    assert str(trained) in caught.value.message
    assert caught.value.remedy


def test_a_method_without_pixels_has_no_such_part(trained: Path) -> None:
    base = get_recipe("mutual_refcoco_boxes")
    for kind in ("proposals", "vision"):
        weights = base.weights.model_copy(update={kind: str(trained)})
        with pytest.raises(ConfigError, match=f"weights.{kind}") as caught:
            build(base.model_copy(update={"weights": weights}), ["left red ball"])
        assert caught.value.remedy == f"set weights.{kind}=null"


def test_masks_are_not_for_those_who_were_granted_none(trained: Path) -> None:
    from refseg.recipes.starts import check_starts

    wanted = starting(trained, TINY, proposals=str(trained))
    data = wanted.data.model_copy(update={"labels": "text", "evaluate": None})
    with pytest.raises(LabelsError, match="mask"):
        check_starts(wanted.model_copy(update={"data": data}), find_starts(wanted.weights))


def test_a_start_is_where_the_backbone_begins(world: Path, tmp_path: Path) -> None:
    """`start` fills the backbone alone; a missing one is told before anything is written."""
    missing = recipe(world, start=str(tmp_path / "no" / "where"))
    with pytest.raises(ModelError):
        run_encoder(missing, tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()
