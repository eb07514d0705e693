"""The studies of few masks, at a size for tests: what they train, count and tell."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.partial_stages import rec_recipe
from refseg.recipes.runner import run_recipe
from refseg.types import Geometry, Prediction
from studies import (
    partial,
    partial_bounds,
    partial_page,
    partial_pictures,
    partial_pseudo,
    partial_runs,
    partial_scenes,
    partial_shares,
    partial_task,
)
from studies.charts import shares as shares_chart
from studies.partial_pictures import Answered
from studies.partial_runs import DENSE, FULL, NAIVE, PARTS, SCRATCH, Few
from tests.methods.toy import toy_samples
from tests.recipes.partial_small import SMALL, settings

pytestmark = pytest.mark.usefixtures("small_world")

SHARE = 0.2
OWN = ("data", "weights", "tokens")  # said by the study, or by the REC model


@pytest.fixture(scope="module")
def asked(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Few]:
    """Two shares, one seed, two steps each, from a REC model of two steps."""
    folder = tmp_path_factory.mktemp("few")
    small = apply_overrides(get_recipe("partial_res_scenes"), settings(SMALL))
    boxes = apply_overrides(small, ["data.name=scenes", "stages=[rec]"])
    run_recipe(rec_recipe(boxes), folder / "rec")
    changes = settings({key: value for key, value in SMALL.items() if key not in OWN})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial_runs, "WORLD", "scenes")
        yield Few(
            folder / "runs",
            str(folder / "rec" / "model"),
            shares=(SHARE, 1.0),
            dense_steps=1,
            overrides=(
                *changes,
                "data.per_image=3",
                "tokens.max_words=12",
                "tokens.vocabulary=200",
                "weights.vision=null",
            ),
            dense_overrides=("train.batch_size=2", "train.warmup=0", "train.workers=0"),
            limit=6,
        )


@pytest.fixture(scope="module")
def numbers(asked: Few) -> dict[str, Any]:
    return dict(partial_shares.run(asked).numbers)


def test_every_way_is_trained_on_every_share(numbers: dict[str, Any]) -> None:
    found = {(row["variant"], row["share"]) for row in numbers["rows"]}
    some = {(way, SHARE) for way in (SCRATCH, NAIVE, PARTS, FULL, DENSE)}
    assert found == some | {(way, 1.0) for way in (SCRATCH, NAIVE, PARTS, DENSE)}
    assert numbers["masks"]["1"] is None
    assert 0 < numbers["masks"][f"{SHARE:g}"] < 100


def test_the_ways_differ_by_what_their_names_say(asked: Few) -> None:
    naive = partial_runs.shares_recipe(asked, NAIVE, SHARE, 3)
    full = partial_runs.shares_recipe(asked, FULL, SHARE, 3)
    assert (naive.method.cctf, naive.method.pmca.on) == ("off", False)
    assert (naive.method.language_token, naive.method.task_token) == (False, "zero")
    assert (full.method.cctf, full.method.pmca.on) == ("intended", True)
    assert naive.stages == ("res",)
    assert full.stages == ("res", "pseudo", "res_pseudo")
    assert partial_runs.shares_recipe(asked, FULL, 1.0, 3).stages == ("res",)
    dense = partial_runs.shares_recipe(asked, DENSE, SHARE, 3)
    scratch = partial_runs.shares_recipe(asked, SCRATCH, SHARE, 3)
    assert scratch.method == naive.method
    assert (naive.weights.rec, scratch.weights.rec) == (asked.rec, None)
    assert (dense.data.augment.flip, full.data.augment.flip) == (0.5, 0.5)
    for one in (naive, full, dense):
        assert (one.data.mask_share, one.data.mask_seed, one.train.seed) == (SHARE, 3, 3)
    assert dense.select is None
    kept = partial_runs.masked_refs(naive).ref_ids
    assert kept == partial_runs.masked_refs(dense).ref_ids


def test_recovery_is_a_ratio_of_the_rows(numbers: dict[str, Any]) -> None:
    by = {(row["variant"], row["share"]): row for row in numbers["summary"]}
    for (variant, share), row in by.items():
        whole = by[PARTS if variant == FULL else variant, 1.0]["mIoU"]
        if share < 1 and whole:
            assert row["recovery"] == pytest.approx(row["mIoU"] / whole)


def test_the_page_and_the_chart_take_what_was_found(numbers: dict[str, Any]) -> None:
    told = partial_page.shares(json.loads(json.dumps(numbers)))
    assert "with [TASK], CCTF, PMCA" in told["table"]
    assert "boxes of the REC model, filled | 0 %" in told["table"]
    assert 0 <= numbers["boxes"]["original"]["mIoU"] <= 1
    assert "any (before the filter)" in told["pseudo"]
    assert shares_chart(numbers).startswith(b"\x89PNG")


def test_a_model_on_every_split(asked: Few) -> None:
    model = partial_runs.trained(asked, NAIVE, SHARE, 0).load()
    found = partial_scenes.run(model, limit=3)
    told = [(one["data"], one["split"], one["protocol"]) for one in found.numbers["reports"]]
    assert len(set(told)) == len(told) == 18
    page = partial_page.scenes(json.loads(json.dumps(found.numbers)))
    assert page["original"].count("scenes+ testA") == page["crowd"].count("scenes+ testA") == 1


def test_task_modes(asked: Few) -> None:
    found = partial_task.run(asked).numbers
    assert [row["variant"] for row in found["rows"]] == ["learnable", "zero", "task-wise"]
    assert {row["verdict"] for row in found["differences"]} == {"inconclusive"}
    assert "task-wise" in partial_page.task(json.loads(json.dumps(found)))["table"]


def test_pseudo_quality_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    iou, projection = rng.random(50), rng.random(50) * 0.3
    area, fill = rng.integers(1, 99, 50).astype(float), rng.random(50)
    told = partial_pseudo.Pseudo(iou, projection, area, fill).told()
    assert told["n"] == 50
    for row in told["rows"]:
        kept = [n for n in range(50) if row["agree"] is None or projection[n] < row["agree"]]
        below = [iou[n] for n in kept]
        assert row["median area"] == statistics.median(area[n] for n in kept)
        assert row["fill"] == pytest.approx(sum(fill[n] for n in kept) / len(kept))
        assert row["kept share"] == len(below) / 50
        assert row["mIoU"] == pytest.approx(sum(below) / len(below))
        assert row["Pr@0.5"] == pytest.approx(sum(one > 0.5 for one in below) / len(below))


def test_even_points_have_no_spread() -> None:
    square = np.array([[0, 0], [0, 4], [4, 4], [4, 0]], float)
    uneven = np.array([[0, 0], [0, 1], [4, 4], [4, 0]], float)
    assert partial_pseudo.spacing([square]) == 0
    assert partial_pseudo.spacing([uneven]) > 0.3
    mask = np.zeros((40, 40), bool)
    mask[5:25, 8:30] = True
    assert partial_pseudo.spacing([partial_pseudo.resampled(mask, 12)]) < 0.2


def test_bounds_of_a_small_coco_file(tmp_path: Path) -> None:
    def square(x: float, y: float, side: float) -> list[float]:
        return [x, y, x, y + side, x + side, y + side, x + side, y]

    annotations = [
        {"id": 1, "image_id": 1, "segmentation": [square(4, 4, 20)], "iscrowd": 0},
        {"id": 2, "image_id": 1, "segmentation": [square(30, 4, 20), square(52, 4, 10)]},
        {"id": 3, "image_id": 1, "segmentation": {"counts": [0], "size": [1, 1]}, "iscrowd": 1},
    ]
    images = [{"id": 1, "height": 48, "width": 64}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    masks = list(partial_bounds._masks(path, None))
    assert [len(parts) for _, parts in masks] == [1, 2]
    assert partial_bounds.several([parts for _, parts in masks])["several"] == 0.5
    largest = partial_bounds.largest_part(masks)
    assert largest["seqtr-crowd, of several"] == 1.0
    assert largest["original, of several"] == pytest.approx(0.8, abs=0.02)
    rows = partial_bounds.outlines([masks[0][0]])
    best = {row["rule"]: row["mIoU"] for row in rows if row["N"] == 36}
    assert best["uniform"] > best["stride"]
    assert best["uniform"] > 0.97


def test_pictures(asked: Few, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_pictures, "SHARE", SHARE)
    found = partial_pictures.run(asked)
    assert set(found.numbers["looks"]) == {NAIVE, PARTS, FULL}
    assert 0 <= found.numbers["right"] <= found.numbers["n"]
    assert "spread evenly" in partial_page.pictures(json.loads(json.dumps(found.numbers)))["looks"]
    assert "partial-points.png" in found.pictures  # the others need answers that are not bad
    assert all(png.startswith(b"\x89PNG") for png in found.pictures.values())


def test_where_attention_lies_is_counted_of_right_answers() -> None:
    """By hand: two pictures, of which both models answer the first; all attention on one pixel."""
    mask = np.zeros((16, 16), bool)
    mask[6:10, 6:10] = True
    sample = replace(toy_samples(1)[0], mask=mask)
    geometry = Geometry((16, 16), (16, 16), (1.0, 1.0))

    def one(place: tuple[int, int], iou: float) -> Answered:
        looked = np.zeros((3, 16, 16), np.float32)
        looked[:, place[0], place[1]] = 2.0
        return Answered(sample, Prediction(mask, 1.0, geometry), looked, iou)

    found = partial_pictures.attention(
        {NAIVE: [one((0, 0), 0.9), one((7, 7), 0.9)], PARTS: [one((7, 7), 0.6), one((7, 7), 0.4)]}
    )
    assert found["right"] == 1
    assert found["looks"] == {NAIVE: 0.0, PARTS: 1.0}
    assert found["border"] == {NAIVE: 1.0, PARTS: 0.0}
    assert found["even"] == {"looks": 1 / 16, "border": pytest.approx(1 - (12 / 16) ** 2)}


def test_every_study_has_words_and_a_function() -> None:
    assert partial.STUDIES.keys() == partial.ABOUT.keys()
    assert all(callable(one) for one in partial.STUDIES.values())


def test_the_command_is_told_without_places() -> None:
    words = ["shares", "--rec", "some/where/rec", "--folder", "x", "--seeds", "0", "1"]
    parsed = partial._parser().parse_args(words)
    assert partial.command(parsed) == "python -m studies.partial shares --rec rec --seeds 0 1"
