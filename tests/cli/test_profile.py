"""What a method costs, against counts made by hand."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg import models, profile
from refseg.cli.profile import DETECTIONS, make_case
from refseg.data.store import cache_folder
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import DetectedExtractorConfig
from refseg.models import Model
from refseg.profile import REST, case, cost, count
from refseg.pull.kept import is_pulled
from refseg.types import Batch
from tests.cli.conftest import Run, refused
from tests.methods.toy_configs import mutual_config, toy_tokenizer
from tests.nn.test_eyes import small_eyes

CACHE = cache_folder()  # a person's own; tests have another
WIDTH, SIDE, TOKENS = 8, 16, 5


class Attend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class Stages(nn.Module):
    """A part whose own forward is never called: its user reaches for the layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.second = nn.Linear(WIDTH, WIDTH)


class Tiny(nn.Module):
    """Counts that fit on an envelope; the frozen part has no say in what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.attend = Attend()
        self.frozen = nn.Embedding(100, WIDTH).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(WIDTH, WIDTH))

    def forward(self, batch: Batch) -> Tensor:
        x = self.stages.first(batch.images).flatten(2).transpose(1, 2)
        x = self.attend(self.stages.second(x))
        return x @ self.scale + self.frozen(batch.words).mean(1, keepdim=True)


def made() -> tuple[nn.Module, Batch]:
    return Tiny(), case(SIDE, TOKENS)


def test_counts_by_hand() -> None:
    parts, total = count(*made())
    pixels = SIDE * SIDE
    conv, linear = pixels * 3 * WIDTH * 9, pixels * WIDTH * WIDTH
    attend, own = 2 * pixels * pixels * WIDTH, pixels * WIDTH * WIDTH
    assert total == conv + linear + attend + own
    by_name = {part.name: part for part in parts}
    assert by_name["stages"].macs == conv + linear
    assert by_name["stages.first"].macs == conv
    assert by_name["attend"].macs == attend
    assert by_name["frozen"].macs == 0
    assert by_name[REST].macs == own
    assert by_name["stages"].params == 27 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
    assert (by_name["frozen"].params, by_name["frozen"].trainable) == (100 * WIDTH, 0)
    assert by_name[REST].params == WIDTH * WIDTH


def test_top_parts_add_up_and_hooks_are_gone() -> None:
    method, batch = made()
    parts, total = count(method, batch)
    tops = [part for part in parts if "." not in part.name]
    assert sum(part.macs for part in tops) == total
    assert sum(part.params for part in tops) == sum(p.numel() for p in method.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.modules())


@pytest.fixture
def no_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process costs seconds; one test does it."""
    monkeypatch.setattr(profile, "task_memory", profile._run_once)


@pytest.mark.usefixtures("no_second_process")
def test_cost_measures_time() -> None:
    measured = cost(made, runs=7)
    assert (measured.size, measured.tokens, measured.device) == (SIDE, TOKENS, "cpu")
    assert len(measured.forward_ms) == 7
    assert 0 < measured.median_ms <= measured.p90_ms <= max(measured.forward_ms)
    assert 0 < measured.memory_mib["loaded"] <= measured.memory_mib["peak"] + 1
    told = measured.to_json()
    assert told["forward_ms"]["runs"] == 7
    json.dumps(told)


