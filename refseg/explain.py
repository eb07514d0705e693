"""A picture of why a model answered as it did.

explanation(pixels, prediction, ranked)     # of a method that chooses: what it chose among
explanation(pixels, prediction)             # of another: its response, inner maps and points
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refseg import draw
from refseg.ops.masks import response_in_px, stretched
from refseg.rank import Ranked
from refseg.types import Prediction

#: The inner map that holds numbers of groups, which have no size: each is a colour.
GROUPS = "entities"


def explanation(
    image: draw.Pixels, prediction: Prediction, ranked: Sequence[Ranked] | None = None
) -> draw.Pixels | None:
    """[H', W', 3] uint8 RGB, captions below; None where the method tells nothing.

    image: [H, W, 3] px. ranked: likeliest first, for methods that choose among proposals: their
    outlines, what each is taken for (its probability in brackets), and how likely it is meant.
    Else the response and the inner maps, each over the image, maps stretched to 0..1, and entities
    in a colour for each of their groups; below them the points of an outline in the order in which
    they were written.
    """
    if ranked is not None:
        lines = [
            f"{one.proposal.category} ({one.proposal.category_score:.2f}), meant: {one.score:.2f}"
            for one in ranked
        ]
        return draw.answers(image, [one.mask for one in ranked], lines)
    maps = {} if prediction.response is None else {"response": prediction.response}
    maps |= {
        name.replace("_", " "): stretched(one)
        for name, one in prediction.maps.items()
        if name != GROUPS
    }
    in_px = {name: response_in_px(one, prediction.geometry) for name, one in maps.items()}
    shown = [draw.heats(image, in_px)] if maps else []
    if GROUPS in prediction.maps:
        groups = response_in_px(prediction.maps[GROUPS], prediction.geometry, "nearest")
        shown.append(draw.regions(image, groups.astype(np.int64), "entities, a colour a group"))
    shown += [
        draw.pointed(image, points, "points in their order") for points in prediction.polygons
    ]
    return np.concatenate(shown) if shown else None
