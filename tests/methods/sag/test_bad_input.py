"""Small, odd and wrong input: what is answered, and what is refused by name and remedy."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from refseg.errors import ConfigError, ModelError
from refseg.methods.sag import Sag, SagConfig
from refseg.methods.sag.config import (
    AnswerConfig,
    LossConfig,
    ReconstructionConfig,
    SlotsConfig,
)
from refseg.methods.sag.slots import FirstSlots
from refseg.nn.weights import load_hub_part
from tests.methods.sag.toys import made, sag_config, slots_config, toy_vit
from tests.methods.toy import SIDE, answers, toy_batch, toy_samples


def config(**changes: Any) -> SagConfig:
    """Validated, unlike `model_copy`."""
    return SagConfig.model_validate({**sag_config().model_dump(), **changes})


# -- small -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", ["all", "distinct"])
def test_one_pair_in_a_batch_has_nothing_to_be_told_apart_from(others: str) -> None:
    loss = LossConfig.model_validate({"others": others})
    method, batch = made(sag_config(loss=loss)), toy_batch(toy_samples(1)[:1])
    terms = method.loss(method(batch), batch)
    assert float(terms["contrast"].detach()) == 0
    assert float(terms["reconstruction"]) > 0
    terms["total"].backward()
    assert all(
        bool(torch.isfinite(p.grad).all()) for p in method.parameters() if p.grad is not None
    )


def test_the_same_pair_twice() -> None:
    one = toy_samples(1)[:1]
    for others, expected in (("all", math.log(2)), ("distinct", 0.0)):
        method = made(sag_config(loss=LossConfig.model_validate({"others": others})))
        batch = toy_batch(one * 2)
        contrast = float(method.loss(method(batch), batch)["contrast"])
        assert contrast == pytest.approx(expected, abs=1e-4)


def test_one_patch_says_nothing_about_where() -> None:
    method = made(sag_config(vision=toy_vit(patch=SIDE)))
    batch = toy_batch(toy_samples(2, ((37, 91), (80, 53))))
    terms = method.loss(method(batch), batch)
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    for prediction in answers(method, batch):
        assert not prediction.mask.any()
        assert prediction.score == 0
        assert not prediction.empty
        assert prediction.response is not None
        assert prediction.response.shape == (1, 1)


@pytest.mark.parametrize("kind", ["entity", "random", "query"])
def test_one_slot_holds_everything(kind: str) -> None:
    slots = slots_config(kind=kind, groups=1, per_group=1)
    method, batch = made(sag_config(slots=slots)), toy_batch(toy_samples(2))
    with torch.no_grad():
        outputs = method(batch)
    assert outputs.attention is not None
    torch.testing.assert_close(outputs.attention, torch.ones(4, 1, 1, 64))
    terms = method.loss(method(batch), batch)
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    assert not any(p.mask.any() for p in answers(method, batch))


# -- refused ---------------------------------------------------------------------------------------


def test_slots_that_are_not_groups_of_equal_size() -> None:
    first = FirstSlots(SlotsConfig(groups=18, per_group=2), 8)
    with pytest.raises(ConfigError, match="35 slots, but 18 groups of 2 are 36") as caught:
        first(torch.zeros(1, 1, 35, 8))
    assert "slots.per_group" in caught.value.remedy
    method = made()
    assert method.discover is not None
    looked = method.discover.aggregate.look(torch.zeros(1, 4, 32))
    with pytest.raises(ConfigError, match="7 slots"):
        method.discover.shatter(torch.zeros(1, 1, 7, 32), looked)
    with pytest.raises(ValidationError, match="count"):
        SlotsConfig.model_validate({"groups": 18, "per_group": 2, "count": 35})


def test_a_sentence_longer_than_bert_takes() -> None:
    method, batch = made(), toy_batch(toy_samples(1))
    assert method.word_limits == {"text.max_positions": 32}
    long = replace(
        batch, words=torch.ones(2, 33, dtype=torch.int64), word_mask=torch.ones(2, 33).bool()
    )
    with pytest.raises(ConfigError, match=r"33 tokens, but text\.max_positions is 32") as caught:
        method(long)
    assert "tokens.max_words" in caught.value.remedy


def test_images_that_are_no_whole_patches() -> None:
    method, batch = made(), toy_batch(toy_samples(1))
    for side in (60, 4):
        small = replace(batch, images=batch.images[..., :side, :side])
        with pytest.raises(ConfigError, match="patches of 8 px") as caught:
            method(small)
        assert "preprocess.size" in caught.value.remedy


def test_more_patches_than_learned_positions_know() -> None:
    part = ReconstructionConfig(layers=2, width=8, position="learned")
    method = made(sag_config(vision=toy_vit(patch=1, image_size=64), reconstruction=part))
    assert method.decoder is not None
    with pytest.raises(ConfigError, match="64 x 64 patches, but learned positions know 50"):
        method.decoder(torch.zeros(1, 2, 32), (64, 64))
    method.decoder(torch.zeros(1, 2, 32), (50, 50))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 30}, "width is 30"),
        ({"width": 36, "slots": {"interaction_heads": 5}}, "slots.interaction_heads"),
        ({"text": {"width": 30, "heads": 4}}, "text.heads"),
        ({"vision": {"width": 30, "heads": 4}}, "vision.heads"),
        ({"vision": {"image_size": 65, "patch": 8, "width": 8, "heads": 2}}, "whole number"),
        ({"discovery": False, "answer": {"scheme": "max"}}, "without discovery"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config(**changes)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": {"kind": "entities"}},
        {"slots": {"groups": 0}},
        {"slots": {"iterations": 0}},
        {"slots": {"over": "heads"}},
        {"answer": {"threshold": 0.0}},
        {"answer": {"threshold": 1.0}},
        {"answer": {"scheme": "mean"}},
        {"answer": {"draws": 0}},
        {"loss": {"temperature": 0.0}},
        {"reconstruction": {"weight": -1.0}},
        {"reconstruction": {"share": 0.0}},
        {"reconstruction": {"layers": 1}},
        {"vision_lr_scale": 0.0},
        {"unknown": 1},
    ],
)
def test_wrong_values(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)


def test_a_crf_without_the_image() -> None:
    method = made(sag_config(answer=AnswerConfig(crf="lattice")))
    assert method.wants_originals
    assert not made().wants_originals
    with pytest.raises(ConfigError, match="lattice") as caught:
        answers(method, toy_batch(toy_samples(1)))
    assert "Model.batch" in caught.value.remedy


def test_absent_or_other_weights_are_refused_and_change_nothing(tmp_path: Path) -> None:
    """Nothing ever starts from random weights in silence."""
    method = made()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    module, prefix = method.hub_parts()["vision"]
    with pytest.raises(ModelError, match="no weights"):
        load_hub_part(module, str(tmp_path), prefix=prefix)
    with pytest.raises(ModelError, match="no folder"):
        load_hub_part(module, str(tmp_path / "absent"), prefix=prefix)
    other = Sag(sag_config(vision=toy_vit(image_size=32)))
    other.vision.vit.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="position_embeddings"):
        load_hub_part(module, str(tmp_path / "other"), prefix=prefix)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_image_of_one_colour_gives_what_it_gives_without_failing() -> None:
    sample = toy_samples(1)[0]
    grey = replace(sample, image=np.full_like(sample.image, 118), mask=None, objects=None)
    method, batch = made(), toy_batch([grey])
    assert all(bool(torch.isfinite(v)) for v in method.loss(method(batch), batch).values())
    assert answers(method, batch)[0].mask.shape == sample.image.shape[:2]


def test_a_configuration_survives_json() -> None:
    for one in (SagConfig(), SagConfig().released()):
        assert SagConfig.model_validate_json(one.model_dump_json()) == one
