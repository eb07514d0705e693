"""Two gloo processes learn what one process learns, copied (DDP) or sharded (FSDP)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import Toy, toy_data, toy_score
from two_processes import COMMON, Nested, config

from refseg.train.checkpoint import read_best
from refseg.train.log import read_log
from refseg.train.loop import fit
from refseg.train.results import Evaluation

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(HERE / "two_processes.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    score = Evaluation(toy_score, "agreement", "text+mask")
    fit(Toy(), toy_data(), COMMON, folder / "plain", evaluation=score, progress="none")
    averaged = config(ema=0.9)
    fit(Toy(), toy_data(), averaged, folder / "ema", evaluation=score, progress="none")
    fit(Nested(), toy_data(), COMMON, folder / "nested", progress="none")
    return folder


def curve(folder: Path) -> list[float]:
    found = [n for n in read_log(folder / "log.jsonl") if n["kind"] == "train"]
    assert [n["step"] for n in found] == list(range(1, 13))
    return [value for n in found for value in n["loss"].values()]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "step-00000012" / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("together", "alone"),
    [("ddp", "plain"), ("accumulate", "plain"), ("fsdp", "ema"), ("fsdp-resumed", "ema")],
)
def test_the_curve_is_that_of_one_process(two: Path, one: Path, together: str, alone: str) -> None:
    """Every term and the gradient norm, though the halves hold unequal numbers of masks."""
    assert curve(two / together) == pytest.approx(curve(one / alone), rel=2e-4)


def test_blocks_that_hold_blocks_are_left_to_their_parts(two: Path, one: Path) -> None:
    """A method that runs the inner blocks itself never calls the outer one's forward, which
    alone would gather the outer one's shards."""
    assert curve(two / "nested") == pytest.approx(curve(one / "nested"), rel=1e-5)
    for rank in (0, 1):
        inner = [f"blocks.{stage}.parts.{part}" for stage in (0, 1) for part in (0, 1)]
        assert (two / f"shards-{rank}.txt").read_text().split() == inner


def test_who_waits_for_the_first_process_waits_for_days(two: Path) -> None:
    """It may be writing a million sentences; gloo's own half hour would end the run."""
    for rank in (0, 1):
        assert float((two / f"waits-{rank}.txt").read_text()) >= 48 * 3600


@pytest.mark.parametrize(
    ("together", "alone", "name"),
    [
        ("ddp", "plain", "model"),
        ("ddp", "plain", "optimizer"),
        ("fsdp", "ema", "model"),
        ("fsdp", "ema", "optimizer"),
        ("fsdp", "ema", "ema"),
    ],
)
def test_files_hold_the_whole_weights(
    two: Path, one: Path, together: str, alone: str, name: str
) -> None:
    ours, theirs = weights(two / together, name), weights(one / alone, name)
    assert ours.keys() == theirs.keys()
    for key in theirs.keys() - {"calls"}:  # counts this process's forward passes
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["model", "optimizer", "ema"])
def test_a_sharded_run_resumes_bit_for_bit(two: Path, name: str) -> None:
    whole, resumed = weights(two / "fsdp", name), weights(two / "fsdp-resumed", name)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_sharded_run_goes_on_in_one_process(two: Path, one: Path) -> None:
    folder = two / "switched"
    fit(Toy(), toy_data(), config(ema=0.9), folder, progress="none")
    assert curve(folder) == pytest.approx(curve(one / "ema"), rel=2e-4)
    ours, theirs = weights(folder, "ema"), weights(one / "ema", "ema")
    for key in theirs.keys() - {"calls"}:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("together", "alone"), [("ddp", "plain"), ("fsdp", "ema")])
def test_evaluation_agrees(two: Path, one: Path, together: str, alone: str) -> None:
    ours, theirs = (read_best(p / "best.safetensors") for p in (two / together, one / alone))
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step
    assert ours.value == pytest.approx(theirs.value, abs=0.01)


def test_a_batch_that_cannot_be_halved_is_refused_everywhere(two: Path) -> None:
    for rank in (0, 1):
        assert "multiple of 2" in (two / f"odd-{rank}.txt").read_text()
