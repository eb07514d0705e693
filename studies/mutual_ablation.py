"""Study "ablation" (mutual's Tables 3, 6 and 7, Figure 5): what each part is worth, seeds paired.

    FOLDER/parts/whole-seed0-steps1500               step 1, as the recipe says or changed
    FOLDER/written/share10-people-only-seed0-...     steps 1 and 2 with 10 % of people's refs
    FOLDER/written/data/share10-written-area-0-1-... what its writer wrote about the others
    FOLDER/written/share10-written-area-0-1-...      step 3: retrained with that
    FOLDER/judge-seed100-steps2500                   a reader alone: Rb-Acc of all of them

All runs of a seed start from the same weights and see the same data in the same order. The rows
of the table "written" share steps 1 and 2 and the expressions of people that they learn from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refseg.errors import ConfigError, UnknownName
from refseg.evaluate_text import RUNS_ON
from refseg.label import LabelOptions, label
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.mutual_stages import label_options
from refseg.recipes.opening import open_split
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies import kept
from studies.base import Outcome, open_scenes, say, slug
from studies.kept import PROTOCOL, Trained
from studies.mutual_scenes import MEASURES, STYLES, mean_of, values_of, written
from studies.mutual_variants import AREA, PAIRS, PEOPLE, RANDOM, TABLES
from studies.paired import NOTE_SEEDS, Measures, differences, summary

RECIPE = "mutual_scenes"
JUDGE_SEED = 100  # no variant's
#: Of all measures those whose differences are told.
COMPARED = ("mIoU", "oIoU", "oracle", "CIDEr", "Rb-Acc", "unambiguous", RUNS_ON)


@dataclass(frozen=True)
class Ablation:
    """What the study is asked. variants: rows of the table, in its order.

    steps: of step 1 and of retraining; reward_steps: of step 2; judge_steps: of the judge; None:
    the recipe's. share: of the training refs whose expressions count as known ("written").
    judge: a run in place of one's own. overrides: `--set` texts of every run, the judge's too.
    """

    table: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    steps: int | None = None
    reward_steps: int | None = None
    judge_steps: int | None = None
    share: float = 0.1
    judge: Path | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Finished:
    """One run's scores, means over the val splits of both styles; None: it does not do that."""

    variant: str
    seed: int
    steps: int
    weights: str
    values: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check(asked: Ablation) -> None:
    """Raise UnknownName for a variant that the table lacks, ConfigError for what does not fit."""
    for variant in asked.variants:
        if variant not in TABLES[asked.table]:
            raise UnknownName(f"variant of the table {asked.table}", variant, TABLES[asked.table])
    if RANDOM in asked.variants and AREA not in asked.variants:
        raise ConfigError(
            f'"{RANDOM}" keeps as many objects as "{AREA}", which is not asked for',
            remedy="name both",
        )
    if not 0 < asked.share <= 1:
        raise ConfigError(f"--share {asked.share}", remedy="give a share above 0, up to 1")
    if JUDGE_SEED in asked.seeds:
        raise ConfigError(f"seed {JUDGE_SEED} is the judge's", remedy="take another")
    for variant in asked.variants:  # overrides that do not fit are told before anything is trained
        _recipe(asked, asked.seeds[0], *TABLES[asked.table][variant])


def run(asked: Ablation, *, score: bool = True) -> Outcome | None:
    """Train what is not trained yet, seed by seed so that pairs finish early; score, compare.

    score: False trains alone.
    """
    judge = asked.judge or _judge(asked)
    done = []
    for seed in asked.seeds:
        for variant in asked.variants:
            say(f"{asked.table}: {variant}, seed {seed}")
            model = _trained(asked, variant, seed)
            if score:
                done.append(_scored(asked, variant, seed, model, Trained.at(judge)))
    return _outcome(asked, done, Trained.at(judge)) if score else None


def _outcome(asked: Ablation, done: Sequence[Finished], judge: Trained) -> Outcome:
    measures: Measures[Finished] = {name: _measure(name) for name in MEASURES}
    compared = {name: measures[name] for name in COMPARED}
    pairs = [pair for pair in PAIRS[asked.table] if set(pair) <= set(asked.variants)]
    numbers = {
        "table": asked.table,
        "steps": done[0].steps,
        "world": _recipe(asked, asked.seeds[0]).data.name,
        "share": asked.share if asked.table == "written" else None,
        "rows": summary(done, asked.variants, measures),
        "differences": differences(done, asked.variants, compared, pairs),
        "runs": [one.to_json() for one in done],
        "judge": judge.identity(),
        "written": _counts(asked),
        "note": NOTE_SEEDS,
    }
    data = [f"{style} val" for style in STYLES]
    seeds = {"training": list(asked.seeds), "judge": JUDGE_SEED, "scenes": 0}
    labels = str(judge.load().card.get("labels used", "unknown"))
    return Outcome(numbers, [PROTOCOL], data, labels, seeds)


