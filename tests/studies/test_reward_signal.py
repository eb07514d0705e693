"""What rewards tell apart, against a loop over one sentence after the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.scenes.model import KINDS
from refseg.describe import describe
from refseg.models import Model, build_method
from refseg.types import Labels, Sample
from studies import mutual_why, reward_signal
from studies.mutual_boxes import BEFORE, MAIN, PRINTED
from studies.reward_signal import FLAT, PAPERS
from tests.methods.toy import TOYS, toy_model

pytestmark = pytest.mark.usefixtures("small_world")

LIMIT = 5


@pytest.fixture
def data() -> ReferDataset:
    labels = Labels.parse("text+box+category")
    return open_data("scenes", "val", labels, objects=True, pixels=False)


@pytest.fixture
def model() -> Model:
    """Shaken, so that sentences and scores differ; it knows the world's categories."""
    config = TOYS["mutual annotated"].config()
    extractor = config.extractor.model_copy(update={"classes": KINDS})
    torch.manual_seed(7)
    method = build_method("mutual", config.model_copy(update={"extractor": extractor}))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return replace(toy_model("mutual annotated"), method=method.eval())


def test_means_and_spreads_equal_a_plain_loop(model: Model, data: ReferDataset) -> None:
    told = reward_signal.measure(model, data, LIMIT)
    rewards: dict[str, list[list[float]]] = {name: [] for name in reward_signal.FORMS}
    understood: list[list[bool]] = []
    asked: set[int] = set()
    for index in range(len(data)):
        meant = data[index]
        ann_id = int(meant.objects.ann_ids[meant.target])
        if ann_id in asked or len(asked) == LIMIT:
            continue
        asked.add(ann_id)
        picture = data.picture(data.entry(index).image_row)
        (found,) = describe(model, [picture], [(0, meant.target)], beams=5, keep=5)
        if not found.expressions:  # nothing that could be rewarded
            continue
        for values in rewards.values():
            values.append([])
        understood.append([])
        for one in found.expressions:
            sample = Sample("", picture.image, one.text, 0, 0, 0, objects=picture.objects)
            (scores,) = model.scores([sample])
            own = float(scores[meant.target])
            understood[-1].append(own == max(map(float, scores)))
            rewards["sigmoid"][-1].append(1 / (1 + math.exp(-own)))
            for tau in (2.5, 1):
                whole = sum(math.exp(float(score) / tau) for score in scores)
                rewards[f"softmax, tau {tau}"][-1].append(math.exp(own / tau) / whole)
    assert told["objects"] == len(rewards["sigmoid"]) > 1
    assert told["sentences"] == sum(map(len, rewards["sigmoid"])) > told["objects"]
    for name, each in rewards.items():
        mean = sum(map(sum, each)) / told["sentences"]
        spreads = [math.sqrt(sum((v - sum(o) / len(o)) ** 2 for v in o) / len(o)) for o in each]
        found = told["forms"][name]
        assert found["mean"] == pytest.approx(mean, abs=1e-5)
        assert found["spread"] == pytest.approx(np.mean(spreads), abs=1e-5)
        assert found["spread"] > 1e-4, "sentences that are all alike test nothing"
    mixed = [n for n, one in enumerate(understood) if any(one) and not all(one)]
    assert told["mixed"] == len(mixed) > 0
    for name, each in rewards.items():
        shares = []
        for n in mixed:
            pairs = [
                0.5 if a == b else float(a > b)
                for a, yes in zip(each[n], understood[n], strict=True)
                for b, no in zip(each[n], understood[n], strict=True)
                if yes and not no
            ]
            shares.append(sum(pairs) / len(pairs))
        assert told["forms"][name]["order"] == pytest.approx(np.mean(shares))


def test_what_lies_where_the_sigmoid_is_flat_has_no_spread(
    model: Model, data: ReferDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant on all scores of a picture: softmax does not see it, the sigmoid sees no other."""
    plain = reward_signal.measure(model, data, LIMIT)["forms"]
    scores = model.scores
    monkeypatch.setattr(Model, "scores", lambda self, samples: [s + 30 for s in scores(samples)])
    moved = reward_signal.measure(model, data, LIMIT)["forms"]
    assert moved[PAPERS]["spread"] == pytest.approx(plain[PAPERS]["spread"], abs=1e-5)
    assert moved[FLAT]["spread"] < 1e-6 < plain[FLAT]["spread"]


def numbers(**more: object) -> dict[str, object]:
    rows = [
        {"variant": name, "split": "testA", "beams": beams, "metrics": {"words": w, "distinct": d}}
        for name, w, d in ((BEFORE, 2.0, 0.25), (MAIN, 4.0, 0.5))
        for beams in (1, 3)
    ]
    return {"beams": [1, 3], "sets": {"refcoco": {"expressions": rows, **more}}}


def test_the_page_tells_what_was_measured_and_what_was_not() -> None:
    told = mutual_why.lengths(numbers())
    assert "2.0 words a sentence before step 2, 4.0 after; 25.0 %" in told
    assert "people's" not in told
    people = {"testA": {"words": 3.3, "distinct": 0.9}}
    assert "4.0 after (people's: 3.3)" in mutual_why.lengths(numbers(people=people))
    assert "not measured" in mutual_why.rewards(numbers())
    forms = {name: {"mean": 0.5, "spread": 0.01, "order": 0.75} for name in reward_signal.FORMS}
    forms[PAPERS] = {"mean": 0.5, "spread": 0.03, "order": None}
    measured = {"testA": {"objects": 7, "sentences": 30, "mixed": 4, "forms": forms}}
    told = mutual_why.rewards(numbers(rewards=measured))
    row = "| RefCOCO testA | 7 | 30 | 4 | 0.500, 0.010, **75.0** | 0.500, 0.030, **-** |"
    assert row in told


def test_the_page_tells_who_runs_on_by_search() -> None:
    rows = [
        {"variant": name, "split": "testA", "beams": beams, "metrics": {"runs on": share / beams}}
        for name, share in ((BEFORE, 0.0), (MAIN, 0.48))
        for beams in (1, 3)
    ]
    people = {"testA": {"runs on": 0.001}}
    found = {"beams": [1, 3], "sets": {"refcoco+": {"expressions": rows, "people": people}}}
    told = mutual_why.runs_on(found)
    assert "| RefCOCO+ testA | greedy | 0.1 | 0.0 | 48.0 |" in told
    assert "| RefCOCO+ testA | 3 beams | 0.1 | 0.0 | 16.0 |" in told
    for row in rows:  # a file from before it was measured
        row["metrics"].clear()
    assert "| RefCOCO+ testA | greedy | - | - | - |" in mutual_why.runs_on(
        {"beams": [1, 3], "sets": {"refcoco+": {"expressions": rows}}}
    )


def test_the_page_tells_what_the_width_of_the_search_and_equal_weights_change() -> None:
    rows = [
        {
            "variant": name,
            "split": "testA",
            "beams": beams,
            "metrics": {"CIDEr": (place + beams) / 8},
        }
        for place, name in enumerate((BEFORE, MAIN, PRINTED))
        for beams in (1, 3)
    ]
    told = mutual_why.searches({"beams": [1, 3], "sets": {"refcoco": {"expressions": rows}}})
    cells = "| RefCOCO testA | {} | 0.125 to {} | - | 0.375 to {} | - |"
    assert cells.format(MAIN, "0.250", "0.500") in told
    assert cells.format(PRINTED, "0.375", "0.625") in told
