"""Study "table": all five methods, what needs no training, and trivial baselines, on val of scenes.

Models that are named, or usual, and here; the bases of Shatter and Gather and VEGA as the student
of their masks, trained if they are not yet; MaskCLIP of the world's image-text pair; maps of the
encoders by themselves. Usual ones that are not in this installation are told as missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg import models
from refseg.baselines import NAMES, PREFIX, make_baseline
from refseg.convert import read_model
from refseg.errors import ConfigError, ModelError, UnknownName
from refseg.evaluate import Answers
from refseg.methods.sag import Sag
from refseg.models import find_encoder, find_model, read_model_file
from refseg.nn.weights import weight_file
from refseg.ops.files import sha256_file
from refseg.recipes.building import build
from refseg.recipes.catalog import get_recipe
from refseg.recipes.starts import encoder_labels
from refseg.types import Batch
from studies.base import Outcome, open_scenes, shown, slug
from studies.kept import Trained
from studies.paired import NOTE_SEEDS, differences, summary
from studies.sag_runs import (
    BASE,
    MAIN,
    MEASURES,
    PROTOCOLS,
    VIT,
    Asked,
    student,
    told_labels,
    trained,
    val_scores,
    variant_recipe,
    world_of,
)
from studies.tris_encoder import SALIENCY, EncoderAnswers, LookAnswers
from studies.tris_runs import PAIR
from studies.weak import Row, Scored, on_each_seed
from studies.weak import val_scores as scores_on_val

USUAL = ("vega-scenes", "mutual-scenes", "partial-res-scenes", "seqtr-rec-scenes", "tris-scenes")
SAG, STUDENT, MASKCLIP = "sag_scenes", "student of sag_scenes", "maskclip"
#: What an expression comes with, beside its words, or instead of them; else a share of the masks.
NOTHING, WORDS, BOXES = "nothing", "words", "boxes"
ORACLE = NAMES[2]
#: Of Shatter and Gather over MaskCLIP as it is, points of mIoU on RefCOCO val (Table 1).
CLAIM = f"{34.76 - 11.52:+.1f}"


@dataclass(frozen=True)
class Beside:
    """What was not trained here, with a place for its scores. weights: a hash of what it answers
    with; a rule has none.
    """

    name: str
    weights: str
    scores: Path


def run(asked: Asked, names: Sequence[str] = USUAL, pair: str = PAIR) -> Outcome:
    """Train what is not trained yet and score it. names: of models, or folders of runs."""
    rows, missing = named_models(asked, names)
    for seed in asked.seeds:
        rows += of_seed(asked, seed)
    more, absent = untrained(asked, pair)
    rows, missing = rows + more, missing + absent
    _check_names(rows, len(asked.seeds))
    recipe = variant_recipe(asked, BASE, asked.seeds[0])
    numbers = {
        "world": world_of(recipe),
        "steps": recipe.train.steps,
        "pair": shown(pair),
        "vit": shown(asked.vit),
        "n": rows[0]["scores"]["original"]["n"],
        "missing": missing,
        "rows": rows,
        "summary": means(rows),
        "differences": compared(rows, asked.seeds),
        "note": NOTE_SEEDS,
    }
    labels = "what each row of the table says"
    seeds = {"training": list(asked.seeds), "scenes": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], labels, seeds)


def _check_names(rows: Sequence[Row], seeds: int) -> None:
    """Refuse two models of one name, which would be taken for seeds of one."""
    count = Counter(row["name"] for row in rows)
    twice = [name for name, n in count.items() if n > (seeds if name in (SAG, STUDENT) else 1)]
    if twice:
        raise ConfigError(
            f"two rows of the table would be called {twice[0]}",
            remedy="rename one of the folders that --models, --pair and --vit name",
        )


# -- models ----------------------------------------------------------------------------------------


def named_models(asked: Asked, names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """A row for each model that is here, and the usual ones that are not."""
    rows, missing = [], []
    for name in names:
        folder = _there(name, _model_folder, USUAL)
        if folder is None:
            missing.append(name)
            continue
        found = Trained(shown(name), folder, _place(asked, shown(name)))
        told = read_model_file(folder)
        labels = str(told.card.get("labels used", "unknown"))
        about = _about(found.name, told.method, labels, given(told.card)) | found.identity()
        rows.append({**about, "seed": None, "scores": val_scores(found, asked.limit)})
    return rows, missing


def _model_folder(name: str) -> Path:
    """Of a model, or of the run that has left it."""
    left = Path(name).expanduser() / "model"
    return left if left.is_dir() else find_model(name)


def _there(name: str, find: Callable[[str], Path], usual: Sequence[str]) -> Path | None:
    """Where it lies; None for a usual one that is not in this installation."""
    try:
        return find(name)
    except (ModelError, UnknownName):
        if name in usual:
            return None
        raise


def _place(asked: Asked, name: str) -> Path:
    return asked.folder / "beside" / slug(name)


def _about(name: str, method: str, labels: str, came: str | float | None) -> Row:
    return {"name": name, "method": method, "labels": labels, "given": came}


def given(card: Mapping[str, Any]) -> str | float | None:
    """What the expressions that a model learned from came with, by its card: words alone, boxes, or
    the share of them that had masks. None where that share is not to be told.
    """
    granted = str(card.get("labels granted", card.get("labels used", "mask("))).partition(";")[0]
    kinds = {part.partition("(")[0].strip() for part in granted.split("+")}
    if "mask" not in kinds:
        return BOXES if "box" in kinds else WORDS
    if "mask(" not in granted:
        return 1.0
    command = str(card.get("command", "mask_refs"))
    asked = re.search(r"data\.mask_share=([\d.e-]+)", command)
    if asked:
        return float(asked[1])
    return None if "mask_refs" in command else get_recipe(card["recipe"]).data.mask_share


def of_seed(asked: Asked, seed: int) -> list[Row]:
    """The base, and the student of its masks."""
    base, taught = trained(asked, BASE, seed), student(asked, seed)
    own = told_labels(asked, base)
    pupil = f"masks of {SAG} ({own}); {told_labels(asked, taught)}"
    return [
        {
            **_about(name, method, labels, WORDS),
            **model.identity(),
            "seed": seed,
            "scores": val_scores(model, asked.limit),
        }
        for name, method, labels, model in (
            (SAG, "sag", own, base),
            (STUDENT, "vega", pupil, taught),
        )
    ]


# -- what needs no training ------------------------------------------------------------------------


def untrained(asked: Asked, pair: str) -> tuple[list[Row], list[str]]:
    """A row for each, on the same expressions, and what could not be had."""
    rows, missing = [], []
    for name, method, came, weights, make in _untrained(asked, pair):
        if weights is None:
            missing.append(name)
            continue
        where = Beside(name, weights, _place(asked, name))
        scores = scores_on_val(where, "sag", PROTOCOLS, asked.limit, make)
        labels = str(make().card["labels used"])
        rows.append({**_about(name, method, labels, came), "seed": None, "scores": scores})
    return rows, missing


#: Name, method, what it came with, hash of weights (None: absent), what makes it.
Untrained = tuple[str, str, str | None, str | None, Callable[[], Answers]]


def _untrained(asked: Asked, pair: str) -> Iterator[Untrained]:
    clip, vit = (_weights(name, usual) for name, usual in ((pair, PAIR), (asked.vit, VIT)))
    yield f"{MASKCLIP} of {shown(pair)}", MASKCLIP, NOTHING, clip, partial(read_model, pair)
    of_pair, of_vit = partial(_pair_saliency, pair), partial(vit_saliency, asked)
    yield f"{SALIENCY} of {shown(pair)}", "-", NOTHING, clip, of_pair
    yield f"{SALIENCY} of {shown(asked.vit)}", "-", NOTHING, vit, of_vit
    data = open_scenes("scenes", "val")
    for name in NAMES:
        came = None if name == ORACLE else NOTHING
        yield name.removeprefix(PREFIX), "-", came, "", partial(make_baseline, name, data)


def _weights(name: str, usual: str) -> str | None:
    folder = _there(name, find_encoder, [usual])
    return None if folder is None else sha256_file(weight_file(str(folder)))


def _pair_saliency(pair: str) -> Answers:
    """As TRIS's study has it, which sees pictures as MaskCLIP does."""
    return EncoderAnswers(pair, read_model(pair).preprocess, SALIENCY)


