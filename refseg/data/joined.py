"""Several data sets as one, item after item: people's expressions and a model's beside them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from refseg.data.dataset import Entry, ReferDataset
from refseg.types import Sample


class Items(Protocol):
    """What training asks of data: a `ReferDataset`, or several joined."""

    @property
    def hash(self) -> str:
        """Changes when the annotations do."""

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None: ...

    def entry(self, index: int) -> Entry: ...

    def samples(self, indices: Sequence[int]) -> list[Sample]: ...

    def groups_by_image(self) -> list[list[int]]: ...


class JoinedDataset:
    """The items of each part in turn.

    Items about one image in two parts stay two groups: the parts may see different objects.
    """

    def __init__(self, parts: Sequence[ReferDataset]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    @property
    def hash(self) -> str:
        """Of all parts."""
        return "+".join(part.hash for part in self.parts)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def set_epoch(self, epoch: int) -> None:
        """See `ReferDataset.set_epoch`."""
        for part in self.parts:
            part.set_epoch(epoch)

    def entry(self, index: int) -> Entry:
        """Everything about an item except its pixels."""
        number, own = self._place(index)
        return self.parts[number].entry(own)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """In the order asked; each part reads an image that its items share once."""
        places = [self._place(index) for index in indices]
        found: dict[tuple[int, int], Sample] = {}
        for number, part in enumerate(self.parts):
            own = [row for at, row in places if at == number]
            found.update(
                ((number, row), sample) for row, sample in zip(own, part.samples(own), strict=True)
            )
        return [found[place] for place in places]

    def groups_by_image(self) -> list[list[int]]:
        """See `ReferDataset.groups_by_image`, part after part."""
        starts = [0, *self._ends]
        return [
            [start + index for index in group]
            for start, part in zip(starts, self.parts, strict=False)
            for group in part.groups_by_image()
        ]

    def _place(self, index: int) -> tuple[int, int]:
        """(part, index in it). Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)
