"""Photographs that the detector did not learn from, beside those that it did.

The detector is of TensorFlow's detection zoo, whose COCO models learned from the pictures of 2014
but for 8,059 (listed in research/object_detection/data/mscoco_minival_ids.txt of
tensorflow/models).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refseg.methods.mutual.things import surest
from refseg.metrics.meter import bootstrap_interval
from studies.detections import Photo, as_things, found_of, measured

#: Those of `coco_photos` that are on that list.
HELD_OUT = frozenset({
    42, 196, 359, 395, 472, 502, 520, 589, 626, 5802, 10764, 12448, 20992, 22892, 25603, 55299,
    57345, 60760, 84533, 92660, 111076, 117645, 125870, 126107, 151938, 153797, 157206, 173057,
    188421, 199681, 205401, 217285, 223747, 231125, 233771, 239274, 241668, 256518, 261712,
    262284, 286994, 297343, 310200, 318080, 324614, 328757, 336587, 343803, 343937, 346638,
    348881, 359219, 360772, 368402, 386164, 403817, 406129, 407574, 443303, 453634, 460229,
    462565, 480985, 482585, 483328, 522418, 522713, 535506, 552775, 555009, 557172,
})  # fmt: skip


def held_out(photos: Sequence[Photo], leasts: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of what is told of objects (`measured`), of photos that the detector learned from and of
    others, for each least probability; with the share that is found, its 95 % interval over photos.
    """
    rows = []
    groups = {"learned from": False, "held out": True}
    for least in leasts:
        for name, out in groups.items():
            own = [p for p in photos if len(p.kinds) and (p.image_id in HELD_OUT) == out]
            told = [(photo, surest(as_things(photo), least, 64)) for photo in own]
            found = [found_of(photo, things) for photo, things in told]
            number = np.repeat(np.arange(len(own)), [len(one) for one in found])
            values = np.concatenate([np.zeros(0), *found])
            row = {"least": least, "photographs": name, "n": len(own), "objects": len(values)}
            if len(values):
                interval = bootstrap_interval(values, groups=number)
                rows.append({**row, **measured(told), "interval": interval})
    return rows
