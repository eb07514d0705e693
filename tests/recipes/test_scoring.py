"""What is told of matchings beside the scores of masks, while a recipe trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.scenes.model import KINDS
from refseg.describe import describe
from refseg.errors import NoProposal
from refseg.methods.mutual import Mutual
from refseg.recipes.scoring import Matched, Scorer
from refseg.types import Labels
from tests.methods.toy import toy_model
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config
from tests.worlds import WORLD_IMAGES

ROWS = list(range(9))


@pytest.fixture(autouse=True)
def small_world(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))


@pytest.mark.parametrize("queries", [8, 1])
def test_recall_is_how_describe_finds_the_objects(queries: int) -> None:
    """One object after the other; a method that shows one proposal leaves the others without."""
    data = open_data("scenes", "val", Labels.parse("text+mask"))
    model = toy_model("mutual")
    torch.manual_seed(0)
    method = Mutual(mutual_config(mask2former_config(queries=queries))).eval()
    with torch.no_grad():
        scores = Scorer(data, model.tokenizer, model.preprocess, ROWS, batch_size=4)(method)
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
    assert scores["unmatched"] == pytest.approx(lost / len(meant))
    assert scores["matching recall"] == pytest.approx(sum(f >= 0.5 for f in fits) / len(meant))
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
    assert "mIoU" in scores
    assert {"matching recall", "unmatched"}.isdisjoint(scores)


def test_recall_by_hand() -> None:
    """A half is enough; what none stands for is missed; nothing counts twice."""
    told = Matched({7: 0.5, 8: 0.49, 9: float("nan"), 10: 1.0}).result()
    assert told == {"matching recall": 0.5, "unmatched": 0.25}
