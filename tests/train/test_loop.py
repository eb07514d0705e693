from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import Toy, ToyConfig, make_batch, toy_data, toy_score

from refseg.errors import ConfigError, DataError, RefsegError, RunError, UnknownName
from refseg.method import ParameterGroup
from refseg.train.checkpoint import checkpoints, read_best
from refseg.train.config import TrainConfig
from refseg.train.ema import Ema
from refseg.train.loader import TrainData
from refseg.train.log import read_log
from refseg.train.loop import fit
from refseg.train.optim import build_optimiser
from refseg.train.parallel import check_cuts, clip_gradients
from refseg.train.results import Evaluation, FitResult
from refseg.types import Batch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes: object) -> TrainConfig:
    base = {"steps": 12, "batch_size": 8, "lr": 1e-2, "log_every": 1, "save_every": 4, "cpu": True}
    return TrainConfig.model_validate({**base, **changes})


def run(folder: Path, method: nn.Module | None = None, **changes: object) -> FitResult:
    evaluation = Evaluation(toy_score, "agreement", "text+mask")
    method = Toy() if method is None else method
    settings = config(**changes)
    return fit(method, toy_data(), settings, folder, evaluation=evaluation, progress="none")


def curve(folder: Path) -> list[float]:
    return [n["loss"]["total"] for n in read_log(folder / "log.jsonl") if n["kind"] == "train"]


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def close(a: nn.Module, b: nn.Module) -> None:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


class Stop(Exception):
    pass


def interrupted(folder: Path, after: int, **changes: object) -> None:
    """The run, ended by an exception while reading the batch after step `after`."""

    def read(indices: list[int], epoch: int) -> Batch:
        nonlocal after
        after -= 1
        if after < 0:
            raise Stop
        return make_batch(indices, epoch)

    evaluation = Evaluation(toy_score, "agreement", "text+mask")
    data = replace(toy_data(), make_batch=read)
    with pytest.raises(Stop):
        fit(Toy(), data, config(**changes), folder, evaluation=evaluation, progress="none")


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    method = Toy()
    tau = method.log_tau.item()
    result = run(tmp_path, method, steps=60, evaluate_every=20, save_every=50)
    losses = curve(tmp_path)
    assert losses[-1] < 0.7 * losses[0]
    assert len(losses) == 60
    assert method.log_tau.item() != tau
    assert not method.training
    scored = [n for n in read_log(tmp_path / "log.jsonl") if n["kind"] == "eval"]
    assert [n["step"] for n in scored] == [20, 40, 60]
    best = read_best(tmp_path / "best.safetensors")
    assert best == result.best
    assert best is not None
    assert best.value == max(n["metrics"]["agreement"] for n in scored)
    assert best.labels == "text+mask"
    assert result.weights == best.path
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == [
        "step-00000050",
        "step-00000060",
    ]


def test_literal_loop_gives_the_same_weights(tmp_path: Path) -> None:
    """The dumb twin: torch alone, a dozen lines."""
    settings = config(evaluate_every=None, clip_norm=0.5, weight_decay=0.1)
    method, twin = Toy(), Toy()
    fit(method, toy_data(), settings, tmp_path, progress="none")
    first, second, rest = twin.parameter_groups()
    optimiser = torch.optim.AdamW(
        [
            {"params": first.parameters, "lr": 0.005, "weight_decay": 0.1},
            {"params": second.parameters, "lr": 0.005, "weight_decay": 0.0},
            {"params": rest.parameters, "lr": 0.01, "weight_decay": 0.0},
        ]
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    from refseg.train.plan import Plan

    order = Plan.make(settings, 24)
    for step in range(12):
        batch = make_batch(*order.micro_batch(step))
        loss = twin.loss(twin(batch), batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / 12) ** 0.9
        optimiser.step()
    close(method, twin)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_large_batch(tmp_path: Path, accumulate: int) -> None:
    """Also where the slices hold different numbers of known masks (every fifth is unknown)."""
    large, small = Toy(), Toy()
    run(tmp_path / "large", large, clip_norm=0.3)
    run(tmp_path / "small", small, clip_norm=0.3, accumulate=accumulate)
    assert curve(tmp_path / "small") == pytest.approx(curve(tmp_path / "large"), rel=1e-4)
    close(small, large)


def test_without_loss_weight_uneven_slices_would_differ(tmp_path: Path) -> None:
    """Guards the test above: equal weights are wrong here."""

    class Equal(Toy):
        loss_weight = None  # type: ignore[assignment]

    run(tmp_path / "large", Equal())
    run(tmp_path / "small", Equal(), accumulate=4)
    assert curve(tmp_path / "small") != pytest.approx(curve(tmp_path / "large"), rel=1e-4)


def test_workers_change_nothing(tmp_path: Path) -> None:
    none, two = Toy(), Toy()
    run(tmp_path / "0", none)
    run(tmp_path / "2", two, workers=2)
    assert same(none, two)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("no image 7", remedy="look for it"), DataError),
        (UnknownName("split", "vla", ["val"]), RefsegError),
    ],
)
def test_errors_of_the_data_arrive_whole(
    tmp_path: Path, workers: int, error: RefsegError, kind: type[RefsegError]
) -> None:
    def fail(indices: list[int], epoch: int) -> Batch:
        raise error

    with pytest.raises(kind) as caught:
        fit(Toy(), TrainData(24, fail), config(workers=workers), tmp_path, progress="none")
    assert caught.value.message == error.message
    assert caught.value.remedy == error.remedy


