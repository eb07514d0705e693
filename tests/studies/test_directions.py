"""Claims of a paper, judged object by object."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refseg.metrics.meter import bootstrap_interval
from studies import boxes_scores, directions, kept, mutual_tables, published
from studies.directions import REVERSED, SHOWS, UNCLEAR, Direction, judged, verdict
from studies.mutual_boxes import BEFORE, MAIN, PRINTED, REWARDS


def report(hits: list[bool], texts: list[str] | None = None) -> dict[str, Any]:
    count = len(hits)
    samples = {
        "ann_id": list(range(count)),
        "image_id": [row // 2 for row in range(count)],
        "hit": hits,
        "text": texts or ["it"] * count,
        "references": [["that"]] * count,
        "CIDEr merged": [float(hit) for hit in hits],
        "meteor_es merged": [0.5] * count,
    }
    share = sum(hits) / count
    metrics = {"Rb-Acc": share, "CIDEr merged": share, "meteor_es merged": 0.5}
    return {"samples": samples, "metrics": metrics}


@pytest.mark.parametrize(
    ("interval", "sign", "told"),
    [
        ((0.1, 0.2), "+", SHOWS),
        ((0.1, 0.2), "-", REVERSED),
        ((-0.2, -0.1), "-", SHOWS),
        ((-0.2, -0.1), "+", REVERSED),
        ((-0.1, 0.2), "+", UNCLEAR),
        ((-0.1, 0.2), "-", UNCLEAR),
        ((0.0, 0.0), "+", UNCLEAR),
    ],
)
def test_verdicts_follow_the_interval(interval: tuple[float, float], sign: Any, told: str) -> None:
    assert verdict(interval, sign) == told


def test_differences_are_taken_object_by_object() -> None:
    rng = np.random.default_rng(0)
    worse = (rng.random(60) < 0.4).tolist()
    better = [hit or drawn < 0.5 for hit, drawn in zip(worse, rng.random(60), strict=True)]
    claim = Direction("a over b", "a", "b", directions.RB_ACC, "+")
    (row,) = judged([claim], {"a": report(better), "b": report(worse)})
    # Twin: one object after the other.
    gaps = [int(one) - int(other) for one, other in zip(better, worse, strict=True)]
    assert row["difference"] == pytest.approx(sum(gaps) / 60)
    images = [number // 2 for number in range(60)]
    assert row["interval"] == bootstrap_interval(gaps, groups=images)
    assert row["verdict"] == SHOWS
    opposite = Direction("b over a", "b", "a", directions.RB_ACC, "+")
    assert judged([opposite], {"a": report(better), "b": report(worse)})[0]["verdict"] == REVERSED


def test_a_corpus_that_goes_the_other_way_leaves_it_open() -> None:
    """Of a metric that sums counts the mean over objects is not the whole truth."""
    claim = Direction("", "a", "b", directions.RB_ACC, "+")
    better, worse = report([True] * 40), report([False] * 40)
    assert judged([claim], {"a": better, "b": worse})[0]["verdict"] == SHOWS
    better["metrics"]["Rb-Acc"] = -0.1
    (row,) = judged([claim], {"a": better, "b": worse})
    assert (row["verdict"], row["corpus difference"]) == (UNCLEAR, pytest.approx(-0.1))


def test_each_search_has_its_own_verdicts() -> None:
    claim = boxes_scores.DIRECTIONS[0]
    better, worse = report([True] * 40), report([False] * 40)
    (shows,) = judged([claim], {claim.of: better, claim.over: worse})
    (reverse,) = judged([claim], {claim.of: worse, claim.over: better})
    rows = [{"beams": 1, **shows}, {"beams": 3, **reverse}]
    numbers = {"beams": [1, 3], "sets": {"refcoco": {"directions": {"testA": rows}}}}
    greedy, beams = mutual_tables.directions(numbers).split("**3 beams**")
    assert "**greedy**" in greedy
    assert (SHOWS in greedy, REVERSED in greedy) == (True, False)
    assert (SHOWS in beams, REVERSED in beams) == (False, True)
    told = mutual_tables.verdicts(numbers)
    assert "greedy, of 1 (claims times splits): 1 shows" in told
    assert "3 beams, of 1 (claims times splits): 1 the other way round" in told
    older = {"beams": [3, 1], "sets": {"refcoco": {"directions": {"testA": [shows]}}}}
    assert mutual_tables.verdicts(older).startswith("3 beams, of 1")


def test_other_objects_are_not_compared() -> None:
    claim = Direction("", "a", "b", directions.RB_ACC, "+")
    with pytest.raises(ValueError, match="other objects"):
        judged([claim], {"a": report([True]), "b": report([True, False])})


def test_every_direction_has_its_numbers_in_the_paper_and_they_agree() -> None:
    place = {directions.METEOR: 0, directions.CIDER: 1, directions.RB_ACC: 2}
    assert set(published.REWARDS) == {BEFORE, *REWARDS} - {PRINTED}
    for one in boxes_scores.DIRECTIONS:
        of, over = (published.REWARDS[name][place[one.measure]] for name in (one.of, one.over))
        assert (of > over) == (one.sign == "+"), one.claim


def with_meteor(told: dict[str, Any], values: list[float], name: str) -> dict[str, Any]:
    """A report of `report` that has this METEOR."""
    samples = {**told["samples"], name: values}
    return {"samples": samples, "metrics": {**told["metrics"], name: sum(values) / len(values)}}


def test_meteor_is_judged_by_meteor_where_there_is_one() -> None:
    claim = Direction("less", "a", "b", directions.METEOR, "-")
    low, high = report([True] * 20), report([True] * 20)
    high["samples"]["meteor_es merged"] = [0.1] * 20
    high["metrics"]["meteor_es merged"] = 0.1
    (simple,) = judged([claim], {"a": low, "b": high})
    assert (simple["measure"], simple["verdict"]) == ("meteor_es merged", REVERSED)
    both = {
        "a": with_meteor(low, [0.2] * 20, "METEOR merged"),
        "b": with_meteor(high, [0.3] * 20, "METEOR merged"),
    }
    (real,) = judged([claim], both)
    assert (real["measure"], real["verdict"]) == ("METEOR merged", SHOWS)
    assert real["difference"] == pytest.approx(-0.1)


@pytest.mark.parametrize("name", ["METEOR", "meteor_es"])
def test_the_paper_s_meteor_stands_beside_meteor_alone(name: str) -> None:
    claim = next(one for one in boxes_scores.DIRECTIONS if one.measure == directions.METEOR)
    rows = [
        {
            "variant": variant, "split": "testB", "beams": 1, "n": 2,
            "intervals": {"Rb-Acc": [0, 1]},
            "metrics": {
                "CIDEr": 1.0, "CIDEr merged": 1.1, name: 0.4, f"{name} merged": 0.5, "Rb-Acc": 0.5,
                "Rb-Acc of human sentences": 0.5, "words": 3.0,
            },
        }
        for variant in (claim.of, claim.over)
    ]  # fmt: skip
    told = with_meteor(report([True] * 4), [0.5] * 4, f"{name} merged")
    if name == "METEOR":
        told["metrics"].pop("meteor_es merged")
    found = judged([claim], {claim.of: told, claim.over: told})
    sets = {"refcoco+": {"expressions": rows, "directions": {"testB": found}}}
    numbers = {"beams": [1], "sets": sets}
    page = "\n".join(
        (
            mutual_tables.expressions(numbers),
            mutual_tables.directions(numbers),
            mutual_tables.about_meteor(numbers),
        )
    )
    assert mutual_tables.meteor_of(numbers) == name
    assert f"| {name} | {name} merged |" in page
    real = name == "METEOR"
    papers = {f"{row[0]:.3f}" for row in published.WRITING["refcoco+"]["testB"].values()}
    papers |= {f"{published.REWARDS[one][0]:.3f}" for one in (claim.of, claim.over)}
    assert {number for number in papers if number in page} == (papers if real else set())
    assert ("not at hand" in page) == ("another metric" in page) == (not real)
    assert "0.860" in page  # CIDEr merged, either way


def test_without_another_data_set_the_scores_are_not_merged() -> None:
    told = report([True, False, True])
    for kind in ("samples", "metrics"):
        told[kind]["CIDEr"] = told[kind].pop("CIDEr merged")
    claim = Direction("", "a", "b", directions.CIDER, "+")
    assert judged([claim], {"a": told, "b": told})[0]["measure"] == "CIDEr"


def reader(rivals: int) -> dict[str, Any]:
    rows = [
        {
            "reader": who, "split": split, "n": 10, "rivals": rivals if split == "val" else 10,
            "metrics": {"accuracy": 0.5, "accuracy with rivals": 0.25, "chance": 0.1},
            "intervals": {"accuracy": [0.4, 0.6]},
        }
        for who in ("writer", "judge")
        for split in ("val", "testA", "testB")
    ]  # fmt: skip
    return {"sets": {"refcoco": {"comprehension": rows}}}


def test_the_harder_part_has_columns_only_where_it_is_a_part() -> None:
    part, whole = reader(9), reader(10)
    assert "25.0" in mutual_tables.comprehension(part)
    assert "has no columns of its own" not in mutual_tables.rivals(part)
    assert "25.0" not in (told := mutual_tables.comprehension(whole))
    assert "rival" not in told
    assert "has no columns of its own" in mutual_tables.rivals(whole)
    for numbers in (part, whole):
        lines = mutual_tables.comprehension(numbers).splitlines()
        assert len({line.count("|") for line in lines}) == 1


def test_examples_are_objects_whose_sentence_has_changed() -> None:
    texts = [f"old {row}" for row in range(20)]
    changed = [text if row % 3 else f"new {row}" for row, text in enumerate(texts)]
    hits = [True] * 20
    found = {BEFORE: report(hits, texts), MAIN: report(hits, changed)}
    drawn = boxes_scores.examples(found)
    assert len(drawn) == boxes_scores.EXAMPLES
    assert all(one["ann_id"] % 3 == 0 and one["before"] != one["after"] for one in drawn)
    assert drawn == boxes_scores.examples(found)
    assert boxes_scores.examples({BEFORE: found[BEFORE], MAIN: found[BEFORE]}) == []


def test_scores_are_kept_until_what_they_depend_on_changes(tmp_path: Path) -> None:
    run = kept.Trained("run", tmp_path / "model", tmp_path / "scores")
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": (len(made), 2)}

    first = kept.kept(run, "one", {"weights": "a"}, make)
    assert first == {"value": [1, 2]}  # as JSON tells it, the first time too
    assert kept.kept(run, "one", {"weights": "a"}, make) == first
    assert kept.kept(run, "two", {"weights": "a"}, make) == {"value": [2, 2]}
    assert kept.kept(run, "one", {"weights": "b"}, make) == {"value": [3, 2]}
    assert len(made) == 3


def test_scores_of_another_version_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same weights and data, when a metric has changed."""
    run = kept.Trained("run", tmp_path / "model", tmp_path / "scores")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    data = SimpleNamespace(hash="h", name="scenes", split="val")
    made: list[int] = []

    def measured(*_: Any) -> dict[str, Any]:
        made.append(1)
        return {"made": len(made)}

    monkeypatch.setattr(kept.reward_signal, "measure", measured)
    monkeypatch.setattr(kept.Trained, "load", lambda self: None)
    assert kept.of_rewards(run, data, 3) == kept.of_rewards(run, data, 3) == {"made": 1}
    monkeypatch.setattr(kept, "SCORES_VERSION", kept.SCORES_VERSION + 1)
    assert kept.of_rewards(run, data, 3) == {"made": 2}
