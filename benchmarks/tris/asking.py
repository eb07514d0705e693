"""Several sentences about one image: the image encoded once, beside a forward pass for each.

Both steps, from a net image to masks in px, as `Predictor` asks them (its reading of the picture
and of words is in no form); weights, pixels and words are random. The plain form is the released
code's, which encodes an image anew with every sentence. The last row is what later questions cost,
the image known already. Before anything is timed, all must give the same masks, pixel for pixel
where a logit is not 0 but for rounding, and the same responses: since random weights hardly tell
places apart, by a thousandth of what lies between their highest and lowest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.asked import agree, noise
from benchmarks.mutual.measuring import Table, compared, gmacs, quietly
from benchmarks.mutual.selecting import only
from refseg.methods.tris import Tris, TrisConfig, TrisResponse, TrisResponseConfig
from refseg.recipes.tris import tris_scenes
from refseg.types import Batch, Prediction

ANEW, OURS, KNOWN = "forward for each sentence", "ours: image encoded once", "image known before"
COUNTS = (1, 5)
SMALL, PAPER = (128, 128), (480, 640)  # px of the pictures
Config = TrisResponseConfig | TrisConfig
Asked = TrisResponse | Tris


def asking(runs: int = 5) -> dict[str, Table]:
    """By step, size and count of sentences: the forms with "ms" an image, "per_second" sentences,
    "gmacs", "as_fast".
    """
    recipe = tris_scenes()
    assert recipe.tris is not None
    assert isinstance(recipe.method, TrisConfig)
    sizes: list[tuple[str, Config, int, tuple[int, int]]] = [
        ("step 1, scenes, 128 px", recipe.tris.response, 128, SMALL),
        ("step 2, scenes, 128 px", recipe.method, 128, SMALL),
        ("step 1, paper size, 320 px", TrisResponseConfig(), 320, PAPER),
        ("step 2, paper size, 320 px", TrisConfig(), 320, PAPER),
    ]
    tables = {}
    for title, config, side, hw in sizes:
        method = built(config)
        for count in COUNTS:
            batch = noise(config.text.vocab_size, config.cut.length, side, hw, [count])
            tables[f"{title}, sentences of an image: {count}"] = measured(method, batch, runs)
    return tables


def measured(method: Asked, batch: Batch, runs: int) -> Table:
    state = quietly(method.encode_image, batch)
    tasks = {
        ANEW: partial(quietly, one_by_one, method, batch),
        OURS: partial(quietly, image_once, method, batch),
        KNOWN: partial(quietly, answered, method, batch, state),
    }
    plain, *others = (task() for task in tasks.values())
    for found in others:
        agree(found, plain)
    table = compared(tasks, runs)
    for name, task in tasks.items():
        table[name] |= {"per_second": 1000 * len(batch) / table[name]["ms"], "gmacs": gmacs(task)}
    return table


# -- the forms -------------------------------------------------------------------------------


def one_by_one(method: Any, batch: Batch) -> list[Prediction]:
    found: list[Prediction] = []
    for row in range(len(batch)):
        alone = only(batch, row)
        found += method.decode(method(alone), alone)
    return found


def image_once(method: Asked, batch: Batch) -> list[Prediction]:
    return answered(method, batch, method.encode_image(batch))


def answered(method: Any, batch: Batch, state: Any) -> list[Prediction]:
    """Either step, with its own state."""
    predictions: list[Prediction] = method.decode(method.answer(state, batch), batch)
    return predictions


# -- what is asked ---------------------------------------------------------------------------


def built(config: Config) -> Asked:
    torch.manual_seed(0)
    method = TrisResponse(config) if isinstance(config, TrisResponseConfig) else Tris(config)
    return method.eval()
