"""What the studies of methods that learn from texts alone share (TRIS, Shatter and Gather).

Trained models and their scores on val of scenes, kept beside them; variants compared seed by seed;
and VEGA as the student of the masks that such a method makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from refseg.data.dataset import ReferDataset
from refseg.evaluate import Answers, Options, evaluate_all
from refseg.recipes.base import Recipe
from refseg.recipes.overrides import apply_overrides
from studies import kept
from studies.base import open_scenes, shown
from studies.kept import Place, Scores, Trained
from studies.paired import differences, summary
from studies.partial_runs import labels_of, named

#: Whose recipe a student has.
STUDENT_RECIPE = "vega_scenes"
Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """A row of a study, as `studies.paired` takes it."""

    variant: str
    seed: int
    scores: Scores


#: Name -> its value for a row; None where there is no such thing.
Measures = Mapping[str, Callable[[Scored], float | None]]


def student_recipe(student: Recipe, teacher: Recipe, masks: Path, seed: int) -> Recipe:
    """VEGA on the masks in a folder: as many steps of as many expressions as its teacher, and the
    last weights, since nothing may choose among them.
    """
    settings = [
        f"data.name={masks}",
        f"data.train={teacher.data.train}",
        f"data.per_image={teacher.data.per_image}",
        "data.evaluate=null",
        "select=null",
        f"train.steps={teacher.train.steps}",
        f"train.batch_size={teacher.train.batch_size}",
        f"train.seed={seed}",
    ]
    return apply_overrides(student, settings)


def stage(folder: Path, name: str) -> Trained:
    """The model that a stage of a run has left, under the run's name."""
    return named(Trained.at(folder / name), folder)


def told_labels(run: Trained, starts: Iterable[str]) -> str:
    """What a model learned from, by its card, without the folders that its starts lie in."""
    text = labels_of(run)
    for start in starts:
        text = text.replace(start, shown(start))
    return text


# -- scores --------------------------------------------------------------------------------------


class Weighed(Place, Protocol):
    """With a hash of what it answers with."""

    @property
    def weights(self) -> str: ...


def scored(
    model: Answers, data: ReferDataset, protocols: Sequence[str], limit: int | None = None
) -> Scores:
    """Protocol -> how many expressions, metrics, intervals; plain values."""
    reports = evaluate_all(model, data, protocols, options=Options(limit))
    names = ("n", "metrics", "intervals")
    return {one.protocol: {name: one.to_json()[name] for name in names} for one in reports}


def val_scores(
    run: Weighed,
    what: str,
    protocols: Sequence[str],
    limit: int | None,
    load: Callable[[], Answers],
) -> Scores:
    """`scored` on val of scenes; kept beside the run. what: names the kept file.

    load: of the run's weights, called where they have not been scored yet.
    """
    data = open_scenes("scenes", "val")
    key = {"weights": run.weights, "data": data.hash, "limit": limit}
    key["version"] = kept.SCORES_VERSION
    name = f"{what}-{data.name}-{data.split}-{limit or 'all'}"
    return kept.kept(run, name, key, lambda: scored(load(), data, protocols, limit))


# -- put together ----------------------------------------------------------------------------------


def ablated(
    variants: Sequence[str],
    seeds: Sequence[int],
    trained: Callable[[str, int], Trained],
    scores: Callable[[Trained], Scores],
) -> list[tuple[Trained, Row]]:
    """Every variant with every seed: its model, and which weights it is with their scores."""
    found = []
    for seed in seeds:
        for variant in variants:
            model = trained(variant, seed)
            about = {"variant": variant, "seed": seed, **model.identity()}
            found.append((model, {**about, "scores": scores(model)}))
    return found


def compared(
    rows: Sequence[Row],
    variants: Sequence[str],
    pairs: Iterable[tuple[str, str, str]],
    measures: Measures,
) -> Row:
    """ "summary" and "differences" of an ablation. pairs: (claim, of, over); those that lack a
    variant are left out.
    """
    runs = [Scored(row["variant"], row["seed"], row["scores"]) for row in rows]
    told = [
        {**one, "claim": claim}
        for claim, of, over in pairs
        if {of, over} <= set(variants)
        for one in differences(runs, variants, measures, [(of, over)])
    ]
    return {"summary": summary(runs, variants, measures), "differences": told}


def on_each_seed(
    rows: Iterable[Row], name: Callable[[Row], str], seeds: Sequence[int]
) -> list[Scored]:
    """Rows as they are compared. What was not trained here (seed None) has one score for all."""
    return [
        Scored(name(row), seed, row["scores"])
        for row in rows
        for seed in (seeds if row["seed"] is None else [row["seed"]])
    ]
