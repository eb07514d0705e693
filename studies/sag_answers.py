"""Study "answers": what changes in answering alone, on the same weights of the base.

Schemes, thresholds, draws of the slots' noise and CRFs, all from one pass of the network over val
of scenes. What is asked of a model is kept answer by answer, beside its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from refseg.errors import ConfigError
from refseg.evaluate import Options, evaluate_all
from refseg.methods.sag.config import AnswerConfig
from refseg.methods.sag.decode import decode
from refseg.methods.sag.fusion import Heard
from refseg.methods.sag.model import SagOutputs
from refseg.metrics.meter import bootstrap_interval
from refseg.models import Model
from refseg.types import Batch, Prediction, Sample
from studies import kept
from studies.base import Outcome, open_scenes, slug
from studies.kept import Scores, Trained, iou_of_each
from studies.paired import summary
from studies.sag_runs import (
    BASE,
    MEASURES,
    PROTOCOLS,
    Asked,
    method_of,
    told_labels,
    trained,
    variant_recipe,
    world_of,
)
from studies.weak import Row, Scored

DRAWS = 4
#: tau, of the curve; the paper's is 0.5.
TAUS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
PLAIN = "sum, tau 0.5, S 1, no CRF"
SCHEME, TAU, NOISE, CRF = "scheme", "tau", "draws", "CRF"
PACKAGE = "pydensecrf2"
#: mIoU of the paper, % of RefCOCO val (Table 3 and the supplement's A3; with a CRF its A4).
PAPER = {
    PLAIN: 34.76, "max": 19.54, "min": 0.14, "tau 0.3": 32.58, "tau 0.4": 34.39, "tau 0.6": 33.57,
    "tau 0.7": 30.72, f"{PACKAGE}, full size": 35.75,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """One way to answer. changes: of the paper's. draws: which of the draws are averaged."""

    name: str
    group: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    draws: tuple[int, int] = (0, 1)

    @property
    def config(self) -> AnswerConfig:
        """As the method is told."""
        return AnswerConfig(draws=self.draws[1] - self.draws[0], **self.changes)


def answers() -> list[Answer]:
    """Those that can be asked here; the plain one first."""
    return list(_answers())


def _answers() -> Iterator[Answer]:
    yield Answer(PLAIN, "")
    for scheme in ("max", "min"):
        yield Answer(scheme, SCHEME, {"scheme": scheme})
    for tau in TAUS:
        if tau != AnswerConfig().threshold:
            yield Answer(f"tau {tau:g}", TAU, {"threshold": tau})
    yield Answer(f"S {DRAWS}", NOISE, draws=(0, DRAWS))
    for draw in range(1, DRAWS):
        yield Answer(f"draw {draw + 1} alone", NOISE, draws=(draw, draw + 1))
    for how in ("lattice", *([PACKAGE] if find_spec("pydensecrf") else [])):
        for size, scale in (("full", 1.0), ("half", 0.5)):
            yield Answer(f"{how}, {size} size", CRF, {"crf": how, "crf_scale": scale})
        yield Answer(f"{how}, full size, rmi", CRF, {"crf": how, "crf_settings": "rmi"})


# -- one pass --------------------------------------------------------------------------------------


class OnePass:
    """What the network of a model makes of every batch that it is shown, kept for all answers.

    A batch is known by its expressions. Draws are independent of how many there are, so that of
    `DRAWS` each can be had alone.
    """

    def __init__(self, model: Model) -> None:
        # With a CRF originals come along.
        answer = AnswerConfig(draws=DRAWS, crf="lattice")
        model.method.config = model.method.config.model_copy(update={"answer": answer})
        self.model = model
        self._kept: dict[tuple[str, ...], tuple[SagOutputs, Batch]] = {}

    @torch.inference_mode()
    def look(self, samples: Sequence[Sample]) -> tuple[SagOutputs, Batch]:
        """All that answers are made of."""
        keys = tuple(sample.key for sample in samples)
        if keys not in self._kept:
            method = self.model.method.eval()
            batch = self.model.batch(samples, share_images=True)
            self._kept[keys] = _light(method(batch), batch)
        return self._kept[keys]


def _light(outputs: SagOutputs, batch: Batch) -> tuple[SagOutputs, Batch]:
    """Without what no answer is made of, which would fill the memory."""
    none = torch.zeros(0)
    light = replace(outputs, features=none, slots=none, heard=Heard(none, none))
    return light, replace(batch, images=none)


