"""`refseg label`: its summary, its refusals, and a model that really writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import Result

from refseg.cli.label import BELONGS
from refseg.cli.main import app
from refseg.data.catalog import open_data
from refseg.models import save
from refseg.types import Labels
from tests.cli.conftest import files_below, refused
from tests.label.conftest import draw
from tests.methods.toy import toy_model

Run = Callable[..., Result]
OUT = ("--workers", 1, "--out", "taught")


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two pictures; see `draw`."""
    return draw(tmp_path / "drawn", 2)


def test_json_is_the_summary(run: Run, teacher: Path) -> None:
    words = ("--with", teacher, "--task", "masks", "--data", "scenes", "--split", "val", *OUT)
    result = run("label", *words, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["out"] == "taught"
    assert told["labels used"] == "text+mask"
    assert told["data"] == {"name": "scenes", "by": "oracle", "split": "val"}
    assert told["refs"] == told["expressions"] == told["asked"] > 10
    provenance = json.loads(Path("taught/labels.json").read_text())
    assert provenance["counts"]["refs"] == told["refs"]
    assert provenance["labels used"] == "text+mask"
    assert len(provenance["weights"]) == 64
    again = run("label", *words)
    assert again.exit_code == 0
    assert "were labelled before" in again.stderr
    assert str(teacher) in again.stdout
    told = json.loads(run("data", "info", "taught", "--json").stdout)
    assert told["splits"]["all"]["sentences"] == provenance["counts"]["expressions"]
    assert run("data", "check", "taught").exit_code in (0, 1)


def test_a_model_writes_for_every_object(run: Run, author: Path, drawn: Path) -> None:
    """Untaught, so no proposal need fit; what it writes is an ordinary data set."""
    words = ("--with", author, "--data", drawn, "--task", "expressions", "--verify", "--json")
    result = run("label", *words, "--min-area", 1, "--beams", 3, "--per-object", 2, *OUT)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    data = open_data("taught", "train", Labels.parse("text+mask"))
    assert (told["asked"], told["refs"]) == (4, 4 - told["nothing written"])
    assert len(data) == told["expressions"] >= told["refs"] > 0
    assert {data.entry(index).weight for index in range(len(data))} == {0.1}
    assert "no proposal fits" in told
    extra = data.records.extra("sentences", 0)
    assert set(extra) == {"weight", "pseudo", "score", "refers_back", "margin"}


def test_a_model_of_both_kinds_makes_masks(run: Run, author: Path) -> None:
    words = ("--with", author, "--data", "scenes", "--limit", 1, "--split", "val", *OUT)
    assert run("label", *words, "--task", "masks").exit_code == 0
    assert len(open_data("taught", "val", Labels.parse("text+mask"))) > 0


def test_what_cannot_be_done_leaves_nothing(run: Run, teacher: Path, tmp_path: Path) -> None:
    base = ("label", "--with", teacher, "--data", "scenes", *OUT)
    refused(run(*base, "--task", "mask"), 'unknown task "mask"', 'did you mean "masks"')
    refused(run(*base, "--task", "expressions"), "cannot write expressions")
    refused(run(*base, "--task", "masks", "--split", "vall"), "vall", "val")
    refused(run(*base, "--task", "masks", "--limit", 0), "--limit 0")
    refused(run(*base, "--task", "masks", "--workers", 0), "--workers 0")
    refused(run(*base, "--task", "masks", "--device", "abacus"), "abacus")
    refused(run(*base, "--task", "masks", "--exclude-images", "no.txt"), "no.txt")
    refused(run("label", "--with", "vga", "--task", "masks", "--data", "scenes", *OUT), "vga")
    refused(
        run("label", "--with", teacher, "--task", "masks", "--data", tmp_path / "x", *OUT),
        "no such",
    )
    assert files_below(Path()) == []


def test_a_model_that_chooses_among_annotated_objects(
    run: Run, tmp_path: Path, drawn: Path
) -> None:
    """It makes no masks, looks at no pixels, and passes over an object without a box."""
    save(tmp_path / "chooser", toy_model("mutual annotated"))
    words = ("--with", tmp_path / "chooser", "--data", drawn, *OUT)
    masks = ("--with", tmp_path / "chooser", "--data", "scenes", "--task", "masks", *OUT)
    refused(run("label", *masks), "cannot make masks", "annotated objects")
    result = run("label", *words, "--task", "expressions", "--filter", "none", "--json")
    assert result.exit_code == 0, result.stderr
    assert not Path("taught/images").exists()
    lines = Path("taught/shards/00000.jsonl").read_text().split("\n")[:4]
    written = [len(json.loads(line)["expressions"]) for line in lines]
    assert written[0] == 0
    assert min(written[1:]) > 0
    assert json.loads(result.stdout)["nothing written"] == 1


def test_kinds_that_the_model_does_not_know(run: Run, author: Path, tmp_path: Path) -> None:
    """A proposal is found by its shape. To embed an annotated object its kind must be known."""
    save(tmp_path / "chooser", toy_model("mutual annotated"))
    words = ("--data", "scenes", "--limit", 1, "--task", "expressions", "--min-area", 1, *OUT)
    refused(
        run("label", "--with", tmp_path / "chooser", *words), "is none of the 2 that this model"
    )
    assert run("label", "--with", author, *words[:-1], "seen").exit_code == 0


# -- options that mean nothing --------------------------------------------------------------------

VALUES = {
    "--refs": "scenes", "--beams": 3, "--per-object": 3, "--filter": "area", "--min-area": 1024,
    "--seed": 0, "--agree": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("option", BELONGS)
def test_options_of_the_other_task(run: Run, teacher: Path, option: str) -> None:
    """Refused even with the value that they have by default."""
    words = [option, VALUES[option]] if option in VALUES else [option]
    meant = BELONGS[option]
    task, other = ("masks", "expressions") if "expressions" in meant else ("expressions", "masks")
    result = run(*("label", "--with", teacher, "--data", "scenes", "--task", task), *words, *OUT)
    refused(result, f"{option} means nothing to --task {task}", f"--task {other}")
    assert files_below(Path()) == []


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("--min-area", "none"),
        ("--min-area", "random:9"),
        ("--seed", None),
        ("--seed", "area"),
        ("--seed", "none"),
    ],
)
def test_options_of_another_filter(run: Run, author: Path, option: str, kind: str | None) -> None:
    words = ("--with", author, "--data", "scenes", "--task", "expressions", option, 1, *OUT)
    filtered = () if kind is None else ("--filter", kind)
    name = (kind or "area").partition(":")[0]
    told = run("label", *words, *filtered)
    refused(told, f"{option} means nothing to --filter {name}")
    other = {"--min-area": "area", "--seed": "random:N"}[option]
    refused(told, f"leave it out, or ask for --filter {other}")
    refused(run("label", *words, "--filter", "aera"), 'unknown filter "aera"')
    assert files_below(Path()) == []


def test_every_option_of_one_task_says_so(run: Run) -> None:
    """The table and the help name the same options: those whose help begins with the task."""
    options = vars(typer.main.get_command(app))["commands"]["label"].params
    told = {
        name
        for option in options
        for name in option.opts
        if (option.help or "").startswith(("expressions:", "masks:", "With --filter"))
        and option.name not in ("split", "task")  # of both
    }
    assert told == set(BELONGS)
