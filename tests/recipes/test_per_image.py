"""Several expressions about one image in a training batch (`data.per_image`)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.errors import ConfigError
from refseg.recipes.base import DataConfig, Recipe, TokenConfig
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.opening import open_split
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from refseg.train.config import TrainConfig
from refseg.train.precision import runs_in_bfloat16
from refseg.types import Batch, Labels
from tests.methods.toy import (
    MAX_WORDS,
    SIDE,
    preprocess,
    toy_method,
    toy_tokenizer,
    vega_config,
)

TOLD = (7, 3, 1, 5)  # expressions about each image, two about each object
ALL = AugmentConfig(flip=0.5, crop=0.5, jitter=0.3)
SEED = 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars side by side; the lines about an image do not follow each other."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for image, told in enumerate(TOLD):
        pixels = rng.integers(0, 255, (32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{image}.png")
        for number in range(told):
            thing, mask = number // 2, np.zeros((32, 48), np.uint8)
            mask[10:22, 3 + 11 * thing : 12 + 11 * thing] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{image}-{thing}.png")
            side = "left" if thing < 2 else "right"
            lines.append((number, image, f"bar {number} on the {side}", f"{image}-{thing}.png"))
    rows = [f"{image}.png,{text},{mask},train" for _, image, text, mask in sorted(lines)]
    rows += ["0.png,bar 0 on the left,0-0.png,val"]
    (folder / "captions.csv").write_text("\n".join(["image,text,mask,split", *rows]) + "\n")
    return folder


@pytest.fixture
def recipe(drawn: Path) -> Recipe:
    return Recipe(
        name="drawn",
        method_name="vega",
        method=vega_config(),
        data=DataConfig(name=str(drawn), augment=ALL, per_image=2),
        preprocess=PreprocessConfig(size=SIDE),
        tokens=TokenConfig(vocabulary=toy_tokenizer().vocab_size, max_words=MAX_WORDS),
        train=TrainConfig(
            epochs=2, batch_size=2, lr=1e-3, seed=SEED, save_every=2, log_every=1, cpu=True
        ),
        select="mIoU",
    )


def split(recipe: Recipe, view: str = "sentence") -> ReferDataset:
    return open_split(apply_overrides(recipe, [f"data.view={view}"]), "train")


def batches(
    data: ReferDataset,
    per_image: int,
    augment: AugmentConfig | None = None,
    rows: list[int] | None = None,
) -> RecipeBatches:
    rows = list(range(len(data))) if rows is None else rows
    augment = augment or AugmentConfig()
    return RecipeBatches(data, toy_tokenizer(), preprocess(), augment, SEED, rows, per_image)


def chunks(make: RecipeBatches, epoch: int) -> list[tuple[str, ...]]:
    """The keys of each chunk."""
    return [make([index], epoch).keys for index in range(len(make))]


def image_ids(data: ReferDataset) -> dict[str, int]:
    """ref_id as in a sample's key -> image."""
    entries = [data.entry(index) for index in range(len(data))]
    return {str(entry.ref_id): entry.image_id for entry in entries}