def vit_saliency(asked: Asked) -> Answers:
    """How unlike the picture's mean each patch is to the ViT that the base starts from. (The norm
    behind the last layer makes all patches about as long, so length tells nothing.)
    """
    model: models.Model = build(variant_recipe(asked, BASE, asked.seeds[0]), ())
    labels = encoder_labels(find_encoder(asked.vit))
    look = partial(unlike_the_mean, model.method.eval())
    return LookAnswers(SALIENCY, labels, model.tokenizer, model.preprocess, look)


def unlike_the_mean(method: Sag, batch: Batch) -> Tensor:
    """[B, h, w]: the distance of each patch's feature from the mean of its picture's."""
    features = method.vision(batch.images)
    away = (features - features.mean(dim=1, keepdim=True)).norm(dim=-1)
    hw = method.vision.grid((batch.images.shape[2], batch.images.shape[3]))
    return away.view(-1, *hw)[batch.image_of]


# -- put together ----------------------------------------------------------------------------------


def means(rows: Sequence[Row]) -> list[Row]:
    """Each name once: mean and spread over seeds; the interval of what has one score."""
    told = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        runs = [Scored(name, number, row["scores"]) for number, row in enumerate(mine)]
        (found,) = summary(runs, [name], MEASURES)
        about = {key: mine[0][key] for key in ("name", "method", "labels", "given")}
        plain = mine[0]["scores"]["original"]
        interval = plain["intervals"]["mIoU"] if len(mine) == 1 else None
        told.append({**about, **found, "n": plain["n"], "interval": interval})
    return told


def compared(rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """Shatter and Gather beside what it is compared with, seed by seed. What was not trained here
    has one score for all.
    """
    runs = on_each_seed(rows, lambda row: str(row["name"]), seeds)
    names = list(dict.fromkeys(row["name"] for row in rows))
    told = differences(runs, names, MAIN, [(STUDENT, SAG)])
    for row in rows:
        if row["method"] in ("tris", MASKCLIP) or row["name"].startswith(SALIENCY):
            told += differences(runs, names, MAIN, [(SAG, row["name"])])
    clip = {row["name"] for row in rows if row["method"] == MASKCLIP}
    return [
        {**one, "claim": CLAIM if one["over"] in clip and one["measure"] == "mIoU" else ""}
        for one in told
    ]
