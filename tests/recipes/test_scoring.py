"""What is told of matchings beside the scores of masks, while a recipe trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.scenes.model import KINDS
from refseg.describe import describe
from refseg.errors import NoProposal
from refseg.evaluate import evaluate
from refseg.matched import Matched
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import MatchingConfig
from refseg.metrics.oracle import best_iou
from refseg.recipes.scoring import Counts, Scorer, together
from refseg.types import Labels
from tests.methods.mutual.toy import shaken
from tests.methods.toy import toy_model
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config
from tests.worlds import WORLD_IMAGES

ROWS = list(range(9))


@pytest.fixture(autouse=True)
def small_world(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))


@pytest.mark.parametrize(
    ("queries", "labels"), [(8, "text+mask"), (1, "text+mask"), (8, "text+mask+category")]
)
def test_recall_is_how_describe_finds_the_objects(
    queries: int, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object after the other; a method that shows one proposal leaves the others without.

    By shape alone, of a method to which categories are all that matters where it is told them.
    """
    data = open_data("scenes", "val", Labels.parse(labels))
    model, matching = toy_model("mutual"), MatchingConfig(class_cost=1e4)
    torch.manual_seed(0)
    extractor = mask2former_config(queries=queries, matching=matching, classes=KINDS)
    method = shaken(Mutual(mutual_config(extractor))).float()
    model.method = method
    shown = open_data("scenes", "val", Labels.parse("text+mask"), objects=True)
    rows = {data.entry(row).image_row for row in ROWS}
    meant = {(sample.image_id, sample.target) for sample in shown.samples(ROWS)}
    fits, lost = [], 0
    for picture in map(shown.picture, rows):
        for image_id, target in meant:
            if image_id == picture.image_id:
                try:
                    (found,) = describe(model, [picture], [(0, target)], beams=1)
                except NoProposal:
                    lost += 1
                else:
                    fits.append(found.iou)
    assert len(fits) + lost == len(meant) > 2
    assert (lost > 0) == (queries == 1)
    scorer = Scorer(data, model.tokenizer, model.preprocess, ROWS, batch_size=4)
    near = [iou + more for iou in fits for more in (-1e-4, 1e-4)]
    for enough in (0.5, *near):  # untaught, none comes near a half
        monkeypatch.setattr("refseg.matched.MATCHED", enough)
        with torch.no_grad():
            scores = scorer(method)
        report = evaluate(model, data, limit=len(ROWS), batch_size=4)
        good = sum(iou >= enough for iou in fits)
        for told in (scores, report.metrics):
            assert told["matching recall"] == pytest.approx(good / len(meant))
            assert told["unmatched"] == pytest.approx(lost / len(meant))
    assert {"mIoU", "oIoU"} <= scores.keys()


@pytest.mark.parametrize("name", ["vega", "mutual annotated"])
def test_who_predicts_no_proposals_tells_nothing_of_them(name: str) -> None:
    data = open_data(
        "scenes", "val", Labels.parse("text+mask+box+category"), objects=name != "vega"
    )
    model = toy_model(name)
    if name != "vega":
        extractor = annotated_config().model_copy(update={"classes": KINDS})
        model.method = Mutual(mutual_config(extractor))
    with torch.no_grad():
        scores = Scorer(data, model.tokenizer, model.preprocess, ROWS)(model.method.eval())
    for told in (scores, evaluate(model, data, limit=len(ROWS)).metrics):
        assert "mIoU" in told
        assert {"matching recall", "unmatched", "oracle", "oracle Pr@0.5"}.isdisjoint(told)


def test_the_bound_of_a_perfect_choice_is_beside_the_scores() -> None:
    """Of every expression the best of all proposals, at the image's own size."""
    data = open_data("scenes", "val", Labels.parse("text+mask"))
    model = toy_model("mutual")
    with torch.no_grad():
        scores = Scorer(data, model.tokenizer, model.preprocess, ROWS, batch_size=4)(model.method)
    best = []
    for sample in data.samples(ROWS):
        (prediction,) = model.predict([sample])
        assert prediction.candidates is not None
        assert sample.mask is not None
        found = best_iou(prediction.candidates, prediction.geometry, sample.mask[None])
        best.append(float(found[0]))
    assert scores["oracle"] == pytest.approx(sum(best) / len(ROWS), abs=1e-4)
    assert scores["oracle Pr@0.5"] == sum(iou > 0.5 for iou in best) / len(ROWS)
    assert scores["mIoU"] < scores["oracle"]


def test_processes_tell_together_what_one_would() -> None:
    """Parts of two and of seven expressions, and one of none."""
    data = open_data("scenes", "val", Labels.parse("text+mask"))
    samples = data.samples(ROWS)
    predictions = toy_model("mutual").predict(samples)
    parts = []
    for rows in (ROWS, ROWS[:2], ROWS[2:], []):
        counts = Counts()
        for row in rows:
            counts.add(samples[row], predictions[row])
        counts.matched.iou.update(dict.fromkeys(rows, 0.2 + 0.1 * len(rows)))
        parts.append(counts.told())
    whole, split = together(parts[:1], len(ROWS)), together(parts[1:], len(ROWS))
    assert {"mIoU", "oracle", "oracle Pr@0.5", "matching recall"} <= set(whole)
    assert whole.pop("matching recall") == 1
    assert split.pop("matching recall") == pytest.approx(7 / 9)
    assert split == pytest.approx(whole)
    with pytest.raises(AssertionError, match="2 expressions counted of 9"):
        together(parts[1:2], len(ROWS))


def test_recall_by_hand() -> None:
    """A half is enough; what none stands for is missed; nothing counts twice."""
    told = Matched({7: 0.5, 8: 0.49, 9: float("nan"), 10: 1.0}).result()
    assert told == {"matching recall": 0.5, "unmatched": 0.25}
