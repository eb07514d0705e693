"""COCO's run-length code of masks: runs of background and foreground down the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from refseg.errors import DataError

Mask = NDArray[np.bool_]


def rle_encode(mask: Mask) -> dict[str, Any]:
    """COCO run-length code of a mask: {"size": [H, W], "counts": ascii str}, ready for JSON."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rle_decode(rle: Mapping[str, Any]) -> Mask:
    """Mask [H, W] bool of a COCO RLE whose counts are str, bytes or a list of run lengths.

    Raises DataError if the code is damaged or its runs do not fill the size exactly.
    """
    try:
        height, width = (int(n) for n in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"not a run-length code: {str(rle)[:80]}",
            remedy='expected {"size": [rows, columns], "counts": str or list}',
        ) from error
    runs = _run_lengths(counts)
    if height < 0 or width < 0 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise DataError(
            f"run-length code of size {height} x {width} has runs that sum to {int(runs.sum())}",
            remedy=f"they must be positive and sum to {height * width}; is the file damaged?",
        )
    if height * width == 0:
        return np.zeros((height, width), bool)
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    columns = np.repeat(values, runs).reshape(width, height)  # runs go down the columns
    return np.asarray(cv2.transpose(columns).view(bool))


def rle_counts(
    predicted: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Intersections and unions of N pairs of stored masks, both [N] int64, without decoding.

    counts are text (str or bytes). Raises DataError if the numbers of masks or the sizes of a
    pair differ, or a text is cut short.
    """
    if len(predicted) != len(target):
        raise DataError(f"{len(predicted)} predicted masks but {len(target)} targets")
    first, second = [_coco_code(rle) for rle in predicted], [_coco_code(rle) for rle in target]
    for a, b in zip(first, second, strict=True):
        if list(a["size"]) != list(b["size"]):
            raise DataError(f"masks of different sizes cannot be compared: {a} and {b}"[:200])
    common = [coco.merge([a, b], True) for a, b in zip(first, second, strict=True)]
    areas = [np.asarray(coco.area(codes), np.int64) for codes in (common, first, second)]
    return areas[0], areas[1] + areas[2] - areas[0]


def _coco_code(rle: Mapping[str, Any]) -> dict[str, Any]:
    """A code that pycocotools may read: bytes whose last number is complete (see below)."""
    counts = rle["counts"]
    text = counts.encode("latin1", "replace") if isinstance(counts, str) else bytes(counts)
    if not text or (text[-1] - 48) & 32:
        raise DataError(f"damaged run-length text: {text[:60]!r}", remedy="is the file truncated?")
    return {"size": rle["size"], "counts": text}


def _run_lengths(counts: str | bytes | Sequence[int]) -> NDArray[np.int64]:
    """Run lengths of either form of counts.

    The text form is read here, not by pycocotools, which reads past the end of damaged strings.
    A number is a little-endian row of 5-bit digits, one a character (offset 48, bit 5 = "more
    follow", bit 4 of the last = sign); from the fourth on, numbers are differences to the number
    two places before.
    """
    if not isinstance(counts, str | bytes):
        try:
            return np.asarray(counts, np.int64).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"run lengths are no integers: {str(counts)[:80]}") from error
    raw = counts.encode("latin1", "replace") if isinstance(counts, str) else counts
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if len(digits) == 0:
        return np.zeros(0, np.int64)
    last = (digits & 32) == 0
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise DataError(f"damaged run-length text: {raw[:60]!r}", remedy="is the file truncated?")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, np.diff(np.append(starts, len(digits))))
    if place.max() > 6:
        raise DataError(f"damaged run-length text: {raw[:60]!r}", remedy="a number is too long")
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    signed = (digits[last] & 16) != 0
    numbers -= np.where(signed, np.int64(1) << (5 * (place[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
