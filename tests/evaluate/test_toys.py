"""The evaluators with untrained models of the real method: all parts fit each other."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.scenes.model import KINDS
from refseg.describe import describe, refer_back, same_reader
from refseg.errors import ConfigError
from refseg.evaluate import Options as EvaluateOptions
from refseg.evaluate import as_asked, evaluate
from refseg.evaluate_objects import evaluate_objects
from refseg.evaluate_text import HUMAN, OWN, evaluate_expressions
from refseg.models import Model, build_method
from refseg.types import Labels
from tests.evaluate.fakes import opened
from tests.methods.toy import TOYS, toy_model


def seen() -> ReferDataset:
    labels = Labels.parse("text+box+category+mask")
    return open_data("scenes", "val", labels, objects=True)


def toy(name: str, seed: int = 0) -> Model:
    """A toy that knows the categories of the rendered world."""
    model, config = toy_model(name), TOYS[name].config()
    extractor = config.extractor.model_copy(update={"classes": KINDS})
    torch.manual_seed(seed)
    method = build_method("mutual", config.model_copy(update={"extractor": extractor}))
    return replace(model, method=method.eval())


def test_the_choice_is_that_of_each_expression_alone() -> None:
    data, model = opened("scenes"), toy("mutual annotated")
    report = evaluate_objects(model, data, options=EvaluateOptions(limit=9))
    rows = [row for group in data.groups_by_image() for row in group][:9]
    hits = {}
    for row in rows:
        (scores,) = model.scores([as_asked(data[row], EvaluateOptions())])
        hits[data[row].key] = int(scores.argmax()) == data[row].target
    assert dict(zip(report.samples["key"], report.samples["hit"], strict=True)) == hits


@pytest.mark.parametrize(
    ("writer", "judge"), [("mutual annotated", "mutual"), ("mutual", "mutual annotated")]
)
def test_sentences_are_those_that_describe_writes(writer: str, judge: str) -> None:
    data, model, reader = seen(), toy(writer), toy(judge, seed=1)
    options: dict[str, Any] = {"beams": 2, "limit": 3, "judge": reader}
    report = evaluate_expressions(model, data, **options)
    assert report.n == 3
    row_of = {data.records.image(row).image_id: row for row in data.picture_rows()}
    for n, ann_id in enumerate(report.samples["ann_id"]):
        picture = data.picture(row_of[report.samples["image_id"][n]])
        asked = [(0, picture.objects.ann_ids.tolist().index(ann_id))]
        (found,) = describe(model, [picture], asked, beams=2)
        text = found.expressions[0].text if found.expressions else ""
        assert (report.samples["text"][n], report.samples["iou"][n]) == (text, found.iou)
        (verdict,) = refer_back(reader, [picture], asked, [text])
        assert report.samples["hit"][n] == (verdict.hit and bool(text))
    assert {OWN, HUMAN, "Rb-Acc", "unambiguous", "CIDEr"} <= set(report.metrics)
    assert ("without a proposal" in report.metrics) == (writer == "mutual")


def after_step_2(model: Model) -> Model:
    """Another generator, all else to the bit."""
    method = deepcopy(model.method)
    with torch.no_grad():
        for parameter in method.generator.parameters():
            parameter.add_(torch.randn_like(parameter))
    return replace(model, name="rewarded", method=method)


def rounded(model: Model) -> Model:
    """As a bundled model comes: through float16."""
    method = deepcopy(model.method)
    method.load_state_dict({k: v.half().to(v.dtype) for k, v in method.state_dict().items()})
    return replace(model, name="bundled", method=method)


@pytest.mark.parametrize("name", ["mutual annotated", "mutual"])
@pytest.mark.parametrize("copied", [after_step_2, rounded, lambda model: model])
def test_the_reward_s_own_head_is_no_judge(name: str, copied: Any) -> None:
    before = toy(name)
    writer = copied(before)
    for model, judge in ((writer, before), (before, writer)):
        with pytest.raises(ConfigError, match=f"{judge.name} has the same selection head as"):
            evaluate_expressions(model, seen(), judge=judge, limit=1)


def test_who_shares_a_part_of_the_head_may_judge() -> None:
    """Twin: one number changed, in the head or in what it reads words by."""
    writer = toy("mutual annotated")
    assert same_reader(writer, after_step_2(writer))
    for part in ("selection", "text"):
        judge = replace(writer, method=deepcopy(writer.method))
        with torch.no_grad():
            next(getattr(judge.method, part).parameters()).view(-1)[0] += 1
        assert not same_reader(writer, judge)
    assert not same_reader(writer, toy("mutual"))
    assert not same_reader(toy_model("vega"), toy_model("vega"))  # they do not judge at all


def test_the_oracle_bound_stands_beside_the_scores_of_masks() -> None:
    data = open_data("scenes", "val", Labels.parse("text+box+mask"))
    metrics = evaluate(toy_model("mutual"), data, limit=9).metrics
    assert 1 >= metrics["oracle"] >= metrics["mIoU"]
