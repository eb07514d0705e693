"""All that an expression may mean in an image, likeliest first.

load("mutual-scenes").rank("photo.jpg", "left red ball")[0]    # what `segment` answers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.errors import ConfigError
from refseg.models import Model
from refseg.propose import Proposal, list_proposals, unlike
from refseg.types import Batch

KEEP = 5
#: Of answers whose masks have this IoU or more, the likeliest is shown: a thing is detected twice.
ALIKE = 0.7


@dataclass(frozen=True)
class Ranked:
    """A proposal as an answer. score: the probability that it is meant, 0..1."""

    proposal: Proposal
    score: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W] bool px; see `Proposal.mask`."""
        return self.proposal.mask


def ranks(model: Model) -> bool:
    """Whether a model chooses among proposals that it finds itself."""
    method = model.method
    return hasattr(method, "chances") and method.config.select and not method.reads_objects


def check_ranks(model: Model, keep: int) -> None:
    """Raise ConfigError for a model that does not choose among proposals, and for keep below 1."""
    if not ranks(model):
        raise ConfigError(
            f"{model.name} (method {model.method_name}) has one answer and no others to rank",
            remedy="use a model that chooses among proposals, such as photos",
        )
    if keep < 1:
        raise ConfigError(f"{keep} answers are too few", remedy="ask for one or more")


def likeliest(model: Model, state: Any, batch: Batch, keep: int) -> tuple[Ranked, ...]:
    """What the batch's first expression may mean in its image, `ranked`; for a model that `ranks`.

    state: of the image, by the method's `encode_image`.
    """
    method = model.method
    chances = method.chances(method.answer(state, batch))[0].cpu().numpy()
    return ranked(list_proposals(model, state, batch.geometry[0]), chances, keep)


def ranked(
    proposals: Sequence[Proposal], chances: NDArray[np.float32], keep: int
) -> tuple[Ranked, ...]:
    """The `keep` likeliest proposals, without near-duplicates of likelier ones (`ALIKE`).

    chances: [N], by the proposals' numbers. Of equals the one of the lower number is first, as
    the method itself chooses.
    """
    order = sorted(proposals, key=lambda one: (-chances[one.number], one.number))
    found: list[Ranked] = []
    for one in unlike(order, ALIKE):
        found.append(Ranked(one, float(chances[one.number])))
        if len(found) == keep:
            break
    return tuple(found)
