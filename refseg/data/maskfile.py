"""Masks kept one to a file: PNG (people's own folders) and MATLAB (ReferIt)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refseg.data.records import MaskFile
from refseg.errors import DataError


def read_mask_file(folder: Path, mask: MaskFile, hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode one mask file. hw: the image's rows and columns, which the mask must have.

    Returns [H, W] bool. Raises DataError for a file that is missing, unreadable, lacks the
    variable, or is of another size than the image.
    """
    path = folder / mask.path
    if not path.is_file():
        raise DataError(f"{path}: the mask file is missing", remedy="check the data set's folder")
    values = _matlab(path, mask.variable) if path.suffix == ".mat" else _picture(path)
    if values.shape != hw:
        raise DataError(
            f"{path}: the mask is {values.shape[0]} x {values.shape[1]} px (rows x columns), its "
            f"image {hw[0]} x {hw[1]}",
            remedy="masks must have the size of their image",
        )
    foreground: NDArray[np.bool_] = (values == 0) if mask.foreground == "zero" else (values != 0)
    return foreground


def _picture(path: Path) -> NDArray[np.int64]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            opaque = {"RGBA": "RGB", "LA": "L"}.get(picture.mode)  # opacity says nothing here
            plain: Image.Image = picture.convert(opaque) if opaque else picture
            values = np.asarray(plain).astype(np.int64)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a readable mask ({error})", remedy="write it again"
        ) from error
    return values.max(axis=2) if values.ndim == 3 else values


def _matlab(path: Path, variable: str) -> NDArray[np.int64]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(str(path))
    except (MatReadError, OSError, ValueError, NotImplementedError, TypeError) as error:
        raise DataError(f"{path}: not a readable .mat file ({error})", remedy="fetch it") from error
    if variable not in content:
        names = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(
            f'{path}: no variable "{variable}" in it; it has: {names or "(none)"}',
            remedy="check that this is a mask file of the stated format",
        )
    return np.asarray(content[variable]).astype(np.int64)