@dataclass(frozen=True)
class Answering:
    """`predict(samples)` as the model would with another `method.answer`."""

    one: OnePass
    answer: Answer

    @property
    def name(self) -> str:
        """Of the way to answer."""
        return self.answer.name

    @property
    def card(self) -> dict[str, Any]:
        """The model's."""
        return self.one.model.card

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample."""
        outputs, batch = self.one.look(samples)
        assert outputs.attention is not None
        first, end = self.answer.draws
        drawn = replace(
            outputs, fuse=outputs.fuse[:, first:end], attention=outputs.attention[:, first:end]
        )
        return decode(drawn, batch, self.answer.config)


# -- scores ----------------------------------------------------------------------------------------


def run(asked: Asked) -> Outcome:
    """Train the bases that are not trained yet, and score every answer."""
    _check(asked)
    models = {seed: trained(asked, BASE, seed) for seed in asked.seeds}
    found = {
        seed: {one.name: scores for one, scores in scored(model, asked.limit)}
        for seed, model in models.items()
    }
    recipe = variant_recipe(asked, BASE, asked.seeds[0])
    numbers = {
        "world": world_of(recipe),
        "steps": recipe.train.steps,
        "n": found[asked.seeds[0]][PLAIN]["original"]["n"],
        "runs": [{"seed": seed, **model.identity()} for seed, model in models.items()],
        "left out": [] if find_spec("pydensecrf") else [PACKAGE],
        "rows": [row_of(one, list(found.values())) for one in answers()],
        "noise": noise(list(found.values())),
    }
    labels = "; ".join(sorted({told_labels(asked, model) for model in models.values()}))
    seeds = {"training": list(asked.seeds), "scenes": 0, "bootstrap": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], labels, seeds)


def _check(asked: Asked) -> None:
    method = method_of(variant_recipe(asked, BASE, asked.seeds[0]))
    if not method.discovery or method.slots.kind == "query":
        raise ConfigError(
            "this study asks for single slots and draws of their noise, and the base has none",
            remedy="leave method.discovery and method.slots.kind as the recipe has them",
        )


def scored(run: Trained, limit: int | None) -> Iterator[tuple[Answer, Scores]]:
    """Every answer with its scores: protocol -> n and metrics, "samples" -> image_id and iou of
    each expression. Kept beside the run, so that what is kept needs no pass.
    """
    data, one_pass = open_scenes("scenes", "val"), cache(lambda: OnePass(run.load()))
    for one in answers():
        key = {"weights": run.weights, "data": data.hash, "limit": limit}
        key |= {"answer": one.config.model_dump(mode="json"), "draws": list(one.draws)}
        key["version"] = kept.SCORES_VERSION

        def make(one: Answer = one) -> Scores:
            answering = Answering(one_pass(), one)
            reports = evaluate_all(answering, data, PROTOCOLS, options=Options(limit))
            told = {r.protocol: {"n": r.n, "metrics": dict(r.metrics)} for r in reports}
            return {**told, "samples": iou_of_each(reports[0], data)}

        name = f"sag-answers-{slug(one.name)}-{data.name}-{data.split}-{limit or 'all'}"
        yield one, kept.kept(run, name, key, make)


def row_of(answer: Answer, found: Sequence[Mapping[str, Scores]]) -> Row:
    """Means and spreads over the models, and what it changes against the plain answer: the mean
    over expressions and models, with an interval that draws pictures as wholes.
    """
    runs = [Scored("", number, scores[answer.name]) for number, scores in enumerate(found)]
    (told,) = summary(runs, [""], MEASURES)
    del told["variant"]
    gaps, images = [], []
    for scores in found:
        mine, plain = (scores[name]["samples"] for name in (answer.name, PLAIN))
        gaps += list(np.subtract(mine["iou"], plain["iou"]))
        images += mine["image_id"]
    change = {"change": float(np.mean(gaps)), "interval": bootstrap_interval(gaps, groups=images)}
    about = {"answer": answer.name, "group": answer.group, "paper": PAPER.get(answer.name)}
    tau = answer.config.threshold if answer.group in ("", TAU) else None
    return {**about, "tau": tau, **told, **change}


def noise(found: Sequence[Mapping[str, Scores]]) -> Row:
    """How much a draw of the noise matters: mIoU of each draw alone, and how often it changes an
    expression's IoU by more than a tenth.
    """
    alone = [PLAIN, *(f"draw {draw + 1} alone" for draw in range(1, DRAWS))]
    means = [[_miou(scores[name]) for name in alone] for scores in found]
    ious = [np.array([scores[name]["samples"]["iou"] for name in alone]) for scores in found]
    moved = [float((np.ptp(each, axis=0) > 0.1).mean()) for each in ious]
    return {
        "mIoU of each draw": means,
        "spread": float(np.mean([np.std(one, ddof=1) for one in means])),
        "moved": float(np.mean(moved)),
    }


def _miou(scores: Scores) -> float:
    return float(scores["original"]["metrics"]["mIoU"])
