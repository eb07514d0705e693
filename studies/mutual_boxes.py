"""Study "boxes" (mutual's Tables 1, 3 and 5): real RefCOCO and RefCOCO+ without pixels.

What there is, set by set (all runs are resumed or skipped, see `refseg.recipes.runner`):

    FOLDER/refcoco/writer-seed0          step 1: both heads
    FOLDER/refcoco/judge-seed1           a reader alone, of another seed: gives Rb-Acc
    FOLDER/refcoco/unambiguity-cider     step 2 from the writer, the paper's reward
    FOLDER/refcoco/unambiguity           ... and the other rewards of Table 5
    FOLDER/refcoco/sigmoid
    FOLDER/refcoco/softmax-tau-1
    FOLDER/refcoco/beams-alone           ... with nothing that Eq. 4 does not have

Proposals are the annotated objects, known by category and box alone. Rewards that hold CIDEr take
it against the references of both data sets, as the score does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refseg.data.catalog import read_image_ids
from refseg.errors import ConfigError, UnknownName
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies.base import say, slug

RECIPE = "mutual_refcoco_boxes"
SETS = ("refcoco", "refcoco+")
WRITER, JUDGE = "writer-seed0", "judge-seed1"
BEFORE, MAIN, PRINTED = "before step 2", "unambiguity+CIDEr", "beams alone"
NEVER = "never_train.txt"
NO_CIDER = "disambiguation.policy.cider=0"
#: Eq. 4 as printed but for the baseline, and the paper's constant rate, whatever the recipe has.
AS_PRINTED = tuple(
    f"disambiguation.{one}"
    for one in (
        "policy.weighting=equal",
        "policy.cider_end=false",
        "policy.with_greedy=false",
        "train.schedule=constant",
        "train.ema=null",
    )
)
#: Rewards of Table 5, and Eq. 4 as printed: variant -> what differs from the recipe.
REWARDS: Mapping[str, tuple[str, ...]] = {
    MAIN: (),
    "unambiguity": (NO_CIDER,),
    "sigmoid": ("disambiguation.policy.form=sigmoid",),
    "softmax tau 1": ("disambiguation.policy.tau=1",),
    PRINTED: AS_PRINTED,
}


@dataclass(frozen=True)
class Boxes:
    """What the study is asked. real: the folder that holds the data sets' own folders.

    never: image ids that no training sees. steps, reward_steps: of steps 1 and 2, None for the
    recipe's. runs: the folders' names to train, () for all. overrides: `--set` texts of every run.
    limit: the first so many expressions, or objects, of each split when scoring.
    beams: of the searches that are scored, the main one first; 1 is greedy.
    """

    real: Path
    folder: Path
    sets: tuple[str, ...] = SETS
    never: frozenset[int] = frozenset()
    steps: int | None = None
    reward_steps: int | None = None
    runs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    beams: tuple[int, ...] = (1, 3)

    def run(self, name: str, variant: str) -> Path:
        """The folder of a run. variant: BEFORE, one of REWARDS, or a folder's name."""
        return self.folder / name / slug(WRITER if variant == BEFORE else variant)


def check(asked: Boxes) -> None:
    """Raise ConfigError for folders that are not there, UnknownName for other names."""
    for name in asked.sets:
        if name not in SETS:
            raise UnknownName("data set", name, SETS)
        if not (asked.real / name).is_dir():
            raise ConfigError(
                f"{asked.real / name}: no such folder",
                remedy="--real names the folder that holds refcoco and refcoco+",
            )
    known = [WRITER, JUDGE, *map(slug, REWARDS)]
    for name in asked.runs:
        if name not in known:
            raise UnknownName("run", name, known)


def never_trained(real: Path, stated: Path | None) -> frozenset[int]:
    """Image ids that are kept for judging: of the file stated, or of the one beside `real`."""
    usual = real.resolve().parent / NEVER
    if stated is None and not usual.is_file():
        say(f"there is no {NEVER} beside {real.name}; every training image is used")
        return frozenset()
    return read_image_ids(stated or usual)


def train(asked: Boxes) -> None:
    """Train what is not trained yet: set by set the writer, the judge, then the rewards."""
    for name in asked.sets:
        for run, recipe in recipes(asked, name).items():
            if asked.runs and run not in asked.runs:
                continue
            say(f"boxes: {name}: {run}")
            run_recipe(recipe, asked.folder / name / run)


def recipes(asked: Boxes, name: str) -> dict[str, Recipe]:
    """A data set's runs by their folders' names, in the order in which they need each other."""
    start = asked.run(name, WRITER) / "model"
    step_1, step_2 = "stages=[train]", "stages=[disambiguate]"
    # The references of the reward's CIDEr are those of the score.
    merge = f"disambiguation.merge={[str(path) for path in others(asked, name)]}"
    rewards = {
        slug(variant): (step_2, f"disambiguation.start={start}", *changes)
        + ((merge,) if NO_CIDER not in changes else ())
        for variant, changes in REWARDS.items()
    }
    wanted: dict[str, Sequence[str]] = {
        WRITER: (step_1,),
        JUDGE: (step_1, "method.generate=false"),
        **rewards,
    }
    base = get_recipe(RECIPE)
    return {
        run: apply_overrides(base, _settings(asked, name, run, changes))
        for run, changes in wanted.items()
    }


def others(asked: Boxes, name: str) -> list[Path]:
    """The other data set, over the same objects, where it is there: its references are merged."""
    other = {"refcoco": "refcoco+", "refcoco+": "refcoco"}[name]
    return [asked.real / other] if (asked.real / other).is_dir() else []


def _settings(asked: Boxes, name: str, run: str, changes: Sequence[str]) -> list[str]:
    """What a run changes of the recipe; what makes it this run counts more than `--set`."""
    own = {change.partition("=")[0] for change in changes}
    settings = [
        f"data.name={asked.real / name}",
        f"data.exclude_images={sorted(asked.never)}",
        f"train.seed={int(run == JUDGE)}",
        *(one for one in asked.overrides if one.partition("=")[0] not in own),
        *changes,
    ]
    if asked.steps is not None:
        settings.append(f"train.steps={asked.steps}")
    if asked.reward_steps is not None:
        settings.append(f"disambiguation.train.steps={asked.reward_steps}")
    return settings
