"""Study "written": do the sentences that the model writes mean their object to another reader?

Of every object that RefCOCO's expressions mean: among the annotated objects of its picture, which
nobody looks at, and in photographs, where writer and judge see what is detected. The judge is
another model, trained with another seed, whose head gave no reward. It is right if it chooses the
object; in photographs a detection whose box overlaps it by half, and more than any other object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.describe import MATCHED, describe
from refseg.evaluate_text import check_independent, runs_on, too_long
from refseg.metrics.captions import CiderD
from refseg.metrics.meter import bootstrap_interval
from refseg.metrics.words import unrolled
from refseg.models import PHOTOS, Model
from refseg.nn.eyes import Eyes
from refseg.pull.kept import pulled_folder
from refseg.referred import Referred, referred
from refseg.types import ALL_LABELS, Picture, Sample
from refseg.written import object_row
from studies.base import Outcome, learned_from, model_identity, say
from studies.photographs_chain import check_judged
from studies.photographs_choice import LABELS, SPLITS, ByBox, check_left_out
from studies.photographs_eyes import Remembering

DATA = "refcoco"
BEAMS = 5
AT_ONCE = 16  # pictures
PEOPLE = "people"
#: How the model wrote: by the likeliest words; its best of `BEAMS`; of these the first that leads
#: its own head back to the object.
GREEDY, BEST, CHECKED = WRITERS = ("greedy", "beams", "checked")


@dataclass(frozen=True)
class WrittenAbout:
    """What the study is asked. real: holds refcoco/, boxes alone; photos: the same with pixels.
    judge: the folder of another model. model, never: as in `photographs_choice.Choice`.
    """

    real: Path
    photos: Path
    judge: Path
    model: str = PHOTOS
    never: frozenset[int] = frozenset()
    limit: int | None = None


def run(asked: WrittenAbout) -> Outcome:
    """Sentences about every object, and how the judge understands them.

    Raises DataError (`check_left_out`, `check_judged`), ConfigError for a judge that reads by
    the writer's own head, ModelError where nothing has been pulled.
    """
    writer, judge = (models.load(one, eyes=False) for one in (asked.model, str(asked.judge)))
    for one, name in ((writer, asked.model), (judge, str(asked.judge))):
        check_left_out(name, one.card, asked.never)
    check_independent(writer, judge)
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        told = open_data(asked.real / DATA, split, LABELS, objects=True, pixels=False)
        found = sentences(writer, judge, told, asked.limit)
        rows += tally(f"{DATA} {split}, annotated objects", found, writer)
    seen: Any = Remembering(Eyes.load(pulled_folder(PHOTOS)))
    for one in (writer, judge):
        one.method.see_by(lambda: seen)
    shown = open_data(asked.photos / DATA, "val", ALL_LABELS, objects=True)
    check_judged(shown, asked.never)
    found = sentences(writer, ByBox(judge), shown, asked.limit)
    rows += tally(f"{DATA} val, photographs", found, writer)
    examples = [_example(one) for one in _drawn(found)]
    for row in rows:
        say(f"written: {row['data']}: {row['writer']}: {row['hit']:.3f}")
    data = [*(f"{DATA} {split}" for split in SPLITS), f"{DATA} val, photographs"]
    numbers = {
        "rows": rows, "examples": examples, "beams": BEAMS,
        "judge": model_identity(judge, str(asked.judge)),
    }  # fmt: skip
    seeds = {"judge": judge.card.get("seed", "unknown"), "bootstrap": 0, "examples": 0}
    return Outcome(numbers, ["annotated objects"], data, learned_from(writer), seeds)


@dataclass
class About:
    """An object, what each writer says of it, and whether the judge finds it by that.

    seen: whether a proposal of the writer stands for it.
    """

    about: Referred
    seen: bool
    texts: dict[str, str] = field(default_factory=dict)
    hits: dict[str, bool] = field(default_factory=dict)
    people: list[bool] = field(default_factory=list)


def sentences(writer: Model, judge: Any, dataset: ReferDataset, limit: int | None) -> list[About]:
    """Of every object of the split. judge: has `scores(samples)` over the annotated objects."""
    images, _ = referred(dataset, limit)
    chunks = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    return [one for chunk in chunks for one in _of_pictures(writer, judge, dataset, chunk)]


def _of_pictures(
    writer: Model, judge: Any, dataset: ReferDataset, chunk: Sequence[Sequence[Referred]]
) -> list[About]:
    pictures = [dataset.picture(group[0].image_row) for group in chunk]
    about = [one for group in chunk for one in group]
    spots = [(n, object_row(pictures[n], one)) for n, group in enumerate(chunk) for one in group]
    greedy = describe(writer, pictures, spots, beams=1, strict=False)
    beams = describe(writer, pictures, spots, beams=BEAMS, keep=BEAMS, verify=True, strict=False)
    made = []
    for one, first, several in zip(about, greedy, beams, strict=True):
        good = [each for each in several.expressions if each.refers_back]
        told = {
            GREEDY: first.expressions,
            BEST: several.expressions,
            CHECKED: (*good, *several.expressions),
        }
        texts = {name: each[0].text if each else "" for name, each in told.items()}
        # Masks are matched however little they overlap; what overlaps so little is something else.
        seen = first.proposal >= 0 and (first.iou is None or first.iou >= MATCHED)
        made.append(About(one, seen, texts))
    texts = [[*one.texts.values(), *one.about.references] for one in made]
    hits = iter(_hits(judge, pictures, spots, texts))
    for one in made:
        one.hits = {name: next(hits) for name in one.texts}
        one.people = [next(hits) for _ in one.about.references]
    return made


def _hits(
    judge: Any,
    pictures: Sequence[Picture],
    spots: Sequence[tuple[int, int]],
    texts: Sequence[Sequence[str]],
) -> list[bool]:
    """Whether the judge chooses the object of each spot by each of its texts, flat; an empty one
    means nothing.
    """
    flat = [(spot, text) for spot, each in zip(spots, texts, strict=True) for text in each]
    samples = [
        Sample(
            str(number), pictures[place].image, text, place, 0, number,
            objects=pictures[place].objects, target=row,
        )
        for number, ((place, row), text) in enumerate(flat)
        if text
    ]  # fmt: skip
    hits = [False] * len(flat)
    for sample, scores in zip(samples, judge.scores(samples) if samples else (), strict=True):
        row = sample.target
        hits[sample.sent_id] = bool(np.isfinite(scores[row])) and int(scores.argmax()) == row
    return hits


def tally(data: str, found: Sequence[About], writer: Model) -> list[dict[str, Any]]:
    """A row for each writer: n, share of hits with its 95 % interval (pictures are drawn as
    wholes), CIDEr, words a sentence and share that runs on, as `refseg.evaluate_text` counts
    them; of objects, the share that is seen.
    """
    groups = [one.about.image_id for one in found]
    references = {one.about.ann_id: one.about.references for one in found}
    cider, rows = CiderD(references), []
    for name in WRITERS:
        texts = {one.about.ann_id: one.texts[name] for one in found}
        hits = [one.hits[name] for one in found]
        written = list(texts.values())
        long = too_long(writer, written)
        endless = [runs_on(text) or cut for text, cut in zip(written, long, strict=True)]
        rows.append(
            {
                "data": data, "writer": name, "n": len(found), "hit": float(np.mean(hits)),
                "interval": bootstrap_interval(hits, groups=groups),
                "CIDEr": float(np.mean(list(cider.scores(texts).values()))),
                "words": float(np.mean([len(unrolled(text)) for text in written])),
                "runs on": float(np.mean(endless)),
                "seen": float(np.mean([one.seen for one in found])),
            }
        )  # fmt: skip
    people = [(hit, one.about.image_id) for one in found for hit in one.people]
    hits, images = map(list, zip(*people, strict=True))
    rows.append(
        {
            "data": data, "writer": PEOPLE, "n": len(hits), "hit": float(np.mean(hits)),
            "interval": bootstrap_interval(hits, groups=images),
        }
    )  # fmt: skip
    return rows


def _drawn(found: Sequence[About], count: int = 8) -> list[About]:
    rows = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[row] for row in sorted(rows.tolist())]


def _example(one: About) -> Mapping[str, Any]:
    told = {"ann_id": one.about.ann_id, "people": list(one.about.references)}
    return {**told, "written": one.texts[CHECKED], "hit": one.hits[CHECKED], "seen": one.seen}
