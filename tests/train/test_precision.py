"""Where bfloat16 is used, and Muon where it is not."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from refseg.doctor import machine
from refseg.recipes.encoders import bert_scenes, swin_scenes
from refseg.recipes.mutual import mutual_refcoco, mutual_scenes, photos
from refseg.recipes.vega import vega_scenes
from refseg.train import optim, precision
from refseg.train.config import TrainConfig
from refseg.train.muon import Float32Muon, orthogonal
from refseg.train.precision import multiplies_bfloat16, runs_in_bfloat16

CPU = torch.device("cpu")
GROUP = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}


@pytest.mark.parametrize("can", [True, False])
def test_auto_asks_the_processor_and_the_others_do_not(
    can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: can)
    found = {
        name: runs_in_bfloat16(TrainConfig(steps=1, precision=name), CPU)  # type: ignore[arg-type]
        for name in ("fp32", "bf16", "auto")
    }
    assert found == {"fp32": False, "bf16": True, "auto": can}


def test_recipes_for_one_core_ask_and_those_of_the_papers_state_it() -> None:
    small = (mutual_scenes(), photos(), vega_scenes(), swin_scenes(), bert_scenes())
    assert {recipe.train.precision for recipe in small} == {"auto"}
    learns = photos().disambiguation
    assert learns is not None
    assert learns.train.precision == "auto"
    assert mutual_refcoco().train.precision == "bf16"


def test_the_doctor_says_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for can in (True, False):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device, can=can: can)
        told += [check.detail for check in machine() if check.name == "bfloat16"]
    assert len(told) == 2
    assert "float32" not in told[0]
    assert "float32" in told[1]


def test_without_torchs_kernels_for_it_there_is_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert multiplies_bfloat16(CPU) in (True, False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not multiplies_bfloat16(CPU)
    assert not multiplies_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(("can", "rule"), [(True, torch.optim.Muon), (False, Float32Muon)])
def test_muon_leaves_float32_only_where_it_pays(
    can: bool, rule: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_optim import Mixed

    monkeypatch.setattr(optim, "multiplies_bfloat16", lambda device: can)
    joint = optim.build_optimiser(Mixed(), TrainConfig(steps=1, optimiser="muon"))
    assert isinstance(joint, optim.JointOptimiser)
    assert type(joint.parts[0]) is rule


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 4)])
def test_the_iteration_is_the_literal_one(shape: tuple[int, int]) -> None:
    from test_optim import newton_schulz

    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = matrix.clone()
    found = orthogonal(matrix, GROUP)
    torch.testing.assert_close(found.double(), newton_schulz(matrix), rtol=1e-4, atol=1e-5)
    assert torch.equal(matrix, kept)
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.35  # near 1, as it is meant
    assert not orthogonal(torch.zeros(shape), GROUP).any()


def test_steps_are_torchs_but_for_the_rounding_and_so_is_the_state() -> None:
    torch.manual_seed(0)
    theirs = nn.Parameter(torch.randn(6, 4))
    ours = nn.Parameter(theirs.detach().clone())
    options = {"lr": 0.02, "weight_decay": 0.3, "adjust_lr_fn": "match_rms_adamw"}
    one, two = torch.optim.Muon([theirs], **options), Float32Muon([ours], **options)  # type: ignore[arg-type]
    for _ in range(4):
        theirs.grad = torch.randn(6, 4)
        ours.grad = theirs.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    assert not torch.equal(ours, theirs)
    momenta = [o.state_dict()["state"][0] for o in (one, two)]
    assert [list(state) for state in momenta] == [["momentum_buffer"]] * 2
    assert torch.equal(*(state["momentum_buffer"] for state in momenta))
    assert one.state_dict()["param_groups"] == two.state_dict()["param_groups"]
    two.load_state_dict(deepcopy(one.state_dict()))  # a run may go on on another machine


def test_another_size_of_the_steps_and_closures_are_refused() -> None:
    with pytest.raises(ValueError, match="match_rms_adamw"):
        Float32Muon([nn.Parameter(torch.randn(2, 2))])
    optimiser = Float32Muon([nn.Parameter(torch.randn(2, 2))], adjust_lr_fn="match_rms_adamw")
    with pytest.raises(ValueError, match="closure"):
        optimiser.step(lambda: 0.0)
