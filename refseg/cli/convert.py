"""`refseg models convert`: a CLIP or GroupViT of others as a model of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refseg.cli import ui
from refseg.cli.options import Json


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A CLIP or GroupViT in the hub's format: a folder, a hub id, or clip-scenes.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The model's folder, which is made.", metavar="DIR")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help='Change the model: method.residual=true, "method.prompt=a photo of {}", '
            "preprocess.size=448, ...; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a model of other people's CLIP or GroupViT; nothing is trained.

    A CLIP becomes one of the method maskclip, a GroupViT one of groupvit.

    The folder is a model like any other, for predict, eval, label and as weights.model of a recipe.
    It needs the weights, config.json and tokenizer.json of SOURCE; what is missing is refused.

    JSON: {"model", "method", "labels used", "data", "parameters", "preprocess"}.
    """
    with ui.results_only(json):
        from refseg import convert as conversion

        model = conversion.convert(source, out, settings or [])
    card = model.card
    if json:
        about = {name: card[name] for name in ("labels used", "data", "parameters")}
        seen = model.preprocess.model_dump(mode="json")
        ui.emit_json({"model": str(out), "method": model.method_name, **about, "preprocess": seen})
        return
    size = f"{model.preprocess.size} px, {card['parameters'] / 1e6:.1f} M parameters"
    ui.say(f"{model.method_name}: {size}, learned from {card['labels used']}, {card['data']}")
    ui.say(f"model: {out}")
