"""`refseg train` and `refseg report`, on a run of two steps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refseg.cli.main import app
from tests.cli.conftest import Run, files_below, refused

SMALL = [
    "data.name=scenes", "data.limit=8", "data.evaluate_limit=4", "train.steps=2",
    "train.batch_size=4", "train.precision=fp32", "train.workers=0", "train.evaluate_every=2",
    "train.save_every=1", "train.log_every=1", "train.warmup=0", "method.vision.depths=[1,1,1,1]",
    "weights.vision=null", "weights.text=null", "tokens.source=data",
]  # fmt: skip


def settings(*changes: str) -> list[str]:
    return [word for change in [*SMALL, *changes] for word in ("--set", change)]


@pytest.fixture(scope="session")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(cache))
        patch.setenv("REFSEG_SCENES_IMAGES", "28")
        words = ["train", "vega_scenes", *settings(), "--out", str(folder), "--json"]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told["model"] == str(folder / "model")
    assert told["skipped"] == []
    assert all(0 <= value <= 1 for value in told["metrics"].values())
    return folder


def test_a_run_leaves_a_model_that_predicts(run: Run, trained: Path, photo: Path) -> None:
    result = run("predict", photo, "red square", "--model", trained / "model", "--json")
    assert len(json.loads(result.stdout)) == 1
    card = (trained / "model" / "README.md").read_text()
    assert "refseg train vega_scenes --set data.name=scenes" in card


def test_a_finished_run_is_not_run_again(run: Run, trained: Path) -> None:
    before = files_below(trained)
    told = json.loads(run("train", "vega_scenes", *settings(), "--out", trained, "--json").stdout)
    assert told["skipped"] == ["train"]
    assert files_below(trained) == before


def test_another_recipe_in_the_same_folder_is_refused(run: Run, trained: Path) -> None:
    words = ("train", "vega_scenes", *settings("train.lr=0.5"), "--out", trained)
    refused(run(*words), "train.lr", "another --out")


def test_a_dry_run_shows_the_resolved_recipe(run: Run, sandbox: Path) -> None:
    words = ("train", "vega_scenes", "--set", "train.lr=0.25", "--dry-run")
    for extra in ((), ("--json",)):
        recipe = json.loads(run(*words, *extra).stdout)
        assert recipe["train"]["lr"] == 0.25
        assert recipe["method_name"] == "vega"
    assert files_below(sandbox) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("vega_scene",), 'did you mean "vega_scenes"'),
        (("vega_scenes", "--set", "train.learning=1"), 'unknown key "train.learning"'),
        (("vega_scenes", "--set", "trian.lr=1"), 'did you mean "train"'),
        (("vega_scenes", "--set", "train.lr=fast"), "train.lr=fast"),
        (("vega_scenes", "--set", "train.lr=-1"), "greater than 0"),
        (("vega_scenes", "--set", "train.lr"), "key=value"),
        (("vega_scenes", "--set", "train.lr=1", "--set", "train.lr=2"), "set twice"),
        (("vega_scenes", "--set", "train={}"), "is a group"),
        (("vega_scenes", "--set", "data.labels=text"), "mIoU"),
        (("vega_scenes", "--set", "method.guidance=visal"), "method.guidance=visal"),
        (("vega_scenes", "--set", "method.selection.heads=7"), "selection.heads: 7 heads"),
        (("swin_scenes", "--set", "vision.heads=[1,2,5,8]"), "vision.heads (stage 3): 5 heads"),
    ],
)
def test_wrong_recipes_and_settings(
    run: Run, sandbox: Path, words: tuple[str, ...], told: str
) -> None:
    refused(run("train", *words), told, "->")
    assert files_below(sandbox) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.name=scnes", 'did you mean "scenes"'),
        ("data.train=trian", 'did you mean "train"'),
        ("weights.model=nowhere", "nowhere"),
        ("tokens.max_words=100", "method.text.max_positions only 64"),
        ("method.selection.cues=none", "method.selection.max_tokens only 21"),
    ],
)
def test_wrong_data_and_weights_leave_nothing(
    run: Run, sandbox: Path, change: str, told: str
) -> None:
    changes = [c for c in SMALL if c.split("=")[0] != change.split("=")[0]]
    words = [word for c in (*changes, change) for word in ("--set", c)]
    refused(run("train", "vega_scenes", *words, "--out", "r"), told, "->")
    assert files_below(sandbox) == []


def test_a_folder_with_something_else_is_refused(run: Run, sandbox: Path) -> None:
    (sandbox / "thesis").mkdir()
    (sandbox / "thesis" / "text.tex").write_text("work of years")
    refused(run("train", "vega_scenes", *settings(), "--out", "thesis"), "thesis", "--out")
    assert files_below(sandbox) == ["thesis", "thesis/text.tex"]


def page_of(run: Run, *words: Any) -> tuple[dict[str, Any], str]:
    told = json.loads(run("report", *words, "--limit", "6", "--json").stdout)
    return told, Path(told["page"]).read_text()


def test_the_report_has_curves_scores_and_cases(run: Run, trained: Path, sandbox: Path) -> None:
    told, page = page_of(run, trained, "--out", "pages/report.html")
    assert {score["protocol"] for score in told["scores"]} == {"original", "lavt-480", "cris-035"}
    for heading in ("Curves", "Scores, %", "small: worst", "small: middle", "small: best"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") >= 2 + 3 * 4
    assert files_below(sandbox) == ["pages", "pages/report.html"]


def test_the_report_fetches_nothing_and_runs_nothing(run: Run, trained: Path) -> None:
    _, page = page_of(run, trained)
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))


def test_several_runs_show_what_differs(run: Run, trained: Path, sandbox: Path) -> None:
    other = sandbox / "other"
    other.mkdir()
    recipe = json.loads((trained / "recipe.json").read_text())
    recipe["train"]["lr"], recipe["promise"] = 0.125, "<b>5 & 6</b>"
    (other / "recipe.json").write_text(json.dumps(recipe))
    told, page = page_of(run, trained, other)
    assert [Path(folder).name for folder in told["runs"]] == ["small", "other"]
    assert {score["model"] for score in told["scores"]} == {"small"}
    assert "<td>train.lr</td>" in page
    assert '<td class="n">0.125</td>' in page
    assert "<td>train.steps</td>" not in page  # the same in both
    assert "not finished yet" in page
    assert "&lt;b&gt;5 &amp; 6&lt;/b&gt;" in page


def test_the_report_shows_a_table(run: Run, trained: Path) -> None:
    result = run("report", trained, "--limit", "4", "--protocol", "original")
    assert "mIoU %" in result.stdout
    assert result.stdout.rstrip().endswith("report.html")


def test_the_bound_that_proposals_set_stands_beside_the_scores(run: Run, sandbox: Path) -> None:
    import refseg
    from refseg.recipes.catalog import get_recipe
    from refseg.recipes.overrides import apply_overrides

    folder = sandbox / "chooser"
    bundled = Path(refseg.__file__).parent / "checkpoints" / "mutual-scenes"
    shutil.copytree(bundled, folder / "model")
    recipe = apply_overrides(get_recipe("mutual_scenes"), ["data.name=scenes"])
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    (folder / "train").mkdir()
    scores = {"mIoU": 0.4, "oIoU": 0.3, "oracle": 0.6}
    lines = [{"kind": "eval", "step": step, "metrics": scores} for step in (10, 20)]
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "train" / "log.jsonl").write_text(log)
    told, page = page_of(run, folder)
    assert all(0 < score["metrics"]["oracle"] <= 1 for score in told["scores"])
    assert {score["model"] for score in told["scores"]} == {"chooser (disambiguate_again)"}
    assert "<th>oracle</th>" in page.replace(' class="n"', "")
    assert len(re.findall(r"<figcaption>1  \w+ \(0\.\d\d\), meant: 0\.\d\d\n2  ", page)) == 12
    assert "oracle %" in run("report", folder, "--limit", "4", "--protocol", "original").stdout


def test_an_encoders_run_has_curves_and_no_scores(run: Run, trained: Path, sandbox: Path) -> None:
    from refseg.recipes.catalog import get_encoder

    folder = sandbox / "swin"
    (folder / "train").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "swin"}')
    (folder / "recipe.json").write_text(get_encoder("swin_scenes").model_dump_json())
    log = [
        {"kind": "train", "step": 1, "loss": {"total": 3.0}, "seconds": 1.0},
        {"kind": "train", "step": 2, "loss": {"total": 2.0}, "seconds": 2.0},
        {"kind": "eval", "step": 2, "metrics": {"kind": 0.5, "colour": 0.75}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "train" / "log.jsonl").write_text(text)
    told, page = page_of(run, folder)
    assert told["scores"] == []
    assert page.count("data:image/png;base64,") == 3  # the loss and two shares
    assert "encoder (objects)" in page
    assert "box+attributes" in page
    told, page = page_of(run, trained, folder)  # beside a method's run
    assert {score["model"] for score in told["scores"]} == {"small"}


def test_what_is_no_run_is_refused(run: Run, sandbox: Path, trained: Path) -> None:
    (sandbox / "empty").mkdir()
    (sandbox / "torn").mkdir()
    (sandbox / "torn" / "recipe.json").write_text('{"name": ')
    (sandbox / "odd").mkdir()
    (sandbox / "odd" / "recipe.json").write_text('{"method_name": "vega", "a": 1, "b": [2]}')
    for name in ("absent", "empty", "torn", "odd"):
        told = run("report", name)
        refused(told, name, "->")
        assert "http" not in told.stderr
        assert len(told.stderr.splitlines()) <= 3
    refused(run("report", trained, "--protocol", "orig"), 'unknown protocol "orig"')
    assert files_below(sandbox) == [
        "empty", "odd", "odd/recipe.json", "torn", "torn/recipe.json",
    ]  # fmt: skip
