"""The training loop: any method, any data, one process or many.

What is promised, and tested:
- Killed at any step and started again, a run ends with the same bits as one left alone (CPU).
  All randomness is a function of (seed, step): the order of samples, what `make_batch` draws,
  and torch's generator, which is seeded anew for every step (dropout, drop-path).
- N processes with one global batch learn the same curve as one process: each takes its slice of
  each batch, and a slice's loss counts by its share of the batch. (Dropout draws differently in
  each process, and batch norm sees the slice: there the curves agree on average only.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refseg.errors import ConfigError, RunError
from refseg.ops.files import clean_leftovers
from refseg.train import checkpoint as ckpt
from refseg.train.config import TrainConfig
from refseg.train.ema import Ema
from refseg.train.loader import TrainData, micro_batches
from refseg.train.lock import run_lock
from refseg.train.log import JsonLog, TensorBoard, read_log
from refseg.train.meter import Meter
from refseg.train.optim import build_optimiser
from refseg.train.parallel import (
    check_cuts,
    deterministic,
    from_main,
    make_accelerator,
    total,
    whole_parameters,
    wrap,
)
from refseg.train.plan import Plan
from refseg.train.progress import Progress, ProgressMode, Throughput, make_progress
from refseg.train.results import Evaluation, FitResult
from refseg.train.schedule import lr_factor
from refseg.train.stepper import Stepper
from refseg.train.tensors import (
    gather,
    optimiser_tensors,
    parameter_names,
    put,
    put_optimiser,
)


def fit(
    method: nn.Module,
    data: TrainData,
    config: TrainConfig,
    run_dir: Path,
    *,
    evaluation: Evaluation | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: ProgressMode = "auto",
) -> FitResult:
    """Train `method` in place, resuming what `run_dir` holds; return when all steps are done.

    identity: what makes the run this run (the resolved recipe); a resume with another one is
    refused. Afterwards `method` has the final weights (averaged where EMA is on).
    Raises RunError (folder unusable, broken checkpoint, other recipe, loss not finite) and
    ConfigError (sizes that do not fit).
    """
    accelerator = make_accelerator(config)
    main = accelerator.is_main_process
    ckpt.make_folder(run_dir)
    with run_lock(run_dir) if main else nullcontext(), deterministic(config.deterministic):
        run = _Run(accelerator, method, data, config, run_dir, evaluation, identity or {})
        display = make_progress(progress if main else "none", run.plan.total_steps, run.step)
        try:
            run.train(display)
        finally:
            run.close()
            display.close()
        return run.finish()


@dataclass
class _Run:
    """The state of one run and the verbs that advance it."""

    accelerator: Any
    method: nn.Module
    data: TrainData
    config: TrainConfig
    run_dir: Path
    evaluation: Evaluation | None
    identity: Mapping[str, Any]
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.main = self.accelerator.is_main_process
        check_cuts(self.method, self.config, world)
        self.plan = Plan.make(self.config, self.data.size, rank, world)
        self.module = wrap(self.accelerator, self.method, self.config)
        self.optimiser = build_optimiser(self.method, self.config)
        self.names = parameter_names(self.method)
        self.ema = Ema(self.method, self.config.ema) if self.config.ema else None
        self.meter = Meter(self.accelerator.device)
        self.stepper = Stepper(
            self.accelerator, self.method, self.module, self.optimiser, self.config, self.meter
        )
        self.began, self.earlier_s = time.monotonic(), 0.0
        self.checkpoints = self.run_dir / "checkpoints"
        self.identity = _identity(self.identity, self.config)
        self._resume()
        self.best = ckpt.read_best(self.run_dir / "best.safetensors")
        self.logs = self._open_logs()

    # -- starting --------------------------------------------------------------------------

    def _resume(self) -> None:
        if self.main:
            ckpt.make_folder(self.checkpoints)
            clean_leftovers(self.run_dir)
        self.accelerator.wait_for_everyone()
        found = ckpt.load_last(self.checkpoints)
        self.accelerator.wait_for_everyone()
        if found is None:
            return
        ckpt.check_identity(found.state.identity, self.identity, self.run_dir)
        self._load(found)
        self.step, self.earlier_s = found.state.step, found.state.seconds
        scored = [line for line in read_log(self.run_dir / "log.jsonl") if "metrics" in line]
        self.metrics = next((n["metrics"] for n in scored[::-1] if n["step"] <= self.step), {})
        self.meter.load(found.state.sums, found.state.summed, self.main)

    def _load(self, found: ckpt.Checkpoint) -> None:
        put(self.method.state_dict(), found.tensors["model"], f"{found.path}/model.safetensors")
        put_optimiser(self.optimiser, self.names, found.tensors["optimizer"])
        if self.ema is not None:
            put(self.ema.average, found.tensors["ema"], f"{found.path}/ema.safetensors")

    def _open_logs(self) -> list[JsonLog | TensorBoard]:
        if not self.main:
            return []
        logs: list[JsonLog | TensorBoard] = [JsonLog(self.run_dir / "log.jsonl", step=self.step)]
        if self.config.tensorboard:
            logs.append(TensorBoard(self.run_dir / "tensorboard", step=self.step))
        return logs

    # -- running ---------------------------------------------------------------------------

    def train(self, display: Progress) -> None:
        """Run the steps that are left."""
        if self.step >= self.plan.total_steps:
            return
        if self.step:
            display.note(f"going on after step {self.step} of {self.plan.total_steps}")
        stream = micro_batches(
            self.plan, self.data, first_step=self.step, workers=self.config.workers
        )
        clock = Throughput(self.config.batch_size)
        loss: float | None = None
        self.method.train()
        while self.step < self.plan.total_steps:
            self.stepper.step(stream, self.step, self._lr(self.step))
            self.step += 1
            if self.ema is not None:
                self.ema.update(self.method, self.step)
            clock.tick()
            if self._due(self.config.log_every):
                loss = self._log(clock)
            if self._evaluation_due():
                self._evaluate(display)
                clock.reset()
            if self._due(self.config.save_every):
                self._save()
            display.step(self.step, loss, clock.rate)

    def _lr(self, step: int) -> float:
        return self.config.lr * lr_factor(self.config, step, self.plan.total_steps)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.total_steps

    def _evaluation_due(self) -> bool:
        every = self.config.evaluate_every
        if self.evaluation is None or every is None:
            return False
        return self._due(self.plan.steps_per_epoch if every == "epoch" else every)

    # -- telling ---------------------------------------------------------------------------

    def _log(self, clock: Throughput) -> float:
        sums = self._sums()
        loss = {name: value / self.meter.steps for name, value in sums.items()}
        done = self.step - 1
        line = {
            "kind": "train",
            "step": self.step,
            "epoch": self.plan.epoch_of(done),
            "lr": self._lr(done),
            "loss": loss,
            "samples_per_s": round(clock.read(), 2),
            "seconds": round(self._seconds(), 2),
        }
        self._write(line)
        self.meter.reset()
        return loss["total"]

    def _sums(self) -> dict[str, float]:
        sums = self.meter.read(lambda value: total(self.accelerator, value))
        bad = [name for name, value in sums.items() if not abs(value) < float("inf")]
        if bad:
            raise RunError(
                f"{', '.join(bad)} is not finite at step {self.step} or shortly before",
                remedy="lower train.lr, set train.clip_norm, or use train.precision=fp32; "
                f"then start in another folder than {self.run_dir}",
            )
        return sums

    def _write(self, line: dict[str, Any]) -> None:
        for log in self.logs:
            log.write(line)

    def _seconds(self) -> float:
        return self.earlier_s + time.monotonic() - self.began

    # -- evaluating and saving -------------------------------------------------------------

    def _evaluate(self, display: Progress) -> None:
        evaluation = self.evaluation
        assert evaluation is not None
        self.method.eval()
        with (
            self.ema.swapped(self.method) if self.ema else nullcontext(),
            torch.no_grad(),
        ):
            with whole_parameters(self.module):
                scores = from_main(self.accelerator, dict(evaluation.run(self.method)))
            # A score without a case to count is not a number, and JSON has none.
            self.metrics = {k: float(v) for k, v in scores.items() if math.isfinite(v)}
            self._keep_best(evaluation)
        self.method.train()
        self._write(
            {
                "kind": "eval",
                "step": self.step,
                "epoch": self.plan.epoch_of(self.step - 1),
                "metrics": self.metrics,
                "labels": evaluation.labels,
            }
        )
        told = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        display.note(f"step {self.step}: {told}")

    def _keep_best(self, evaluation: Evaluation) -> None:
        name = evaluation.select
        if name is None:
            return
        if name not in self.metrics:
            raise ConfigError(
                f'the metric "{name}" that selects the best weights was not computed',
                remedy=f"select one of: {', '.join(sorted(self.metrics))}",
            )
        value = self.metrics[name]
        if self.best is not None and value <= self.best.value:
            return
        path = self.run_dir / "best.safetensors"
        self.best = ckpt.Best(name, value, self.step, evaluation.labels, self.metrics, path)
        weights = gather(self.method.state_dict())
        if self.main:
            ckpt.save_best(self.best, weights)

    def _save(self) -> None:
        tensors = {
            "model": gather(self.method.state_dict()),
            "optimizer": gather(optimiser_tensors(self.optimiser, self.names)),
        }
        if self.ema is not None:
            tensors["ema"] = gather(self.ema.average)
        sums = self._sums()
        state = ckpt.State(self.step, self._seconds(), sums, self.meter.steps, self.identity)
        if self.main:
            keep = self.config.keep_last
            ckpt.save_checkpoint(self.checkpoints, state, tensors, keep_last=keep)
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Close what writes."""
        for log in self.logs:
            if isinstance(log, TensorBoard):
                log.close()

    def finish(self) -> FitResult:
        """Leave the final weights in the method and report."""
        if self.ema is not None:
            put(self.method.state_dict(), gather(self.ema.average), "the average")
        self.method.eval()
        last = ckpt.checkpoints(self.checkpoints)[-1]
        weights = last / ("model.safetensors" if self.ema is None else "ema.safetensors")
        if self.best is not None:
            weights = self.best.path
        return FitResult(self.step, self.metrics, self.best, weights, self._seconds())


def _identity(given: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The run's identity with what may change during a run taken out."""
    train = config.model_dump(mode="json", exclude=set(TrainConfig.VOLATILE))
    later = {key for key, value in TrainConfig.LATER.items() if train[key] == value}
    return {**given, "train": {key: train[key] for key in train.keys() - later}}
