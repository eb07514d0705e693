"""Study "scenes": a mutual model on rendered scenes, as a reader and as a writer.

RES on `scenes` and `scenes+` with the bound of its proposals; REG there with three judgements:
CIDEr, Rb-Acc by an independent judge, and the world's oracle, which knows whether a sentence means
exactly its object. Given the folder of the run, also what each of its steps was worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.evaluate_text import RUNS_ON, WithMeteor
from refseg.types import Labels
from studies import kept
from studies.base import Outcome, open_scenes
from studies.kept import PROTOCOL, Trained
from studies.mutual_steps import STEPS, Scored, differences

STYLES, SPLITS = ("scenes", "scenes+"), ("val", "testA", "testB")
LABELS = Labels.parse("text+box+mask+category")


@dataclass(frozen=True)
class Scenes:
    """What the study is asked. model: name or folder. judge: a run whose head gives Rb-Acc.

    run: the run that made the model, for a table by steps. folder: where scores are kept.
    beams: the main search first; 1 is greedy.
    """

    model: str
    judge: Path
    folder: Path
    run: Path | None = None
    limit: int | None = None
    beams: tuple[int, ...] = (1, 3)


def run(asked: Scenes) -> Outcome:
    """Score the model; the splits of both styles."""
    where = models.find_model(asked.model)
    model = Trained(where.name, where, asked.folder / "scores" / where.name)
    judge = Trained.at(asked.judge)
    reading, writing = [], []
    for style in STYLES:
        for split in SPLITS:
            reading.append(kept.of_masks(model, open_scenes(style, split), asked.limit))
            for beams in asked.beams:
                told = written(model, judge, style, split, asked.limit, beams, "if possible")
                writing.append(told)
    numbers = {
        "reports": [_without_samples(report) for report in reading],
        "expressions": [row_of(report) for report in writing],
        **_by_step(asked, judge),
        "judge": judge.identity(),
    }
    data = [f"{style} {split}" for style in STYLES for split in SPLITS]
    seeds = {"scenes": 0, "bootstrap": 0, "judge": judge.identity().get("seed", "unknown")}
    return Outcome(numbers, [PROTOCOL], data, str(reading[0]["labels"]), seeds)


def _by_step(asked: Scenes, judge: Trained) -> dict[str, list[dict[str, Any]]]:
    """val of both styles after each stage of the run that has left a model, by every search, and
    the differences between stages.
    """
    done = [] if asked.run is None else _stages(asked, asked.run, judge)
    rows = [
        {
            "step": STEPS[one.stage],
            "data": one.data,
            "beams": one.beams,
            **values_of({"RES": one.masks, "REG": one.texts}),
        }
        for one in done
    ]
    return {"steps": rows, "differences": differences(done)}


def _stages(asked: Scenes, run: Path, judge: Trained) -> list[Scored]:
    done = []
    for stage in STEPS:
        if not (run / stage / "model").is_dir():
            continue
        model = Trained.at(run / stage)
        for style in STYLES:
            masks = kept.of_masks(model, open_scenes(style, "val"), asked.limit)
            for beams in asked.beams:
                texts = written(model, judge, style, "val", asked.limit, beams)
                done.append(Scored(stage, style, beams, masks, texts))
    return done


def _without_samples(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "samples"}


def written(
    model: Trained,
    judge: Trained,
    style: str,
    split: str,
    limit: int | None,
    beams: int,
    with_meteor: WithMeteor = "no",
) -> dict[str, Any]:
    """What the model writes about a split, judged; with the samples of single objects."""
    dataset = open_objects(style, split)
    return kept.of_expressions(
        model, dataset, limit, judge=judge, beams=beams, with_meteor=with_meteor
    )


def open_objects(style: str, split: str) -> ReferDataset:
    """A split with all annotated objects of its pictures."""
    return open_data(style, split, LABELS, objects=True)


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report on expressions without the samples."""
    keys = ("data", "split", "beams", "n", "judge", "metrics", "intervals", "notes")
    return {key: report[key] for key in keys}


#: Name of a measure -> task and metric.
MEASURES = {
    "mIoU": ("RES", "mIoU"),
    "oIoU": ("RES", "oIoU"),
    **{f"Pr@0.{x}": ("RES", f"Pr@0.{x}") for x in (5, 6, 7, 8, 9)},
    "REC@0.5": ("RES", "REC@0.5"),
    "oracle": ("RES", "oracle"),
    "CIDEr": ("REG", "CIDEr"),
    "Rb-Acc": ("REG", "Rb-Acc"),
    **{name: ("REG", name) for name in ("unambiguous", "not understood", RUNS_ON)},
}


def values_of(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Measure -> value, None for what a model does not do. reports: by task."""
    return {
        name: reports[task]["metrics"].get(metric) if task in reports else None
        for name, (task, metric) in MEASURES.items()
    }


def mean_of(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each measure over data sets; None where any lacks it."""
    found = {}
    for name in MEASURES:
        values = [row[name] for row in rows]
        told = [value for value in values if value is not None]
        found[name] = sum(told) / len(told) if len(told) == len(values) else None
    return found
