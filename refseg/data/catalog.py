"""Open a data set by name or folder.

    data = open_data("scenes", "val", Labels.parse("text+mask"))
    data = open_data("~/data/refcoco", "testA", ALL_LABELS, images=Path("~/coco/train2014"))

A name is a style of the rendered world, made on first use and kept in the cache. A folder is
recognised by the files in it (`detect_format`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from refseg.data.dataset import DatasetOptions, MaskRule, ReferDataset, TextField, View
from refseg.data.images import ImageFinder, usual_places
from refseg.data.records import Records, RecordsMeta
from refseg.data.store import cache_folder, open_or_convert, store_folder
from refseg.errors import DataError, UnknownName
from refseg.types import Labels

DATA_NAMES = {"scenes", "scenes+", "scenesg"}
SCENES_IMAGES = 4000

# format -> the module and function that read it
READERS = {
    "refer": "refseg.data.refer:read",
    "grefcoco": "refseg.data.grefcoco:read",
    "phrasecut": "refseg.data.phrasecut:read",
    "referit": "refseg.data.referit:read",
    "folder": "refseg.data.folder:read",
}

# format -> file names (patterns) that prove it; the first that fits counts
SIGNS = {
    "grefcoco": ("grefs(*).json", "grefs(*).p"),
    "refer": ("refs(*).p", "refs(*).json"),
    "phrasecut": ("image_data_split*.json",),
    "referit": ("referit_query_*.json",),
    "folder": ("captions.csv",),
}
SOURCE_SUFFIXES = {".json", ".p", ".pickle", ".csv", ".tsv"}


def open_data(
    name_or_dir: str | Path,
    split: str,
    labels: Labels,
    *,
    images: Path | None = None,
    split_by: str | None = None,
    text_field: TextField = "raw",
    view: View = "sentence",
    mask_rule: MaskRule = "union",
    seed: int = 0,
    limit: int | None = None,
    exclude_images: Iterable[int] = (),
    min_box_share: float = 0.0,
    strict: bool = True,
) -> ReferDataset:
    """One split of a data set, showing the granted labels only.

    images: the folder of the images, where they are not in a usual place. split_by: which refs
    file, where there are several. The other options: see DatasetOptions; strict: see the reader.
    Raises UnknownName (name, split, split_by), DataError (nothing readable there, broken files).
    """
    options = DatasetOptions(
        text_field, view, mask_rule, seed, limit, frozenset(exclude_images), min_box_share
    )
    folder = find_folder(name_or_dir)
    store = converted_store(folder, split_by=split_by, strict=strict)
    return ReferDataset(store, folder, split, labels, _finder(folder, images, store), options)
