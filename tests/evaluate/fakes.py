"""Writers, judges and choosers that answer by rule, and the data sets that they are asked about."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.describe import Described, Verdict
from refseg.errors import NoProposal
from refseg.types import Expression, Labels, Picture, Sample

LABELS = Labels.parse("text+box+category")
Asked = Sequence[tuple[int, int]]


def heads(select: bool = True, **abilities: Any) -> SimpleNamespace:
    """What `evaluate_expressions` and the command look at in a method."""
    return SimpleNamespace(
        config=SimpleNamespace(select=select, generate=True), write=None, **abilities
    )


@dataclass
class Fake:
    """says(ann_id) -> sentence; finds(ann_id, text) -> whether its head picks the object."""

    says: Callable[[int], str] = lambda ann_id: f"thing {ann_id}"
    finds: Callable[[int, str], bool] = lambda ann_id, text: True
    iou: Callable[[int], float | None] = lambda ann_id: None
    name: str = "fake"
    card: dict[str, Any] = field(default_factory=lambda: {"labels used": "text+box"})
    method: Any = field(default_factory=lambda: heads())
    refuses: Sequence[int] = ()  # annotations that no proposal stands for
    pictures: list[int] = field(default_factory=list)
    beams: set[int] = field(default_factory=set)


def ann_ids(model: Fake, pictures: Sequence[Picture], asked: Asked, strict: bool) -> list[int]:
    found = [int(pictures[place].objects.ann_ids[row]) for place, row in asked]
    for ann_id, (place, row) in zip(found, asked, strict=True):
        if strict and ann_id in model.refuses:
            raise NoProposal(pictures[place].image_id, row)
    return found


def describe(
    model: Fake,
    pictures: Sequence[Picture],
    asked: Asked,
    *,
    beams: int = 3,
    keep: int = 1,
    verify: bool = False,
    strict: bool = True,
) -> list[Described]:
    """Stands for `refseg.describe.describe`."""
    assert keep == 1
    model.pictures.append(len(pictures))
    model.beams.add(beams)
    told = []
    for n in ann_ids(model, pictures, asked, strict):
        if n in model.refuses:
            told.append(Described((), None, -1))
            continue
        text = model.says(n)
        back = model.finds(n, text) if verify else None
        expressions = (Expression(text, -1.0, back),) if text else ()
        told.append(Described(expressions, model.iou(n), 0))
    return told


def refer_back(
    judge: Fake,
    pictures: Sequence[Picture],
    asked: Asked,
    texts: Sequence[str],
    *,
    strict: bool = True,
) -> list[Verdict]:
    """Stands for `refseg.describe.refer_back`."""
    return [
        Verdict(False, -1.0, False)
        if n in judge.refuses
        else Verdict(judge.finds(n, text), -1.0)  # a margin says nothing of proposals
        for n, text in zip(ann_ids(judge, pictures, asked, strict), texts, strict=True)
    ]


@dataclass
class Chooser:
    """Scores objects by a rule and remembers what it was shown."""

    rule: Callable[[Sample], Sequence[float]]
    name: str = "chooser"
    card: dict[str, Any] = field(default_factory=dict)
    shown: list[Sample] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def scores(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        self.shown += samples
        self.calls.append(len(samples))
        return [np.array(self.rule(sample), np.float32) for sample in samples]


def by_letters(sample: Sample) -> list[float]:
    """A different order of the objects for every text and image, and nothing else."""
    seed = [sample.image_id, *map(ord, sample.text)]
    return np.random.default_rng(seed).permutation(len(sample.objects)).tolist()


# Annotation -> image, and what is said of it; refs: (annotations, split, sentences).
Refs = Sequence[tuple[int | list[int], str, Sequence[str]]]


def write_refer(
    folder: Path, image_of: dict[int, int], refs: Refs, *, crowds: Sequence[int] = ()
) -> Path:
    """A REFER folder without pictures: `image_of` is annotation -> image, all of category 1."""
    folder.mkdir(parents=True)
    instances = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60}
            for n in sorted(set(image_of.values()))
        ],
        "annotations": [
            {
                "id": ann_id, "image_id": image_id, "category_id": 1, "area": 50.0,
                "bbox": [float(ann_id % 7), 2.0, 10.0, 5.0], "iscrowd": int(ann_id in crowds),
            }
            for ann_id, image_id in image_of.items()
        ],
        "categories": [{"id": 1, "name": "bus", "supercategory": "vehicle"}],
    }  # fmt: skip
    made, sent_id = [], 0
    for ref_id, (target, split, texts) in enumerate(refs):
        sentences = [
            {"sent_id": sent_id + n, "raw": text, "sent": text} for n, text in enumerate(texts)
        ]
        sent_id += len(texts)
        first = target[0] if isinstance(target, list) else target
        made.append(
            {
                "ref_id": ref_id, "ann_id": target, "image_id": image_of[first], "split": split,
                "category_id": 1, "sentences": sentences,
            }
        )  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).json").write_text(json.dumps(made))
    return folder


def opened(folder: Path | str, split: str = "val", **options: Any) -> ReferDataset:
    return open_data(folder, split, LABELS, objects=True, pixels=False, **options)
