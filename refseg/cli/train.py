"""`refseg train`: run a recipe, or go on with a run that was interrupted."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.options import Json, ready_data

if TYPE_CHECKING:
    from refseg.recipes.encoders import EncoderRecipe


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name; a wrong one lists all.", metavar="RECIPE")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change the recipe: train.lr=1e-4, data.limit=500, ...; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. [default: runs/RECIPE]", metavar="RUN")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Train RECIPE; the same command on the same RUN goes on where it stopped.

    RUN/model is the result, for `refseg predict --model RUN/model`. RUN/train/log.jsonl is the
    curve, RUN/recipe.json what was run. JSON: {"run", "model", "metrics", "skipped"}.
    """
    from refseg.recipes.catalog import ENCODERS, get_encoder, get_recipe
    from refseg.recipes.encoders import EncoderRecipe
    from refseg.recipes.overrides import apply_overrides

    changes = settings or []
    known = get_encoder(recipe) if recipe in ENCODERS else get_recipe(recipe)
    resolved = apply_overrides(known, changes)
    if dry_run:
        if json:
            ui.emit_json(resolved.model_dump(mode="json"))
        else:
            typer.echo(resolved.model_dump_json(indent=2))
        return
    run = out or Path("runs") / recipe
    words = ["refseg", "train", recipe, *(word for c in changes for word in ("--set", c))]
    with ui.results_only(json):
        ready_data(resolved.data.name)
        if isinstance(resolved, EncoderRecipe):
            _encoder(resolved, run, shlex.join(words), json)
            return
        from refseg.recipes.runner import run_recipe

        result = run_recipe(resolved, run, command=shlex.join(words))
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    if json:
        told = {"run": str(run), "model": str(result.model), "metrics": dict(result.metrics)}
        ui.emit_json({**told, "skipped": list(result.skipped)})
        return
    lines = [(name, ui.percent(value)) for name, value in result.metrics.items()]
    if lines:
        ui.show(ui.rows(ui.table(["metric, %", ">score"]), lines))
    if result.skipped:
        ui.note(f"finished before, not run again: {', '.join(result.skipped)}")
    ui.say(f"model: {result.model}")


def _encoder(recipe: EncoderRecipe, run: Path, command: str, json: bool) -> None:
    """Train an encoder; there is no segmentation score to show."""
    from refseg.recipes.pretrain import run_encoder

    model = run_encoder(recipe, run, command=command)
    if os.environ.get("RANK", "0") != "0":
        return
    if json:
        ui.emit_json({"run": str(run), "model": str(model), "metrics": {}, "skipped": []})
        return
    ui.say(f"encoder: {model}")
