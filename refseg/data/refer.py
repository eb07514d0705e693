"""Read a folder of the REFER family: refcoco, refcoco+, refcocog (umd, google), refclef.

    refcoco/refs(unc).p       a pickled list of refs; refs(unc).json, the same as JSON, is read too
    refcoco/instances.json    COCO style: all annotated objects of the images, referred to or not

One ref, as RefCOCO has it:

    {"ref_id": 0,                        # one referred object
     "ann_id": 1719310,                  # its annotation in instances.json (a list in gRefCOCO)
     "image_id": 581857,
     "category_id": 1,                   # not read: the annotation has it
     "split": "train",                   # refclef also has joined labels such as "testAB"
     "file_name": "COCO_train2014_000000581857_1719310.jpg",   # not read: no such file exists
     "sent_ids": [0, 1, 2],              # not read: each sentence has its id
     "sentences": [{"sent_id": 0, "raw": "The lady with the blue shirt",   # as typed
                    "sent": "the lady with the blue shirt",                # cleaned
                    "tokens": ["the", "lady", "with", "the", "blue", "shirt"]}, ...]}

and the objects it may point to:

    {"id": 1719310, "image_id": 581857, "category_id": 1, "iscrowd": 0,
     "bbox": [x, y, w, h],               # px, continuous
     "segmentation": [[x1, y1, ...]]}    # polygons; refclef: a list of RLE; COCO crowds: one RLE

What the original API does and this reader does not: exit the process on an unknown name, keep only
one ref per annotation, add overlapping parts up to 2 (see `mask_rule` in `refseg.data.dataset`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.records import Records
from refseg.data.unpickle import load_pickle
from refseg.errors import DataError, UnknownName

INSTANCES = "instances.json"
NO_TARGET_ID = -1  # gRefCOCO's ann_id for an expression that means nothing in its image
REF_KEYS = {
    "ref_id", "ann_id", "image_id", "category_id", "split", "file_name", "sent_ids", "sentences",
}  # fmt: skip
SENTENCE_KEYS = {"sent_id", "raw", "sent", "tokens", "ambiguous"}


def refs_files(folder: Path, stem: str = "refs", prefer: str = ".p") -> dict[str, Path]:
    """The files `stem(<split_by>).p` and `.json` in `folder`, by their split_by."""
    found: dict[str, Path] = {}
    for suffix in sorted((".json", ".p"), key=lambda suffix: suffix == prefer):
        for path in sorted(folder.glob(f"{stem}(*){suffix}")):
            found[path.name.removeprefix(f"{stem}(").removesuffix(f"){suffix}")] = path
    return found


def choose_split_by(
    folder: Path, split_by: str | None, stem: str = "refs", prefer: str = ".p"
) -> tuple[str, Path]:
    """The refs file asked for, or the only one there is; see `refs_files`.

    Raises DataError when there is none or when there are several and none was asked for,
    UnknownName when the one asked for is absent.
    """
    files = refs_files(folder, stem, prefer)
    if not files:
        raise DataError(
            f"{folder}: no {stem}(...).p or {stem}(...).json here",
            remedy=f"name the folder that holds {stem}(unc){prefer} or the like beside "
            "instances.json",
        )
    if split_by is None:
        if len(files) > 1:
            raise DataError(
                f"{folder}: several ways to split are here: {', '.join(sorted(files))}",
                remedy="choose one with split_by (--split-by)",
            )
        split_by = next(iter(files))
    if split_by not in files:
        raise UnknownName(f"split_by for {folder}", split_by, files)
    return split_by, files[split_by]


def sources(folder: Path, split_by: str | None = None) -> list[Path]:
    """The two files that `read` reads."""
    return [choose_split_by(folder, split_by)[1], folder / INSTANCES]


def read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records:
    """The normal form of a REFER folder.

    strict: raise DataError at the first contradiction (an annotation that does not exist, an id
    used twice, ...); otherwise leave the row out and count it in the records' meta.
    """
    split_by, refs_path = choose_split_by(folder, split_by)
    instances = load_json(folder / INSTANCES, ("images", "annotations", "categories"))
    refs = load_refs(refs_path)
    info = instances.get("info") or {}
    build = RecordsBuilder(
        folder.resolve().name,
        split_by,
        source=str(folder / INSTANCES),
        strict=strict,
        objects_file=INSTANCES,
        sizes_exact="estimated" not in str(info.get("size_note", "")),
        upright=info.get("upright") is True,  # `refseg label` knows; the originals do not say
    )
    add_instances(build, instances)
    build.source = str(refs_path)
    for number, ref in enumerate(refs):
        add_ref(build, ref, number)
    return build.finish()


def load_refs(path: Path) -> list[Any]:
    """The list of refs in a pickle or a json. Raises DataError."""
    refs = load_pickle(path) if path.suffix == ".p" else load_json(path)
    if not isinstance(refs, list):
        raise DataError(
            f"{path}: a list of refs was expected, not {type(refs).__name__}",
            remedy="check that this is a refs file",
        )
    return refs


def load_json(path: Path, keys: Iterable[str] = ()) -> Any:
    """A json file; with `keys`, an object that must have them. Raises DataError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", remedy="it belongs beside the refs file; fetch it"
        ) from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise DataError(
            f"{path}: not readable json, perhaps truncated ({error})", remedy="fetch it again"
        ) from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f'{path}: no list "{key}" in it', remedy="a COCO style annotation file is needed"
            )
    return content


