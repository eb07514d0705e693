"""`refseg profile`: what a method costs, as in the cost table of TRIS's supplement."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, at_least_one
from refseg.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from refseg.profile import Cost, Made, Part

RANDOM = "random weights (a recipe was named): the cost is right, answers would be nonsense"
OBJECTS = 10  # in a picture, for methods that choose among annotated ones; RefCOCO has as many
PHOTO = 640  # px, longer side of a photograph, for methods that see these; COCO's have as many
DETECTIONS = 15  # in a photograph, of probability 0.1 and more (docs/results.md)
SMALLEST = 0.01  # parts of parts below this share of everything are left out of the table


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundled model, a model folder, a hub id, or a recipe's name.", metavar="MODEL"
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(help="Side of the image in pixels. [default: the model's own]", metavar="PX"),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Words, in tokens. [default: the model's most]", metavar="T"),
    ] = None,
    runs: Annotated[int, typer.Option(help="Timed runs.", metavar="N")] = 20,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Measure MODEL: parameters and multiply-adds by part, latency, peak memory.

    One expression about one image of noise (or about ten annotated objects, for a method that
    chooses among these and sees no pixels; or about fifteen detections, for one that sees
    photographs by weights of others, which are counted), forward pass only. A recipe's name builds
    the method with random weights, so paper-size models can be measured without their weights.
    JSON: {"model", "weights", "size", "tokens", "params", "trainable", "macs", "parts",
    "forward_ms": {"median", "p90", "runs"}, "memory_mib": {"loaded", "peak"}, ...}.
    """
    for name, value in (("--size", size), ("--tokens", tokens), ("--runs", runs)):
        at_least_one(name, value)
    with ui.results_only(json):
        from refseg.predict import pick_device
        from refseg.profile import cost

        folder = _model_folder(model)
        is_recipe = folder is None
        make = partial(make_case, model if is_recipe else str(folder), is_recipe, size, tokens)
        if is_recipe:
            ui.warn(RANDOM)
        measured = cost(make, runs=runs, device=pick_device(device))
    if json:
        weights = "random" if is_recipe else "trained"
        ui.emit_json({"model": model, "weights": weights, **measured.to_json()})
    else:
        _show(model, is_recipe, measured)


def _model_folder(name: str) -> Path | None:
    """A model's folder; None for a recipe. Raises UnknownName for what is neither."""
    from refseg.models import find_model, list_encoders
    from refseg.recipes.catalog import ENCODERS, RECIPES

    if name in RECIPES:
        return None
    if name in ENCODERS or name in list_encoders():
        raise ConfigError(
            f'"{name}" is an encoder; it answers no expression, so there is nothing to time',
            remedy="profile a method that starts from it; the encoder is one of its parts: "
            "refseg profile vega_scenes",
        )
    try:
        return find_model(name)
    except UnknownName as error:
        raise UnknownName("model or recipe", name, [*error.valid, *RECIPES]) from None


def make_case(name: str, is_recipe: bool, size: int | None, tokens: int | None) -> Made:
    """The method and its batch. A plain function, so that a fresh process can call it."""
    from refseg.profile import case

    if is_recipe:
        from refseg.models import build_method
        from refseg.recipes.catalog import get_recipe

        recipe = get_recipe(name)
        method = build_method(recipe.method_name, recipe.method)
        own_size, own_tokens = recipe.preprocess.size, recipe.tokens.max_words
    else:
        from refseg.models import load

        loaded = load(name)
        method = loaded.method
        own_size, own_tokens = loaded.preprocess.size, loaded.tokenizer.max_words
    _check_tokens(name, method, tokens or own_tokens)
    if getattr(method, "wants_eyes", False) and not method.reads_objects:
        return _seeing(method, size or PHOTO, tokens or own_tokens)
    objects = method.config.extractor.classes[:OBJECTS] if _reads_objects(method) else ()
    return method, case(size or own_size, tokens or own_tokens, objects)


def _seeing(method: Any, size: int, tokens: int) -> Made:
    """A method with the weights of others by which it sees, and noise in which it finds things."""
    from refseg.profile import seeing

    extractor = method.extractor
    # In noise nothing is sure; so many things are found in an ordinary photograph.
    things = {"least": 1e-6, "most": DETECTIONS}
    extractor.config = extractor.config.model_copy(update=things)
    return seeing(method, extractor.eyes(), size, tokens)


def _reads_objects(method: Any) -> bool:
    return bool(getattr(method, "reads_objects", False))


def _check_tokens(name: str, method: Any, tokens: int) -> None:
    from refseg.models import word_limits

    for key, limit in word_limits(method).items():
        if tokens > limit:
            raise ConfigError(
                f"--tokens {tokens}: {name} has places for {limit} ({key})",
                remedy=f"ask for at most {limit}",
            )


def _show(name: str, is_recipe: bool, cost: Cost) -> None:
    title = f"{name}, {cost.size} px, {cost.tokens} tokens"
    title += " (random weights)" if is_recipe else ""
    made = ui.table(["part", ">params M", ">trained M", ">GMACs"], title)
    ui.rows(made, (_line(part) for part in cost.parts if _worth_a_line(part, cost)))
    made.add_section()
    total = (cost.params, cost.trainable, cost.macs)
    ui.show(ui.rows(made, [("all", *_numbers(*total))]))
    ui.say(
        f"forward pass, batch 1: median {cost.median_ms:.1f} ms, p90 {cost.p90_ms:.1f} ms "
        f"({len(cost.forward_ms)} runs, {cost.device}, {cost.threads} threads)"
    )
    loaded, peak = cost.memory_mib["loaded"], cost.memory_mib["peak"]
    ui.say(f"memory: {loaded:,.0f} MiB loaded, {peak:,.0f} MiB at the peak of the forward pass")


def _worth_a_line(part: Part, cost: Cost) -> bool:
    from refseg.profile import REST

    if "." not in part.name and part.name != REST:
        return True
    return part.params >= SMALLEST * cost.params or part.macs >= SMALLEST * max(cost.macs, 1)


def _line(part: Part) -> tuple[Any, ...]:
    indent = "  " * part.name.count(".")
    name = indent + part.name.rsplit(".", 1)[-1]
    return (name, *_numbers(part.params, part.trainable, part.macs))


def _numbers(params: int, trainable: int, macs: int) -> tuple[str, str, str]:
    return f"{params / 1e6:.2f}", f"{trainable / 1e6:.2f}", f"{macs / 1e9:.2f}"
