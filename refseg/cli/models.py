"""`refseg models`: what can be loaded by name; pull and convert are in files of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from refseg.cli import ui
from refseg.cli.convert import convert
from refseg.cli.options import Json
from refseg.cli.pull import pull
from refseg.errors import ConfigError


def models(context: typer.Context, json: Json = False) -> None:
    """List the models in the package and those fetched from the hub before.

    The mIoU and, of models that choose among proposals, that of always choosing the best (oracle)
    are those of the training's own evaluation, where the model card tells them.

    JSON: a list of {"name", "source", "method", "data", "labels", "parameters", "bytes",
    "metrics", "evaluation": {"data", "split", "expressions", "protocol", "chosen by"}, "folder"};
    the evaluation is null where the model card does not say what its metrics were measured on.
    Where the metrics are no protocol's it has "measure", which says what they are, instead.
    """
    if context.invoked_subcommand is not None:
        if json:
            verb = context.invoked_subcommand
            raise ConfigError("--json stands before the command", remedy=f"models {verb} --json")
        return
    with ui.results_only(json):
        rows = [_row(folder, source) for folder, source in _folders()]
    if json:
        ui.emit_json(rows)
        return
    columns = ["model", "source", "method", "learned from", "labels"]
    made = ui.table([*columns, ">params M", ">size MB", ">mIoU %", ">oracle %", "measured on"])
    ui.show(ui.rows(made, map(_cells, rows)))
    if any((row["evaluation"] or {}).get("chosen by") for row in rows):
        ui.say("chosen on it: the best checkpoint there was kept, so the score flatters the model")
    for row in rows:
        if row["labels"] and _granted(row["labels"]) != row["labels"]:
            ui.say(f"* {row['name']} learned from {row['labels']}")
    if not rows:
        ui.say("no models yet; `refseg train vega_scenes` makes one")


def _folders() -> list[tuple[Path, str]]:
    from refseg.models import BUNDLED, list_bundled

    bundled = [(BUNDLED / name, "package") for name in list_bundled()]
    return bundled + [(folder, "hub") for folder in _fetched()]


def _fetched() -> list[Path]:
    """Snapshots in the hub's cache that are models of ours."""
    import json as parser

    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for revision in (revision for repo in repos for revision in repo.revisions):
        try:
            described = parser.loads((revision.snapshot_path / "config.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(described, dict) and {"refseg", "method", "method_config"} <= set(described):
            found.append(Path(revision.snapshot_path))
    return sorted(found)


def _row(folder: Path, source: str) -> dict[str, Any]:
    from refseg.models import describe_models

    described = describe_models([folder])[0]
    card = described["card"]
    # A snapshot lies in models--OWNER--NAME/snapshots/REVISION.
    hub = folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return {
        "name": described["name"] if source == "package" else hub,
        "source": source,
        "method": described["method"],
        "data": card.get("data"),
        "labels": card.get("labels used"),
        "parameters": card.get("parameters"),
        "bytes": described["bytes"],
        "metrics": card.get("metrics", {}),
        "evaluation": _evaluation(card),
        "folder": str(folder),
    }


def _evaluation(card: dict[str, Any]) -> dict[str, Any] | None:
    """What the card's metrics were measured on. Older cards say it in words, without a number."""
    if isinstance(card.get("evaluation"), dict):
        return dict(card["evaluation"])
    told = re.match(r"best (\S+) on (.+) under the protocol (\w+)", str(card.get("weights")))
    if told is None:
        return None
    metric, split, protocol = told.groups()
    # Such a run was always scored on another split of the data it learned from.
    data = str(card.get("data", "")).rpartition(", split ")[0]
    return {"data": data, "split": split, "protocol": protocol, "chosen by": metric}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    parameters = row["parameters"]
    scores = {name.split(" (")[0]: value for name, value in row["metrics"].items()}
    score = scores.get("mIoU")
    return (
        row["name"],
        row["source"],
        row["method"],
        row["data"] or "-",
        _granted(row["labels"]),
        f"{parameters / 1e6:.1f}" if parameters else "-",
        f"{row['bytes'] / 1e6:.1f}",
        ui.percent(score),
        ui.percent(scores.get("oracle")),
        "-" if score is None else _measured_on(row["evaluation"]),
    )


def _granted(labels: str | None) -> str:
    """The labels of the training itself; a star where it started from weights that saw others."""
    granted, _, more = (labels or "-").partition("; ")
    return f"{granted} *" if more else granted


def _measured_on(evaluation: dict[str, Any] | None) -> str:
    """{"data": "scenes", "split": "val", "expressions": 600, ...} -> "scenes val (600, ...)"."""
    if evaluation is None:
        return "not said"
    place = " ".join(str(evaluation[key]) for key in ("data", "split") if evaluation.get(key))
    notes = [str(evaluation["expressions"])] if evaluation.get("expressions") else []
    if evaluation.get("chosen by"):
        notes.append("chosen on it")
    return f"{place} ({', '.join(notes)})" if notes else place


app = typer.Typer(help=ui.help_of(models), invoke_without_command=True, rich_markup_mode="markdown")
app.callback()(models)
ui.add(app, "pull", pull)
ui.add(app, "convert", convert)
