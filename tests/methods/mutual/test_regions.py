"""A region is found by its shape; categories count in the losses alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refseg.describe import describe, refer_back
from refseg.errors import DataError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import MatchingConfig
from refseg.methods.mutual.loss import selection_loss
from refseg.methods.mutual.meant import chosen_objects
from refseg.models import Model
from refseg.types import Picture
from tests.methods.toy import losses, toy_batch, toy_model, toy_samples
from tests.methods.toy_configs import mask2former_config, mutual_config

ASKED = ((0, 0), (0, 1), (1, 0), (1, 1))
SAID = ["red disc", "left square", "blue disc", "disc"]


def model_of() -> Model:
    """One to which categories are all that matters where it knows them."""
    torch.manual_seed(2)
    matching = MatchingConfig(class_cost=1e4)
    method = Mutual(mutual_config(mask2former_config(matching=matching)))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return replace(toy_model("mutual"), method=method.eval())


def pictures(categories: tuple[str, ...] | str | None = "as they are") -> list[Picture]:
    found = [Picture(s.image_id, s.image, s.objects) for s in toy_samples(2)[::2]]
    if categories == "as they are":
        return found
    told = [replace(one.objects, categories=categories) for one in found if one.objects]  # type: ignore[arg-type]
    return [replace(one, objects=o) for one, o in zip(found, told, strict=True)]


@pytest.mark.parametrize("categories", [None, ("disc", "disc"), ("dragon", "")])
def test_what_is_told_of_categories_changes_no_answer(categories: tuple[str, ...] | None) -> None:
    """Whether the data grant them or not, and whether or not the model knows them."""
    model = model_of()
    expected = describe(model, pictures(), ASKED, beams=2, verify=True)
    assert describe(model, pictures(categories), ASKED, beams=2, verify=True) == expected
    verdicts = refer_back(model, pictures(), ASKED, SAID)
    assert refer_back(model, pictures(categories), ASKED, SAID) == verdicts


def test_a_region_is_matched_by_its_shape_and_a_lesson_by_its_class_too() -> None:
    model = model_of()
    method, batch = model.method, toy_batch(toy_samples(2), share_images=True)
    with torch.no_grad():
        outputs = method(batch)
        by_shape = method.match(outputs.proposals, batch, by_class=False)
        by_class = method.match(outputs.proposals, batch)
    assert not torch.equal(by_shape.proposal, by_class.proposal)
    found = describe(model, pictures(), ASKED, beams=1)
    assert [one.proposal for one in found] == by_shape.proposal.flatten().tolist()

    selection = [
        float(selection_loss(outputs.scores, *chosen_objects(one, batch), batch.weights))
        for one in (by_class, by_shape)
    ]
    assert selection[0] != pytest.approx(selection[1])
    with torch.no_grad():
        assert float(losses(method, batch)["selection"]) == pytest.approx(selection[0])


def test_an_unknown_category_stops_a_lesson_and_no_answer() -> None:
    method, batch = model_of().method, toy_batch(toy_samples(2), share_images=True)
    assert batch.objects is not None
    strange = replace(batch, objects=replace(batch.objects, categories=(("dragon", "disc"),) * 2))
    with torch.no_grad():
        proposals = method.propose(strange)
        with pytest.raises(DataError, match="dragon"):
            method.match(proposals, strange)
        assert (method.match(proposals, strange, by_class=False).proposal >= 0).all()
