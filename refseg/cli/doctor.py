"""`refseg doctor`: is this machine ready?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from refseg.cli import ui
from refseg.cli.options import Json

if TYPE_CHECKING:
    from refseg.doctor import Check, Status


def doctor(json: Json = False) -> None:
    """Check versions, memory, the cache folder, the bundled models, and segment one image.

    Exit code 1 when a check fails. JSON: a list of {"name", "status", "detail", "remedy"}.
    """
    from refseg.data.store import cache_folder
    from refseg.doctor import run

    with ui.results_only(json):
        checks = list(run(cache_folder(), _bundled))
    if json:
        ui.emit_json([vars(check) for check in checks])
    else:
        _show(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


#: Segments the picture of the self test where the model for photographs has no weights to see by.
SCENES_MODEL = "vega-scenes"


def _bundled() -> Iterator[Check]:
    """The models in the package: their files as shipped, and one image through one of them."""
    from refseg.doctor import Check, one_image, shipped
    from refseg.models import BUNDLED, PHOTOS, list_bundled, list_encoders
    from refseg.predict import load

    names, tested = list_bundled(), SCENES_MODEL
    for wanted in (PHOTOS, SCENES_MODEL):
        if wanted not in names:
            yield Check("models", "fail", f"{wanted} is not there", "install refseg again")
    for name in names:
        yield shipped(BUNDLED / name)
    for name in list_encoders():
        yield shipped(BUNDLED / "encoders" / name)
    if PHOTOS in names:
        check = _pulled(PHOTOS)
        yield check
        tested = PHOTOS if check.status == "ok" else tested
    if tested in names:
        yield one_image(lambda image, text: load(tested, "cpu").segment(image, text))


def _pulled(name: str) -> Check:
    """Whether what the model sees by is in the cache, every byte of it; it need not be."""
    from refseg.doctor import Check
    from refseg.errors import ModelError
    from refseg.pull.kept import folder_of, pulled_folder

    try:
        folder = pulled_folder(name, hashes=True)
    except ModelError as error:
        broken = folder_of(name).is_dir()
        status: Status = "fail" if broken else "warn"
        return Check(f"weights of {name}", status, error.message, error.remedy)
    return Check(f"weights of {name}", "ok", f"pulled, as listed: {folder}")


def _show(checks: list[Check]) -> None:
    from rich.text import Text

    made = ui.table(["check", "", "found"])
    lines = [(c.name, Text(c.status, style=ui.STATUS_COLOURS[c.status]), c.detail) for c in checks]
    ui.show(ui.rows(made, lines))
    for check in checks:
        if check.remedy:
            ui.say(f"{check.name} -> {check.remedy}")
