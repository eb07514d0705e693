"""The study of what is written about things in photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.describe import describe, refer_back
from refseg.methods.mutual import Mutual
from refseg.models import Model
from refseg.referred import Referred, referred
from refseg.types import ALL_LABELS, Labels
from studies import photographs_page
from studies.photographs_choice import ByBox
from studies.photographs_eyes import Remembering
from studies.photographs_written import (
    BEAMS,
    BEST,
    CHECKED,
    GREEDY,
    WRITERS,
    About,
    _example,
    sentences,
    tally,
)
from tests.data.refer_trees import make_refer
from tests.methods.mutual.test_photographs import SEEN, ToldEyes, model


def shaken(seed: int) -> Model:
    made = model()
    torch.manual_seed(seed)
    method = Mutual(made.method.config).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.method = method
    return made


@pytest.fixture
def dataset(tmp_path: Path) -> ReferDataset:
    labels = Labels.parse("text+box+category")
    return open_data(make_refer(tmp_path), "train", labels, objects=True, pixels=False)


def test_sentences_and_verdicts_are_those_of_one_object_at_a_time(dataset: ReferDataset) -> None:
    writer, judge = shaken(0), shaken(1)
    found = sentences(writer, judge, dataset, None)
    every = [one for group in referred(dataset)[0] for one in group]
    assert [one.about.ann_id for one in found] == [one.ann_id for one in every]
    hits = []
    for one, about in zip(found, every, strict=True):
        picture = dataset.picture(about.image_row)
        assert picture.objects is not None
        spot = (0, picture.objects.ann_ids.tolist().index(about.ann_id))
        (greedy,) = describe(writer, [picture], [spot], beams=1)
        (beams,) = describe(writer, [picture], [spot], beams=BEAMS, keep=BEAMS, verify=True)
        good = [each.text for each in beams.expressions if each.refers_back]
        texts = [each.text for each in beams.expressions]
        assert one.texts == {
            GREEDY: greedy.expressions[0].text, BEST: texts[0], CHECKED: (good or texts)[0]
        }  # fmt: skip
        asked = [*one.texts.values(), *about.references]
        verdicts = [refer_back(judge, [picture], [spot], [text])[0].hit for text in asked]
        assert [*one.hits.values(), *one.people] == verdicts
        assert one.seen
        hits += verdicts
    assert len(set(hits)) == 2, "a judge that is always right or wrong shows nothing"


def test_an_object_that_nobody_detects_is_a_failure(
    dataset: ReferDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, judge = shaken(0), shaken(1)
    lost = referred(dataset)[0][0][0]
    match = writer.method.match

    def blind(proposals: Any, batch: Any, **options: Any) -> Any:
        matching = match(proposals, batch, **options)
        matching.proposal[batch.objects.ann_ids == lost.ann_id] = -1
        return matching

    monkeypatch.setattr(writer.method, "match", blind)
    found = {one.about.ann_id: one for one in sentences(writer, ByBox(judge), dataset, None)}
    one = found[lost.ann_id]
    assert not one.seen
    assert set(one.texts.values()) == {""}
    assert not any(one.hits.values())
    assert len(one.people) == len(lost.references)


def test_in_photographs_what_hardly_fits_was_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(make_refer(tmp_path), "train", ALL_LABELS, objects=True)
    objects = data.samples([0])[0].objects
    assert objects is not None
    assert objects.boxes_xyxy is not None
    hw = data.samples([0])[0].image.shape[:2]
    for box, wanted in ((objects.boxes_xyxy[0].tolist(), True), ([0.0, 0.0, 2.0, 2.0], False)):
        monkeypatch.setitem(SEEN, hw, ([box], [(0, 0.9)]))
        told: Any = Remembering(ToldEyes())  # type: ignore[arg-type]
        writer, judge = shaken(0), shaken(1)
        for one in (writer, judge):
            one.method.see_by(lambda told=told: told)
        found = sentences(writer, ByBox(judge), data, None)
        assert any(one.seen for one in found) == wanted
        assert any(one.texts[GREEDY] for one in found)


def about(ann_id: int, image_id: int, hits: tuple[bool, bool, bool]) -> About:
    referred_to = Referred(ann_id, ann_id, image_id, image_id, ("left cup", "the cup"))
    texts = dict.fromkeys(WRITERS, "left cup") | {BEST: "cup cup cup"}
    told = dict(zip(WRITERS, hits, strict=True))
    return About(referred_to, ann_id != 3, texts, told, [True, False])


def test_the_table_by_hand() -> None:
    found = [about(1, 1, (True, False, True)), about(2, 1, (True, True, True)),
             about(3, 2, (False, False, True))]  # fmt: skip
    rows = {row["writer"]: row for row in tally("refcoco val, photographs", found, shaken(0))}
    assert [rows[name]["hit"] for name in WRITERS] == pytest.approx([2 / 3, 1 / 3, 1])
    assert rows["people"]["hit"] == 0.5
    assert rows["people"]["n"] == 6
    assert rows[GREEDY]["words"] == 2
    assert (rows[GREEDY]["runs on"], rows[BEST]["runs on"]) == (0, 1)
    assert rows[GREEDY]["seen"] == pytest.approx(2 / 3)
    low, high = rows[GREEDY]["interval"]
    assert (low, high) == (0, 1)  # two pictures: one right, one wrong
    examples = [dict(_example(one)) for one in found]
    judge = {"name": "model", "sha256": "abc", "seed": 1, "steps": 3000}
    page = photographs_page.written(
        {"rows": list(rows.values()), "examples": examples, "beams": 5, "judge": judge}
    )
    assert "| photos, greedy | 3 | **66.7** | 0.0 to 100.0 |" in page["table"]
    assert "| people | 6 | **50.0** |" in page["table"]
    assert "left cup; the cup | left cup | yes, detected badly |" in page["examples"]
    assert page["seen"] == "66.7"
    assert np.char.count(page["judge"], "seed 1") == 1
