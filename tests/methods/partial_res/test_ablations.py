"""Every switch builds, learns, and changes something: no field of the configuration is idle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import FusionConfig
from refseg.methods.partial_res.decode import points_of, scores_of
from refseg.methods.partial_res.sequence import targets
from refseg.nn.darknet import DarkNetVisionConfig
from refseg.nn.gru import GruTextConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.types import Batch
from tests.methods.toy import tensors, toy_batch, toy_samples
from tests.methods.toy_configs import partial_res_config, toy_text, toy_vision
from tests.methods.vega.test_ablations import text_of

Changes = Mapping[str, Any]

# The methods that are flipped: Swin and GRU for masks; the same with the other two encoders.
DARKNET = DarkNetVisionConfig(width=4, depths=(1, 1, 1, 1, 1), frozen="none")
SWIN = toy_vision(depths=(1, 1, 1, 1))
BASES = {
    "swin, gru": lambda: partial_res_config(vision=SWIN),
    "darknet": lambda: partial_res_config(
        vision=DARKNET,
        fusion=FusionConfig(strides=(8, 16, 32), grid=8, width=32, norm="group"),
    ),
    "bert": lambda: partial_res_config(vision=SWIN, text=toy_text()),
}

# A second value for every field, by path, or several.
FLIPS: dict[str, dict[str, tuple[Any, ...]]] = {
    "swin, gru": {
        "vision.image_size": (32,),
        "vision.patch": (4,),
        "vision.width": (16,),
        "vision.depths": ((2, 1, 1, 1),),
        "vision.heads": ((2, 2, 4, 4),),
        "vision.window": (2,),
        "vision.drop_path": (0.5,),
        "vision.absolute_positions": (False,),
        "text.vocab_size": (200,),
        "text.word_width": (8,),
        "text.hidden": (8,),
        "text.layers": (2,),
        "text.drop": (0.3,),
        "text.frozen_words": (True,),
        "fusion.strides": ((4, 8, 16), (2, 4, 8)),
        "fusion.grid": (4, 16),
        "fusion.width": (64,),
        "fusion.norm": ("batch",),
        "fusion.normed": (True,),
        "transformer.width": (64,),
        "transformer.heads": (2,),
        "transformer.mlp_width": (32,),
        "transformer.encoder_layers": (1,),
        "transformer.decoder_layers": (1,),
        "transformer.dropout": (0.3,),
        "transformer.predictor": (1,),
        "transformer.placed": (True,),
        "task": ("rec", "multi"),
        "task_token": ("zero",),  # "task-wise" goes with "multi" alone
        "sequence.points": (8,),
        "sequence.bins": (64,),
        "sequence.contour": ("stride", "rays"),
        "sequence.bin_centre": (False,),
        "sequence.shuffle": (1.0,),
        "sequence.sines": (True,),
        "sequence.jitter": (3.0,),
        "sequence.constrained": (False,),
        "cctf": ("swapped", "off"),
        "pmca.on": (False,),
        "pmca.scale": (1.0,),
        "pmca.noise": (0.1,),
        "language_token": (False,),
        "loss.smoothing": (0.0,),
        "loss.spread": (2.0,),
        "loss.end": (1.0,),
        "loss.first": (3.0,),
        "loss.normalise": ("weights",),
        "loss.inside": (1.0,),
        "freeze_vision": (True,),
        "vision_lr_scale": (0.1,),
        "text_lr_scale": (0.1,),
    },
    "darknet": {
        "vision.width": (8,),
        "vision.depths": ((1, 2, 1, 1, 1),),
        "vision.neck": (False,),
        "vision.frozen": ("all", "all but neck end"),
    },
    "bert": {
        "text.vocab_size": (200,),
        "text.width": (64,),
        "text.layers": (1,),
        "text.heads": (4,),
        "text.mlp_width": (32,),
        "text.max_positions": (40,),
        "text.drop": (0.3,),
        "text.frozen": ("none", "all"),
    },
}
# Fields that act only where another has this value, before and after.
REC = {"task": "rec", "task_token": "zero"}
WITH: dict[str, Changes] = {
    "loss.first": REC,
    "loss.inside": REC,
    "vision.patch": {"fusion.strides": (8, 16), "fusion.grid": 8},
}
# Values that others have to follow.
ALSO: dict[tuple[str, Any], Changes] = {("task", "multi"): {"task_token": "task-wise"}}


@dataclass(frozen=True)
class Case:
    """One field's second value. together: what is changed in both of the methods compared."""

    base: str
    path: str
    value: Any
    together: Changes = field(default_factory=dict)

    @property
    def changes(self) -> Changes:
        also = ALSO.get((self.path, self.value), {})
        return {**self.together, **also, self.path: self.value}

    def __str__(self) -> str:
        return f"{self.base}: {self.path}={self.value}"


