"""Every switch builds, learns, and changes something: no field of the configuration is idle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from refseg.data.collate import collate
from refseg.methods.sag import Sag, SagConfig
from refseg.methods.sag.decode import relevance
from refseg.types import Batch
from tests.methods.ablating import changed, same_weights
from tests.methods.sag.toys import sag_config
from tests.methods.toy import answers, preprocess, tensors, toy_samples, toy_tokenizer

# A second value for every field, by path.
FLIPS: dict[str, tuple[Any, ...]] = {
    "vision.image_size": (32,),
    "vision.patch": (16,),
    "vision.width": (16,),
    "vision.layers": (1,),
    "vision.heads": (4,),
    "vision.mlp_width": (32,),
    "vision.drop_path": (0.5,),
    "text.vocab_size": (200,),
    "text.width": (64,),
    "text.layers": (1,),
    "text.heads": (4,),
    "text.mlp_width": (32,),
    "text.max_positions": (40,),
    "text.drop": (0.3,),
    "text.frozen": ("embeddings", "all"),
    "width": (24,),
    "discovery": (False,),
    "slots.kind": ("random", "query"),
    "slots.groups": (2,),
    "slots.per_group": (3,),
    "slots.iterations": (1, 5),
    "slots.apart": (1.0,),
    "slots.heads": (4,),
    "slots.head_width": (8,),
    "slots.mlp_factor": (1.0,),
    "slots.over": ("patches",),
    "slots.interaction": (False,),
    "slots.interaction_heads": (4,),
    "slots.drop": (0.3,),
    "fusion.kind": ("none",),
    "fusion.heads": (4,),
    "fusion.head_width": (8,),
    "fusion.mlp_factor": (1.0,),
    "fusion.drop": (0.3,),
    "reconstruction.weight": (0.0, 2.0),
    "reconstruction.position": ("learned",),
    "reconstruction.layers": (2, 4),
    "reconstruction.width": (20,),
    "reconstruction.share": (0.3,),
    "loss.temperature": (0.5,),
    "loss.others": ("all",),
    "answer.scheme": ("max", "min"),
    "answer.threshold": (0.6,),
    "answer.draws": (3,),
    "answer.seed": (1,),
    "answer.crf": ("lattice",),
    "answer.crf_settings": ("rmi",),
    "answer.crf_scale": (0.5,),
    "vision_lr_scale": (0.1,),
}
# Fields that act only together with others.
WITH: dict[str, dict[str, Any]] = {
    "answer.crf_settings": {"answer.crf": "lattice"},
    "answer.crf_scale": {"answer.crf": "lattice"},
}
CASES = [(path, value) for path, values in FLIPS.items() for value in values]
each_switch = pytest.mark.parametrize(("path", "value"), CASES, ids=[f"{p}={v}" for p, v in CASES])


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        elif name != "kind" or prefix != "vision.":  # a constant
            yield prefix + name


def built(changes: Mapping[str, Any]) -> Sag:
    torch.manual_seed(0)
    return Sag(changed(sag_config(), changes))


@cache
def batch() -> Batch:
    """Four sentences, an image each (two and two alike), with the images in px beside."""
    return collate(toy_samples(2), toy_tokenizer(), preprocess(), originals=True)


def test_every_field_is_flipped() -> None:
    assert set(leaves(SagConfig)) == set(FLIPS)


@each_switch
def test_a_switch_trains_every_parameter(path: str, value: Any) -> None:
    method = built({**WITH.get(path, {}), path: value}).train()
    terms = method.loss(method(batch()), batch())
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    terms["total"].backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    listed = {id(p) for group in method.parameter_groups() for p in group.parameters}
    assert listed == {id(p) for p in trained.values()}


@each_switch
def test_a_switch_changes_something(path: str, value: Any) -> None:
    together = WITH.get(path, {})
    assert base_effects(tuple(together.items())) != effects(built({**together, path: value}))


@cache
def base_effects(changes: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    return effects(built(dict(changes)))


def effects(method: Sag) -> tuple[str, ...]:
    """All that a configuration can act on, as text: start, answers, training, optimiser."""
    start = text_of(p for _, p in method.named_parameters())
    trained = str([n for n, p in method.named_parameters() if p.requires_grad])
    groups = str([(g.name, g.lr_scale, g.decay_scale) for g in method.parameter_groups()])
    with torch.no_grad():
        torch.manual_seed(1)
        outputs = method.train()(batch())
        noisy = text_of(v for _, v in tensors(outputs))
        noisy += text_of(method.loss(outputs, batch()).values())
        same_weights(method, 0.2).eval()
        outputs = method(batch())
        answer = text_of(v for _, v in tensors(outputs))
        loss = text_of(method.loss(outputs, batch()).values())
    masks = str([int(p.mask.sum()) for p in answers(method, batch())])
    return start, trained, groups, noisy, answer, loss, masks


def text_of(values: Any) -> str:
    return " ".join(
        f"{tuple(v.shape)}:{float(v.detach().double().abs().sum()):.6g}" for v in values
    )


def test_the_measure_of_effects_is_steady() -> None:
    """Guards the test above: without a change nothing differs."""
    assert effects(built({})) == effects(built({}))


ANSWERS = [
    ("discovery", False), ("slots.kind", "random"), ("slots.kind", "query"), ("slots.groups", 2),
    ("slots.iterations", 1), ("slots.over", "patches"), ("slots.interaction", False),
    ("fusion.kind", "none"), ("answer.draws", 3), ("answer.seed", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), ANSWERS, ids=[f"{p}={v}" for p, v in ANSWERS])
@torch.no_grad()
def test_an_ablation_changes_the_map(path: str, value: Any) -> None:
    """Not just the number of weights: with the shared weights equal, M differs."""
    one, other = (
        relevance(same_weights(built(changes), 0.2).eval()(batch()), "sum")
        for changes in ({}, {path: value})
    )
    assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_what_the_ablations_leave_out_is_not_built() -> None:
    def parts(**changes: Any) -> set[str]:
        return {n.split(".")[0] for n, _ in built(changes).named_parameters()}

    whole = parts()
    assert whole - parts(discovery=False) == {"discover", "decoder"}
    assert whole - parts(**{"reconstruction.weight": 0.0}) == {"decoder"}
    assert whole - parts(**{"fusion.kind": "none"}) == {"fusion"}
    assert built({"slots.interaction": False}).discover.interact is None  # type: ignore[union-attr]


@torch.no_grad()
def test_without_discovery_m_is_the_relevance_of_patches() -> None:
    method = same_weights(built({"discovery": False}), 0.2).eval()
    outputs = method(batch())
    assert outputs.attention is None
    assert outputs.fuse.shape == (4, 1, 64)
    assert torch.equal(relevance(outputs, "sum").flatten(1), outputs.fuse[:, 0])
    assert set(method.loss(outputs, batch())) == {"contrast", "total"}
    assert all(p.maps == {} for p in answers(method, batch()))


def test_without_fusion_the_sentence_learns_as_the_target() -> None:
    method = built({"fusion.kind": "none"}).train()
    method.loss(method(batch()), batch())["contrast"].backward()
    assert method.project_sentences.weight.grad is not None
    assert method.project_sentences.weight.grad.abs().max() > 0
