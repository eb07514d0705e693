"""Open a data set by name or folder.

    data = open_data("scenes", "val", Labels.parse("text+mask"))
    data = open_data("~/data/refcoco", "testA", ALL_LABELS, images=Path("~/coco/train2014"))

A name is a style of the rendered world, made on first use and kept in the cache; "scenes@12000"
is the same style in a world of 12,000 other images. A folder is recognised by the files in it
(`detect_format`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from refseg.data.dataset import ReferDataset
from refseg.data.images import ImageFinder, usual_places
from refseg.data.info import describe_records
from refseg.data.records import Records
from refseg.data.selection import DatasetOptions, MaskRule, TextField, View
from refseg.data.store import cache_folder, ensure_store, read_store
from refseg.errors import DataError, UnknownName
from refseg.types import ALL_LABELS, Labels

DATA_NAMES = {"scenes", "scenes+", "scenesg", "scenes-all"}
SCENES_IMAGES = 4000
Progress = Callable[[int, int], None]

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
    "referit": ("referit_query_*.json", "annotations/*.pickle"),
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
    exclude_images: Path | Iterable[int] = (),
    min_box_share: float = 0.0,
    objects: bool = False,
    pixels: bool = True,
    strict: bool = True,
    masked_only: bool = False,
) -> ReferDataset:
    """One split of a data set, showing the granted labels only.

    images: the folder of the images, where they are not in a usual place. split_by: which refs
    file, where there are several. exclude_images: image ids, or a file with one id a line.
    The other options: see DatasetOptions; strict: see the readers.
    Raises UnknownName (name, split, split_by), DataError (nothing readable there, broken files),
    LabelsError (an option needs a label that is not granted).
    """
    excluded = (
        read_image_ids(exclude_images)
        if isinstance(exclude_images, str | Path)
        else frozenset(exclude_images)
    )
    options = DatasetOptions(
        text_field, view, mask_rule, seed, limit, excluded, min_box_share, objects, pixels,
        masked_only,
    )  # fmt: skip
    folder = find_folder(name_or_dir)
    store = converted_store(folder, split_by=split_by, strict=strict)
    finder = image_finder(folder, read_store(store), images)
    return ReferDataset(store, folder, split, labels, finder, options)


def open_records(
    name_or_dir: str | Path, *, split_by: str | None = None, strict: bool = True
) -> Records:
    """All of a data set, every split and label, in the normal form."""
    folder = find_folder(name_or_dir)
    return read_store(converted_store(folder, split_by=split_by, strict=strict))


def find_folder(name_or_dir: str | Path, *, progress: Progress | None = None) -> Path:
    """The folder of a named data set (made if need be), or the folder given.

    progress(done, total) is called after each image that has to be rendered.
    Raises UnknownName for a plain word that is neither, DataError for a path that leads nowhere.
    """
    name = str(name_or_dir)
    if name in DATA_NAMES:
        return _scenes(progress) / name
    style, at, images = name.partition("@")
    if style in DATA_NAMES and at:
        return _more_scenes(name, images, progress) / style
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder}: a file, not a folder", remedy="name the folder it lies in")
    if os.sep in name:
        raise DataError(f"{folder}: no such folder", remedy="check the path")
    error = UnknownName("data set", name, DATA_NAMES)
    error.remedy += ", or a folder's path (in a recipe: --set data.name=DIR)"
    raise error


def detect_format(folder: Path) -> str:
    """Which reader's files are in `folder`, a key of READERS.

    Raises DataError when there are none; data sets in its subfolders are then listed.
    """
    found = _format_of(folder)
    if found is not None:
        return found
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and _format_of(path))
    if inside:
        raise DataError(
            f"{folder}: no data set itself, but it holds {', '.join(inside)}",
            remedy=f"name one of them: {folder / inside[0]}",
        )
    signs = "; ".join(f"{name}: {' or '.join(patterns)}" for name, patterns in SIGNS.items())
    raise DataError(f"{folder}: no data set that refseg can read", remedy=f"looked for {signs}")


def converted_store(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Path:
    """The folder of the converted store of the data set in `folder`, made if need be."""
    form = detect_format(folder)
    module_name, function = READERS[form].split(":")
    module = import_module(module_name)
    sources = getattr(module, "sources", _annotation_files)(folder, split_by)
    # The folder's name is the data set's name for some formats, so it belongs to the key.
    reader = f"{form} {folder.resolve().name} split_by={split_by} strict={strict}"

    def convert() -> Records:
        records: Records = getattr(module, function)(folder, split_by=split_by, strict=strict)
        return records

    return ensure_store(reader, sources, convert)


def image_finder(folder: Path, records: Records, images: Path | None = None) -> ImageFinder:
    """Looks in `images` if given, else where the data set says and in the usual places."""
    if images is None:
        return ImageFinder(usual_places(folder, records.meta.image_dirs))
    images = Path(images).expanduser()
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images", remedy="check the path")
    return ImageFinder([images])


def read_image_ids(path: str | Path) -> frozenset[int]:
    """The ids in a text file with one image id a line. Raises DataError."""
    try:
        return frozenset(int(line) for line in Path(path).read_text().split())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}", remedy="one image id a line is expected") from error


def data_info(
    data: ReferDataset | str | Path, *, split_by: str | None = None, strict: bool = True
) -> dict[str, Any]:
    """Counts and label kinds of a whole data set; see `refseg.data.info.describe_records`.

    Given an open dataset, only what its labels grant is looked at.
    """
    if isinstance(data, ReferDataset):
        return describe_records(data.records, data.labels)
    return describe_records(open_records(data, split_by=split_by, strict=strict), ALL_LABELS)


def _more_scenes(name: str, images: str, progress: Progress | None) -> Path:
    """A larger world for training: drawn from another seed, so it shares no picture with the
    standard one and cannot leak its val and test images.
    """
    from refseg.data.scenes.build import ensure_scenes

    if not images.isdigit() or int(images) < 1:
        raise DataError(
            f'"{name}": "{images}" is no number of images', remedy="write for example scenes@12000"
        )
    world: Path = ensure_scenes(cache_folder(), seed=1, images=int(images), progress=progress)
    return world


def _scenes(progress: Progress | None) -> Path:
    from refseg.data.scenes.build import ensure_scenes

    world: Path = ensure_scenes(cache_folder(), images=scenes_images(), progress=progress)
    return world


def scenes_images() -> int:
    """Size of the standard world: 4,000, or $REFSEG_SCENES_IMAGES. Raises DataError."""
    stated = os.environ.get("REFSEG_SCENES_IMAGES", str(SCENES_IMAGES))
    if not stated.isdigit() or int(stated) < 1:
        raise DataError(
            f'REFSEG_SCENES_IMAGES is "{stated}"',
            remedy="set it to a number of images, or unset it",
        )
    return int(stated)


def _format_of(folder: Path) -> str | None:
    for name, patterns in SIGNS.items():
        if any(next(folder.glob(pattern), None) for pattern in patterns):
            return name
    return None


def _annotation_files(folder: Path, split_by: str | None) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in SOURCE_SUFFIXES and path.is_file()]
