"""Errors a person can act on: each names the bad value, where it was, and what would be valid.

Everything that bad input can cause is a `RefsegError`; the command line prints its text and
exits with code 2. Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RefsegError(Exception):
    """Bad input. The message names the thing; `remedy` says what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message


class UnknownName(RefsegError):
    """A name that is not in a closed list; the nearest valid one is offered."""

    def __init__(self, kind: str, value: str, valid: Iterable[str]) -> None:
        names = sorted(valid)
        near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
        offer = f'did you mean "{near[0]}"? ' if near else ""
        super().__init__(
            f'unknown {kind} "{value}"', remedy=f"{offer}valid: {', '.join(names) or '(none)'}"
        )
        self.kind, self.value, self.valid, self.nearest = kind, value, names, near[:1]

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        """Errors cross process boundaries (loader workers)."""
        return type(self), (self.kind, self.value, self.valid)


class DataError(RefsegError):
    """A data set's file is missing, broken, or contradicts another file."""


class NoProposal(DataError):
    """No proposal stands for an object of an image."""

    def __init__(self, image_id: int, row: int) -> None:
        super().__init__(
            f"image {image_id}: no proposal stands for object {row}",
            remedy="it has no extent, or the image has more objects than the model has proposals",
        )
        self.args = image_id, row  # what a copy in another process is made from


class LabelsError(RefsegError):
    """A label was asked for that the labels contract does not grant."""


class ImageError(RefsegError):
    """A file is not an image we accept, or its size is out of bounds."""


class ExpressionError(RefsegError):
    """A referring expression is empty or far too long."""


class ModelError(RefsegError):
    """A model name, folder or weight file cannot be used."""


class ConfigError(RefsegError):
    """A recipe or a `--set key=value` override is wrong."""


class RunError(RefsegError):
    """A training run's folder cannot be used, read or written."""
