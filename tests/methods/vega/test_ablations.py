"""Every switch builds, learns, and changes something: no field of the configuration is idle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.vega import VegaConfig
from refseg.models import build_method
from refseg.types import Batch
from tests.methods.ablating import changed, same_weights
from tests.methods.toy import tensors, toy_batch, toy_samples, vega_config

# A second value for every field, by path. What a field does while training only (dropout, drop
# path), to the optimiser, or to the weights at the start, is seen by `effects` below.
FLIPS: dict[str, tuple[Any, ...]] = {
    "vision.image_size": (32,),
    "vision.patch": (4,),
    "vision.width": (16,),
    "vision.depths": ((2, 1, 2, 1),),
    "vision.heads": ((2, 2, 4, 4),),
    "vision.window": (2,),
    "vision.drop_path": (0.5,),
    "vision.absolute_positions": (False,),
    "text.vocab_size": (200,),
    "text.width": (64,),
    "text.layers": (1,),
    "text.heads": (4,),
    "text.mlp_width": (32,),
    "text.max_positions": (40,),
    "text.drop": (0.3,),
    "text.frozen": ("none", "all"),
    "guidance": ("language", "enhanced", "language+visual", "visual"),
    "fusion": ("late", "none"),
    "fusion_heads": (2,),
    "gate_zero_init": (False,),
    "selection.stage": (1, 2, 3),
    "selection.ratio": (0.6,),
    "selection.method": ("sigmoid",),
    "selection.weighting": ("unmasked", "raw", "none"),
    "selection.divide_by_k": (False,),
    "selection.pre_norm": (False,),
    "selection.attention": ("all", "none"),
    "selection.cues": ("global", "local", "none"),
    "selection.element": ("topk", "all"),
    "selection.heads": (2,),
    "selection.max_tokens": (30,),
    "decoder.widths": ((32, 16, 16, 8),),
    "decoder.heads": (2,),
    "decoder.norm": ("group",),
    "decoder.mlp_ratio": (2.0,),
    "decoder.align_corners": (True,),
    "decoder.head": ("two-class",),
    "decoder.subpixel": (2,),
    "decoder.attend_finest": (False,),
    "loss.segmentation": (2.0,),
    "loss.contrastive": (0.0, 2.0),
    "loss.dice": (1.0,),
    "loss.class_weights": ((0.5, 1.5),),
    "loss.contrastive_target": ("downsample",),
    "loss.tau_init": (0.07,),
    "loss.tau_min": (0.9,),
    "loss.tau_max": (0.5,),
    "new_lr_scale": (10.0,),
    "text_lr_scale": (10.0,),
}
# Fields that act only together with others.
WITH: dict[str, dict[str, Any]] = {
    "vision.image_size": {"vision.absolute_positions": True},
    "selection.max_tokens": {"selection.cues": "none"},
    # Behind the norm the size of E changes nothing (see `test_behind_the_norm_...`).
    "selection.divide_by_k": {"selection.pre_norm": False},
    "selection.weighting": {"selection.pre_norm": False},
    "loss.class_weights": {"decoder.head": "two-class"},
    "loss.tau_min": {"loss.tau_init": 0.5},
    "loss.contrastive_target": {"selection.stage": 2},
}
CASES = [(path, value) for path, values in FLIPS.items() for value in values]


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def built(changes: Mapping[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_method("vega", changed(vega_config(), changes))


def moved(method: Any) -> Any:
    return same_weights(method, 0.1, lambda name: name.endswith("log_tau"))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return toy_batch(toy_samples(2))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_field_is_flipped() -> None:
    assert set(leaves(VegaConfig)) == set(FLIPS)


@pytest.mark.parametrize(("path", "value"), CASES, ids=[f"{p}={v}" for p, v in CASES])
def test_a_switch_trains_every_parameter(path: str, value: Any, batch: Batch) -> None:
    method = built({**WITH.get(path, {}), path: value}).train()
    terms = method.loss(method(batch), batch)
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    terms["total"].backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    listed = {id(p) for group in method.parameter_groups() for p in group.parameters}
    assert listed == {id(p) for p in trained.values()}


@pytest.mark.parametrize(("path", "value"), CASES, ids=[f"{p}={v}" for p, v in CASES])
def test_a_switch_changes_something(path: str, value: Any, batch: Batch) -> None:
    together = WITH.get(path, {})
    assert base_effects(tuple(together.items())) != effects(built({**together, path: value}), batch)


@cache
def base_effects(changes: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    return effects(built(dict(changes)), toy_batch(toy_samples(2)))


def effects(method: Any, batch: Batch) -> tuple[str, ...]:
    """All that a configuration can act on, as text: answers and loss, training, optimiser."""
    start = text_of(p for _, p in method.named_parameters())
    trained = str([n for n, p in method.named_parameters() if p.requires_grad])
    groups = str([(g.name, g.lr_scale, g.decay_scale) for g in method.parameter_groups()])
    with torch.no_grad():
        torch.manual_seed(1)
        noisy = text_of(v for _, v in tensors(method.train()(batch)))
        moved(method).eval()
        outputs = method(batch)
        answer = text_of(v for _, v in tensors(outputs))
        loss = text_of(method.loss(outputs, batch).values())
    return start, trained, groups, noisy, answer, loss


def text_of(values: Any) -> str:
    return " ".join(
        f"{tuple(v.shape)}:{float(v.detach().double().abs().sum()):.6g}" for v in values
    )


def test_the_measure_of_effects_is_steady(batch: Batch) -> None:
    """Guards the test above: without a change nothing differs."""
    assert effects(built({}), batch) == effects(built({}), batch)


ANSWERS = [
    (path, value)
    for path, value in CASES
    if path.startswith(("guidance", "selection", "decoder", "fusion"))
    and path != "selection.max_tokens"
]


@pytest.mark.parametrize(("path", "value"), ANSWERS, ids=[f"{p}={v}" for p, v in ANSWERS])
def test_an_ablation_changes_the_answer(path: str, value: Any, batch: Batch) -> None:
    """Not just the number of weights: with the shared weights equal, the mask differs."""
    probability = []
    together = WITH.get(path, {})
    for changes in (together, {**together, path: value}):
        method = moved(built(changes)).eval()
        with torch.no_grad():
            probability.append(method(batch).probability)
    one, other = probability
    if one.shape == other.shape:
        assert (one - other).abs().max() > 1e-6
    else:
        assert path == "decoder.subpixel"


@pytest.mark.parametrize(
    "changes", [{"selection.divide_by_k": False}, {"selection.weighting": "unmasked"}]
)
def test_behind_the_norm_the_size_of_e_changes_nothing(
    changes: dict[str, Any], batch: Batch
) -> None:
    """What `SelectionConfig.pre_norm` says of two of the paper's ablations."""
    with torch.no_grad():
        one, other = (moved(built(c)).eval()(batch).probability for c in ({}, changes))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("guidance", "length"),
    [
        ("language", 1),
        ("enhanced", 1),
        ("language+visual", 2),
        ("enhanced+visual", 2),
        ("visual", 1),
    ],
)
def test_what_the_decoder_hears(guidance: str, length: int, batch: Batch) -> None:
    method = built({"guidance": guidance}).eval()
    heard: list[tuple[Tensor, Tensor]] = []
    method.decoder.register_forward_hook(lambda _, args, out: heard.append((args[1], args[2])))
    with torch.no_grad():
        outputs = method(batch)
    tokens, mask = heard[0]
    words = batch.words.shape[1]
    assert tokens.shape[1] == length * words
    assert torch.equal(mask, batch.word_mask.repeat(1, length))
    raw = torch.equal(tokens[:, :words], outputs.words)
    assert raw == guidance.startswith("language")
    assert (outputs.selected is None) == ("visual" not in guidance)
    if outputs.selected is not None:
        assert torch.equal(tokens[:, -words:], outputs.selected.guidance)


