"""Pictures of why a model answered as it did.

explanation(pixels, prediction, ranked)     # of a method that chooses: what it chose among
explanation(pixels, prediction)             # of another: its response, inner maps and points
inner_pictures(pixels, prediction)          # the same one by one, without the answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refseg import draw
from refseg.ops.masks import response_in_px, stretched
from refseg.rank import Ranked
from refseg.types import Prediction

#: The inner maps that hold numbers, which have no size: each is a colour. Name -> what is told.
NUMBERS = {"entities": "entities, a colour a group", "segments": "segments, a colour each"}


@dataclass(frozen=True)
class Picture:
    """pixels: [H', W', 3] uint8 RGB, sized as `draw.overlay`. lines: what is told of it, beside the
    palette's colours from `first` on.
    """

    pixels: draw.Pixels
    lines: tuple[str, ...]
    first: int = 0


def explanation(
    image: draw.Pixels, prediction: Prediction, ranked: Sequence[Ranked] | None = None
) -> draw.Pixels | None:
    """[H', W', 3] uint8 RGB, captions below; None where the method tells nothing.

    All of `inner_pictures`, one below the other, and where there was nothing to choose among, the
    mask that came of it.
    """
    shown = inner_pictures(image, prediction, ranked)
    if not shown:
        return None
    if ranked is None:
        told = "the answer: nothing there" if prediction.empty else "the answer"
        shown.append(Picture(draw.overlay(image, [prediction.mask], []), (told,)))
    return np.concatenate([draw.captioned(p.pixels, p.lines, first=p.first) for p in shown])


def inner_pictures(
    image: draw.Pixels, prediction: Prediction, ranked: Sequence[Ranked] | None = None
) -> list[Picture]:
    """What a method tells of an answer, picture by picture; none where it tells nothing.

    image: [H, W, 3] px. ranked: likeliest first, for methods that choose among proposals: their
    outlines, what each is taken for (its probability in brackets), and how likely it is meant.
    Else the response and the inner maps, each over the image, maps stretched to 0..1, then maps of
    numbers (entities, segments) in a colour for each, and the points of an outline in the order in
    which they were written.
    """
    if ranked is not None:
        return [_choice(image, ranked)]
    geometry = prediction.geometry
    maps = {} if prediction.response is None else {"response": prediction.response}
    maps |= {
        name.replace("_", " "): stretched(one)
        for name, one in prediction.maps.items()
        if name not in NUMBERS
    }
    shown = [
        Picture(draw.heated(image, response_in_px(one, geometry)), (name,))
        for name, one in maps.items()
    ]
    for name, told in NUMBERS.items():
        if name in prediction.maps:
            numbers = response_in_px(prediction.maps[name], geometry, "nearest").astype(np.int64)
            shown.append(Picture(draw.regions(image, numbers), (told,)))
    return shown + [
        Picture(draw.pointed(image, points), ("points in their order",))
        for points in prediction.polygons
    ]


def _choice(image: draw.Pixels, ranked: Sequence[Ranked]) -> Picture:
    """Outlines with numbers from 1 on, the likeliest on top."""
    lines = [
        f"{number}  {one.proposal.category} ({one.proposal.category_score:.2f}), "
        f"meant: {one.score:.2f}"
        for number, one in enumerate(ranked, 1)
    ]
    masks, numbers = [one.mask for one in ranked], range(1, len(ranked) + 1)
    big = draw.numbered(image, masks[::-1], numbers[::-1])
    return Picture(big, tuple(lines) or ("nothing is found",), first=1)
