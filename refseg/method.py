"""The protocol every method keeps. Types only: no weights, no registry.

A method is a `torch.nn.Module` with the four verbs below. The training loop, the evaluator and
the predictor know nothing else about it. Optional abilities are asked for by name:

    encode_image(batch) -> state       of the batch's I images; the part no expression changes
    answer(state, batch) -> Outputs    same result as forward(batch), image part not repeated
    propose(batch) -> proposals        all that could be meant in the batch's images
    write(proposals, image_of, target) expressions about proposals; `refseg.describe` asks for them
    hub_parts() -> kind -> module      what may start from weights in the hub's format
    take_over(state, source) -> told   begin from the weights of a model for another task
    word_limits, word_ids              the longest expression, the special tokens' ids, it takes
    spell(ids_of)                      be told the ids of words of its own, by text -> ids
    reads_pixels, reads_objects        what forward looks at, where it is not pixels alone
    wants_originals                    whether decode looks at images in px (`Batch.originals`)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from refseg.types import Batch, Labels, Prediction


class MethodConfig(BaseModel):
    """Base of every method's configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate factor and a weight decay factor (0 or 1 mostly)."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0
    decay_scale: float = 1.0


@runtime_checkable
class Method(Protocol):
    """forward -> loss or decode; see the module docstring.

    needs: the labels that `loss` reads. `forward` must not read labels at all; a method that
    chooses among the annotated objects says so (`reads_objects`), for it they are no labels.
    """

    config: MethodConfig

    @property
    def needs(self) -> Labels:
        """A class attribute, or a property where it depends on the configuration."""

    def __call__(self, batch: Batch) -> Any: ...

    def forward(self, batch: Batch) -> Any:
        """Typed outputs of the method, the maps worth looking at included."""

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms and their weighted sum under "total"."""

    def decode(self, outputs: Any, batch: Batch) -> list[Prediction]:
        """One prediction per expression, in pixels of the original image."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter that requires a gradient, each exactly once."""


def check_groups(module: nn.Module, groups: Iterable[ParameterGroup]) -> None:
    """Assert that `groups` cover the trainable parameters of `module` exactly once."""
    listed = [id(p) for group in groups for p in group.parameters]
    wanted = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    missing = [name for key, name in wanted.items() if key not in set(listed)]
    assert not missing, f"parameters in no group: {missing}"
    assert len(listed) == len(set(listed)), "a parameter is in two groups"
    assert set(listed) <= set(wanted), "a frozen or foreign parameter is in a group"


def split_decay(
    name: str, module: nn.Module, *, lr_scale: float = 1.0, embeddings: bool = True
) -> list[ParameterGroup]:
    """Two groups for `module`: matrices with weight decay; norms, biases and tables without.

    embeddings: whether those decay (False: as in Mask2Former).
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    looked_up = {id(part.weight) for part in tables}
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        no_decay = parameter.ndim < 2 or "relative_position_bias_table" in key
        if not embeddings:
            named = key.endswith(("level_embed", "position_embeddings"))
            no_decay |= named or id(parameter) in looked_up
        (plain if no_decay else decay).append(parameter)
    groups = [
        ParameterGroup(name, tuple(decay), lr_scale, 1.0),
        ParameterGroup(f"{name}.no_decay", tuple(plain), lr_scale, 0.0),
    ]
    return [group for group in groups if group.parameters]


def trainable(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
