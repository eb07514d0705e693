"""Read a plain folder: the form for people's own data.

    captions.csv    one line an expression
    images/         the photographs
    masks/          PNG files as large as their images, any non-zero pixel is the object

captions.csv has a header; `image` and `text` are needed, the rest may be left out:

    image,text,mask,split,x,y,w,h,category
    desk.jpg,the cup left of the laptop,desk_cup.png,train,,,,,cup
    desk.jpg,cup on the left,desk_cup.png,train,,,,,cup        the same object, another sentence
    desk.jpg,the red phone,none,train,,,,,                     there is no such thing in the image
    shelf.jpg,lowest book,,val,120,310,88,20.5,                mask not known, box known

mask: a file name, the word "none" when the expression means nothing in its image, or nothing when
the mask is not known. x, y, w, h: box in pixels from the upper left corner, all four or none.
split: "train" when left out. Lines with the same image, split and mask (or, without a mask, the
same box) are sentences about one object. Other columns are kept with the sentence. Commas,
semicolons and tabs separate; the text is UTF-8.

Ids of images and refs are made from the lines' content, so that they stay when lines are added or
moved; a sentence's id is its line number.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.captions_csv import BOX_COLUMNS, COLUMNS, NEEDED, read_rows
from refseg.data.records import MaskFile, Records
from refseg.errors import ImageError, UnknownName
from refseg.ops.images import image_size

CAPTIONS = "captions.csv"
NO_TARGET = "none"
DEFAULT_SPLIT = "train"
LOSSY = (".jpg", ".jpeg", ".webp")  # faint noise around the object would count as object

_ID_BITS = 52


@dataclass
class _Region:
    """What several lines may speak about. box_xywh: px. mask: "" unknown, "none" no target."""

    image: str
    split: str
    text: str
    mask: str
    box_xywh: tuple[float, ...] | None
    category: str
    line: int
    sentences: list[Sentence]

    @property
    def key(self) -> str:
        """Lines with the same key are sentences about one object; the ref's id is made of it."""
        if self.mask == NO_TARGET or (not self.mask and self.box_xywh is None):
            return f"{self.image}\n{self.split}\n{self.mask}\n{self.text}"
        return f"{self.image}\n{self.split}\n{self.mask or self.box_xywh}"

    def join(self, other: _Region) -> bool:
        """Take over what only the other line states; False if the two contradict each other."""
        agree = self.box_xywh in (None, other.box_xywh) or other.box_xywh is None
        self.box_xywh = self.box_xywh or other.box_xywh
        self.category = self.category or other.category
        self.sentences += other.sentences
        return agree


def sources(folder: Path, split_by: str | None = None) -> list[Path]:
    """captions.csv alone: images and masks are looked at again whenever they are read."""
    return [folder / CAPTIONS]


def read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records:
    """The normal form of a plain folder. There is one way to split, the `split` column.

    Every image and mask named is looked up and its header read. Raises DataError naming the line
    for a file that is not there, a mask of another size than its image, a box that is no box, and
    for a header without the needed columns; with strict=False such lines are left out and counted
    (a wrong header is refused in any case).
    """
    if split_by not in (None, "split"):
        raise UnknownName(f"split_by for {folder}", split_by, ["split"])
    path = folder / CAPTIONS
    build = RecordsBuilder(
        folder.resolve().name, "split", source=str(path), strict=strict,
        image_dirs=("images", "."), upright=True, objects_file=CAPTIONS,
    )  # fmt: skip
    regions: dict[str, _Region] = {}
    for line, row in read_rows(path):
        region = _region(build, line, row)
        if region is None:
            continue
        known = regions.setdefault(region.key, region)
        if known is not region and not known.join(region):
            build.problem("two boxes for one mask", f"lines {known.line} and {line}: {known.mask}")
    adder = _Adder(build, folder)
    for region in regions.values():
        adder.add(region)
    return build.finish()