def add_instances(build: RecordsBuilder, instances: Mapping[str, Any]) -> None:
    """Hand the categories, images and annotations of a COCO style file to `build`."""
    for entry in instances["categories"]:
        with build.entry("category", entry):
            build.category(entry["id"], entry["name"], entry.get("supercategory") or "")
    for entry in instances["images"]:
        with build.entry("image", entry):
            name = entry.get("file_name") or ""
            build.image(entry["id"], name, entry.get("height") or 0, entry.get("width") or 0)
    for entry in instances["annotations"]:
        with build.entry("annotation", entry):
            build.annotation(
                entry["id"], entry["image_id"], entry.get("category_id") or 0, entry.get("bbox"),
                entry.get("segmentation"), bool(entry.get("iscrowd")),
            )  # fmt: skip


def add_ref(build: RecordsBuilder, ref: Mapping[str, Any], number: int) -> None:
    """Hand one ref to `build`. number: its place in the file, for the error message."""
    with build.entry("ref", (number, ref)):
        ann_ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        sentences = [_sentence(entry) for entry in ref["sentences"]]
        targets = [ann_id for ann_id in ann_ids if ann_id != NO_TARGET_ID]
        extra = {key: ref[key] for key in ref.keys() - REF_KEYS}
        build.ref(ref["ref_id"], ref["image_id"], ref["split"], targets, sentences, extra=extra)


def _sentence(entry: Mapping[str, Any]) -> Sentence:
    extra = {key: entry[key] for key in entry.keys() - SENTENCE_KEYS}
    raw, sent = entry.get("raw") or "", entry.get("sent") or ""
    return Sentence(entry["sent_id"], raw, sent, bool(entry.get("ambiguous")), extra)


def splits_matching(labels: Iterable[str], wanted: str) -> list[str]:
    """Which split labels a split's name stands for, by REFER's rule.

    "train" and "val" match exactly; "testA", "testB", "testC" match by their letter in any test
    label, so that "testAB" belongs to both; "test" matches every test label; "all" matches all.
    """
    labels = sorted(set(labels))
    if wanted == "all":
        return labels
    if wanted == "test":
        return [label for label in labels if "test" in label]
    if wanted in ("testA", "testB", "testC"):
        return [x for x in labels if x.startswith("test") and wanted[4] in x.removeprefix("test")]
    return [label for label in labels if label == wanted]
