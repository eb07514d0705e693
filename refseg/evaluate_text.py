"""Sentences that a model writes about the objects of a split, against those that people wrote.

    report = evaluate_expressions(load(writer), open_data("scenes", "testA", labels, objects=True),
                                  judge=load(other))
    report.metrics["CIDEr"], report.metrics["Rb-Acc"], report.samples["text"]

One sentence an object, and one document of CIDEr's idf an object, with all its references; an
object that several refs describe counts once. Rb-Acc, refer-back accuracy, is the share of
sentences that a selection head leads back to their object. The head must be that of another model
(the judge): the writer may have learned to please its own. Its own is refused under any name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refseg.data.dataset import ReferDataset
from refseg.describe import MATCHED, same_reader
from refseg.errors import ConfigError
from refseg.evaluate import read_ahead
from refseg.meaning import MEANINGS, world_of
from refseg.metrics.captions import CiderD, meteor, meteor_es, tokenise, why_no_meteor
from refseg.metrics.meter import bootstrap_interval
from refseg.metrics.words import repeats, unrolled
from refseg.referred import Referred, merged_references, referred
from refseg.types import Picture
from refseg.written import Scribe, Written

RB_ACC, OWN, HUMAN = "Rb-Acc", "Rb-Acc by its own head", "Rb-Acc of human sentences"
MISSED = "without a proposal"
RUNS_ON = "runs on"
WithMeteor = Literal["if possible", "yes", "no"]


@dataclass(frozen=True)
class TextReport:
    """One model's sentences about the objects of a split.

    labels: what the model learned from. judge: whose selection head gives Rb-Acc. merged: data
    sets whose references were joined for the metrics "... merged". n: objects. metrics: CIDEr
    0..10, "words" a mean length (a piece that a word repeats counts each time, see
    `refseg.metrics.words.unrolled`), all others fractions in 0..1; "runs on": see `runs_on`.
    intervals: 95 %, images drawn as wholes. samples: per object, sorted by ann_id: ann_id,
    image_id, text, references, iou (of the proposal that stood for it, on the grid of its mask),
    own, hit (by the judge), meaning, and CIDEr, METEOR and "runs on" under their names among the
    metrics. notes: what was left out, and why.
    """

    model: str
    data: str
    split: str
    labels: str
    judge: str | None
    merged: tuple[str, ...]
    beams: int
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, list[Any]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """Plain values. samples: with those of the single objects."""
        names = ("model", "data", "split", "labels", "judge", "beams", "n")
        told = {name: getattr(self, name) for name in names}
        told |= {"task": "expressions", "merged": list(self.merged), "notes": list(self.notes)}
        told |= {"metrics": dict(self.metrics)}
        told |= {"intervals": {name: list(pair) for name, pair in self.intervals.items()}}
        return told | ({"samples": dict(self.samples)} if samples else {})


def evaluate_expressions(
    model: Any,
    dataset: ReferDataset,
    *,
    judge: Any = None,
    merge: Sequence[str | Path] = (),
    beams: int = 3,
    with_meteor: WithMeteor = "if possible",
    limit: int | None = None,
    pictures_at_once: int = 32,
    progress: Callable[[int], None] | None = None,
) -> TextReport:
    """Write a sentence about every object that the split refers to, and score them.

    dataset: opened with its objects and the labels that model and judge need. merge: data sets,
    by name or folder, whose sentences about the same annotation ids join the references; scores
    with and without them are reported. beams: 1 writes greedily. with_meteor: METEOR 1.5 needs
    Java and pycocoevalcap, without which `meteor_es` is reported, under that name. limit: the
    first so many objects. progress(objects): told of every chunk.
    A sentence "runs on" if it repeats itself (`runs_on`) or is as long as the model can write.
    On a rendered world it is also told how many sentences mean exactly their object. An object
    that `describe` cannot describe (it has no extent, no proposal stands for it) counts with an
    empty sentence that means nothing to anybody.
    Raises DataError (no object, data sets that do not belong together), ConfigError for a model
    that does not write, a judge that does not read or is no other than the writer's own head;
    RefsegError for with_meteor="yes" where it cannot run.
    """
    if judge is not None:
        check_independent(model, judge)
    images, left_out = referred(dataset, limit)
    about = [one for group in images for one in group]
    merged = merged_references(dataset, about, merge) if merge else None
    chunks = [images[i : i + pictures_at_once] for i in range(0, len(images), pictures_at_once)]

    def read(chunk: list[list[Referred]]) -> tuple[list[list[Referred]], list[Picture]]:
        return chunk, [dataset.picture(group[0].image_row) for group in chunk]

    scribe, written = Scribe(model, judge, beams), []
    for chunk, pictures in read_ahead(read, chunks):
        written += scribe.write(chunk, pictures)
        if progress is not None:
            progress(sum(map(len, chunk)))
    if len(scribe.refused) == len(written):
        raise scribe.refused[0]
    written.sort(key=lambda one: one.about.ann_id)
    written, world_note = _with_meaning(dataset, written)
    told = [_left_out(left_out), world_note, _of_part(dataset, limit, len(written))]
    tally = _Tally(
        written,
        [*filter(None, told), *scribe.notes()],
        too_long(model, [one.text for one in written]),
    )
    tally.count(merged, with_meteor)
    return TextReport(
        model.name,
        dataset.name,
        dataset.split,
        str(model.card.get("labels used", "unknown")),
        None if judge is None else judge.name,
        tuple(map(str, merge)),
        beams,
        len(written),
        tally.metrics,
        tally.intervals,
        tally.samples,
        tuple(tally.notes),
    )


def check_independent(model: Any, judge: Any) -> None:
    """Raise ConfigError for a judge that reads by the writer's own head, whatever its name.

    The model before step 2 is such a judge of the one after it: their heads are the same.
    """
    if same_reader(model, judge):
        raise ConfigError(
            f"{judge.name} has the same selection head as {model.name}: it is no independent judge",
            remedy="name a model that was trained by itself, with another seed, or leave the judge "
            "out: accuracy by its own head is told anyway",
        )


def _left_out(count: int) -> str:
    return f"{count:,} expressions that mean none, several or a crowd were left out" * (count > 0)


def _of_part(dataset: ReferDataset, limit: int | None, count: int) -> str:
    """A note where the limit has left objects out."""
    if limit is None or sum(map(len, referred(dataset)[0])) == count:
        return ""
    return (
        f"CIDEr is of the first {count:,} objects alone, idf included: it does not compare with "
        "that of the whole split"
    )


def runs_on(text: str) -> bool:
    """Whether a piece of a word, a word or some words come three times or more in a row.

    "its its its" and "sitowingowingowing" do. People hardly write so.
    """
    return repeats(unrolled(text))


def too_long(model: Any, texts: Sequence[str]) -> list[bool]:
    """Whether each sentence has as many word pieces as the writer can write."""
    longest = getattr(model.method, "word_limits", {}).get("generator.max_words")
    if longest is None:
        return [False] * len(texts)
    # Not the method's own encode: it cuts at the length in question and refuses empty texts.
    pieces = model.tokenizer.tokenizer.encode_batch(list(texts))
    return [len(one.ids) >= longest for one in pieces]


def _with_meaning(dataset: ReferDataset, written: list[Written]) -> tuple[list[Written], str]:
    """The same with what each sentence means in its scene, where the world is rendered."""
    world, note = world_of(dataset, {one.about.image_id for one in written})
    if world is None:
        return written, note
    return [
        replace(one, meaning=world.meaning(one.text, one.about.image_row, one.about.ann_id))
        for one in written
    ], note


class _Tally:
    """Fills metrics, intervals, samples and notes from what was written."""

    def __init__(
        self, written: Sequence[Written], notes: Sequence[str], too_long: Sequence[bool]
    ) -> None:
        self.written = written
        self.runs_on = [
            long or runs_on(one.text) for one, long in zip(written, too_long, strict=True)
        ]
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.samples: dict[str, list[Any]] = {}
        self.each: dict[str, list[float]] = {}  # metric of the captions -> of each object
        self.notes = list(notes)

    def count(self, merged: Mapping[int, Sequence[str]] | None, with_meteor: WithMeteor) -> None:
        texts = {one.about.ann_id: one.text for one in self.written}
        references = {one.about.ann_id: one.about.references for one in self.written}
        self._captions("", texts, references, with_meteor)
        if merged is not None:
            self._captions(" merged", texts, merged, with_meteor)
        self._found()
        self._worded()
        self.samples = self._samples(references)

    def _captions(
        self,
        suffix: str,
        texts: Mapping[int, str],
        references: Mapping[int, Sequence[str]],
        with_meteor: WithMeteor,
    ) -> None:
        each = CiderD(references).scores(texts)
        self.each["CIDEr" + suffix] = [float(each[ann_id]) for ann_id in texts]
        self._mean("CIDEr" + suffix, self.each["CIDEr" + suffix])
        lacking = why_no_meteor()
        real = with_meteor == "yes" or (with_meteor == "if possible" and not lacking)
        name = ("METEOR" if real else "meteor_es") + suffix
        found = meteor(texts, references) if real else meteor_es(texts, references)
        self.metrics[name] = found.corpus
        self.each[name] = [found.each[ann_id] for ann_id in texts]
        if with_meteor == "if possible" and lacking:
            self._note(
                f"METEOR 1.5 was not computed: {lacking}; meteor_es is another metric, never to "
                "be compared with published METEOR"
            )
        if len(texts) == 1:
            self._note("the CIDEr of a single object is 0 whatever is written (its idf is 0)")

    def _found(self) -> None:
        if self.written[0].judged is None:
            self._note(
                f"no judge: {RB_ACC} needs the selection head of another model; "
                f'"{OWN}" flatters whoever learned from that head'
            )
        else:
            self._mean(RB_ACC, [bool(one.judged) for one in self.written])
        if self.written[0].own is not None:
            self._mean(OWN, [bool(one.own) for one in self.written])
        human = [(hit, one.about.image_id) for one in self.written for hit in one.human]
        if human:
            self._mean(HUMAN, *map(list, zip(*human, strict=True)))
        known = [one.iou for one in self.written if one.iou is not None]
        if known:
            missed = sum(iou < MATCHED for iou in known)
            self.metrics[MISSED] = missed / len(self.written)

    def _worded(self) -> None:
        if self.written[0].meaning is not None:
            for name in MEANINGS:
                self._mean(name, [one.meaning == name for one in self.written])
        words = [tuple(tokenise(one.text)) for one in self.written]
        self.metrics["distinct"] = len(set(words)) / len(words)
        self.metrics["words"] = sum(len(unrolled(one.text)) for one in self.written) / len(words)
        self._mean(RUNS_ON, self.runs_on)

    def _mean(self, name: str, values: Sequence[float], images: Sequence[int] = ()) -> None:
        """A mean over objects (or over the given images' values) with its interval."""
        groups = images or [one.about.image_id for one in self.written]
        self.metrics[name] = float(np.mean(values))
        self.intervals[name] = bootstrap_interval(values, groups=groups)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _samples(self, references: Mapping[int, Sequence[str]]) -> dict[str, list[Any]]:
        return {
            "ann_id": list(references),
            "image_id": [one.about.image_id for one in self.written],
            "text": [one.text for one in self.written],
            "references": [list(sentences) for sentences in references.values()],
            **self.each,
            RUNS_ON: self.runs_on,
            "iou": [one.iou for one in self.written],
            "own": [one.own for one in self.written],
            "hit": [one.judged for one in self.written],
            "meaning": [one.meaning for one in self.written],
        }
