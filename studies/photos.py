"""Study "photos": the model on real photographs with real RefCOCO expressions.

No photograph is shown or kept: each has its own licence.
"""

from __future__ import annotations

import os
from pathlib import Path

from refseg.baselines import NAMES, make_baseline
from refseg.data.catalog import open_data
from refseg.errors import DataError
from refseg.evaluate import Options, evaluate_all
from studies.base import LABELS, ROOT, Outcome, Setting, learned_from, say
from studies.questions import Answers, scores

PROTOCOLS = ("original", "lavt-480")
FOLDER = "refcoco_photos"
DATA = ("refcoco", "refcoco+")


def default_folder() -> Path:
    """Where real data is looked for: $REFSEG_SHARED, or `../shared/data` beside the project."""
    named = os.environ.get("REFSEG_SHARED")
    return Path(named).expanduser() if named else ROOT.parent / "shared" / "data"


def available(folder: Path) -> bool:
    """Whether the photographs are there."""
    return all((folder / FOLDER / name).is_dir() for name in DATA)


def run(setting: Setting) -> Outcome:
    """Scores beside the baselines, on every expression of the split val."""
    folder = setting.real or default_folder()
    if not available(folder):
        raise DataError(
            f"no photographs in {folder}",
            remedy=f"name the folder that holds {FOLDER}/ with --data, or set REFSEG_SHARED",
        )
    model, reports, rows = setting.loaded, [], []
    for name in DATA:
        dataset = open_data(folder / FOLDER / name, "val", LABELS)
        keep = Answers(dataset)
        options = Options(setting.limit, keep=keep)
        told = evaluate_all(model, dataset, PROTOCOLS, options=options)
        for baseline in NAMES:
            answers = make_baseline(baseline, dataset)
            told += evaluate_all(answers, dataset, PROTOCOLS[:1], options=Options(setting.limit))
        reports += [report.to_json() for report in told]
        images = len({row.image_id for row in keep.rows})
        rows.append({"data": name, "images": images, **scores(keep.rows)})
        say(f"photos: {name}: mIoU {told[0].metrics['mIoU']:.3f}")
    data = [
        f"{name} val, {row['images']} photographs" for name, row in zip(DATA, rows, strict=True)
    ]
    numbers = {"reports": reports, "answers": rows}
    return Outcome(numbers, PROTOCOLS, data, learned_from(model), {"bootstrap": 0})
