"""Optimisers from parameter groups: who gets which rule, and that a joint one is its parts."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import Toy, toy_data

from refseg.method import ParameterGroup, split_decay
from refseg.train.config import TrainConfig
from refseg.train.loop import fit
from refseg.train.muon import Float32Muon
from refseg.train.optim import JointOptimiser, build_optimiser, set_lr


class Mixed(nn.Module):
    """One parameter of every sort."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 6)
        self.conv = nn.Conv2d(3, 4, 3)
        self.slow = nn.Linear(6, 2, bias=False)

    def parameter_groups(self) -> list[ParameterGroup]:
        rest = nn.ModuleDict({"t": self.table, "l": self.linear, "c": self.conv})
        return [*split_decay("rest", rest), *split_decay("slow", self.slow, lr_scale=0.1)]


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 4, "optimiser": "muon", "lr": 0.1, **changes})


def newton_schulz(matrix: Tensor) -> Tensor:
    """The literal iteration (Jordan 2024), in float64."""
    x = matrix.double() / matrix.double().norm()
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if turned else x


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    module = Mixed()
    joint = build_optimiser(module, config())
    assert isinstance(joint, JointOptimiser)
    muon, adamw = joint.parts
    assert isinstance(muon, torch.optim.Muon)
    names = {id(p): name for name, p in module.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    left = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert taken == {"linear.weight", "slow.weight"}
    assert left == {"table.weight", "linear.bias", "conv.weight", "conv.bias"}
    decays = {names[id(p)]: g["weight_decay"] for g in joint.param_groups for p in g["params"]}
    assert decays["linear.bias"] == 0
    assert decays["slow.weight"] == pytest.approx(1e-2)


def test_kernels_are_turned_where_that_is_asked() -> None:
    module = Mixed()
    joint = build_optimiser(module, config(turn_kernels=True))
    assert isinstance(joint, JointOptimiser)
    names = {id(p): name for name, p in module.named_parameters()}
    taken = {names[id(p)] for group in joint.parts[0].param_groups for p in group["params"]}
    assert taken == {"linear.weight", "slow.weight", "conv.weight"}


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_what_turns_nothing_turns_no_kernels(optimiser: str) -> None:
    with pytest.raises(ValidationError, match="turn_kernels=false"):
        config(optimiser=optimiser, turn_kernels=True)


def test_a_kernel_steps_as_the_matrix_of_its_output_channels() -> None:
    """Also one whose gradient has another layout, as channels last leave it."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    options = {"lr": 0.1, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}
    one, two = Float32Muon([kernel], **options), Float32Muon([matrix], **options)
    for _ in range(3):
        grad = torch.randn(4, 3, 3, 3)
        kernel.grad = grad.contiguous(memory_format=torch.channels_last)
        matrix.grad = grad.flatten(1)
        one.step()
        two.step()
    torch.testing.assert_close(kernel.flatten(1), matrix, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no vectors"):
        Float32Muon([nn.Parameter(torch.zeros(3))], **options)


def test_one_step_is_the_literal_rule() -> None:
    module = Mixed()
    joint = build_optimiser(module, config(weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    set_lr(joint, 0.02)
    joint.step()
    for name, lr in (("linear.weight", 0.02), ("slow.weight", 0.002)):
        old, grad = before[name].double(), module.get_parameter(name).grad
        assert grad is not None
        # The first momentum is a share of the gradient; the iteration does not see its size.
        step = newton_schulz(grad) * 0.2 * max(grad.shape) ** 0.5
        wanted = old * (1 - lr * 0.5) - lr * step
        assert torch.allclose(module.get_parameter(name).double(), wanted, atol=3e-3 * lr / 0.02)
    bias = before["linear.bias"] - 0.02 * module.linear.bias.grad.sign()  # type: ignore[union-attr]
    assert torch.allclose(module.linear.bias, bias, atol=1e-5)


def test_state_survives_and_the_parts_go_on_with_it() -> None:
    one, two = Mixed(), Mixed()
    first, second = build_optimiser(one, config()), build_optimiser(two, config())
    grads = [torch.randn(p.shape) for p in one.parameters()]

    def step(module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        for p, grad in zip(module.parameters(), grads, strict=True):
            p.grad = grad.clone()
        optimiser.step()

    step(one, first)
    two.load_state_dict(one.state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    set_lr(first, 0.03)
    set_lr(second, 0.03)
    step(one, first)
    step(two, second)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def set_gradients(module: nn.Module, step: int) -> None:
    """Large ones first, so that the largest second moment is not the last."""
    torch.manual_seed(step)
    for p in module.parameters():
        p.grad = torch.randn(p.shape) * (10.0 if step < 2 else 0.1)


def literal_amsgrad(start: Tensor, grads: list[Tensor], lr: float, eps: float) -> Tensor:
    """Reddi et al. 2018, algorithm 2, with the usual bias corrections, in float64."""
    x, b1, b2 = start.double(), 0.9, 0.8
    m, v, most = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for t, grad in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * grad.double()
        v = b2 * v + (1 - b2) * grad.double() ** 2
        most = torch.maximum(most, v)
        x = x - lr * m / (1 - b1**t) / ((most / (1 - b2**t)).sqrt() + eps)
    return x


@pytest.mark.parametrize("eps", [1e-9, 0.3])
def test_amsgrad_without_decay_is_adams(eps: float) -> None:
    settings = {"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.0, "betas": (0.9, 0.8)}
    ours, theirs, plain = Mixed(), Mixed(), Mixed()
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    made = build_optimiser(ours, config(**settings, amsgrad=True, eps=eps))
    without = build_optimiser(plain, config(**settings, eps=eps))
    slow = {id(theirs.slow.weight)}
    adam = torch.optim.Adam(
        [
            {"params": [p for p in theirs.parameters() if id(p) not in slow]},
            {"params": [theirs.slow.weight], "lr": 0.001},
        ],
        lr=0.01, betas=(0.9, 0.8), eps=eps, amsgrad=True, foreach=False, fused=False,
    )  # fmt: skip
    grads: dict[str, list[Tensor]] = {name: [] for name in start}
    for step in range(8):
        for module, optimiser in ((ours, made), (theirs, adam), (plain, without)):
            set_gradients(module, step)
            optimiser.step()
        for name, p in ours.named_parameters():
            assert p.grad is not None
            grads[name].append(p.grad.clone())
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, theirs.get_parameter(name), rtol=1e-5, atol=1e-7)
        lr = 0.001 if name == "slow.weight" else 0.01
        literal = literal_amsgrad(start[name], grads[name], lr, eps)
        torch.testing.assert_close(p.double(), literal, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(p, plain.get_parameter(name), rtol=1e-5, atol=1e-5)


def test_eps_and_amsgrad_are_not_muons() -> None:
    module = Mixed()
    joint = build_optimiser(module, config(amsgrad=True, eps=1e-5))
    assert isinstance(joint, JointOptimiser)
    set_gradients(module, 0)
    joint.step()
    muon, adamw = joint.parts
    assert muon.param_groups[0]["eps"] == torch.optim.Muon([torch.zeros(2, 2)]).defaults["eps"]
    assert {group["eps"] for group in adamw.param_groups} == {1e-5}
    for part, expected in ((muon, False), (adamw, True)):
        for p in (p for group in part.param_groups for p in group["params"]):
            assert ("max_exp_avg_sq" in joint.state[p]) == expected


@pytest.mark.parametrize(
    "changes",
    [{}, {"amsgrad": True, "eps": 1e-9}, {"optimiser": "adamw", "amsgrad": True}],
    ids=["muon", "muon and amsgrad", "amsgrad"],
)
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    class Matrix(Toy):
        """The toy with a matrix for Muon to turn."""

        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(self.config.width, self.config.width)

        def parameter_groups(self) -> list[ParameterGroup]:
            return [*super().parameter_groups(), *split_decay("mix", self.mix)]

        def forward(self, batch: Any) -> Any:
            outputs = super().forward(batch)
            return type(outputs)(outputs.logits * self.mix(self.words.weight).mean())

    settings = config(
        steps=6, batch_size=4, save_every=3, evaluate_every=None, **{"lr": 1e-2, **changes}
    )
    alone, stopped = Matrix(), Matrix()
    fit(alone, toy_data(), settings, tmp_path / "alone", progress="none")

    class Enough(Exception):
        """Stands for a kill."""

    made = toy_data().make_batch

    def failing(indices: list[int], epoch: int) -> Any:
        if failing.left == 0:  # type: ignore[attr-defined]
            raise Enough
        failing.left -= 1  # type: ignore[attr-defined]
        return made(indices, epoch)

    failing.left = 5  # type: ignore[attr-defined]
    data = type(toy_data())(toy_data().size, failing)
    with pytest.raises(Enough):
        fit(stopped, data, settings, tmp_path / "stopped", progress="none")
    again = Matrix()
    fit(again, toy_data(), settings, tmp_path / "stopped", progress="none")
    for a, b in zip(alone.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    one, two = (
        load_file(tmp_path / name / "checkpoints/step-00000006/optimizer.safetensors")
        for name in ("alone", "stopped")
    )
    assert any(key.endswith("/max_exp_avg_sq") for key in one) == settings.amsgrad
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_muon_and_sharding_are_refused_together() -> None:
    with pytest.raises(ValidationError, match="adamw with fsdp"):
        config(fsdp=True)


def test_a_closure_is_refused() -> None:
    joint = build_optimiser(Mixed(), config())
    with pytest.raises(ValueError, match="closure"):
        joint.step(lambda: 0.0)


def test_sgd_steps_along_the_gradient_without_momentum() -> None:
    layer = OneLayer()
    config = TrainConfig(steps=1, optimiser="sgd", lr=0.5, weight_decay=0.1)
    optimiser = build_optimiser(layer, config)
    for _ in range(2):  # momentum would show in the second step
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.full_like(before, 2.0)
        optimiser.step()
        torch.testing.assert_close(layer.weight.detach(), before - 0.5 * (2.0 + 0.1 * before))


class OneLayer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 3))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", (self.weight,))]
