"""`refseg data make`, `info` and `check`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import refseg
from refseg.data.check import MAX_WORDS
from refseg.recipes.vega import vega_refcoco
from tests.cli.conftest import Run, files_below, refused, subprocess_env
from tests.worlds import WORLD_IMAGES


def test_info_counts_the_world(run: Run) -> None:
    told = json.loads(run("data", "info", "scenes", "--json").stdout)
    assert told["images"] == WORLD_IMAGES
    parts = [told["splits"][name]["sentences"] for name in told["splits"] if name != "all"]
    assert sum(parts) == told["splits"]["all"]["sentences"]
    shown = run("data", "info", "scenes").stdout
    assert f"{WORLD_IMAGES} images" in shown
    assert "expressions" in shown


def test_make_builds_a_folder_of_ones_own(run: Run, sandbox: Path) -> None:
    words = ("data", "make", "--images", "3", "--seed", "5", "--out", "world", "--json")
    told = json.loads(run(*words).stdout)
    assert (told["folder"], told["images"], told["seed"]) == ("world", 3, 5)
    first = (sandbox / "world" / "scenes" / "instances.json").read_bytes()
    assert run(*words).exit_code == 0  # a rendered world may be replaced
    assert (sandbox / "world" / "scenes" / "instances.json").read_bytes() == first
    assert json.loads(run("data", "info", "world/scenes", "--json").stdout)["images"] == 3


def test_make_uses_the_cache(run: Run, cache: Path, sandbox: Path) -> None:
    result = run("data", "make", "--images", WORLD_IMAGES)
    assert str(cache) in result.stdout
    assert "expressions" in result.stdout
    assert files_below(sandbox) == []


def test_make_replaces_nothing_else(run: Run, sandbox: Path) -> None:
    (sandbox / "thesis").mkdir()
    (sandbox / "thesis" / "text.tex").touch()
    refused(run("data", "make", "--images", "1", "--out", "thesis"), "thesis", "another --out")
    refused(run("data", "make", "--images", "0"), "--images 0")
    refused(run("data", "make", "--images", "1", "--seed", "-1", "--out", "w"), "seed=-1")
    assert files_below(sandbox) == ["thesis", "thesis/text.tex"]


def test_check_of_a_sound_world(run: Run) -> None:
    result = run("data", "check", "scenes", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == told["exit_code"] == 0
    assert told["fail"] == 0
    assert "images in train and evaluation" in {row["name"] for row in told["rows"]}
    assert "split val" in run("data", "check", "scenes").stdout


def test_check_finds_what_is_missing(run: Run, sandbox: Path) -> None:
    run("data", "make", "--images", "3", "--out", "world")
    next((sandbox / "world" / "images").iterdir()).unlink()
    result = run("data", "check", "world/scenes", "--json")
    assert result.exit_code == 1
    failed = [row for row in json.loads(result.stdout)["rows"] if row["status"] == "fail"]
    assert any("image" in row["name"] for row in failed)
    assert run("data", "check", "world/scenes").exit_code == 1


def test_check_without_images(run: Run, sandbox: Path) -> None:
    run("data", "make", "--images", "3", "--out", "world")
    for image in (sandbox / "world" / "images").iterdir():
        image.unlink()
    assert run("data", "check", "world/scenes").exit_code == 1
    assert run("data", "check", "world/scenes", "--no-images").exit_code == 0
    refused(run("data", "check", "world/scenes", "--no-images", "--decode"), "--decode", "->")


def test_check_compares_with_what_the_bundled_model_reads(run: Run) -> None:
    shipped = Path(refseg.__file__).parent / "checkpoints" / "vega-scenes" / "config.json"
    reads = json.loads(shipped.read_text())["max_words"]
    assert reads == MAX_WORDS
    told = json.loads(run("data", "check", "scenes", "--limit", "1", "--json").stdout)
    assert f"sentences cut at {reads} tokens" in {row["name"] for row in told["rows"]}
    shown = " ".join(run("data", "check", "--help").stdout.replace("│", " ").split())
    assert (
        f"model reads {reads}, the recipe vega_refcoco {vega_refcoco().tokens.max_words}" in shown
    )


def test_check_sees_leakage_between_sets(run: Run) -> None:
    result = run("data", "check", "scenes", "--against", "scenes+", "--json")
    assert json.loads(result.stdout)["exit_code"] == result.exit_code


@pytest.mark.parametrize("verb", ["info", "check"])
@pytest.mark.parametrize(
    ("name", "told"), [("scene", 'did you mean "scenes"'), ("./nowhere", "nowhere")]
)
def test_unknown_names(run: Run, verb: str, name: str, told: str) -> None:
    refused(run("data", verb, name), told, "->")


def test_a_truncated_file_is_told(run: Run, sandbox: Path) -> None:
    folder = sandbox / "refcoco"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(b"")
    (folder / "instances.json").write_text('{"images": [')
    for verb in ("info", "check"):
        refused(run("data", verb, folder), "refcoco", "->")


def test_an_interrupt_leaves_nothing_behind(sandbox: Path) -> None:
    """A real process, stopped in the middle of its work as by Ctrl-C."""
    words = ["data", "make", "--images", "400", "--out", "world"]
    process = subprocess.Popen(
        [sys.executable, "-m", "refseg", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**subprocess_env(), "PYTHONPATH": str(Path(refseg.__file__).parents[1])},
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not list(sandbox.glob(".world.*/images/*.png")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert files_below(sandbox) == []
