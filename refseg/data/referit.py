"""Read ReferIt (RefCLEF), as text_objseg distributes it or as TRIS repackaged it.

text_objseg, a folder with any of these (`exp-referit/data` of that repository will do):

    referit_query_{train,val,test,trainval,all}.json    {"38100_3": ["girl left", ...], ...}
    referit_bbox.json      {"38100_3": [xmin, ymin, xmax, ymax]}   from 0, far edges INCLUDED
    referit_imsize.json    {"38100.jpg": [width, height]}
    images/38100.jpg
    mask/38100_3.mat       variable segimg_t; the region is where it is ZERO

A key is image_region. A region becomes one annotation and, where somebody asked for it, one ref.
Masks are named here and decoded when a sample needs them; without them boxes and text still work.

TRIS:

    annotations/{train,test}.pickle    Python 2; image id -> {"annotations": [entry, ...]}
    images/38100.jpg

    entry: {"image_id": "38100", "query": "girl left", "bbox": [[x1, y1, x2, y2], ...],
            "segmentation": [RLE, ...]}

Queries about one and the same region of an image become one ref.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.records import MaskFile, Records
from refseg.data.unpickle import load_pickle
from refseg.errors import DataError, UnknownName

# From the finest to the coarsest: a region belongs to the first file that has it.
QUERY_SPLITS = ("train", "val", "test", "trainval", "all")
SPLIT_ALIASES = {
    "trainval": ("train", "val", "trainval"),
    "all": ("train", "val", "test", "trainval", "all"),
}
TRIS_SPLITS = ("train", "test")

MASK_VARIABLE = "segimg_t"
REGIONS_AN_IMAGE = 1_000  # ann_id = ref_id = image * 1,000 + region, so that ids never change
SENTENCES_A_REF = 1_000

_NO_CATEGORY = 0


def sources(folder: Path, split_by: str | None = None) -> list[Path]:
    """The files that `read` reads, without images and masks. Raises DataError if none is there."""
    queries = list(_query_files(folder).values())
    if queries:
        extra = [folder / name for name in ("referit_bbox.json", "referit_imsize.json")]
        return queries + [path for path in extra if path.is_file()]
    pickles = list(_tris_files(folder).values())
    if not pickles:
        raise DataError(
            f"{folder}: neither referit_query_*.json nor annotations/*.pickle is here",
            remedy="name the folder that holds referit_query_train.json and its siblings",
        )
    return pickles


def read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records:
    """The normal form of a ReferIt folder; split_by is "text_objseg" or "tris".

    strict: raise DataError at the first contradiction; otherwise leave the row out and count it.
    """
    files = sources(folder, split_by)
    kind = "text_objseg" if _query_files(folder) else "tris"
    if split_by not in (None, kind):
        raise UnknownName(f"split_by for {folder}", split_by, [kind])
    places = ("images", "referit-dataset/images", "../referit-dataset/images")
    build = RecordsBuilder(
        "referit",
        kind,
        source=str(files[0]),
        strict=strict,
        split_aliases=SPLIT_ALIASES if kind == "text_objseg" else {},
        image_dirs=places,
    )
    read_kind = _read_text_objseg if kind == "text_objseg" else _read_tris
    read_kind(build, folder)
    return build.finish()


def _query_files(folder: Path) -> dict[str, Path]:
    paths = {split: folder / f"referit_query_{split}.json" for split in QUERY_SPLITS}
    return {split: path for split, path in paths.items() if path.is_file()}


def _tris_files(folder: Path) -> dict[str, Path]:
    paths = {split: folder / "annotations" / f"{split}.pickle" for split in TRIS_SPLITS}
    return {split: path for split, path in paths.items() if path.is_file()}


# --- text_objseg ---


def _read_text_objseg(build: RecordsBuilder, folder: Path) -> None:
    queries = {split: _load_dict(path) for split, path in _query_files(folder).items()}
    boxes = _load_dict(folder / "referit_bbox.json", optional=True)
    sizes = _load_dict(folder / "referit_imsize.json", optional=True)
    masks = _mask_folder(folder)
    regions = dict.fromkeys(boxes)
    for asked in queries.values():
        regions.update(dict.fromkeys(asked))

    build.source = str(folder / "referit_bbox.json")
    images: set[int] = set()
    for key in regions:
        with build.entry("region", key):
            image_id, ann_id = _ids(key)
            if image_id not in images:
                images.add(image_id)
                width, height = sizes.get(f"{image_id}.jpg", (0, 0))
                build.image(image_id, f"{image_id}.jpg", height, width)
            if boxes and key not in boxes:
                build.problem("region without a box", key)
            mask = MaskFile(f"{masks}{key}.mat", MASK_VARIABLE, "zero")
            box = _inclusive_to_xywh(boxes[key]) if key in boxes else None
            build.annotation(ann_id, image_id, _NO_CATEGORY, box, mask)

    done: set[str] = set()
    for split, asked in queries.items():
        build.source = str(_query_files(folder)[split])
        for key, texts in asked.items():
            if key not in done:
                done.add(key)
                with build.entry("query", {key: texts}):
                    image_id, ref_id = _ids(key)
                    build.ref(ref_id, image_id, split, [ref_id], _sentences(ref_id, texts))


def _ids(key: str) -> tuple[int, int]:
    """image_id and ann_id of "38100_3"."""
    image, region = (int(part) for part in key.split("_"))
    if not 0 <= region < REGIONS_AN_IMAGE:
        raise ValueError(f'region number of "{key}" is not in 0..{REGIONS_AN_IMAGE - 1}')
    return image, image * REGIONS_AN_IMAGE + region


def _inclusive_to_xywh(box: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0 + 1, y1 - y0 + 1


def _mask_folder(folder: Path) -> str:
    """Where the .mat files lie or belong, relative to `folder`, with a slash at the end."""
    for place in ("mask/", "referit-dataset/mask/", "../referit-dataset/mask/"):
        if (folder / place).is_dir():
            return place
    return "../referit-dataset/mask/" if (folder / "../referit-dataset").is_dir() else "mask/"


def _sentences(ref_id: int, texts: Iterable[str]) -> list[Sentence]:
    if isinstance(texts, str):
        raise TypeError("a list of queries was expected")
    return [
        Sentence(ref_id * SENTENCES_A_REF + number, text, " ".join(text.split()))
        for number, text in enumerate(texts)
    ]


def _load_dict(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="check its permissions") from error
    except ValueError as error:
        raise DataError(
            f"{path}: not readable json, perhaps truncated ({error})", remedy="fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: an object from region to value was expected, not a list",
            remedy="get the file from the text_objseg repository again",
        )
    return content


# --- TRIS ---


def _read_tris(build: RecordsBuilder, folder: Path) -> None:
    images: set[int] = set()
    for split, path in _tris_files(folder).items():
        build.source = str(path)
        content = load_pickle(path, allow_numpy_scalars=True)
        if not isinstance(content, Mapping):
            raise DataError(
                f"{path}: a dict from image id to annotations was expected",
                remedy="check that this is TRIS's ReferIt file",
            )
        for name, entry in content.items():
            with build.entry("image", (name, entry)):
                image_id, regions = int(name), _regions(entry["annotations"])
                if image_id not in images and regions:
                    images.add(image_id)
                    build.image(image_id, f"{name}.jpg", *regions[0]["segmentation"][0]["size"])
                for number, region in enumerate(regions):
                    _add_region(build, split, image_id, number, region)


def _regions(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The distinct regions of an image, each with all of its queries."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        region = found.setdefault(
            repr((entry["bbox"], entry["segmentation"])),
            {"bbox": entry["bbox"], "segmentation": entry["segmentation"], "queries": []},
        )
        region["queries"].append(entry["query"])
    return list(found.values())


def _add_region(
    build: RecordsBuilder, split: str, image_id: int, number: int, region: Mapping[str, Any]
) -> None:
    if number >= REGIONS_AN_IMAGE:
        raise ValueError(f"more than {REGIONS_AN_IMAGE} regions in one image")
    x0, y0, x1, y1 = region["bbox"][0]
    ann_id = image_id * REGIONS_AN_IMAGE + number
    box = (x0, y0, x1 - x0, y1 - y0)
    if build.annotation(ann_id, image_id, _NO_CATEGORY, box, _plain_rles(region["segmentation"])):
        sentences = _sentences(ann_id, region["queries"])
        extra = {"boxes": region["bbox"]} if len(region["bbox"]) > 1 else {}
        build.ref(ann_id, image_id, split, [ann_id], sentences, extra=extra)


def _plain_rles(rles: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """RLEs with plain sizes; a Python 2 string of counts arrives as text."""
    return [{"size": [int(n) for n in rle["size"]], "counts": rle["counts"]} for rle in rles]
