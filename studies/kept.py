"""Scores of trained models, kept beside their runs: what was measured once is read again.

RUN/scores/<what>-<data>-<split>-....json holds the scores and all that they depend on: the
weights of the model and of its judge, the data's content, the options, and the version of what is
measured and how (`SCORES_VERSION`). What was measured of others is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from refseg import models
from refseg.data.dataset import ReferDataset
from refseg.errors import RunError
from refseg.evaluate import Options, Report, evaluate
from refseg.evaluate_objects import evaluate_objects
from refseg.evaluate_text import WithMeteor, evaluate_expressions
from refseg.metrics.captions import why_no_meteor
from refseg.ops.files import atomic_write_json, sha256_file
from studies import reward_signal
from studies.base import say

Scores = dict[str, Any]
PROTOCOL = "original"
#: Raise it when a metric, or anything that scores depend on (matching, decoding), changes or comes
#: in. 2: regions match proposals without a class; "runs on"; samples of masks.
SCORES_VERSION = 2


class Place(Protocol):
    """What scores are kept of. scores: a folder of its own."""

    @property
    def name(self) -> str: ...

    @property
    def scores(self) -> Path: ...


@dataclass(frozen=True)
class Trained:
    """A model's folder, and where its scores are kept: beside it, never in what is shipped."""

    name: str
    model: Path
    scores: Path

    @classmethod
    def at(cls, run: Path) -> Trained:
        """What a run, or one stage of it, has left. Raises RunError if that is nothing."""
        if not (run / "model" / "model.safetensors").is_file():
            raise RunError(f"{run}: not trained yet", remedy="train it first (no --only score)")
        return cls(run.name, run / "model", run / "scores")

    @property
    def weights(self) -> str:
        """SHA-256."""
        return sha256_file(self.model / "model.safetensors")

    def load(self) -> models.Model:
        """The model under this name."""
        model = models.load(self.model)
        model.name = self.name
        return model

    def identity(self) -> Scores:
        """Which weights these are: for the record of a study."""
        card = models.read_model_file(self.model).card
        keys = ("recipe", "steps", "seed", "disambiguation")
        told: Scores = {key: card[key] for key in keys if key in card}
        return {"run": self.name, "sha256": self.weights[:16], **told}


def of_objects(run: Trained, dataset: ReferDataset, limit: int | None) -> Scores:
    """Comprehension among annotated objects; see `evaluate_objects`."""

    def make() -> Scores:
        return evaluate_objects(run.load(), dataset, options=Options(limit)).to_json()

    return kept(run, _name("objects", dataset, limit), _key(run, dataset, limit), make)


def of_masks(run: Trained, dataset: ReferDataset, limit: int | None) -> Scores:
    """Segmentation under `original`, the bound of the proposals included; see `evaluate`.

    With samples: image_id and iou of every expression that has a target, in the order of its key.
    """

    def make() -> Scores:
        report = evaluate(run.load(), dataset, PROTOCOL, limit=limit)
        return {**report.to_json(), "samples": iou_of_each(report, dataset)}

    return kept(run, _name("masks", dataset, limit), _key(run, dataset, limit), make)


def iou_of_each(report: Report, dataset: ReferDataset) -> Scores:
    """image_id and iou of every expression that has a target, in the order of its key."""
    entries = map(dataset.entry, range(len(dataset)))
    image_of = {entry.key: entry.image_id for entry in entries}
    keys, ious, empty = (report.samples[name] for name in ("key", "iou", "target_empty"))
    rows = [row for row, without in enumerate(empty) if not without]
    return {
        "image_id": [image_of[keys[row]] for row in rows],
        "iou": [float(ious[row]) for row in rows],
    }


def of_expressions(
    run: Trained,
    dataset: ReferDataset,
    limit: int | None,
    *,
    judge: Trained | None,
    beams: int,
    merge: Sequence[Path] = (),
    with_meteor: WithMeteor = "no",
) -> Scores:
    """What the model writes, with the samples of single objects; see `evaluate_expressions`.

    Raises ConfigError for a judge that is no independent one.
    """
    java = with_meteor != "no" and not why_no_meteor()

    def make() -> Scores:
        reader = None if judge is None else judge.load()
        report = evaluate_expressions(
            run.load(),
            dataset,
            judge=reader,
            merge=merge,
            beams=beams,
            with_meteor=with_meteor,
            limit=limit,
        )
        return {**report.to_json(samples=True), "merged": [path.name for path in merge]}

    key = {**_key(run, dataset, limit), "beams": beams, "merged": [path.name for path in merge]}
    key["judge"] = None if judge is None else judge.weights
    key["METEOR"] = java
    return kept(run, _name("expressions", dataset, limit, f"beams{beams}"), key, make)


def of_rewards(run: Trained, dataset: ReferDataset, limit: int) -> Scores:
    """What rewards tell of the model's own sentences; see `studies.reward_signal.measure`."""

    def make() -> Scores:
        return reward_signal.measure(run.load(), dataset, limit)

    forms = {name: form.model_dump(mode="json") for name, form in reward_signal.FORMS.items()}
    key = {**_key(run, dataset, limit), "beams": reward_signal.BEAMS, "forms": forms}
    key["told"] = ["mean", "spread", "order"]
    return kept(run, _name("rewards", dataset, limit), key, make)


def kept(run: Place, name: str, key: Scores, make: Callable[[], Scores]) -> Scores:
    """The scores in the file `name` if they depend on `key`; made and written if not.

    Both ways they have been through JSON.
    """
    path = run.scores / f"{name}.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["depends on"] == key:
            return dict(found["scores"])
    say(f"scoring {run.name}: {name}")
    atomic_write_json(path, {"depends on": key, "scores": make()})
    return dict(json.loads(path.read_text(encoding="utf-8"))["scores"])


def _key(run: Trained, dataset: ReferDataset, limit: int | None) -> Scores:
    told = {"weights": run.weights, "data": dataset.hash, "limit": limit}
    return {**told, "version": SCORES_VERSION}


def _name(what: str, dataset: ReferDataset, limit: int | None, *more: str) -> str:
    return "-".join([what, dataset.name, dataset.split, *more, str(limit or "all")])