def test_the_selection_works_at_any_stage(batch: Batch) -> None:
    for stage, side in zip((1, 2, 3, 4), (32, 16, 8, 4), strict=True):
        with torch.no_grad():
            outputs = built({"selection.stage": stage}).eval()(batch)
        assert outputs.selection_hw == (side, side)
        assert outputs.selected.scores.shape[-1] == side**2
        assert (outputs.selected.selected.sum(-1) == max(1, int(0.3 * side**2))).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": "visuals"},
        {"fusion": "sideways"},
        {"selection.ratio": 0.0},
        {"selection.ratio": 1.5},
        {"selection.stage": 5},
        {"decoder.subpixel": 0},
        {"loss.dice": -1.0},
        {"loss.unknown": 1},
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(vega_config(), changes)


def test_a_configuration_survives_json() -> None:
    config = vega_config(guidance="visual")
    assert VegaConfig.model_validate_json(config.model_dump_json()) == config


def test_longer_texts_than_learned_queries_are_refused_by_the_batch() -> None:
    """`cues="none"` has max_tokens queries; padding beyond them cannot be answered."""
    method = built({"selection.cues": "none", "selection.max_tokens": 3}).eval()
    long = toy_batch(toy_samples(1))
    assert long.words.shape[1] > 3
    with pytest.raises(ConfigError, match=r"5 tokens.*3 learned.*\n.*max_tokens"):
        method(long)
