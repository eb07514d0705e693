"""Texts about something else: what an expression is told apart from while learning.

The rule is that of TRIS's calibration: the other refs of the same image come first, since telling
"the left cup" from "the right cup" is what matters; where the image has no other ref, any text of
the data will do. Only words are read, no label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refseg.data.joined import Items

#: Draws of any text before one that says the same is taken after all.
TRIES = 20


class Negatives:
    """Draws texts for the items of `data`. rows: the items that may be drawn from (all: None).

    In the view "ref" an item's text is the sentence that it has in this epoch.
    """

    def __init__(self, data: Items, rows: Sequence[int] | None = None) -> None:
        self.data = data
        self.rows = list(range(len(data)) if rows is None else rows)
        wanted = set(self.rows)
        self._of_image: dict[int, list[int]] = {}  # item -> the items about its image
        for group in data.groups_by_image():
            kept = [row for row in group if row in wanted]
            self._of_image.update(dict.fromkeys(kept, kept))

    def draw(self, row: int, count: int, rng: np.random.Generator) -> tuple[str, ...]:
        """`count` texts about something else than item `row`, drawn with replacement: first one
        of the image's other refs, then one of its sentences; without other refs any texts but
        those that say the same.
        """
        own = self.data.entry(row)
        sentences: dict[int, list[str]] = {}
        for other in self._of_image[row]:
            entry = self.data.entry(other)
            # Two refs of an image may be called the same: what is said of both is no negative.
            if entry.ref_id != own.ref_id and entry.text != own.text:
                sentences.setdefault(entry.ref_id, []).append(entry.text)
        if not sentences:
            return tuple(self._any_but(own.text, rng) for _ in range(count))
        refs = list(sentences.values())
        drawn = (refs[int(rng.integers(len(refs)))] for _ in range(count))
        return tuple(texts[int(rng.integers(len(texts)))] for texts in drawn)

    def _any_but(self, text: str, rng: np.random.Generator) -> str:
        found = text
        for _ in range(TRIES):
            found = self.data.entry(self.rows[int(rng.integers(len(self.rows)))]).text
            if found != text:
                break
        return found
