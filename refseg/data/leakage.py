"""Which images are trained on in one place and evaluated on in another.

An image is recognised across data sets by what its names prove: COCO photographs by their number
(from the file name, or from the COCO id that PhraseCut's Visual Genome images carry), Visual
Genome and SAIAPR images by theirs, anything else by its file on this disk. No list of forbidden
images is shipped: it is built from the loaded refs themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refseg.data.catalog import find_folder, image_finder, open_records
from refseg.data.images import ImageFinder
from refseg.data.records import ImageRecord, Records
from refseg.errors import DataError
from refseg.ops.files import sha256_file

# COCO numbers stay below ten million; twelve other digits may be a date.
_COCO_NAME = re.compile(r"(?:COCO_\w+?_)?(0{5}\d{7})\.\w+", re.ASCII)
_SAIAPR_SETS = ("referit", "refclef")
_EXAMPLES = 5

# Published splits that divide objects, not images, so that train and evaluation share images.
SPLIT_BY_OBJECT = frozenset({("refcocog", "google"), ("refcoco", "google")})


@dataclass(frozen=True)
class Pictures:
    """The images of a data set's splits. keys: split -> identity -> image_id here."""

    name: str
    by_split: dict[str, dict[str, int]]

    def training(self) -> dict[str, dict[str, int]]:
        """The splits that are trained on: those whose name begins with "train"."""
        return {name: keys for name, keys in self.by_split.items() if name.startswith("train")}

    def evaluation(self) -> dict[str, dict[str, int]]:
        """All other splits."""
        return {name: keys for name, keys in self.by_split.items() if not name.startswith("train")}


@dataclass(frozen=True)
class Leak:
    """Images of the split `train` that the split `evaluation` judges by.

    train, evaluation: "data set/split". images: how many. image_ids: of the training side;
    examples: identities of the first few.
    """

    train: str
    evaluation: str
    images: int
    image_ids: frozenset[int]
    examples: tuple[str, ...]


def pictures(records: Records, finder: ImageFinder) -> Pictures:
    """Identify the images of each split of `records`; files are only looked for, not opened."""
    coco_ids = _stated_coco_ids(records)
    finder = ImageFinder([root for root in finder.roots if root.is_dir()])  # quick if all lack
    image_rows = records.column("refs", "image_row")
    labels, codes = records.splits()
    keys = {
        int(row): identities(records.image(int(row)), records.meta.dataset, finder, coco_ids)
        for row in np.unique(image_rows)
    }
    by_split: dict[str, dict[str, int]] = {}
    for number, label in enumerate(labels):
        found = by_split.setdefault(label, {})
        for row in np.unique(image_rows[codes == number]).tolist():
            image_id = int(records.column("images", "image_id")[row])
            found.update(dict.fromkeys(keys[row], image_id))
    return Pictures(f"{records.meta.dataset}({records.meta.split_by})", by_split)


def identities(
    image: ImageRecord, dataset: str, finder: ImageFinder, coco_ids: dict[int, int]
) -> list[str]:
    """The names under which an image may be met elsewhere. coco_ids: image_id -> COCO's, if known.

    One name is enough in most cases; PhraseCut's images may have two (Visual Genome and COCO).
    """
    base = Path(image.file_name).name
    named = _COCO_NAME.fullmatch(base)
    if named:
        return [f"coco {int(named[1])}"]
    if dataset == "phrasecut":
        coco_id = coco_ids.get(image.image_id)
        own = f"visual genome {image.image_id}"
        return [own] if coco_id is None else [own, f"coco {coco_id}"]
    if dataset in _SAIAPR_SETS and (number := Path(base).stem).isdecimal():
        return [f"saiapr {int(number)}"]
    try:
        return [str(finder.find(image).resolve())]
    except DataError:
        return [f"{dataset} {image.file_name or image.image_id}"]


def find_leaks(own: Pictures, others: Sequence[Pictures] = ()) -> list[Leak]:
    """Every pair of a training and an evaluation split that share images.

    Within `own`, and between `own` and each of the `others`, both ways.
    """
    leaks = _between(own, own)
    for other in others:
        leaks += _between(own, other) + _between(other, own)
    return leaks


def leaked_train_images(
    name_or_dir: str | Path, against: Iterable[str | Path], *, split_by: str | None = None
) -> frozenset[int]:
    """Image ids of a data set's training splits that any of `against` evaluates on.

    To be given to `open_data(..., exclude_images=...)`. Raises what `open_data` raises.
    """
    own = load_pictures(name_or_dir, split_by=split_by)
    others = [load_pictures(other) for other in against]
    leaks = [leak for other in others for leak in _between(own, other)]
    return frozenset[int]().union(*(leak.image_ids for leak in leaks))


def load_pictures(
    name_or_dir: str | Path, *, images: Path | None = None, split_by: str | None = None
) -> Pictures:
    """`pictures` of a data set by name or folder."""
    records = open_records(name_or_dir, split_by=split_by, strict=False)
    return pictures(records, image_finder(find_folder(name_or_dir), records, images))


def copied_images(records: Records, finder: ImageFinder) -> list[str]:
    """Image files of an evaluation split that are, byte for byte, a training image too.

    Under another name, that is: an image used in both places is a `Leak`. Reads all files of
    which another has the same length. Returns "evaluation file = training file" for each.
    """
    labels, codes = records.splits()
    image_rows = records.column("refs", "image_row")
    trained = np.isin(codes, [n for n, label in enumerate(labels) if label.startswith("train")])
    training = _files(records, finder, np.unique(image_rows[trained]))
    evaluation = _files(records, finder, np.unique(image_rows[~trained]))
    lengths = {path: path.stat().st_size for path in training | evaluation}
    shared = {lengths[path] for path in training} & {lengths[path] for path in evaluation}
    by_content = {sha256_file(path): path for path in sorted(training) if lengths[path] in shared}
    return [
        f"{path} = {by_content[digest]}"
        for path in sorted(evaluation - training)
        if lengths[path] in shared and (digest := sha256_file(path)) in by_content
    ]


def _files(records: Records, finder: ImageFinder, rows: NDArray[np.int64]) -> set[Path]:
    images = [records.image(int(row)) for row in rows]
    missing = {image.image_id for image in finder.missing(images)}
    return {finder.find(image).resolve() for image in images if image.image_id not in missing}


def _between(training: Pictures, evaluation: Pictures) -> list[Leak]:
    leaks = []
    for train, train_keys in training.training().items():
        for split, eval_keys in evaluation.evaluation().items():
            shared = sorted(train_keys.keys() & eval_keys.keys())
            ids = frozenset(train_keys[key] for key in shared)
            if ids:
                names = f"{training.name}/{train}", f"{evaluation.name}/{split}"
                leaks.append(Leak(*names, len(ids), ids, tuple(shared[:_EXAMPLES])))
    return leaks


def _stated_coco_ids(records: Records) -> dict[int, int]:
    """image_id -> COCO id, from PhraseCut's refs."""
    if records.meta.dataset != "phrasecut":
        return {}
    ids, found = records.column("images", "image_id"), {}
    for row, image_row in enumerate(records.column("refs", "image_row").tolist()):
        image_id = int(ids[image_row])
        if image_id not in found:
            found[image_id] = records.extra("refs", row).get("coco_id")
    return {image_id: coco_id for image_id, coco_id in found.items() if coco_id is not None}