class Greedy(nn.Module):
    """Allocates and fills `mib` MiB in its forward pass."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.mib = mib

    def forward(self, batch: Batch) -> Tensor:
        return torch.ones(self.mib, 2**18).sum()


def greedy(mib: int) -> tuple[nn.Module, Batch]:
    return Greedy(mib), case(SIDE, TOKENS)


def test_the_peak_is_seen_in_a_fresh_process() -> None:
    measured = cost(partial(greedy, 200), runs=1)
    grown = measured.memory_mib["peak"] - measured.memory_mib["loaded"]
    assert 180 < grown < 300


def test_too_few_runs() -> None:
    with pytest.raises(ConfigError, match="0 timed runs"):
        cost(made, runs=0)


@pytest.mark.usefixtures("no_second_process")
def test_a_model_and_its_json(run: Run) -> None:
    told = json.loads(run("profile", "vega-scenes", "--runs", "2", "--json").stdout)
    assert told["weights"] == "trained"
    assert (told["size"], told["tokens"]) == (64, 12)
    tops = [part for part in told["parts"] if "." not in part["name"]]
    assert sum(part["params"] for part in tops) == told["params"]
    assert sum(part["macs"] for part in tops) == told["macs"] > 0
    assert {"median", "p90", "runs"} == set(told["forward_ms"])


@pytest.mark.usefixtures("no_second_process")
def test_a_recipe_says_that_its_weights_are_random(run: Run) -> None:
    result = run("profile", "vega_scenes", "--runs", "1", "--size", "64")
    assert result.exit_code == 0, result.output
    assert "random weights" in result.stderr
    assert "random weights" in result.stdout
    assert "GMACs" in result.stdout
    assert "p90" in result.stdout


def test_wrong_names_and_numbers(run: Run) -> None:
    refused(run("profile", "vega_scens"), 'did you mean "vega_scenes"')
    refused(run("profile", "vega-scens"), 'did you mean "vega-scenes"')
    refused(run("profile", "vega-scenes", "--size", "0"), "--size 0")
    refused(run("profile", "vega-scenes", "--runs", "0"), "--runs 0")
    refused(run("profile", "vega-scenes", "--tokens", "33"), "--tokens 33", "text.max_positions")
    refused(run("profile", "vega_scenes", "--tokens", "10000"), "has places for 64", "at most 64")
    refused(run("profile", "swin_scenes"), '"swin_scenes" is an encoder', "vega_scenes")


def test_what_a_model_sees_by_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small eyes and heads: the parts of both, and as many things as an ordinary photograph has."""
    eyes = small_eyes()
    monkeypatch.setattr(models, "pulled_folder", lambda name, **_: tmp_path)
    monkeypatch.setattr(models.Eyes, "load", lambda folder, device: eyes)
    config = mutual_config(DetectedExtractorConfig(width=32, mlp_width=16))
    whole = PreprocessConfig(size=eyes.side, fit="whole")
    made = Model("photos", "mutual", Mutual(config), toy_tokenizer(), whole)
    models.save(tmp_path / "photos", made)
    method, batch = make_case(str(tmp_path / "photos"), False, 60, 5)
    assert batch.originals is not None
    assert batch.originals[0].shape == (45, 60, 3)
    parts, total = count(method, batch)
    told = {part.name: part for part in parts}
    own = sum(p.numel() for p in made.method.parameters())
    assert told["heads"].params == own == told["heads"].trainable
    assert told["detector"].params == sum(p.numel() for p in eyes.ssd.parameters())
    assert told["detector"].trainable == told["masks"].trainable == 0
    assert min(told[name].macs for name in ("detector", "masks.encoder", "heads.selection")) > 0
    assert total == sum(part.macs for part in parts if "." not in part.name)
    with torch.inference_mode():
        assert method(batch).proposals.there.sum() == DETECTIONS


@pytest.mark.skipif(not is_pulled("photos"), reason="weights of others have not been pulled")
def test_its_time_and_memory_are_measured_with_what_was_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh process too."""
    monkeypatch.setenv("REFSEG_CACHE", str(CACHE))
    config = mutual_config(DetectedExtractorConfig(width=32, mlp_width=16))
    whole = PreprocessConfig(size=1024, fit="whole")
    made = Model("photos", "mutual", Mutual(config), toy_tokenizer(), whole)
    models.save(tmp_path / "photos", made)
    told = cost(partial(make_case, str(tmp_path / "photos"), False, None, 5), runs=1)
    assert told.size == 640
    assert told.params > 20e6
    assert told.memory_mib["peak"] < 1500
