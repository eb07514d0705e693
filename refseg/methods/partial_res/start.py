"""RES begins from the weights of REC: what is taken over, what begins anew, and nothing in silence.

The coordinate table, both transformers and the encoders carry over. The position table is as long
as the sequence, so another number of points begins it anew; [TASK] and PMCA are not in REC's model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.errors import ModelError

POSITIONS = "decoder.positions.weight"
#: What one of the two tasks' models may have and the other not.
OWN = ("decoder.task",)
OWN_PARTS = (".modulation.", ".inside.")


@dataclass(frozen=True)
class Taken:
    """taken: how many tensors came over. anew: names that begin at random. left: names of the other
    model that have no place here. replaced: rows of the position table there and here, if others.
    """

    taken: int
    anew: tuple[str, ...]
    left: tuple[str, ...]
    replaced: tuple[int, int] | None

    def told(self) -> str:
        """In one line for people."""
        parts = [f"{self.taken} tensors taken"]
        if self.replaced:
            parts.append(
                f"position table begun anew ({self.replaced[0]} -> {self.replaced[1]} rows)"
            )
        if self.anew:
            parts.append(f"new here: {_few(self.anew)}")
        if self.left:
            parts.append(f"left behind: {_few(self.left)}")
        return "; ".join(parts)


@torch.no_grad()
def take_over(method: nn.Module, state: Mapping[str, Tensor], source: str) -> Taken:
    """Copy `state`, of a model of this method with another task or length, into `method`.

    Raises ModelError, and changes nothing, where anything but the position table, [TASK] and PMCA
    is missing, unknown or of another shape.
    """
    own = method.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shared = own.keys() & state.keys()
    wrong = sorted(key for key in shared if own[key].shape != state[key].shape)
    table = [
        key for key in wrong if key == POSITIONS and own[key].shape[1:] == state[key].shape[1:]
    ]
    bad = {
        "missing": [key for key in missing if not _of_one_task(key)],
        "unknown": [key for key in unknown if not _of_one_task(key)],
        "of another shape": [key for key in wrong if key not in table and not _of_one_task(key)],
    }
    if any(bad.values()):
        told = "; ".join(f"{what}: {_few(keys)}" for what, keys in bad.items() if keys)
        raise ModelError(
            f"{source} is no start for this model ({told})",
            remedy="train its REC stage with the same sizes: method.vision, text, fusion, "
            "transformer and sequence.bins must agree",
        )
    anew = [*(key for key in missing), *(key for key in wrong if key not in table)]
    for key in sorted(shared - set(wrong)):
        own[key].copy_(state[key])
    replaced = (len(state[POSITIONS]), len(own[POSITIONS])) if table else None
    return Taken(len(shared) - len(wrong), tuple(anew), tuple(unknown), replaced)


def _of_one_task(key: str) -> bool:
    return key in OWN or any(part in f".{key}" for part in OWN_PARTS)


def _few(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
