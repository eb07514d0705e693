"""Study "pictures": a training expression through all steps, one row each.

Picture, step 1's map of this sentence, the map that PRMS keeps for the ref, edges, the map after
the random walk, the pseudo mask, step 2's answer, the truth, which is opened here to be drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refseg.steps import Parts, Steps, spread, steps_of
from studies.base import Outcome, say
from studies.plots import Cell, picture_grid
from studies.tris_labels import training_pictures
from studies.tris_runs import REFSEG, Asked, told_labels, trained, whole_recipe
from studies.weak import stage

PICTURE = "tris-steps.png"
ROWS, AMONG = 6, 60  # expressions that are drawn, evenly among so many pictures


def run(asked: Asked) -> Outcome:
    """Of the preset `refseg`, the first seed; trains what is not trained yet."""
    seed = asked.seeds[0]
    folder, recipe = trained(asked, REFSEG, seed), whole_recipe(asked, REFSEG, seed)
    data = training_pictures(recipe, AMONG)
    parts = Parts.read(folder, recipe)
    say(f"pictures of {folder.name}")
    rows = [steps_of(parts, data, group) for group in spread(data.groups_by_image(), ROWS)]
    png = picture_grid([cells(row) for row in rows], [str(n) for n in range(1, len(rows) + 1)])
    numbers = {"n": len(rows), "among": AMONG, "rows": [told(row) for row in rows]}
    labels = told_labels(asked, stage(folder, "segment"))
    where = [f"{Path(recipe.data.name).name} {recipe.data.train}"]
    return Outcome(numbers, ["original"], where, labels, {"training": seed}, {PICTURE: png})


def cells(row: Steps) -> list[Cell]:
    """The row, left to right."""
    return [Cell(one.image, one.text, one.mask, iou=one.iou) for one in row.panels()]


def told(row: Steps) -> dict[str, Any]:
    """For the record."""
    ious = {one.text: one.iou for one in row.panels()}
    about = {"image": row.sample.image_id, "text": row.sample.text, "PRMS": row.kept}
    return {**about, "pseudo": ious["pseudo mask"], "step 2": ious["step 2"]}
