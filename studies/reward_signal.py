"""How far a reward tells the sentences about one object apart: what step 2 can learn from it.

The gradient of Eq. 4 weighs each of an object's sentences by its reward minus their mean. So it is
not the height of a reward that teaches but its spread among the sentences of one object; and what
it teaches is to be understood only as far as it is higher for sentences that are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from refseg.data.dataset import ReferDataset
from refseg.describe import describe
from refseg.methods.mutual.config import PolicyConfig
from refseg.methods.mutual.policy import unambiguity
from refseg.models import Model
from refseg.referred import referred
from refseg.types import Picture, Sample

BEAMS = PolicyConfig().beams
FLAT, PAPERS = "sigmoid", "softmax, tau 2.5"
#: Name -> the reward's first half, as a share of alpha.
FORMS: Mapping[str, PolicyConfig] = {
    FLAT: PolicyConfig(alpha=1, form="sigmoid"),
    PAPERS: PolicyConfig(alpha=1, tau=2.5),
    "softmax, tau 1": PolicyConfig(alpha=1, tau=1),
}


def measure(model: Model, dataset: ReferDataset, limit: int) -> dict[str, Any]:
    """Of the first `limit` objects of a split: {"objects", "sentences", "forms"}.

    model: one whose proposals are the annotated objects. "forms": name -> {"mean": over all
    sentences, "spread": mean over objects of the standard deviation within one, "order": of the
    pairs of sentences about one object of which one leads the model's own head to it and one does
    not, the share in which the first has the higher reward (ties count half), a mean over the
    "mixed" objects that have such pairs, None without any}, in 0..1. An object's sentences are the
    distinct ones among its `BEAMS` best; one alone has no spread, and an object about which nothing
    is said is not counted.
    Raises ConfigError for a model that does not write or read.
    """
    values: dict[str, list[list[float]]] = {name: [] for name in FORMS}
    hits: list[list[bool]] = []
    for picture, row, texts in _written(model, dataset, limit):
        scores = model.scores([_sample(picture, text) for text in texts])
        hits.append([int(one.argmax()) == row for one in scores])
        for name, form in FORMS.items():
            found = unambiguity(
                torch.from_numpy(np.stack(scores)), torch.full((len(texts),), row), form
            )
            values[name].append(found.tolist())
    first = next(iter(values.values()))
    return {
        "objects": len(first),
        "sentences": sum(map(len, first)),
        "mixed": sum(len(set(one)) == 2 for one in hits),
        "forms": {
            name: {**_told(each), "order": _order(each, hits)} for name, each in values.items()
        },
    }


def _told(each: Sequence[Sequence[float]]) -> dict[str, float]:
    """each: the rewards of every object's sentences."""
    return {
        "mean": float(np.mean([value for one in each for value in one])),
        "spread": float(np.mean([np.std(one) for one in each])),
    }


def _order(each: Sequence[Sequence[float]], hits: Sequence[Sequence[bool]]) -> float | None:
    """How often a sentence that is understood has the higher reward; see `measure`."""
    shares = []
    for rewards, understood in zip(each, hits, strict=True):
        told = np.array(rewards)
        yes, no = told[np.array(understood)], told[~np.array(understood)]
        if len(yes) and len(no):
            apart = yes[:, None] - no
            shares.append(float(((apart > 0) + 0.5 * (apart == 0)).mean()))
    return float(np.mean(shares)) if shares else None


def _written(
    model: Model, dataset: ReferDataset, limit: int
) -> Iterator[tuple[Picture, int, list[str]]]:
    """(picture, row of its object, sentences about it) of objects about which something is said."""
    for group in referred(dataset, limit)[0]:
        picture = dataset.picture(group[0].image_row)
        assert picture.objects is not None
        ids = picture.objects.ann_ids.tolist()
        asked = [(0, ids.index(one.ann_id)) for one in group]
        found = describe(model, [picture], asked, beams=BEAMS, keep=BEAMS, strict=False)
        for (_, row), told in zip(asked, found, strict=True):
            if told.expressions:
                yield picture, row, [one.text for one in told.expressions]


def _sample(picture: Picture, text: str) -> Sample:
    image_id = picture.image_id
    return Sample(text, picture.image, text, image_id, 0, 0, objects=picture.objects)