def assert_same(one: Batch, other: Batch) -> None:
    for name in (f.name for f in fields(Batch)):
        a, b = getattr(one, name), getattr(other, name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else repr(a) == repr(b), name


def test_one_per_image_is_what_it_was_before_there_was_a_choice(recipe: Recipe) -> None:
    data, rows = split(recipe), [0, 2, 3, 7, 8, 11, 15]

    def literal(indices: list[int], epoch: int) -> Batch:
        data.set_epoch(epoch)
        samples = data.samples([rows[index] for index in indices])
        drawn = [
            ALL.apply(sample, np.random.default_rng([SEED, epoch, index]))
            for sample, index in zip(samples, indices, strict=True)
        ]
        kept = [sample for sample in drawn if sample is not None]
        return collate(kept or samples[:1], toy_tokenizer(), preprocess())

    make = batches(data, 1, ALL, rows)
    assert len(make) == len(rows)
    for epoch in range(3):
        for indices in ([0, 1, 2, 3, 4, 5, 6], [6, 2], [4]):
            assert_same(make(indices, epoch), literal(indices, epoch))


@pytest.mark.parametrize("view", ["sentence", "ref"])
@pytest.mark.parametrize("limit", [None, 6])
def test_each_row_is_in_one_chunk_of_its_image(
    recipe: Recipe, view: str, limit: int | None
) -> None:
    data = split(recipe, view)
    rows, image_of = subset(len(data), limit, SEED), image_ids(data)
    make = batches(data, 3, rows=rows)
    for epoch in range(3):
        data.set_epoch(epoch)
        expected = sorted(data.entry(row).key for row in rows)
        found = chunks(make, epoch)
        assert len(found) == len(make)
        assert sorted(key for chunk in found for key in chunk) == expected
        images = [{image_of[key.split("-")[0]] for key in chunk} for chunk in found]
        assert all(len(ids) == 1 for ids in images)
        assert all(1 <= len(chunk) <= 3 for chunk in found)
    if limit is None:
        # 7, 3, 1 and 5 expressions (4, 2, 1 and 3 refs) in threes.
        assert len(make) == (7 if view == "sentence" else 5)


def test_chunks_are_dealt_anew_and_depend_on_seed_epoch_and_index_alone(recipe: Recipe) -> None:
    data = split(recipe)
    make = batches(data, 3, ALL)
    dealt = [{frozenset(chunk) for chunk in chunks(batches(data, 3), epoch)} for epoch in (0, 1)]
    assert dealt[0] != dealt[1]

    together = make([5, 0, 2], 1)
    fresh = batches(split(recipe), 3, ALL)
    apart = {index: fresh([index], 1) for index in (2, 0, 5)}
    assert together.keys == sum((apart[index].keys for index in (5, 0, 2)), ())
    assert together.texts == sum((apart[index].texts for index in (5, 0, 2)), ())
    pixels = [apart[index].images[apart[index].image_of] for index in (5, 0, 2)]
    assert torch.equal(together.images[together.image_of], torch.cat(pixels))


def test_a_picture_is_there_once(recipe: Recipe) -> None:
    data = split(recipe)
    make, image_of = batches(data, 3), image_ids(data)
    batch = make(list(range(len(make))), 0)
    assert len(batch) == sum(TOLD)
    assert len(batch.images) == len(TOLD)
    ids = [image_of[key.split("-")[0]] for key in batch.keys]
    assert len(set(zip(ids, batch.image_of.tolist(), strict=True))) == len(TOLD)
    samples = {sample.key: sample for sample in data.samples(range(len(data)))}
    plain = collate([samples[key] for key in batch.keys], toy_tokenizer(), preprocess())
    assert torch.equal(batch.images[batch.image_of], plain.images)


def test_the_expressions_of_a_chunk_are_augmented_alike(recipe: Recipe) -> None:
    data = split(recipe)
    make, plain = batches(data, 3, ALL), batches(data, 3)
    samples = {sample.key: sample for sample in data.samples(range(len(data)))}
    dropped = 0
    for epoch in range(4):
        for index in range(len(make)):
            batch, keys = make([index], epoch), plain([index], epoch).keys
            assert len(batch.images) == 1
            drawn = [
                ALL.apply(samples[key], np.random.default_rng([SEED, epoch, index])) for key in keys
            ]
            kept = [sample for sample in drawn if sample is not None]
            dropped += len(drawn) - len(kept)
            expected = collate(kept or [samples[keys[0]]], toy_tokenizer(), preprocess())
            assert batch.texts == expected.texts
            assert torch.equal(batch.images[batch.image_of], expected.images)
            assert batch.masks is not None
            assert expected.masks is not None
            assert torch.equal(batch.masks, expected.masks)
    assert dropped  # or nothing was shown about crops


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize("per_image", [1, 3])
def test_objects_are_augmented_with_their_expressions(
    drawn: Path, per_image: int, pixels: bool
) -> None:
    data = open_data(drawn, "train", Labels.parse("text+mask"), objects=True)
    if not pixels:  # these annotations state no sizes
        data.image = lambda row: np.empty((32, 48, 0), np.uint8)
    make, turned = batches(data, per_image, ALL), 0
    for epoch in range(4):
        batch = make(list(range(len(make))), epoch)
        for b, (row, target) in enumerate(zip(batch.image_of, batch.targets, strict=True)):
            assert torch.equal(batch.objects.masks[row, target], batch.masks[b] > 0)
        assert len(batch.objects.known) == len(batch.images) <= len(batch)
        turned += any("bar 0 on the right" in text for text in batch.texts)
    assert turned  # or nothing was shown about mirrors
    still = batches(data, 3)(list(range(7)), 0)
    assert len(still.images) == len(TOLD)
    # Two expressions about each object, and the object of the split val.
    assert sorted(still.objects.known.sum(dim=1).tolist()) == sorted((4 + 1, 2, 1, 3))


def test_a_batch_is_never_empty(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first = batches(split(recipe), 3)([1, 2], 0).keys[:1]
    make = batches(split(recipe), 3, ALL)
    monkeypatch.setattr(AugmentConfig, "apply", lambda self, sample, rng: None)
    assert make([1, 2], 0).keys == first


def test_sharing_changes_neither_loss_nor_gradients(recipe: Recipe) -> None:
    data = split(recipe)
    shared = batches(data, 3)([0, 1, 3, 5], 0)
    samples = {sample.key: sample for sample in data.samples(range(len(data)))}
    apart = collate([samples[key] for key in shared.keys], toy_tokenizer(), preprocess())
    assert len(shared.images) < len(apart.images) == len(shared)

    def learnt(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        method = toy_method("vega").train()
        loss = method.loss(method(batch), batch)["total"]
        loss.backward()
        grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        return loss.detach(), grads

    (loss, grads), (other, others) = learnt(shared), learnt(apart)
    torch.testing.assert_close(loss, other)
    assert grads.keys() == others.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_counts_chunks_finishes_and_resumes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(recipe, tmp_path / "whole", progress="none")
    card = models.load(whole.model).card
    assert card["data"].endswith(f"{sum(TOLD)} items")
    assert card["steps"] == 2 * ((4 + 2 + 1 + 3) // 2)
    half = runs_in_bfloat16(recipe.train, torch.device("cpu"))
    assert card["precision"] == ("bfloat16" if half else "float32")

    call, left = RecipeBatches.__call__, 5

    def fail(self: RecipeBatches, indices: list[int], epoch: int) -> Batch:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return call(self, indices, epoch)

    folder = tmp_path / "resumed"
    monkeypatch.setattr(RecipeBatches, "__call__", fail)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, progress="none")
    monkeypatch.undo()
    # A worker makes the batches now, and the run is still the same.
    resumed = run_recipe(apply_overrides(recipe, ["train.workers=1"]), folder, progress="none")
    assert resumed.metrics == whole.metrics
    weights = [(run.model / "model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


def test_no_expression_per_image_is_refused(recipe: Recipe) -> None:
    assert apply_overrides(recipe, ["data.per_image=4"]).data.per_image == 4
    with pytest.raises(ConfigError, match=r"data\.per_image=0.*greater than or equal to 1"):
        apply_overrides(recipe, ["data.per_image=0"])