@pytest.mark.parametrize("after", [2, 4, 7, 11])
def test_resume_is_bit_identical(tmp_path: Path, after: int) -> None:
    """Dropout, EMA, clipping and a log line over three steps, all in the state."""
    changes = {"ema": 0.9, "clip_norm": 0.5, "log_every": 3, "save_every": 2}
    toy = ToyConfig(dropout=0.3)
    whole, resumed = Toy(toy), Toy(toy)
    run(tmp_path / "whole", whole, **changes)
    folder = tmp_path / "resumed"
    evaluation = Evaluation(toy_score, "agreement", "text+mask")

    def read(indices: list[int], epoch: int) -> Batch:
        nonlocal after
        after -= 1
        if after < 0:
            raise Stop
        return make_batch(indices, epoch)

    with pytest.raises(Stop):
        fit(
            Toy(toy), TrainData(24, read), config(**changes), folder,
            evaluation=evaluation, progress="none",
        )  # fmt: skip
    torch.manual_seed(99)  # a new process has another state
    run(folder, resumed, **changes)
    assert same(whole, resumed)
    assert curve(folder) == curve(tmp_path / "whole")
    for name in ("model", "optimizer", "ema"):
        file = f"checkpoints/step-00000012/{name}.safetensors"
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_resume_reads_no_sample_twice(tmp_path: Path) -> None:
    interrupted(tmp_path, 6, save_every=5)
    read: list[int] = []

    def count(indices: list[int], epoch: int) -> Batch:
        read.append(epoch)
        return make_batch(indices, epoch)

    fit(Toy(), TrainData(24, count), config(save_every=5), tmp_path, progress="none")
    assert len(read) == 12 - 5  # three steps an epoch: it goes on inside epoch 1
    assert read == [1, 2, 2, 2, 3, 3, 3]


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    first, again = Toy(), Toy(seed=5)
    result = run(tmp_path, first, ema=0.9)
    before = (tmp_path / "log.jsonl").read_bytes()
    second = run(tmp_path, again, ema=0.9)
    assert same(first, again)
    assert second.metrics == result.metrics
    assert second.best == result.best
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RunError, match=r"train\.lr: 0\.01 in the run, 0\.02 now"):
        run(tmp_path, lr=0.02)
    run(tmp_path, log_every=7, workers=1, keep_last=1)  # these may change


def test_ema_is_the_formula(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module, 0.5)
    expected = module.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            module.weight += 1.0
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
        ema.update(module, step)
    torch.testing.assert_close(ema.average["weight"], expected)
    own = module.weight.detach().clone()
    with ema.swapped(module):
        assert torch.equal(module.weight, ema.average["weight"])
    assert torch.equal(module.weight, own)


def test_averaged_weights_are_evaluated_and_left_behind(tmp_path: Path) -> None:
    method = Toy()
    result = run(tmp_path, method, ema=0.8)
    assert result.metrics["agreement"] == toy_score(method)["agreement"]
    raw = Toy()
    run(tmp_path / "raw", raw)
    assert not same(method, raw)


