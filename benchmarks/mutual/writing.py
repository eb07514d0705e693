"""Expressions for every object that RefCOCO's test splits refer to, from boxes alone."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.mutual.measuring import Table, Task, compared, fix_length, memory
from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.describe import describe
from refseg.recipes.mutual import mutual_refcoco_boxes
from refseg.referred import Referred, referred
from refseg.types import Picture

SPLITS = ("testA", "testB")
PICTURES = 32  # at once, as `refseg eval --task expressions`
SAMPLE = 96  # objects for the slow twin
Chunk = tuple[list[Picture], list[tuple[int, int]]]


def expressions(
    boxes: Path, run: Path | None, quick: bool, runs: int
) -> tuple[dict[str, Table], dict[str, Any]]:
    """The batched form against one object at a time, and the whole of both splits."""
    limit = 100 if quick else None
    model = opened(boxes, run)
    open_split(boxes, "testA")  # converted, if it never was
    tables = {}
    whole: dict[str, Any] = {}
    for beams in (1, 3):
        sample = chunks(open_split(boxes, "testA"), SAMPLE)
        differ = disagreeing(model, sample, beams)
        title = f"testA, first {SAMPLE} objects, beams {beams} ({differ} of {SAMPLE} texts differ)"
        tables[title] = compared(
            {
                "one object at a time": partial(alone, model, sample, beams),
                "ours: 32 pictures at once": partial(together, model, sample, beams),
            },
            runs,
        )
        found = all_of(boxes, model, beams, limit)
        whole[f"beams {beams}"] = found | memory(partial(made_whole, boxes, run, beams, limit))
    return tables, whole


def made_whole(boxes: Path, run: Path | None, beams: int, limit: int | None) -> Task:
    return partial(all_of, boxes, opened(boxes, run), beams, limit)


def opened(boxes: Path, run: Path | None) -> models.Model:
    return untrained(boxes) if run is None else models.load(model_of(run))


def model_of(run: Path) -> Path:
    """The model folder: `run` itself, or what its last stage left."""
    places = (run, run / "model", run / "disambiguate" / "model", run / "train" / "model")
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise SystemExit(f"no model in {run}: name a model's folder, or a finished run's")
    return found


def untrained(boxes: Path) -> models.Model:
    """With sentences of the greatest length: more work than any trained model makes of it."""
    recipe = mutual_refcoco_boxes()
    data = open_split(boxes, "train")
    torch.manual_seed(0)
    model = models.build(recipe, (data.entry(row).text for row in range(5_000)))
    fix_length(model.method.generator, recipe.tokens.max_words - 1)
    return model


def open_split(boxes: Path, split: str) -> ReferDataset:
    recipe = mutual_refcoco_boxes()
    return open_data(
        boxes, split, recipe.labels(), split_by=recipe.data.split_by, objects=True, pixels=False
    )


def chunks(data: ReferDataset, limit: int | None) -> list[Chunk]:
    """PICTURES pictures each, with the places of the objects that are asked about."""
    images = referred(data, limit)[0]
    found = []
    for start in range(0, len(images), PICTURES):
        part = images[start : start + PICTURES]
        pictures = [data.picture(group[0].image_row) for group in part]
        found.append((pictures, [(i, row(pictures[i], o)) for i, g in enumerate(part) for o in g]))
    return found


def row(picture: Picture, one: Referred) -> int:
    assert picture.objects is not None
    return int(picture.objects.ann_ids.tolist().index(one.ann_id))


def together(model: models.Model, asked: list[Chunk], beams: int) -> list[str]:
    return [
        one.expressions[0].text if one.expressions else ""
        for pictures, spots in asked
        for one in describe(model, pictures, spots, beams=beams)
    ]


def alone(model: models.Model, asked: list[Chunk], beams: int) -> list[str]:
    singles = [([pictures[i]], [(0, k)]) for pictures, spots in asked for i, k in spots]
    return together(model, singles, beams)


def disagreeing(model: models.Model, asked: list[Chunk], beams: int) -> int:
    """How many texts differ: in float32 two words may tie but for rounding, very few do."""
    pairs = list(zip(together(model, asked, beams), alone(model, asked, beams), strict=True))
    differ = sum(one != other for one, other in pairs)
    assert differ <= len(pairs) // 50, f"{differ} of {len(pairs)} texts differ"
    return differ


def all_of(boxes: Path, model: models.Model, beams: int, limit: int | None) -> dict[str, float]:
    """Objects, seconds with opening and reading the splits, ids of a sentence."""
    start = time.perf_counter()
    texts: list[str] = []
    for split in SPLITS:
        texts += together(model, chunks(open_split(boxes, split), limit), beams)
    seconds = time.perf_counter() - start
    mask = model.tokenizer.encode([text for text in texts if text]).mask
    return {
        "objects": float(len(texts)),
        "seconds": seconds,
        "per_second": len(texts) / seconds,
        "ids": float(mask.sum(axis=1).mean()) - 1,  # as it is read again; [CLS] is not written
    }
