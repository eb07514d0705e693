"""Images: safe reading to RGB, and the two ways into a network's size.

A file's size is judged from its header, before a pixel is decoded. Formats are a closed list:
some of Pillow's readers start other programs. Images are [H, W, 3] uint8 RGB, contiguous.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from refseg.errors import ImageError
from refseg.types import Geometry

Rgb = NDArray[np.uint8]
Source = str | Path | Image.Image | NDArray[Any]

MAX_SIDE = 16_384
MAX_PIXELS = 120_000_000  # a photograph of 108 megapixels, as some telephones take, and some room
STRIP_PIXELS = 4_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PADDING_RGB = (124, 116, 104)  # ImageNet's mean colour: zero after normalisation

_ORIENTATION = 0x0112  # EXIF tag; its values 5 to 8 swap rows and columns
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Source, *, exif: bool = True) -> Rgb:
    """Read an image from a path, a PIL image, or a uint8 array [H, W], [H, W, 1 | 3 | 4].

    Grey, palette, CMYK and 16-bit images become 8-bit RGB (16 bits keep their upper byte);
    transparent pixels become white. exif: turn the picture as its EXIF orientation says; data
    sets whose masks were drawn on the stored pixels want False. An RGB array is copied, unless it
    owns its pixels and was made read-only: its maker will not change it, and it may be large.
    Raises ImageError for what is no image of `FORMATS`, is damaged or cut short, has no pixel,
    or has a side over `MAX_SIDE` or more than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = f"image {getattr(source, 'filename', '')}".strip()
        _check_size((source.height, source.width), name)
        return _to_rgb(source, name, exif)
    with _opened(source) as picture:
        return _to_rgb(picture, str(source), exif)


def image_size(path: str | Path, *, exif: bool = True) -> tuple[int, int]:
    """(rows, columns) as `load_image` would give them, from the header alone. Same errors."""
    with _opened(path) as picture:
        height, width = picture.height, picture.width
        turned = exif and _orientation(picture) >= 5
    return (width, height) if turned else (height, width)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1..8 as the header gives it; 1 if there is none or it is unreadable."""
    try:
        # Not picture.getexif(): that of PNG decodes the pixels to find late chunks.
        value = Image.Image.getexif(picture).get(_ORIENTATION)
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return 1
    return value if value in _TURNS else 1


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The file's header as a PIL image whose size is within bounds; errors become ImageError."""
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ImageError(f"image {path} {what}", remedy="give the path of an image file")
    try:
        with warnings.catch_warnings():
            # Our own limits follow; Pillow's lower one would only warn.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(str(path), str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not an image we can read",
            remedy=f"convert it to JPEG or PNG (read here: {', '.join(FORMATS)})",
        ) from error
    except Exception as error:  # Pillow's parsers raise a dozen types on damaged headers
        raise ImageError(f"{path} cannot be read: {error}", remedy="is it damaged?") from error
    with picture:
        _check_size((picture.height, picture.width), str(path))
        yield picture


def _check_size(hw: tuple[int, int], name: str) -> None:
    height, width = hw
    if height < 1 or width < 1:
        raise ImageError(f"{name} has no pixels: {width} x {height}", remedy="use another file")
    if max(hw) > MAX_SIDE or height * width > MAX_PIXELS:
        raise _too_large(name, f"it is {width} x {height} pixels")


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(
        f"{name} is too large: {size}",
        remedy=f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 10**6} megapixels are "
        "accepted; scale it down first",
    )


def _to_rgb(picture: Image.Image, name: str, exif: bool) -> Rgb:
    try:
        turn = _TURNS.get(_orientation(picture)) if exif else None
        picture.load()
        return _pixels(_eight_bit_rgb(picture if turn is None else picture.transpose(turn)))
    except Exception as error:  # as above, and "image file is truncated"
        raise ImageError(
            f"{name} is damaged or cut short: {error}", remedy="copy or download it again"
        ) from error