def _measure(name: str) -> Any:
    return lambda one: one.values[name]


# -- training ------------------------------------------------------------------------------------


def _judge(asked: Ablation) -> Path:
    """A reader alone, trained with a seed of its own on all that people wrote."""
    settings = ["stages=[train]", "method.generate=false", f"train.seed={JUDGE_SEED}"]
    if asked.judge_steps is not None:
        settings.append(f"train.steps={asked.judge_steps}")
    recipe = apply_overrides(get_recipe(RECIPE), [*settings, *asked.overrides])
    folder = asked.folder / f"judge-seed{JUDGE_SEED}-steps{recipe.train.steps}"
    say(f"{asked.table}: the judge, {folder.name}")
    run_recipe(recipe, folder)
    return folder


def _trained(asked: Ablation, variant: str, seed: int) -> Trained:
    """The variant's run, finished."""
    changes = TABLES[asked.table][variant]
    if asked.table == "parts":
        recipe = _recipe(asked, seed, "stages=[train]", *changes)
        return _run(recipe, _folder(asked, variant, seed))
    known = f"data.limit={_known(asked, seed)}"
    people = _folder(asked, PEOPLE, seed)
    _run(_recipe(asked, seed, "stages=[train,disambiguate]", known), people)
    if variant == PEOPLE:
        return Trained.at(people / "train")
    if variant == RANDOM:
        changes = (*changes, f"pseudo.filter=random:{_asked_for(asked, AREA, seed)}")
    data = _data(asked, variant, seed)
    step_3 = ("stages=[retrain]", f"pseudo.data={data}", *changes, known)
    recipe = _recipe(asked, seed, *step_3)
    label(_written_by(people / "disambiguate" / "model", recipe, data), workers=1)
    return _run(recipe, _folder(asked, variant, seed))


def _written_by(model: Path, recipe: Recipe, out: Path) -> LabelOptions:
    """Sentences about the objects of the training pictures that no known ref describes."""
    assert recipe.pseudo is not None
    told = label_options(recipe, recipe.pseudo, model, out)
    return replace(told, split=recipe.data.train)


def _run(recipe: Recipe, folder: Path) -> Trained:
    run_recipe(recipe, folder)
    return Trained.at(folder)


def _recipe(asked: Ablation, seed: int, *changes: str) -> Recipe:
    # A row and an override may say the same; said twice it would be refused.
    settings = [*dict.fromkeys((*changes, *asked.overrides)), f"train.seed={seed}"]
    if asked.steps is not None:
        settings.append(f"train.steps={asked.steps}")
    if asked.reward_steps is not None:
        settings.append(f"disambiguation.train.steps={asked.reward_steps}")
    return apply_overrides(get_recipe(RECIPE), settings)


def _folder(asked: Ablation, variant: str, seed: int) -> Path:
    share = f"share{100 * asked.share:g}-" if asked.table == "written" else ""
    steps = _recipe(asked, seed).train.steps
    return asked.folder / asked.table / f"{share}{slug(variant)}-seed{seed}-steps{steps}"


def _data(asked: Ablation, variant: str, seed: int) -> Path:
    """What was written for the variant."""
    folder = _folder(asked, variant, seed)
    return folder.parent / "data" / folder.name


def _known(asked: Ablation, seed: int) -> int:
    """How many items the share is."""
    recipe = _recipe(asked, seed)
    return max(1, round(asked.share * len(open_split(recipe, recipe.data.train))))


def _asked_for(asked: Ablation, variant: str, seed: int) -> int:
    """For how many objects the variant's generator was asked to write."""
    path = _data(asked, variant, seed) / "labels.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["asked"])


def _counts(asked: Ablation) -> list[dict[str, Any]]:
    """Expressions of people that were known, and objects written about, by variant and seed."""
    if asked.table != "written":
        return []
    return [
        {
            "variant": variant,
            "seed": seed,
            "known refs": _known(asked, seed),
            "objects": 0 if variant == PEOPLE else _asked_for(asked, variant, seed),
        }
        for seed in asked.seeds
        for variant in asked.variants
    ]


# -- scoring -------------------------------------------------------------------------------------


def _scored(asked: Ablation, variant: str, seed: int, model: Trained, judge: Trained) -> Finished:
    config = model.load().method.config
    rows = []
    for style in STYLES:
        reports = {}
        if config.select:
            reports["RES"] = kept.of_masks(model, open_scenes(style, "val"), asked.limit)
        if config.generate:
            reports["REG"] = written(model, judge, style, "val", asked.limit, 1)
        rows.append(values_of(reports))
    steps = int(_recipe(asked, seed).train.steps or 0)
    return Finished(variant, seed, steps, model.weights[:16], mean_of(rows))
