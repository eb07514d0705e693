"""RES begins from REC: what is taken, what begins anew, and refusals that change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.errors import ModelError
from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import (
    FusionConfig,
    LossConfig,
    SequenceConfig,
    TransformerConfig,
)
from refseg.nn.gru import GruTextConfig
from tests.methods.toy import losses, toy_batch, toy_samples
from tests.methods.toy_configs import partial_res_config, toy_text

POSITIONS = "decoder.positions.weight"
NEW = {"decoder.task"} | {
    f"decoder.layers.{layer}.modulation.mlp.{place}.{kind}"
    for layer in range(2)
    for place in (0, 2, 4)
    for kind in ("weight", "bias")
}


def method(config: PartialResConfig, seed: int = 0) -> PartialRes:
    torch.manual_seed(seed)
    return PartialRes(config).eval()


def res(points: int = 12, **changes: Any) -> PartialResConfig:
    return partial_res_config(sequence=SequenceConfig(points=points), **changes)


def kept(model: PartialRes) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_res_takes_all_of_rec_but_its_positions() -> None:
    rec, ours = method(res().seqtr("rec"), seed=1), method(res(), seed=2)
    before, state = kept(ours), kept(rec)
    taken = ours.take_over(state, "the REC model")
    after = ours.state_dict()
    assert state.keys() == after.keys() - NEW
    assert taken.taken == len(state) - 1
    assert set(taken.anew) == NEW
    assert taken.left == ()
    assert taken.replaced == (5, 25)
    for name, value in after.items():
        expected = before if name in NEW or name == POSITIONS else state
        assert torch.equal(value, expected[name]), name
    assert_same(state, kept(rec))  # the other model is left alone


def test_what_was_taken_is_told() -> None:
    ours = method(res())
    told = ours.take_over(kept(method(res().seqtr("rec"))), "the REC model").told()
    assert "position table begun anew (5 -> 25 rows)" in told
    assert "new here: decoder.layers.0.modulation.mlp.0.bias" in told
    assert "and 9 more" in told
    assert "left behind" not in told
    back = method(res().seqtr("rec")).take_over(kept(method(res())), "the RES model")
    assert set(back.left) == NEW
    assert back.anew == ()
    assert back.replaced == (25, 5)
    assert "left behind: decoder.layers.0.modulation.mlp.0.bias" in back.told()


def test_another_number_of_points_begins_its_positions_anew() -> None:
    twelve, eighteen = method(res(12), seed=1), method(res(18), seed=2)
    before, state = kept(eighteen), kept(twelve)
    taken = eighteen.take_over(state, "12 points")
    assert taken.replaced == (25, 37)
    assert taken.anew == taken.left == ()
    assert torch.equal(eighteen.state_dict()[POSITIONS], before[POSITIONS])
    assert_same(state | {POSITIONS: before[POSITIONS]}, kept(eighteen))


def test_the_same_task_and_length_take_the_positions_too() -> None:
    one, other = method(res(), seed=1), method(res(), seed=2)
    taken = other.take_over(kept(one), "the same")
    assert taken.replaced is None
    assert taken.anew == taken.left == ()
    assert taken.taken == len(one.state_dict())
    assert_same(kept(one), kept(other))
    assert taken.told() == f"{taken.taken} tensors taken"
    batch = toy_batch(toy_samples(1))
    with torch.no_grad():
        assert torch.equal(losses(one, batch)["total"], losses(other, batch)["total"])


def test_rec_has_the_same_positions_whatever_the_points() -> None:
    one = method(res(12).seqtr("rec"), seed=1)
    taken = method(res(18).seqtr("rec"), seed=2).take_over(kept(one), "REC")
    assert taken.replaced is None


def test_the_learned_pair_of_both_tasks_begins_anew() -> None:
    both = partial_res_config(task="multi", task_token="task-wise")
    ours = method(both, seed=2)
    before = kept(ours)
    taken = ours.take_over(kept(method(res(), seed=1)), "RES")
    assert "decoder.task" in taken.anew  # two of them, not one
    assert taken.replaced == (25, 30)
    assert torch.equal(ours.state_dict()["decoder.task"], before["decoder.task"])


def test_the_question_to_cells_stays_with_rec() -> None:
    asking = partial_res_config(loss=LossConfig(inside=1.0))
    rec = method(asking.seqtr("rec"), seed=1)
    taken = method(asking, seed=2).take_over(kept(rec), "REC")
    assert taken.left == ("inside.bias", "inside.weight")
    assert set(taken.anew) == NEW
    plain = kept(method(res().seqtr("rec"), seed=3))
    assert method(asking.seqtr("rec")).take_over(plain, "REC").anew == taken.left


def other(**changes: Any) -> PartialResConfig:
    return res(**changes).seqtr("rec")


REFUSED: dict[str, tuple[PartialResConfig, str]] = {
    "the transformer's width": (
        other(
            transformer=TransformerConfig(
                width=64, heads=4, mlp_width=64, encoder_layers=2, decoder_layers=2, dropout=0.0
            )
        ),
        "of another shape",
    ),
    "the fusion's width": (
        other(fusion=FusionConfig(strides=(2, 4, 8, 16), grid=8, width=48, norm="group")),
        "of another shape",
    ),
    "bins": (
        res().model_copy(update={"sequence": SequenceConfig(bins=500)}).seqtr("rec"),
        r"of another shape: decoder.coordinates.weight, decoder.predictor.4.bias",
    ),
    "more layers": (
        other(
            transformer=TransformerConfig(
                width=32, heads=4, mlp_width=64, encoder_layers=3, decoder_layers=2, dropout=0.0
            )
        ),
        r"unknown: encoder.2.attention",
    ),
    "words": (
        other(text=GruTextConfig(vocab_size=9, word_width=16, hidden=16)),
        r"of another shape: text.words.weight",
    ),
    "another text encoder": (other(text=toy_text()), r"missing: text.gru"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_sizes_are_refused_and_change_nothing(what: str) -> None:
    config, told = REFUSED[what]
    ours = method(res(), seed=2)
    before = kept(ours)
    with pytest.raises(ModelError, match=told) as caught:
        ours.take_over(kept(method(config, seed=1)), "runs/other")
    assert str(caught.value).startswith("runs/other is no start for this model")
    assert caught.value.remedy is not None
    assert "sequence.bins" in caught.value.remedy
    assert_same(before, kept(ours))


@pytest.mark.parametrize(
    "name",
    [
        "levels.backbone.swin.embeddings.patch_embeddings.projection.weight",
        "fuse.join.1.weight",
        "decoder.norm.weight",
        POSITIONS,
    ],
)
def test_a_missing_part_is_refused_and_changes_nothing(name: str) -> None:
    ours = method(res(), seed=2)
    before, state = kept(ours), kept(method(res().seqtr("rec"), seed=1))
    del state[name]
    with pytest.raises(ModelError, match="missing: " + name.replace(".", r"\.")):
        ours.take_over(state, "half a model")
    assert_same(before, kept(ours))


def test_an_unknown_part_is_refused_and_changes_nothing() -> None:
    ours = method(res(), seed=2)
    before, state = kept(ours), kept(method(res().seqtr("rec"), seed=1))
    state["head.weight"] = torch.zeros(3)
    with pytest.raises(ModelError, match=r"unknown: head\.weight"):
        ours.take_over(state, "another method")
    assert_same(before, kept(ours))


def test_positions_of_another_width_are_refused() -> None:
    ours = method(res(), seed=2)
    before, state = kept(ours), kept(method(res().seqtr("rec"), seed=1))
    state[POSITIONS] = torch.zeros(5, 48)
    with pytest.raises(ModelError, match=r"of another shape: decoder\.positions"):
        ours.take_over(state, "another width")
    assert_same(before, kept(ours))
