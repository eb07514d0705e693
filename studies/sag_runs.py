"""Models of Shatter and Gather (and VEGA beside them) that learned from texts alone, trained and
scored.

    FOLDER/base-seed0         `sag_scenes` as it is
    FOLDER/t-1-seed0          one thing changed
    FOLDER/masks-seed0        masks of base-seed0 for all training expressions, a data set
    FOLDER/vega-base-seed0    `vega_scenes` on these
    FOLDER/beside/tris        scores of what is not trained here

The seed draws the order, the new weights, the slots' noise while learning, and what else is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refseg.label import LabelOptions, label
from refseg.methods.sag import SagConfig
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies import weak
from studies.base import say, slug
from studies.kept import Scores, Trained
from studies.weak import STUDENT_RECIPE, Measures, Scored, stage

RECIPE, VIT, TEXT = "sag_scenes", "vit-scenes", "bert-scenes"
PROTOCOLS = ("original", "sag")
BASE, PATCHES, NO_RECONSTRUCTION = "base", "softmax over patches", "no reconstruction"
NO_INTERACTION, RANDOM, QUERY = "no interaction", "random slots", "query slots"
ALL_OTHERS, NO_DISCOVERY, NO_FUSION = "all others are negatives", "no discovery", "no fusion, no C3"
#: What differs from the recipe, whose T is 6. Names are those of the paper's tables.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    BASE: (),
    PATCHES: ("method.slots.over=patches",),
    NO_RECONSTRUCTION: ("method.reconstruction.weight=0",),
    "T 1": ("method.slots.iterations=1",),
    "T 2": ("method.slots.iterations=2",),
    "T 4": ("method.slots.iterations=4",),
    NO_INTERACTION: ("method.slots.interaction=false",),
    RANDOM: ("method.slots.kind=random",),
    QUERY: ("method.slots.kind=query",),
    ALL_OTHERS: ("method.loss.others=all",),
    NO_DISCOVERY: ("method.discovery=false",),
    NO_FUSION: ("method.fusion.kind=none",),
}
#: Trained where they are asked for by name: what is left of the method is a guess of ours.
ON_REQUEST = (NO_DISCOVERY, NO_FUSION)


@dataclass(frozen=True)
class Asked:
    """What the studies of Shatter and Gather are asked. vit, text: the encoders that all start
    from, names or folders.

    steps: of every run; None: the recipe's. overrides: `--set` texts of the runs of Shatter and
    Gather. limit: expressions scored.
    """

    folder: Path
    vit: str = VIT
    text: str = TEXT
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None


def variant_recipe(asked: Asked, variant: str, seed: int) -> Recipe:
    """Of a variant; nothing chooses among its weights."""
    starts = {"weights.vision": asked.vit, "weights.text": asked.text, "tokens.source": asked.text}
    settings = [f"{key}={value}" for key, value in starts.items()] + [f"train.seed={seed}"]
    settings += [] if asked.steps is None else [f"train.steps={asked.steps}"]
    own = apply_overrides(get_recipe(RECIPE), settings)
    own = apply_overrides(own, list(asked.overrides))
    return apply_overrides(own, list(VARIANTS[variant]))


def method_of(recipe: Recipe) -> SagConfig:
    """What a recipe configures."""
    assert isinstance(recipe.method, SagConfig)
    return recipe.method


def trained(asked: Asked, variant: str, seed: int) -> Trained:
    """A variant's model, trained if it is not yet."""
    folder = asked.folder / f"{slug(variant)}-seed{seed}"
    say(f"Shatter and Gather, {variant}, seed {seed}")
    run_recipe(variant_recipe(asked, variant, seed), folder)
    return stage(folder, "train")


def masks(asked: Asked, seed: int) -> Path:
    """The base's masks for every training expression, made if they are not yet: a data set."""
    teacher, recipe = trained(asked, BASE, seed), variant_recipe(asked, BASE, seed)
    out = asked.folder / f"masks-seed{seed}"
    say(f"masks of {teacher.name} for {recipe.data.name} {recipe.data.train}")
    options = LabelOptions(
        str(teacher.model), "masks", recipe.data.name, out, split=recipe.data.train
    )
    label(options, workers=1)
    return out


def student(asked: Asked, seed: int) -> Trained:
    """VEGA, who learned from these masks as long as their maker from texts."""
    recipe = weak.student_recipe(
        get_recipe(STUDENT_RECIPE), variant_recipe(asked, BASE, seed), masks(asked, seed), seed
    )
    folder = asked.folder / f"vega-{BASE}-seed{seed}"
    say(f"a student of the base, seed {seed}")
    run_recipe(recipe, folder)
    return stage(folder, "train")


def told_labels(asked: Asked, run: Trained) -> str:
    """What a model learned from, by its card, without the folders that the encoders lie in."""
    return weak.told_labels(run, [asked.vit, asked.text])


def world_of(recipe: Recipe) -> str:
    """The training data's name, without its folder."""
    return Path(recipe.data.name).name


# -- scores --------------------------------------------------------------------------------------


def val_scores(run: Trained, limit: int | None) -> Scores:
    """Scores on val of scenes; kept beside the run."""
    return weak.val_scores(run, "sag", PROTOCOLS, limit, run.load)


def value(protocol: str, metric: str, row: Scored) -> float | None:
    """A metric under a protocol; None where there is none."""
    found: float | None = row.scores[protocol]["metrics"].get(metric)
    return found


#: Column -> protocol and metric. oIoU is the paper's cIoU, Pr@X its A@X.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "mIoU": ("original", "mIoU"),
    "oIoU": ("original", "oIoU"),
    "A@0.5": ("original", "Pr@0.5"),
    "A@0.7": ("original", "Pr@0.7"),
    "mIoU, sag": ("sag", "mIoU"),
    "oIoU, sag": ("sag", "oIoU"),
    "A@0.3, sag": ("sag", "Pr@0.3"),
    "A@0.5, sag": ("sag", "Pr@0.5"),
    "A@0.7, sag": ("sag", "Pr@0.7"),
}
MEASURES: Measures = {name: partial(value, *where) for name, where in COLUMNS.items()}
#: Of these differences are told.
MAIN: Measures = {name: MEASURES[name] for name in ("mIoU", "oIoU")}
