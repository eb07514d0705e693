"""The documentation works: snippets run, commands parse, the README is true of the folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from refseg import models
from refseg.cli.main import app
from refseg.data.check import check_data
from refseg.data.scenes.build import ensure_scenes
from refseg.methods import METHODS
from refseg.metrics.protocols import PROTOCOLS
from refseg.recipes.catalog import ENCODERS, get_encoder, get_recipe
from refseg.recipes.overrides import apply_overrides
from tests.cli.photos import open_eyes, shelve_photos
from tests.methods.mutual.test_photographs import SEEN
from tests.methods.toy import drawn_scene, toy_model
from tests.pages import (
    DOCS,
    PAGES,
    README,
    ROOT,
    command_lines,
    fences,
    page_id,
    spans,
    table_rows,
    text_of,
)

# Its snippet is about a scene that the page does not make.
NOT_RUN = {"scenes-language.md"}
WITH_PYTHON = [p for p in PAGES if p.name not in NOT_RUN and fences(p, "python")]

pages = pytest.mark.parametrize("page", PAGES, ids=page_id)


# -- commands ---------------------------------------------------------------------------------


def sub_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` (after "refseg") name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_refseg(words: list[str]) -> None:
    """The words parse, a named recipe exists, and its settings can be set."""
    command, rest = sub_command(words)
    if getattr(command, "commands", {}):  # a group; `refseg models` may stand alone
        alone = command.invoke_without_command and all(word.startswith("-") for word in rest)
        assert alone, f"no such command: {words}"
    told = command.make_context(command.name, list(rest)).params
    if "recipe" in told:
        name = told["recipe"]
        recipe = get_encoder(name) if name in ENCODERS else get_recipe(name)
        apply_overrides(recipe, told["settings"] or [])
    assert set(told.get("protocol") or ()) <= set(PROTOCOLS)


@pages
def test_commands_parse(page: Path) -> None:
    for words in command_lines(page):
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", text_of(ROOT / "Makefile"), re.M), target
            case ["refseg", *rest]:
                check_refseg(rest)
            case ["python", "-m", "pytest" | "ruff", *rest]:
                assert all((ROOT / word).exists() for word in rest if "/" in word), words
            case ["python", *rest] if "refseg" in rest:
                check_refseg(rest[rest.index("refseg") + 1 :])
            case ["python", script, *rest]:
                source = text_of(ROOT / script)
                assert all(word in source for word in rest if word.startswith("--")), words
            case ["pip", "install", "-c", constraints, *_]:
                assert (ROOT / constraints).is_file()
            case [".", ".venv/bin/activate"]:
                pass
            case _:
                pytest.fail(f"nobody checks: {words}")


@pages
def test_commands_in_the_text_exist(page: Path) -> None:
    for span in spans(page):
        if not span.startswith("refseg "):
            continue
        command, rest = sub_command(span.split()[1:])
        if getattr(command, "commands", {}):  # "refseg COMMAND --help" is about all of them
            assert not rest or rest[0].isupper() or rest[0].startswith("--"), span
            continue
        options = {name for parameter in command.params for name in parameter.opts}
        assert {w for w in rest if w.startswith("--")} <= options | {"--help"}, span


def test_a_wrong_command_is_seen() -> None:
    for words in (["predikt", "a.jpg", "b"], ["predict", "a.jpg", "b", "--modell", "x"], ["train"]):
        with pytest.raises(Exception, match=r"no such command|No such option|Missing"):
            check_refseg(words)


# -- snippets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    ensure_scenes(folder, images=28, workers=1)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled models; where there are none, toys under two of their names."""
    if models.list_bundled():
        return models.BUNDLED
    folder = tmp_path_factory.mktemp("checkpoints")
    models.save(folder / "vega-scenes", toy_model("vega"))
    shelve_photos(folder)
    return folder


@pytest.fixture
def sandbox(
    cache_folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty folder with a picture in it, a small world, and the bundled models."""
    monkeypatch.setenv("REFSEG_CACHE", str(cache_folder))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", "28")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(models, "BUNDLED", bundle)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(drawn_scene(0, (192, 320))[0][1]).save(tmp_path / "photo.jpg")
    open_eyes(tmp_path, monkeypatch)  # as after `refseg models pull photos`
    monkeypatch.setitem(SEEN, (192, 320), SEEN[40, 64])
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_id)
def test_python_snippets_run(page: Path, sandbox: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for code in fences(page, "python"):
        exec(compile(code, str(page), "exec"), namespace)


def test_the_readme_shows_few_lines_of_python() -> None:
    (code,) = fences(README, "python")
    assert len(code.strip().splitlines()) <= 6


def test_commands_of_the_readme_work(sandbox: Path) -> None:
    asked = [words[1:] for words in command_lines(README) if words[0] == "refseg"]
    assert asked
    for words in asked:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert (sandbox / "out" / "photo.overlay.png").is_file()


def test_dry_runs_work(sandbox: Path) -> None:
    lines = [words[1:] for page in PAGES for words in command_lines(page) if "--dry-run" in words]
    assert lines
    for words in lines:
        assert CliRunner().invoke(app, words).exit_code == 0, words


def test_the_plain_folder_of_the_docs_is_read(sandbox: Path) -> None:
    (table,) = fences(DOCS / "evaluate-on-my-data.md", "csv")
    folder = sandbox / "my-data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for name, hw in (("desk", (200, 300)), ("shelf", (400, 500))):
        Image.fromarray(np.zeros((*hw, 3), np.uint8)).save(folder / "images" / f"{name}.jpg")
    mask = np.zeros((200, 300), np.uint8)
    mask[50:90, 60:120] = 255
    Image.fromarray(mask).save(folder / "masks" / "desk_cup.png")
    (folder / "captions.csv").write_text(table, encoding="utf-8")
    report = check_data(folder)
    assert report.exit_code == 0, report.to_json()
    counts = {row.name: row.count for row in report.rows}
    assert (counts["split train"], counts["split val"]) == (1, 2)


# -- the README ---------------------------------------------------------------------------------


def test_the_tree_is_the_folders() -> None:
    (tree,) = [block for block in fences(README, "text") if block.startswith("refseg/")]
    listed, parents = set(), [ROOT]
    for line in tree.splitlines():
        name, *words = line.split()
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth + 1 :] = [parents[depth] / name]
        assert parents[-1].exists(), line
        assert parents[-1].is_dir() == name.endswith("/"), line
        assert words, f"no word about {name}"
        listed.add(parents[-1])
    ignored = {line.strip("/") for line in text_of(ROOT / ".gitignore").split()}
    package = ROOT / "refseg"
    there = [
        *(path for path in ROOT.iterdir() if path.is_dir() and path.name not in ignored),
        *(path for path in package.iterdir() if path.suffix == ".py" or path.is_dir()),
        *(path for path in (package / "methods").iterdir() if path.is_dir()),
    ]
    shown = {p for p in there if not p.name.startswith(".") and p.name not in ignored}
    assert sorted(shown - listed) == []


def test_methods_are_those_that_are_there() -> None:
    rows = table_rows(README, "| method |")
    here = {row[0].strip("`") for row in rows if row[-1] == "here"}
    planned = {row[0].strip("`") for row in rows if row[-1] == "planned"}
    assert here == set(METHODS)
    assert len(here) + len(planned) == len(rows)
    assert not planned & set(METHODS)


def test_results_can_be_filled_in() -> None:
    text = text_of(README)
    assert text.count("<!-- results:begin -->") == text.count("<!-- results:end -->") == 1
    assert text.index("<!-- results:begin -->") < text.index("<!-- results:end -->")
