"""A writer of expressions whose words depend on all that it sees, without a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from refseg.describe import Described
from refseg.label import run as label
from refseg.label import writing as label_writing
from refseg.types import Expression, Picture


def describe(
    model: Any,
    pictures: Sequence[Picture],
    asked: Sequence[tuple[int, int]],
    *,
    beams: int = 3,
    keep: int = 1,
    verify: bool = False,
    strict: bool = True,
    lost: Collection[int] = (),
) -> list[Described]:
    """Scores tell how much was asked at once: another batch would show in the bytes.

    lost: annotations that no proposal stands for.
    """
    assert not strict
    found = []
    for place, row in asked:
        picture = pictures[place]
        assert picture.objects is not None
        assert picture.objects.categories is not None
        name, ann_id = picture.objects.categories[row], int(picture.objects.ann_ids[row])
        if ann_id in lost:
            found.append(Described((), 0.0, -1))
            continue
        look = int(picture.image.mean()) if picture.image.size else 0
        texts = [f"{name} {ann_id}", f"the {name} “{look}”", f"one of {beams}"]
        sentences = []
        for rank, text in enumerate(texts[:keep]):
            told = Expression(text, -(rank + len(pictures) / 100 + len(asked) / 10000))
            if verify:
                told = replace(told, refers_back=rank == 0, margin=0.5 if rank == 0 else -0.1)
            sentences.append(told)
        found.append(Described(tuple(sentences), 0.25 if ann_id % 3 == 0 else 0.75, row))
    return found


def install(set_attribute: Callable[..., Any]) -> None:
    """Let the fake write for every model."""
    set_attribute(label_writing, "describe", describe)
    set_attribute(label, "check_writes", lambda *model, **options: None)