def test_bf16_trains_and_differs(tmp_path: Path) -> None:
    run(tmp_path / "fp32")
    run(tmp_path / "bf16", precision="bf16")
    exact, rough = curve(tmp_path / "fp32"), curve(tmp_path / "bf16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)


def test_clipping_is_torchs(tmp_path: Path) -> None:
    method, twin = Toy(), Toy()
    batch = make_batch(list(range(8)), 0)
    for one in (method, twin):
        one.loss(one(batch), batch)["total"].backward()
    expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1e-2)
    torch.testing.assert_close(clip_gradients(method, 1e-2), expected)
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    run(tmp_path, clip_norm=1e9)
    first = read_log(tmp_path / "log.jsonl")[0]["loss"]
    assert first["grad_norm"] > 1e-2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(Toy):
        def loss(self, outputs: object, batch: Batch) -> dict[str, torch.Tensor]:
            terms = super().loss(outputs, batch)  # type: ignore[arg-type]
            bad = float("nan") if self.calls > 5 else 1.0
            return {name: value * bad for name, value in terms.items()}

    with pytest.raises(RunError, match="not finite at step 6"):
        run(tmp_path, Broken(), evaluate_every=None)
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000004"]
    assert len(curve(tmp_path)) == 5


def test_parameters_in_no_group_are_refused() -> None:
    class Forgetful(Toy):
        def parameter_groups(self) -> list[ParameterGroup]:
            return super().parameter_groups()[:-1]

    with pytest.raises(AssertionError, match="log_tau"):
        build_optimiser(Forgetful(), config())


def test_the_selecting_metric_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mIoU") as caught:
        fit(
            Toy(), toy_data(), config(), tmp_path,
            evaluation=Evaluation(toy_score, "mIoU"), progress="none",
        )  # fmt: skip
    assert "agreement" in caught.value.remedy


def test_scores_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    def score(method: nn.Module) -> dict[str, float]:
        return {**toy_score(method), "PointIt": float("nan")}

    fit(Toy(), toy_data(), config(), tmp_path, evaluation=Evaluation(score), progress="none")
    assert list(read_log(tmp_path / "log.jsonl")[-1]["metrics"]) == ["agreement"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys, time\n"
        "held = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(held, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunError, match="another process"):
            run(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
    run(tmp_path)
    with (tmp_path / ".lock").open("w") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back


def test_a_disk_without_locks_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else is blamed."""

    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(RunError, match="cannot be locked: No locks available") as caught:
        run(tmp_path)
    assert "disk" in caught.value.remedy


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("not a folder")
    with pytest.raises(RunError, match=str(path)):
        run(path)


def test_a_single_process_cannot_shard(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one") as caught:
        run(tmp_path, fsdp=True)
    assert "torchrun" in caught.value.remedy


class Comparing(Toy):
    """Says that its loss needs the whole step."""

    compares_samples = True


def test_a_loss_that_compares_samples_is_not_cut(tmp_path: Path) -> None:
    settings = config(steps=2)
    fit(Comparing(), toy_data(), settings, tmp_path / "whole", progress="none")
    cut = settings.model_copy(update={"accumulate": 2})
    with pytest.raises(ConfigError, match=r"Comparing .* into 2 parts") as caught:
        fit(Comparing(), toy_data(), cut, tmp_path / "cut", progress="none")
    assert "accumulate=1" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"\(2 processes"):
        check_cuts(Comparing(), settings, 2)
    check_cuts(Toy(), cut, 2)


def test_deterministic_is_asked_for_within_the_run_only(tmp_path: Path) -> None:
    seen = []

    def score(method: nn.Module) -> dict[str, float]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return {}

    settings = config(deterministic=True, steps=3)
    fit(Toy(), toy_data(), settings, tmp_path, evaluation=Evaluation(score), progress="none")
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = events.Scalars("train/total")
    assert [e.step for e in found] == list(range(1, 13))
    assert [e.value for e in found] == pytest.approx(curve(tmp_path), rel=1e-6)


def test_state_is_plain_json(tmp_path: Path) -> None:
    run(tmp_path)
    state = json.loads((checkpoints(tmp_path / "checkpoints")[-1] / "state.json").read_text())
    assert state["step"] == 12
    assert state["identity"]["train"]["batch_size"] == 8
    assert "workers" not in state["identity"]["train"]
