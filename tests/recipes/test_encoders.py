"""Encoders learned before the methods: batches by loops, a whole run, and a method that starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg import models
from refseg.data.scenes.build import build_scenes
from refseg.data.scenes.serial import read_scenes
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, ModelError, RefsegError, RunError
from refseg.methods.encoders.objects import (
    GRID,
    ObjectBatch,
    ObjectNamer,
    ObjectNamerConfig,
    sample_boxes,
)
from refseg.methods.encoders.words import WordBatch, WordGuesser, WordGuesserConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.recipes.base import TokenConfig, WeightsConfig
from refseg.recipes.building import build
from refseg.recipes.catalog import ENCODERS, get_encoder, get_recipe
from refseg.recipes.encoders import EncoderData, EncoderRecipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pictures import ATTRIBUTES, ObjectBatches, enlarge, read_pictures
from refseg.recipes.pretrain import WordBatches, run_encoder
from refseg.train.config import TrainConfig

VISION = SwinVisionConfig(
    image_size=32, width=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), window=4,
    drop_path=0.0, absolute_positions=True,
)  # fmt: skip
TEXT = BertTextConfig(
    vocab_size=200, width=16, layers=1, heads=2, mlp_width=32, max_positions=32, drop=0.0,
    frozen="none",
)  # fmt: skip
NET = PreprocessConfig(size=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    build_scenes(folder, images=24, seed=3)
    return folder / "scenes"


def recipe(world: Path, kind: Any, **train: Any) -> EncoderRecipe:
    settings = {"steps": 4, "batch_size": 4, "evaluate_every": 2, "save_every": 2, **train}
    return EncoderRecipe(
        name=f"tiny_{kind}",
        kind=kind,
        vision=VISION,
        text=TEXT,
        data=EncoderData(name=str(world), evaluate="train", evaluate_limit=6),
        preprocess=NET,
        tokens=TokenConfig(vocabulary=200, max_words=24),
        train=TrainConfig(**settings),
    )


def test_box_samples_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 8, 8)
    boxes = torch.tensor([[[0.0, 0, 32, 32], [4, 8, 20, 12]], [[30, 30, 32, 32], [1, 2, 3, 4]]])
    found = sample_boxes(feature, boxes, (32, 32))
    for image in range(2):
        for one in range(2):
            x0, y0, x1, y1 = boxes[image, one].tolist()
            total = torch.zeros(3)
            for i in range(GRID):
                for j in range(GRID):
                    x = (x0 + (x1 - x0) * (i + 0.5) / GRID) / 4 - 0.5  # cells of the feature
                    y = (y0 + (y1 - y0) * (j + 0.5) / GRID) / 4 - 0.5
                    total += bilinear(feature[image], x, y)
            assert torch.allclose(found[image, one], total / GRID**2, atol=1e-5)


def bilinear(feature: Tensor, x: float, y: float) -> Tensor:
    """[C, h, w] at cell (x, y), the border's value outside."""
    x, y = min(max(x, 0), 7), min(max(y, 0), 7)
    left, top = int(x), int(y)
    right, low = min(left + 1, 7), min(top + 1, 7)
    a, b = x - left, y - top
    upper = feature[:, top, left] * (1 - a) + feature[:, top, right] * a
    lower = feature[:, low, left] * (1 - a) + feature[:, low, right] * a
    return upper * (1 - b) + lower * b


def test_pictures_hold_the_worlds_own_objects(world: Path) -> None:
    pictures = read_pictures(str(world), "train", NET, 5)
    assert pictures.images.shape == (5, 32, 32, 3)
    scenes = [scene for _, scene in read_scenes(world.parent)]
    for row in range(5):
        first = [values[index] for values, index in zip(
            ATTRIBUTES.values(), pictures.classes[row, 0], strict=True)]  # fmt: skip
        twins = [
            scene for scene in scenes
            if [getattr(scene.objects[0], name) for name in ATTRIBUTES] == first
        ]  # fmt: skip
        boxes = [
            np.asarray(t.objects[0].box_xyxy) * 32 / np.tile(t.size_hw[::-1], 2) for t in twins
        ]
        assert any(np.allclose(pictures.boxes[row, 0], box, atol=1e-3) for box in boxes)


def test_enlarging_moves_pixels_and_boxes_together() -> None:
    """A white square stays exactly inside its box, whatever is drawn."""
    torch.manual_seed(1)
    for _ in range(40):
        x, y = (int(v) for v in torch.randint(4, 44, (2,)))
        image = torch.zeros(1, 3, 64, 64)
        image[..., y : y + 16, x : x + 12] = 1
        boxes = torch.tensor([[[x, y, x + 12, y + 16], [0, 0, 0, 0]]]).float()
        batch = ObjectBatch(
            image, boxes, torch.zeros(1, 2, 1).long(), torch.tensor([[True, False]])
        )
        moved = enlarge(batch, torch.rand(1, 4), 0.8, 2.0)
        assert bool(moved.known[0, 0])
        white = (moved.images[0, 0] > 0.5).nonzero()
        low, high = white.amin(dim=0), white.amax(dim=0) + 1
        seen = torch.stack([low[1], low[0], high[1], high[0]]).float()
        assert torch.allclose(moved.boxes[0, 0], seen, atol=1.01)