CASES = [
    Case(base, path, value, WITH.get(path, {}) if base == "swin, gru" else {})
    for base, flips in FLIPS.items()
    for path, values in flips.items()
    for value in values
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, found in model.model_fields.items():
        kind = found.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        elif name not in ("kind", "vision", "text"):  # the encoders are what the bases are about
            yield prefix + name


def test_every_field_is_flipped() -> None:
    encoders = leaves(SwinVisionConfig, "vision."), leaves(GruTextConfig, "text.")
    assert set(FLIPS["swin, gru"]) == set(leaves(PartialResConfig)).union(*encoders)
    assert set(FLIPS["darknet"]) == set(leaves(DarkNetVisionConfig, "vision."))
    assert set(FLIPS["bert"]) == set(leaves(BertTextConfig, "text."))


def test_every_value_of_a_choice_is_tried() -> None:
    """Of fields with a few values, all are the base's or a flip's; of the tokens one by ALSO."""
    fields = PartialResConfig.model_fields
    tried = {"task": ["res"], "task_token": ["learnable", "task-wise"], "cctf": ["intended"]}
    for name, known in tried.items():
        choices = fields[name].annotation.__args__  # type: ignore[union-attr]
        assert sorted([*known, *FLIPS["swin, gru"][name]]) == sorted(choices)


def built(base: str, changes: Changes) -> PartialRes:
    data = BASES[base]().model_dump()
    for path, value in changes.items():
        *parents, name = path.split(".")
        inner = data
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    torch.manual_seed(0)
    return PartialRes(PartialResConfig.model_validate(data))


def same_weights(method: PartialRes) -> PartialRes:
    """Every weight drawn from its own name, so that equal modules are equal in two configs.

    What PMCA's scales start from is kept: a field says it.
    """
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.endswith("modulation.mlp.4.bias"):
                continue
            seed = sum(i * ord(c) for i, c in enumerate(name, 1))
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            ones = parameter.ndim == 1 and name.endswith("weight")  # a norm's
            parameter.copy_(0.2 * drawn + ones)
    return method


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Effects:
    """All that a configuration can act on: as text what is compared, and what is looked into.

    start: its first weights. learned: which of them are trained, in which groups. noisy: the loss
    and the gradients while training. answer, loss, written: with weights by their names, the
    outputs, the loss terms, and what is decoded where END is likelier than anything. ungraded:
    weights without a gradient. logits: what is asked for next behind the true coordinates.
    """

    start: str
    learned: str
    noisy: str
    answer: str
    loss: str
    written: str
    finite: bool = field(compare=False)
    ungraded: tuple[str, ...] = field(compare=False)
    logits: Tensor = field(compare=False)

    def differ(self, other: Effects) -> set[str]:
        names = ("start", "learned", "noisy", "answer", "loss", "written")
        return {name for name in names if getattr(self, name) != getattr(other, name)}


def effects(base: str, changes: Changes) -> Effects:
    return kept_effects(base, tuple(sorted(changes.items())))


@cache
def kept_effects(base: str, changes: tuple[tuple[str, Any], ...]) -> Effects:
    return measured(built(base, dict(changes)))


def measured(method: PartialRes) -> Effects:
    batch = toy_batch(toy_samples(1))
    start = text_of(method.parameters())
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    groups = method.parameter_groups()  # raises where these are not all of the trained ones
    learned = str([*trained, [(g.name, g.lr_scale, g.decay_scale) for g in groups]])
    torch.manual_seed(1)
    terms = method.train().loss(method(batch), batch)
    terms["total"].backward()
    graded = {n: p.grad for n, p in trained.items() if p.grad is not None}
    finite = all(bool(value.isfinite().all()) for value in (*terms.values(), *graded.values()))
    with torch.no_grad():
        outputs = same_weights(method).eval()(batch)
        tokens = targets(batch, method.config).tokens
        return Effects(
            start,
            learned,
            text_of([*terms.values(), *graded.values()]),
            text_of(v for _, v in tensors(outputs)),
            text_of(method.loss(outputs, batch).values()),
            written(method, outputs, batch),
            finite,
            tuple(trained.keys() - graded.keys()),
            method.decoder(outputs.memory, outputs.grid, tokens),
        )


def written(method: PartialRes, outputs: Any, batch: Batch) -> str:
    """The points and scores; END may come as soon as it is allowed to."""
    method.decoder.predictor[-1].bias[-1] += 1e3
    found = method.coordinates(outputs)
    method.decoder.predictor[-1].bias[-1] -= 1e3
    rows = zip(found.tokens.numpy(), batch.geometry, strict=True)
    points = [torch.from_numpy(points_of(row, method.config, one)) for row, one in rows]
    return text_of([*points, torch.from_numpy(scores_of(found, method.config))])


@every_case
def test_a_switch_trains_every_parameter(case: Case) -> None:
    found = effects(case.base, case.changes)
    assert found.finite
    assert found.ungraded == ()


@every_case
def test_a_switch_changes_something(case: Case) -> None:
    assert effects(case.base, case.together).differ(effects(case.base, case.changes))


@pytest.mark.parametrize("base", BASES)
def test_the_measure_of_effects_is_steady(base: str) -> None:
    """Guards the test above: without a change nothing differs."""
    assert measured(built(base, {})) == effects(base, {})


# -- what an ablation acts on --------------------------------------------------------------------

#: Fields that act in the loss or in decoding, at the start, while training, or in the optimiser.
ELSEWHERE = {
    "loss", "sequence", "task", "pmca.noise", "freeze_vision", "vision_lr_scale", "text_lr_scale",
    "transformer.dropout", "text.drop", "text.frozen", "text.frozen_words", "vision.drop_path",
    "text.vocab_size", "text.max_positions", "vision.frozen",
}  # fmt: skip
ANSWERS = [c for c in CASES if not {c.path, c.path.split(".")[0]} & ELSEWHERE]


@pytest.mark.parametrize("case", ANSWERS, ids=str)
def test_an_ablation_changes_the_answer(case: Case) -> None:
    """Not just the number of weights: with the shared weights equal, the next tokens differ."""
    one = effects(case.base, case.together).logits
    other = effects(case.base, case.changes).logits
    assert one.shape == other.shape
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("base", "together", "changes", "differ"),
    [
        # What decoding alone does, and the optimiser, and training.
        ("swin, gru", {}, {"sequence.bin_centre": False}, "written"),
        ("swin, gru", {}, {"sequence.constrained": False}, "written"),
        ("swin, gru", {}, {"sequence.shuffle": 1.0}, "noisy"),
        ("swin, gru", {}, {"sequence.jitter": 3.0}, "noisy"),
        ("swin, gru", REC, {"sequence.jitter": 3.0}, ""),
        ("swin, gru", {}, {"transformer.dropout": 0.3}, "noisy"),
        ("swin, gru", {}, {"vision_lr_scale": 0.1}, "learned"),
        ("swin, gru", {}, {"loss.smoothing": 0.0}, "noisy loss"),
        ("swin, gru", {}, {"sequence.contour": "rays"}, "noisy loss"),
        ("swin, gru", {}, {"sequence.sines": True}, "start noisy"),
        # What fields say that they are for: elsewhere they do nothing, hence `WITH`.
        ("swin, gru", {}, {"loss.first": 3.0}, ""),
        ("swin, gru", {}, {"loss.inside": 1.0}, ""),
        ("swin, gru", REC, {"loss.end": 1.0}, ""),
        ("swin, gru", REC, {"sequence.contour": "stride"}, ""),
        ("swin, gru", REC, {"sequence.constrained": False}, ""),
        ("swin, gru", {"pmca.on": False}, {"pmca.scale": 1.0, "pmca.noise": 0.1}, ""),
        ("darknet", {}, {"freeze_vision": True}, ""),
    ],
    ids=str,
)
def test_where_a_field_acts(base: str, together: Changes, changes: Changes, differ: str) -> None:
    assert effects(base, together).differ(effects(base, {**together, **changes})) == set(
        differ.split()
    )


def test_seqtr_is_all_switches_off() -> None:
    """`seqtr` is what the ablations of Partial-RES are, together, and has no weight of theirs."""
    off = {"task_token": "zero", "cctf": "off", "pmca.on": False, "language_token": False}
    method, whole = built("swin, gru", off), built("swin, gru", {})
    assert method.config == whole.config.seqtr("res")
    own, left = (dict(one.named_parameters()).keys() for one in (whole, method))
    assert {n for n in own - left if ".modulation." not in n} == {"decoder.task"}
    assert left < own