def _region(build: RecordsBuilder, line: int, row: Mapping[str, str]) -> _Region | None:
    """The region a line speaks about; None, and a problem on record, when it makes no sense."""
    for name in NEEDED:
        if not row[name]:
            build.problem(f"no {name}", f"line {line}")
            return None
    cells = [row.get(name, "") for name in BOX_COLUMNS]
    try:
        box = tuple(float(cell.replace(",", ".")) for cell in cells) if any(cells) else None
    except ValueError:
        build.problem("box without four numbers", f"line {line}: x, y, w, h = {', '.join(cells)}")
        return None
    if box is not None and not (min(box[2:]) > 0 and all(abs(n) < 1e6 for n in box)):
        build.problem("box without an area", f"line {line}: x, y, w, h = {', '.join(cells)}")
        return None
    mask = row.get("mask", "")
    mask = NO_TARGET if mask.lower() == NO_TARGET else mask
    if mask == NO_TARGET and box is not None:
        build.problem("a box for what is not there", f'line {line}: mask is "none"')
        return None
    text, split = row["text"], row.get("split") or DEFAULT_SPLIT
    extra = {name: cell for name, cell in row.items() if name not in COLUMNS and cell}
    sentence = Sentence(line, text, " ".join(text.split()), extra=extra)
    category = row.get("category", "")
    return _Region(row["image"], split, text, mask, box, category, line, [sentence])


class _Adder:
    """Hands regions to a builder, looking at each image's and mask's header once."""

    def __init__(self, build: RecordsBuilder, folder: Path) -> None:
        self._build, self._folder = build, folder
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._categories: dict[str, int] = {}
        self._masks: dict[str, int] = {}

    def add(self, region: _Region) -> None:
        where = f"line {region.line}"
        hw = self._image(region.image, where)
        if hw is None:
            return
        image_id, ref_id = _id(region.image), _id(region.key)
        ann_ids = []
        if region.mask != NO_TARGET:
            mask = self._mask(region, hw, where) if region.mask else None
            if region.mask and mask is None:
                return
            category_id = self._category(region.category)
            self._build.annotation(ref_id, image_id, category_id, region.box_xywh, mask)
            ann_ids = [ref_id]
        self._build.ref(ref_id, image_id, region.split, ann_ids, region.sentences)

    def _image(self, name: str, where: str) -> tuple[int, int] | None:
        """(rows, columns) of an image, which is added to the records when first met."""
        if name not in self._sizes:
            self._sizes[name] = None
            file = self._file("image", "images", name, where)
            # As `load_image` turns it; masks are drawn on the picture as people see it.
            hw = self._size(file, where, exif=True) if file else None
            # The size is not put on record: the file may be replaced, captions.csv unchanged.
            if file and hw and self._build.image(_id(name), _without(name, "images")):
                self._sizes[name] = hw
        elif self._sizes[name] is None:
            self._build.problem("line about an image left out", f"{where}: {name}")
        return self._sizes[name]

    def _mask(self, region: _Region, hw: tuple[int, int], where: str) -> MaskFile | None:
        file = self._file("mask", "masks", region.mask, where)
        if file is not None and file.suffix.lower() in LOSSY:
            self._build.problem(
                "mask in a lossy format", f"{where}: {region.mask}", "write masks as PNG"
            )
            return None
        size = self._size(file, where, exif=False) if file else None
        if file is None or size is None:
            return None
        if size != hw:
            self._build.problem(
                "mask and image differ in size",
                f"{where}: {region.mask} is {size[1]} x {size[0]} pixels (width x height), "
                f"{region.image} is {hw[1]} x {hw[0]}",
                "give every mask the size of its image",
            )
            return None
        return MaskFile(file.relative_to(self._folder).as_posix())

    def _file(self, kind: str, place: str, name: str, where: str) -> Path | None:
        """The file a cell names: in its usual folder, or relative to the data set's folder."""
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            self._build.problem(
                f"{kind} outside the folder", f"{where}: {name}", f"copy it to {place}/"
            )
            return None
        for path in (self._folder / place / parts, self._folder / parts):
            if path.is_file():
                return path
        near = _nearest(parts.name, self._folder / place / parts.parent)
        self._build.problem(
            f"no such {kind}",
            f"{where}: {name}",
            f"{near}looked for {self._folder / place / parts} and {self._folder / parts}",
        )
        return None

    def _size(self, file: Path, where: str, *, exif: bool) -> tuple[int, int] | None:
        try:
            return image_size(file, exif=exif)
        except ImageError as error:
            self._build.problem("unreadable image", f"{where}: {error.message}", error.remedy)
            return None

    def _category(self, name: str) -> int:
        if name and name not in self._categories:
            self._categories[name] = len(self._categories) + 1
            self._build.category(self._categories[name], name)
        return self._categories.get(name, 0)


def _id(text: str) -> int:
    """A number made from a text, the same on every machine; too large to be any file's number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _ID_BITS)


def _without(name: str, place: str) -> str:
    return name.replace("\\", "/").removeprefix(f"{place}/")


def _nearest(name: str, place: Path) -> str:
    there = [path.name for path in place.iterdir()] if place.is_dir() else []
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"? ' if near else ""
