"""What is told of matchings beside the scores of masks, while a recipe trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.scenes.model import KINDS
from refseg.describe import describe
from refseg.errors import DataError, NoProposal
from refseg.evaluate import evaluate
from refseg.matched import Matched
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import MatchingConfig
from refseg.methods.sag import Sag
from refseg.methods.sag.config import AnswerConfig
from refseg.metrics.oracle import best_iou
from refseg.ops.masks import box_mask
from refseg.recipes.scoring import BoxScorer, Counts, Scorer, together
from refseg.types import Batch, Labels, Prediction
from tests.methods.mutual.toy import shaken
from tests.methods.sag.toys import sag_config
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


class Knows(torch.nn.Module):
    """Answers with boxes [4] px as masks, key -> box; None finds nothing."""

    def __init__(self, boxes: dict[str, list[int] | None]) -> None:
        super().__init__()
        self.boxes = boxes
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Batch:
        return batch

    def decode(self, outputs: Batch, batch: Batch) -> list[Prediction]:
        found = []
        for key, geometry in zip(batch.keys, batch.geometry, strict=True):
            box = self.boxes[key]
            mask = box_mask(np.array([0, 0, 0, 0] if box is None else box), geometry.original_hw)
            found.append(Prediction(mask, 1.0, geometry, empty=box is None))
        return found


def guesses(data: ReferDataset) -> dict[str, list[int] | None]:
    """Boxes that are right, shifted, exactly half as wide, absent, or in a corner, in turn."""
    boxes: dict[str, list[int] | None] = {}
    for row in ROWS:
        entry = data.entry(row)
        assert entry.box_xyxy is not None
        x0, y0, x1, y1 = map(int, entry.box_xyxy)
        half = [x0, y0, (x0 + x1) // 2, y1]
        kinds = ([x0, y0, x1, y1], [x0 + 1, y0 + 1, x1 + 1, y1], half, None, [0, 0, 1, 1])
        boxes[entry.key] = kinds[row % len(kinds)]
    return boxes


def pixels(box: list[int] | None) -> set[tuple[int, int]]:
    if box is None:
        return set()
    x0, y0, x1, y1 = box
    return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}


@pytest.mark.parametrize("unknown", [(), (0,)])
def test_boxes_are_scored_as_a_loop_over_pixels_would(
    unknown: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mask; a box that is not stated does not count, one half as large is no hit."""
    data = open_data("scenes", "val", Labels.parse("text+box"))
    model, boxes, state = toy_model("vega"), guesses(data), ReferDataset._box
    lost = {data.entry(row).ref_row for row in unknown}
    ious = []
    for entry in map(data.entry, ROWS):
        if entry.ref_row not in lost:
            assert entry.box_xyxy is not None
            true, own = pixels(list(map(int, entry.box_xyxy))), pixels(boxes[entry.key])
            ious.append(len(true & own) / len(true | own))
    expected = sum(iou > 0.5 for iou in ious) / len(ious)
    assert 0 < expected < 1
    assert 0.5 in ious

    def stated(self: ReferDataset, ref_row: int) -> object:
        return None if ref_row in lost else state(self, ref_row)

    monkeypatch.setattr(ReferDataset, "_box", stated)
    scorer = BoxScorer(data, model.tokenizer, model.preprocess, ROWS, batch_size=4)
    assert scorer(Knows(boxes)) == {"REC@0.5": expected}
    if not unknown:  # with masks, one stands for a box that is not stated
        masks = open_data("scenes", "val", Labels.parse("text+box+mask"))
        whole = Scorer(masks, model.tokenizer, model.preprocess, ROWS)(Knows(boxes))
        assert whole["REC@0.5"] == expected
    lost.update(data.entry(row).ref_row for row in ROWS)
    with pytest.raises(DataError, match="scenes val states no box") as caught:
        scorer(Knows(boxes))
    assert "data.evaluate=null" in caught.value.remedy


def test_a_method_that_looks_at_images_in_px_is_given_them() -> None:
    """As `Model.batch` does: a CRF in the answers of a model that is scored while it trains."""
    data = open_data("scenes", "val", Labels.parse("text+mask"))
    model = toy_model("sag")
    model.method = Sag(sag_config(answer=AnswerConfig(crf="lattice"))).eval()
    scorer = Scorer(data, model.tokenizer, model.preprocess, ROWS)
    report = evaluate(model, data, limit=len(ROWS))
    assert scorer(model.method)["mIoU"] == pytest.approx(report.metrics["mIoU"], abs=1e-6)
