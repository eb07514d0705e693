"""Find a data set's image files, wherever people keep them, and read them at the stated size.

Annotation files name images, not paths, and the same COCO photograph is
COCO_train2014_000000000072.jpg in one release and 000000000072.jpg in the next. `ImageFinder`
tries both, and the file name as stated, in the given folder or in the usual places.

A picture that its EXIF tag turns is refused where annotations do not say which way round they are:
a half turn keeps the size, so nothing would tell that masks lie on the wrong things.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refseg.data.records import ImageRecord
from refseg.errors import DataError
from refseg.ops import images as image_ops

PLACES = (
    "images",
    "images/train2014",
    "images/train2017",
    "images/mscoco/images/train2014",
    "images/saiapr_tc-12",
    "train2014",
    "train2017",
)
LEVELS_UP = 2  # images/, ../images/, ../../images/
LEVELS_DOWN = 3
PATHS_SHOWN = 6
ORIENTATION = 0x0112  # EXIF tag; 2 to 8 mirror or turn the stored pixels
COCO_NAME = re.compile(r"(COCO_[a-z]+\d*_)?\d{12}(_\d+)?\.jpg")


@dataclass
class ImageFinder:
    """Looks for images in `roots`, in that order, then in their subfolders."""

    roots: Sequence[Path]
    _found_in: list[tuple[Path, int]] = field(default_factory=list, repr=False, compare=False)
    _walked: list[Path] | None = field(default=None, repr=False, compare=False)

    def find(self, image: ImageRecord) -> Path:
        """The image's file. Raises DataError that shows where it was looked for."""
        path = self._try(image)
        if path is None:
            raise self._missing(image)
        return path

    def missing(self, images: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Those of `images` that have no file."""
        # Without the folders that do not exist: quick where thousands are missing.
        quick = ImageFinder([root for root in self.roots if root.is_dir()])
        return (image for image in images if quick._try(image) is None)

    def __getstate__(self) -> dict[str, object]:
        return {"roots": self.roots, "_found_in": [], "_walked": None}

    def _try(self, image: ImageRecord) -> Path | None:
        names = possible_names(image)
        # Images of one data set lie together: where the last ones were found comes first.
        for root, form in self._found_in:
            if form < len(names) and (path := root / names[form]).is_file():
                return path
        roots = [root for root in self.roots if root.is_dir()]
        return self._search(roots, names) or self._search(self._subfolders(), names)

    def _search(self, roots: Sequence[Path], names: Sequence[str]) -> Path | None:
        for root in roots:
            for form, name in enumerate(names):
                if (path := root / name).is_file():
                    self._found_in.insert(0, (root, form))
                    return path
        return None

    def _subfolders(self) -> list[Path]:
        """Folders below the roots, listed once: for images kept in parts (part1/, 00/images/)."""
        if self._walked is None:
            self._walked = [
                below for root in self.roots if root.is_dir() for below in _folders_below(root)
            ]
        return self._walked

    def _missing(self, image: ImageRecord) -> DataError:
        names = possible_names(image)
        tried = [str(root / name) for root in self.roots for name in names]
        shown = "\n".join(f"    {path}" for path in tried[:PATHS_SHOWN])
        more = len(tried) - PATHS_SHOWN
        return DataError(
            f"no file for image {image.image_id} ({image.file_name}); tried\n{shown}"
            + (f"\n    and {more} more" if more > 0 else ""),
            remedy="name the folder that holds the images with images= (--images DIR)",
        )


def usual_places(folder: Path, image_dirs: Sequence[str] = ()) -> list[Path]:
    """Where the images of the data set in `folder` are commonly kept; existing folders first.

    image_dirs: folders relative to `folder` that the data set itself states.
    """
    # Around the name it was given by, and, if that is a link, around where it points.
    bases = [
        base
        for at in (folder.absolute(), folder.resolve())
        for base in (at, *at.parents[:LEVELS_UP])
    ]
    stated = [(folder / name) for name in image_dirs]
    places = stated + [base / place for base in bases for place in PLACES]
    return sorted(dict.fromkeys(places), key=lambda place: not place.is_dir())


def possible_names(image: ImageRecord) -> list[str]:
    """The names an image's file may have, the stated one first."""
    names = [image.file_name] if image.file_name else []
    if (base := Path(image.file_name).name) not in names and base:
        names.append(base)
    # Only where the name itself is COCO's: another data set's image 9 is not COCO's photograph 9.
    number = image.image_id
    if number >= 0 and (not base or COCO_NAME.fullmatch(base)):
        names += [f"COCO_train2014_{number:012d}.jpg", f"{number:012d}.jpg", f"{number}.jpg"]
    return list(dict.fromkeys(names))


def read_checked(
    path: Path, image: ImageRecord, *, sizes_exact: bool = True, upright: bool = False
) -> NDArray[np.uint8]:
    """The pixels of `path`, [H, W, 3] uint8 RGB.

    Raises DataError when masks and boxes would be misaligned: the size is not the stated one, or
    EXIF turns the picture and they are not about upright pictures; ImageError when it is no
    readable image. sizes_exact: whether the stated size is a fact. upright: see RecordsMeta.
    """
    pixels = image_ops.load_image(path)
    if not upright and (turn := exif_orientation(path)) != 1:
        raise DataError(
            f"{path}: image {image.image_id} is turned by its EXIF tag (orientation {turn}), and "
            "the annotations do not say which way round they are: its masks would be misaligned",
            remedy="save it without the tag, the way round that the annotations fit",
        )
    height, width = pixels.shape[:2]
    stated = (image.height, image.width)
    if sizes_exact and 0 not in stated and stated != (height, width):
        turned = stated == (width, height)
        raise DataError(
            f"{path}: image {image.image_id} is {height} x {width} px (rows x columns), but the "
            f"annotations say {image.height} x {image.width}: its masks would be misaligned",
            remedy=("turn it by a quarter, or " if turned else "")
            + "use the release of the images that the annotations were made for",
        )
    return pixels


def exif_orientation(path: Path) -> int:
    """EXIF orientation 1..8 of an image file, from its header; 1 where it has none, or no sense."""
    try:
        with Image.open(path, formats=image_ops.FORMATS) as picture:
            # Not picture.getexif(): that of PNG decodes the pixels to find late chunks.
            value: object = Image.Image.getexif(picture).get(ORIENTATION)
    except Exception:  # `load_image` tells what is wrong with the file; a damaged tag turns nothing
        return 1
    return value if isinstance(value, int) and 2 <= value <= 8 else 1


def _folders_below(root: Path, levels: int = LEVELS_DOWN) -> list[Path]:
    if levels == 0:
        return []
    with os.scandir(root) as entries:  # knows folders without asking about each of 80,000 files
        below = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return below + [deeper for path in below for deeper in _folders_below(path, levels - 1)]