def test_without_draws_nothing_is_enlarged() -> None:
    image = torch.rand(1, 3, 16, 16)
    batch = ObjectBatch(
        image, torch.tensor([[[2.0, 3, 9, 12]]]), torch.zeros(1, 1, 1).long(),
        torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    same = enlarge(batch, torch.tensor([[0.9, 0.5, 0.5, 0.9]]), 0.5, 2.0)
    assert torch.allclose(same.images, image, atol=1e-5)
    assert torch.allclose(same.boxes, batch.boxes, atol=1e-5)


def test_the_naming_loss_is_its_loop(world: Path) -> None:
    classes = tuple(len(values) for values in ATTRIBUTES.values())
    learner = ObjectNamer(ObjectNamerConfig(vision=VISION, classes=classes))
    pictures = read_pictures(str(world), "train", NET, 3)
    batch = ObjectBatches(pictures, NET, 0.5, 2.0, 0)([0, 1, 2], 0)
    with torch.no_grad():
        answers = learner(batch)
    total = 0.0
    for stage in answers:
        start = 0
        for index, size in enumerate(classes):
            part = stage[:, start : start + size]
            rows = batch.classes[batch.known][:, index]
            total += float(-F.log_softmax(part, 1)[torch.arange(len(rows)), rows].mean())
            start += size
    assert float(learner.loss(answers, batch)["total"]) == pytest.approx(total, rel=1e-5)
    assert learner.loss_weight(batch) == int(batch.known.sum())


def test_words_are_hidden_by_berts_rule() -> None:
    class Pieces:
        """Ids 10.. for words, 2 and 3 around them; 4 is [MASK]."""

        vocab_size = 50

        class tokenizer:  # noqa: N801
            @staticmethod
            def token_to_id(token: str) -> int:
                assert token == "[MASK]"
                return 4

        def encode(self, texts: list[str]) -> Any:
            from refseg.data.tokens import Encoded

            rows = [[2, *(10 + len(w) for w in text.split()), 3] for text in texts]
            long = max(map(len, rows))
            words = np.array([row + [0] * (long - len(row)) for row in rows])
            return Encoded(words, words > 0, np.zeros(len(rows), bool))

    texts = ["left red ball", "mug", "the big striped one behind the cube"] * 400
    batches = WordBatches(texts, Pieces(), 0.25, 0)  # type: ignore[arg-type]
    batch = batches(list(range(len(texts))), 0)
    assert torch.equal(batch.words[~batch.hidden], batch.targets[~batch.hidden])
    assert (batch.hidden.sum(1) >= 1).all()
    inner = batch.word_mask & (batch.targets != 2) & (batch.targets != 3)
    assert not (batch.hidden & ~inner).any()
    covered = (batch.words == 4)[batch.hidden].float().mean()
    kept = (batch.words == batch.targets)[batch.hidden].float().mean()
    assert 0.76 < float(covered) < 0.84
    assert 0.07 < float(kept) < 0.15
    again = batches([5, 1], 0)
    assert torch.equal(again.words[1, :3], batch.words[1, :3])  # alone or together, the same draw
    assert not torch.equal(batches(list(range(99)), 1).words, batches(list(range(99)), 0).words)


def test_the_guessing_loss_is_its_loop() -> None:
    torch.manual_seed(0)
    learner = WordGuesser(WordGuesserConfig(text=TEXT))
    words = torch.randint(5, 200, (3, 6))
    hidden = torch.rand(3, 6) < 0.5
    hidden[:, 1] = True
    batch = WordBatch(words, torch.ones(3, 6, dtype=torch.bool), hidden, words.roll(1, 1))
    features = learner.text(batch.words, batch.word_mask)
    table, losses = learner.text.bert.embeddings.word_embeddings.weight, []
    for b in range(3):
        for t in range(6):
            if hidden[b, t]:
                scores = table @ learner.turn(features[b, t]) + learner.bias
                losses.append(-scores.log_softmax(0)[batch.targets[b, t]])
    loss = learner.loss(learner(batch), batch)["total"]
    assert float(loss.detach()) == pytest.approx(
        float(torch.stack(losses).mean().detach()), rel=1e-5
    )


def test_a_method_starts_from_what_the_runs_leave(world: Path, tmp_path: Path) -> None:
    swin = run_encoder(recipe(world, "objects"), tmp_path / "swin", progress="none")
    bert = run_encoder(
        recipe(world, "words", evaluate_every=None), tmp_path / "bert", progress="none"
    )
    assert sorted(p.name for p in bert.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    card = (swin / "README.md").read_text()
    assert "box+attributes" in card
    told = json.loads((swin / "config.json").read_text())["refseg"]
    assert told == {"labels": "box+attributes", "recipe": "tiny_objects", "data": str(world)}
    assert json.loads((bert / "config.json").read_text())["refseg"]["labels"] == "text"
    manifest = json.loads((tmp_path / "swin/train/manifest.json").read_text())
    assert {"recipe", "data", "objects"} <= manifest["inputs"].keys()
    assert manifest["labels"] == "box+attributes"
    assert "kind named rightly" in card
    base = get_recipe("vega_scenes")
    small = base.method.model_copy(
        update={"vision": VISION, "text": TEXT, "selection": base.method.selection}  # type: ignore[attr-defined]
    )
    wanted = base.model_copy(
        update={
            "method": small,
            "tokens": TokenConfig(source=str(bert), max_words=24),
            "weights": WeightsConfig(vision=str(swin), text=str(bert)),
        }
    )
    model = build(wanted, ())
    from safetensors.torch import load_file

    for part, folder in ((model.method.encoder.pyramid.swin, swin), (model.method.text.bert, bert)):
        stored = load_file(folder / "model.safetensors")
        for name, value in part.state_dict().items():
            assert torch.equal(value, stored[name]), name
    assert model.tokenizer.encode(["left red ball"]).words.max() < 200

    models.save(tmp_path / "whole", model)
    model.method.text.bert.embeddings.word_embeddings.weight.data.zero_()
    models.save(tmp_path / "other", model)
    both = wanted.weights.model_copy(update={"model": str(tmp_path / "other")})
    started = build(wanted.model_copy(update={"weights": both}), ())
    table = started.method.text.bert.embeddings.word_embeddings.weight
    assert not table.any()  # a whole model is started from whole, not from the encoders


def test_a_finished_run_is_left_alone_and_another_recipe_refused(
    world: Path, tmp_path: Path
) -> None:
    first = run_encoder(recipe(world, "objects"), tmp_path / "run", progress="none")
    bits = (first / "model.safetensors").read_bytes()
    again = run_encoder(recipe(world, "objects"), tmp_path / "run", progress="none")
    assert (again / "model.safetensors").read_bytes() == bits
    (tmp_path / "run" / "train" / "manifest.json").unlink()  # as 0.1.0 left a finished run
    again = run_encoder(recipe(world, "objects"), tmp_path / "run", progress="none")
    assert (again / "model.safetensors").read_bytes() == bits
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert len(starts) == 2  # the one that found everything done is no start
    with pytest.raises(RunError):
        run_encoder(recipe(world, "objects", lr=1e-2), tmp_path / "run", progress="none")


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("objects", {"data": EncoderData(name="DRAWN")}, "is no rendered world"),
        ("objects", {"train": TrainConfig(steps=1, batch_size=500)}, "more than the"),
        ("words", {"text": TEXT.model_copy(update={"vocab_size": 90})}, "text.vocab_size is 90"),
    ],
)
def test_a_failed_first_start_leaves_nothing(
    kind: str, changes: dict[str, Any], told: str, world: Path, tmp_path: Path
) -> None:
    if "data" in changes:
        (tmp_path / "drawn").mkdir()
        changes = {"data": EncoderData(name=str(tmp_path / "drawn"))}
    wanted = recipe(world, kind).model_copy(update=changes)
    with pytest.raises(RefsegError) as caught:
        run_encoder(wanted, tmp_path / "runs" / "run", progress="none")
    assert told in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("vision.heads=[1, 2, 3, 2]", "vision.heads (stage 3): 3 heads"),
        ("text.heads=3", "text.heads: 3 heads cannot share a width of 16"),
        ("tokens.max_words=40", "text.max_positions only 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(setting: str, told: str, world: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(recipe(world, "words"), [setting])
    assert told in caught.value.message
    assert caught.value.remedy


def test_learning_names_colours(world: Path, tmp_path: Path) -> None:
    """A hundred steps on a dozen pictures must beat guessing by far."""
    torch.manual_seed(0)
    wanted = recipe(
        world, "objects", steps=80, lr=3e-3, optimiser="muon", evaluate_every=80, save_every=80
    )
    run_encoder(wanted, tmp_path / "run", progress="none")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    line = next(line for line in card.splitlines() if "colour named" in line)
    assert float(line.split()[-1].rstrip("%")) > 45


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_each_recipe_promises_what_it_is(name: str) -> None:
    made = get_encoder(name)
    assert made.name == name
    assert f"refseg train {name}" in made.promise
    assert EncoderRecipe.model_validate_json(made.model_dump_json()) == made


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(ModelError, match="no-such-encoder"):
        models.find_encoder("./no-such-encoder")


def test_modules_are_where_the_method_expects_them() -> None:
    """Every parameter is in a group once (`check_groups` raises otherwise)."""
    for learner in (
        ObjectNamer(ObjectNamerConfig(vision=VISION, classes=(2, 3))),
        WordGuesser(WordGuesserConfig(text=TEXT)),
    ):
        assert isinstance(learner, nn.Module)
        assert learner.parameter_groups()
