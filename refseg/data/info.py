"""What is in a data set: the numbers behind `refseg data info`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from refseg.data.published import PUBLISHED
from refseg.data.records import KIND_NONE, Records
from refseg.types import LABEL_KINDS, Labels


def describe_records(records: Records, labels: Labels) -> dict[str, Any]:
    """Counts by split and for all; only the tables that `labels` grant are opened.

    dataset, split_by: names. splits: label or "all" -> refs, sentences, images, words_mean,
    words_max, published (refs, sentences, images; None when unknown). images, objects,
    categories: of the whole data set (objects, categories None when withheld). labels: the kinds
    that are both present and granted. no_target_refs, multi_target_refs: None when withheld.
    same_category_mean: mean number of objects of the target's category in its image, the target
    included, over refs with one target. skipped: what a lenient reading left out.
    """
    meta = records.meta
    names, codes = records.splits()
    words = _words(records)
    ref_of_sentence = records.column("sentences", "ref_row")
    everything = np.ones(len(codes), np.bool_)
    masks = {name: codes == number for number, name in enumerate(names)} | {"all": everything}
    splits = {
        name: {
            "refs": int(mask.sum()),
            "sentences": int(mask[ref_of_sentence].sum()),
            "images": len(np.unique(records.column("refs", "image_row")[mask])),
            "words_mean": _mean(words[mask[ref_of_sentence]]),
            "words_max": int(words[mask[ref_of_sentence]].max(initial=0)),
            "published": _published(meta.dataset, meta.split_by, name),
        }
        for name, mask in masks.items()
    }
    objects = labels.allows("box") or labels.allows("category") or "mask" in labels.granted
    targets = _targets_per_ref(records) if objects else None
    return {
        "dataset": meta.dataset,
        "split_by": meta.split_by,
        "splits": splits,
        "images": records.count("images"),
        "objects": records.count("annotations") if objects else None,
        "categories": records.count("categories") if labels.allows("category") else None,
        "labels": [kind for kind in LABEL_KINDS if kind in labels.granted and _has(records, kind)],
        "no_target_refs": None if targets is None else int((targets == 0).sum()),
        "multi_target_refs": None if targets is None else int((targets > 1).sum()),
        "same_category_mean": same_category_mean(records) if labels.allows("category") else None,
        "skipped": dict(meta.skipped),
    }


def same_category_mean(records: Records) -> float | None:
    """Mean over refs with one target of how many objects of its category its image shows.

    None when there is no such ref. RefCOCO gives 4.90; the 3.9 that papers print counts otherwise.
    """
    rows = np.flatnonzero(_targets_per_ref(records) == 1)
    if len(rows) == 0:
        return None
    targets = np.array([records.ann_rows(int(row))[0] for row in rows])
    image_row = records.column("annotations", "image_row").astype(np.int64)
    category = records.column("annotations", "category_id").astype(np.int64)
    pair = image_row * (int(category.max()) + 1) + category
    _, number, size = np.unique(pair, return_inverse=True, return_counts=True)
    return _mean(size[number[targets]])


def _has(records: Records, kind: str) -> bool:
    if kind == "text":
        return records.count("sentences") > 0
    if kind == "box":
        return bool(np.isfinite(records.column("boxes", "x")).any())
    if kind == "mask":
        return bool((records.column("segmentations", "kind") != KIND_NONE).any())
    return records.count("categories") > 0


def _words(records: Records) -> NDArray[np.int64]:
    """[sentences] the number of words of each cleaned sentence."""
    trimmed = pc.utf8_trim_whitespace(records.table("sentences").column("sent"))
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed)).to_numpy()
    filled = pc.not_equal(trimmed, "").to_numpy(zero_copy_only=False)
    return np.where(filled, words, 0).astype(np.int64)


def _targets_per_ref(records: Records) -> NDArray[np.int64]:
    counts = pc.list_value_length(records.table("refs").column("ann_rows"))
    return np.asarray(counts.to_numpy(), np.int64)


def _published(dataset: str, split_by: str, split: str) -> dict[str, int | None] | None:
    size = PUBLISHED.get((dataset, split_by, split))
    return None if size is None else size._asdict()


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
