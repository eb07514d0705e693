"""An evaluation like RefCOCO val's: each image encoded once, beside once for each sentence.

Images have as many sentences as there. From net images to masks in px, in the batches of
`refseg eval`, which keep the sentences of an image together; reading pictures and words is in no
form; weights, pixels and words are random. The plain form has the same batches with an image for
every sentence, as the released code has. Before anything is timed both must give the same masks,
pixel for pixel where rounding does not decide, and the same responses by a thousandth of their
range: noise follows from an image's pixels, so its sentences have the same slots in both. Images
are counted as the encoder meets them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import nn

from benchmarks.asked import agree
from benchmarks.mutual.measuring import Table, compared, gmacs, quietly
from benchmarks.sag.sizes import SIZES, Size
from refseg.evaluate import Options, packed
from refseg.methods.sag import Sag
from refseg.types import Batch, Prediction

PLAIN, OURS = "image encoded for each sentence", "ours: image encoded once"
IMAGES = (24, 4)  # by size
#: Sentences about an image -> how many of RefCOCO val's 1,500 images have so many: 10,834 in all.
SENTENCES = {
    2: 41, 3: 53, 4: 31, 5: 177, 6: 696, 7: 17, 8: 80, 9: 169, 10: 18, 11: 57, 12: 74, 13: 10,
    14: 12, 15: 28, 16: 4, 17: 11, 18: 4, 19: 3, 20: 5, 21: 3, 22: 1, 24: 3, 25: 1, 26: 1, 27: 1,
}  # fmt: skip


def sentences(runs: int = 5) -> dict[str, Table]:
    """By size: the forms with "ms" in all, "per_second" sentences, "images", "gmacs"."""
    tables = {}
    for size, images in zip(SIZES, IMAGES, strict=True):
        each = counts(images)
        title = f"{size.name}, {sum(each)} sentences about {images} images"
        tables[title] = measured(size.built(), split(size, each), runs)
    return tables


def counts(images: int) -> list[int]:
    """So many of val's images, from few sentences to many, evenly spaced."""
    every = [many for many, found in SENTENCES.items() for _ in range(found)]
    return [every[int((n + 0.5) / images * len(every))] for n in range(images)]


def split(size: Size, each: list[int]) -> list[Batch]:
    """The batches of an evaluation."""
    starts = [0, *accumulate(each)]
    groups = [list(range(start, start + n)) for start, n in zip(starts, each, strict=False)]
    whole, batches = size.batch(each), []
    for rows in packed(groups, Options().batch_size):
        images, within = np.unique(whole.image_of[rows].numpy(), return_inverse=True)
        batches.append(
            replace(
                whole,
                images=whole.images[images],
                image_of=torch.from_numpy(within),
                words=whole.words[rows],
                word_mask=whole.word_mask[rows],
                geometry=whole.geometry[: len(rows)],
                keys=tuple(whole.keys[row] for row in rows),
                texts=whole.texts[: len(rows)],
                weights=whole.weights[rows],
            )
        )
    return batches


def measured(method: Sag, batches: list[Batch], runs: int) -> Table:
    tasks = {
        PLAIN: partial(quietly, evaluated, method, [repeated(batch) for batch in batches]),
        OURS: partial(quietly, evaluated, method, batches),
    }
    seen: dict[str, int] = {}
    found = []
    for name, task in tasks.items():
        with counted(method.vision) as passes:
            found.append(task())
        seen[name] = sum(passes)
    agree(*found)
    table = compared(tasks, runs)
    for name, task in tasks.items():
        rate = 1000 * len(found[0]) / table[name]["ms"]
        table[name] |= {"per_second": rate, "images": seen[name], "gmacs": gmacs(task)}
    return table


def repeated(batch: Batch) -> Batch:
    """An image of its own for each sentence."""
    return replace(batch, images=batch.images[batch.image_of], image_of=torch.arange(len(batch)))


def evaluated(method: Sag, batches: list[Batch]) -> list[Prediction]:
    return [one for batch in batches for one in method.decode(method(batch), batch)]


@contextmanager
def counted(vision: nn.Module) -> Iterator[list[int]]:
    """How many images each pass through the encoder is of."""
    passes: list[int] = []
    hook = vision.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    try:
        yield passes
    finally:
        hook.remove()
