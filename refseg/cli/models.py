"""`refseg models`: what can be loaded by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refseg.cli import ui
from refseg.cli.options import Json


def models(json: Json = False) -> None:
    """List the models in the package and those fetched from the hub before.

    JSON: a list of {"name", "source", "method", "data", "labels", "parameters", "bytes",
    "metrics", "folder"}.
    """
    with ui.results_only(json):
        rows = [_row(folder, source) for folder, source in _folders()]
    if json:
        ui.emit_json(rows)
        return
    columns = ["model", "source", "method", "learned from", "labels"]
    made = ui.table([*columns, ">params M", ">size MB", "score, %"])
    ui.show(ui.rows(made, map(_cells, rows)))
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
        "folder": str(folder),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    parameters = row["parameters"]
    scores = [
        f"{name}: {ui.percent(value)}"
        for name, value in row["metrics"].items()
        if isinstance(value, float)
    ]
    return (
        row["name"],
        row["source"],
        row["method"],
        row["data"] or "-",
        row["labels"] or "-",
        f"{parameters / 1e6:.1f}" if parameters else "-",
        f"{row['bytes'] / 1e6:.1f}",
        scores[0] if scores else "-",
    )