def _pixels(rgb: Image.Image) -> Rgb:
    """[H, W, 3] by strips: Pillow hands pixels over as bytes, twice what they are."""
    found = np.empty((rgb.height, rgb.width, 3), np.uint8)
    rows = max(STRIP_PIXELS // rgb.width, 1)
    for top in range(0, rgb.height, rows):
        strip = rgb.crop((0, top, rgb.width, min(top + rows, rgb.height)))
        found[top : top + rows] = np.asarray(strip)
    return found


def _eight_bit_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        wide = picture.mode.startswith("I;16") or values.max(initial=0) > 255
        eight = np.clip(values >> 8 if wide else values, 0, 255).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_array(array: NDArray[Any]) -> Rgb:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            f"array of shape {array.shape} and type {array.dtype} is no image",
            remedy="give uint8 of shape [H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA)",
        )
    _check_size((array.shape[0], array.shape[1]), "array")
    if channels == 1:
        return np.ascontiguousarray(np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2))
    if channels == 4:
        return _to_rgb(Image.fromarray(array), "array", exif=False)
    flags = array.flags
    if flags.c_contiguous and flags.owndata and not flags.writeable:
        return np.asarray(array)
    return np.array(array, np.uint8, order="C")


def resize_square(image: Rgb, hw: tuple[int, int]) -> tuple[Rgb, Geometry]:
    """The image stretched to `hw` (the aspect ratio is not kept), and its geometry.

    An axis that shrinks is averaged over pixel areas, one that grows is interpolated.
    """
    return _stretch(image, hw), square_geometry(image.shape[:2], hw)


def square_geometry(original_hw: tuple[int, ...], hw: tuple[int, int]) -> Geometry:
    """The geometry of `resize_square`, from the image's size (rows, columns) alone."""
    height, width = original_hw
    return Geometry((height, width), (hw[0], hw[1]), (hw[1] / width, hw[0] / height))


def letterbox(
    image: Rgb, hw: tuple[int, int], fill: tuple[int, int, int] = PADDING_RGB
) -> tuple[Rgb, Geometry]:
    """The image as large as it fits into `hw` with its aspect ratio, centred; rest is `fill`.

    The content has whole-pixel borders, so the scales of the axes may differ by a rounding.
    """
    inner_h, inner_w = _inner(image.shape[:2], hw)
    geometry = letterbox_geometry(image.shape[:2], hw)
    left, top = map(int, geometry.offset_xy)
    canvas = np.empty((*hw, 3), np.uint8)
    canvas[:] = fill
    canvas[top : top + inner_h, left : left + inner_w] = _stretch(image, (inner_h, inner_w))
    return canvas, geometry


def letterbox_geometry(original_hw: tuple[int, ...], hw: tuple[int, int]) -> Geometry:
    """The geometry of `letterbox`, from the image's size (rows, columns) alone."""
    height, width = original_hw
    inner_h, inner_w = _inner(original_hw, hw)
    offset_xy = (float((hw[1] - inner_w) // 2), float((hw[0] - inner_h) // 2))
    scale_xy = (inner_w / width, inner_h / height)
    return Geometry((height, width), (hw[0], hw[1]), scale_xy, offset_xy)


def corner_geometry(hw: tuple[int, ...], side: int) -> Geometry:
    """How SAM fits an image of `hw` (rows, columns) into a square: long side = side, no offset.

    The short side is rounded to whole pixels, so the scales of the axes may differ a little.
    """
    height, width = hw[0], hw[1]
    scale = side / max(height, width)
    inner_h, inner_w = (max(int(length * scale + 0.5), 1) for length in (height, width))
    return Geometry((height, width), (side, side), (inner_w / width, inner_h / height))


def _inner(original_hw: tuple[int, ...], hw: tuple[int, int]) -> tuple[int, int]:
    """Size of a letterbox's content: as large as it fits, and at least a pixel."""
    height, width = original_hw
    scale = min(hw[0] / height, hw[1] / width)
    return min(max(round(height * scale), 1), hw[0]), min(max(round(width * scale), 1), hw[1])


def _stretch(image: Rgb, hw: tuple[int, int]) -> Rgb:
    # Area averaging only where an axis shrinks; OpenCV applies it to both axes or to none.
    inner = (min(image.shape[0], hw[0]), min(image.shape[1], hw[1]))
    if inner != image.shape[:2]:
        image = cv2.resize(image, (inner[1], inner[0]), interpolation=cv2.INTER_AREA)
    if inner != tuple(hw):
        image = cv2.resize(image, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)
    return np.array(image, np.uint8, order="C")
