"""A batch cut over processes teaches what the whole one teaches, whatever the slices hold."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refseg.methods.mutual import Mutual, mask_loss, slices
from refseg.methods.mutual.config import PointConfig, PolicyConfig
from refseg.methods.mutual.disambiguation import Disambiguation, Rollout, Texts
from refseg.methods.mutual.pretraining import ProposalLearner
from refseg.methods.mutual.slices import fair
from refseg.types import Batch, Sample
from tests.methods.mutual.toy import shaken
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config

PIECES = ((0, 1), (2,), (3,))  # an image each, of two, two and one masks; weights differ


def samples() -> list[Sample]:
    """Four expressions about three images; the last has one object, its sentence is a model's."""
    told = toy_samples(3)[:5]
    told[0] = replace(told[0], text="the one on my far side please")
    objects = told[4].objects
    assert objects is not None
    assert objects.masks is not None
    lone = replace(objects, masks=(objects.masks[0], None))
    return [*told[:3], replace(told[4], objects=lone, pseudo=True, weight=0.1)]


def batch_of(rows: tuple[int, ...]) -> Batch:
    return toy_batch([samples()[row] for row in rows], share_images=True)


@pytest.fixture(autouse=True)
def the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks' losses look at random points, which slices draw anew."""

    def spread(logits: Tensor, config: PointConfig) -> Tensor:
        drawn = torch.rand(config.points, 2, generator=torch.Generator().manual_seed(0))
        return drawn.expand(len(logits), -1, -1)

    monkeypatch.setattr(mask_loss, "uncertain_points", spread)


def taught(learner: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Loss terms, and gradients of the total."""
    learner.zero_grad()
    terms: dict[str, Tensor] = learner.loss(learner(batch), batch)  # type: ignore[operator]
    terms["total"].backward()
    found = {f"grad {n}": p.grad for n, p in learner.named_parameters() if p.grad is not None}
    return {n: v.detach().clone() for n, v in {**terms, **found}.items()}


def in_processes(
    learner: Any, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """What the trainer makes of slices: each first says its counts, and then learns the sums."""
    asked: list[list[Tensor]] = []
    for batch in batches:
        mine: list[Tensor] = []

        def say(values: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(values.clone())
            return values

        monkeypatch.setattr(slices, "over_all", say)
        taught(learner, batch)
        asked.append(mine)
    assert len({len(mine) for mine in asked}) == 1, "a process asked more often than another"
    whole = sum(learner.loss_weight(batch) for batch in batches)
    found: dict[str, Tensor] = {}
    for batch in batches:
        sums = iter([sum(parts) for parts in zip(*asked, strict=True)])
        monkeypatch.setattr(slices, "over_all", lambda _, sums=sums: next(sums))
        share = learner.loss_weight(batch) / whole
        for name, value in taught(learner, batch).items():
            found[name] = found.get(name, 0) + share * value
    return found


def learner_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "extractor alone":
        return shaken(ProposalLearner(mask2former_config())).float()
    return shaken(
        Mutual(mutual_config(annotated_config() if "annotated" in kind else None))
    ).float()


@pytest.mark.parametrize("kind", ["mask2former", "annotated", "extractor alone"])
def test_slices_weighed_by_the_trainer_make_the_whole(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 4: masks, proposals and words are counted over all processes."""
    learner = learner_of(kind)
    expected = taught(learner, batch_of((0, 1, 2, 3)))
    batches = [batch_of(rows) for rows in PIECES]
    found = in_processes(learner, batches, monkeypatch)
    looked_at = {"unmatched", "poorly matched"}
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name in expected.keys() - looked_at:
        # Entries are sums of many that cancel (a bias before a norm has no gradient but rounding).
        near = 1e-4 * float(expected[name].abs().max()) + 1e-6 * largest
        assert (found[name] - expected[name]).abs().max() <= near, name
    monkeypatch.setattr(slices, "over_all", lambda values: values)
    weights = [learner.loss_weight(batch) for batch in batches]
    alone = [taught(learner, batch) for batch in batches]
    apart = {  # guards the test: as means of their own the slices are another loss
        name: sum(w * one[name] for w, one in zip(weights, alone, strict=True)) / sum(weights)
        for name in expected.keys() - looked_at
    }
    wrong = {n for n in apart if not torch.isclose(apart[n], expected[n], rtol=1e-3).all()}
    uneven = {"mask2former": {"class", "mask", "dice", "generation"}, "annotated": {"generation"}}
    assert uneven.get(kind, {"class"}) <= wrong


def test_step_2_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eq. 4 is a mean over the objects that are meant, of which a slice may have none."""
    learner = Disambiguation(
        learner_of("annotated"),
        PolicyConfig(beams=2),
        Texts(*[lambda *_: None] * 3),  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(0)
    log_p, rewards = (torch.randn(3, 2, *more, generator=generator) for more in ((4,), ()))
    mask = torch.ones(3, 2, 4, dtype=torch.bool)
    batches = [batch_of(rows) for rows in ((0, 1), (2,), (3,))]
    parts = [(log_p[:2], mask[:2], rewards[:2]), (log_p[2:], mask[2:], rewards[2:])]
    parts.append((log_p[:0], mask[:0], rewards[:0]))

    def total(one: tuple[Tensor, ...], batch: Batch) -> Tensor:
        rollout = Rollout(*one, None, one[2], one[2])
        return learner.loss(rollout, batch)["total"]

    told = [
        torch.tensor([float(len(one[2])), float(len(b))])
        for one, b in zip(parts, batches, strict=True)
    ]
    monkeypatch.setattr(slices, "over_all", lambda _: torch.stack(told).sum(dim=0))
    shares = [len(batch) / 4 for batch in batches]
    found = sum(s * total(one, b) for s, one, b in zip(shares, parts, batches, strict=True))
    monkeypatch.undo()
    whole = total((log_p, mask, rewards), batch_of((0, 1, 2)))
    torch.testing.assert_close(found, whole)


def test_one_process_changes_no_bit() -> None:
    assert fair(torch.tensor([3.0, 17.3]), 7.0).tolist() == [1.0, 1.0]
    assert fair(torch.tensor([0.0]), 2.0).tolist() == [0.0]


def test_factors_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 of 12 masks and 2 of 4 expressions: this slice's mean counts half, and should a quarter."""
    monkeypatch.setattr(slices, "over_all", lambda _: torch.tensor([12.0, 0.0, 4.0]))
    assert fair(torch.tensor([3.0, 0.0]), 2.0).tolist() == [0.5, 0.0]


PROCESS = """
import sys, torch, torch.distributed as dist
from refseg.methods.mutual.slices import fair
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
print(fair(torch.tensor([[3.0, 9.0][rank]]), [2.0, 2.0][rank]).item())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_add_up(tmp_path: Path) -> None:
    meeting = str(tmp_path / "meeting")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), meeting], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    told = [float(one.communicate(timeout=120)[0]) for one in started]
    assert told == [0.5, 1.5]
