"""CLIP's ResNet with channels last, beside the layout that torch gives images.

Forward and backward, weights and pixels random: as the trained tower (gradients of the weights) and
as the frozen judge (gradients of the pixels alone). Before anything is timed both layouts must give
the same maps and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.mutual.measuring import Table, compared, same
from refseg.nn.clip_resnet import ClipResNet, ClipResNetConfig, halved
from refseg.recipes.encoders import CLIP_SMALL

PLAIN, OURS = "channels first", "ours: channels last"


class First(ClipResNet):
    """The same, with channels first all along."""

    def stem(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images.contiguous())))
        x = F.relu(self.bn2(self.conv2(x)))
        return halved(F.relu(self.bn3(self.conv3(x))))


@dataclass(frozen=True)
class Size:
    """images of side px."""

    name: str
    config: ClipResNetConfig
    images: int
    side: int


SIZES = (
    Size("scenes, 64 images of 128 px", CLIP_SMALL, 64, 128),
    Size("RN50, 2 images of 320 px", ClipResNetConfig(pool=False), 2, 320),
)


def layout(runs: int = 5) -> dict[str, Table]:
    """By size and by what learns: both layouts, with "ms", "as_fast"."""
    tables = {}
    for size in SIZES:
        for what, frozen in (("trained", False), ("frozen, gradients of pixels", True)):
            networks = made(size, frozen)
            torch.manual_seed(1)
            images = torch.randn(size.images, 3, size.side, size.side)
            agree(networks, images)
            tasks = {name: partial(step, one, images) for name, one in networks.items()}
            tables[f"{size.name}, {what}"] = compared(tasks, runs)
    return tables


def made(size: Size, frozen: bool) -> dict[str, ClipResNet]:
    """Both forms with the same weights."""
    torch.manual_seed(0)
    plain, ours = First(size.config), ClipResNet(size.config)
    ours.load_state_dict(plain.state_dict())
    for one in (plain, ours):
        one.train(not frozen).requires_grad_(not frozen)
    return {PLAIN: plain, OURS: ours}


def step(network: ClipResNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """The last map, and all gradients as one vector."""
    network.zero_grad()
    frozen = not next(network.parameters()).requires_grad
    seen = images.detach().requires_grad_(frozen)
    last = network(seen)[-1]
    torch.autograd.backward(last.square().mean())
    learned = [seen.grad] if frozen else [p.grad for p in network.parameters()]
    return last.detach(), torch.cat([one.flatten() for one in learned if one is not None])


def agree(networks: dict[str, ClipResNet], images: Tensor) -> None:
    """Stop the run where the layouts differ by more than rounding, in float64: gradients of deep
    networks with random weights nearly cancel, and float32's rounding shows.
    """
    few = images[:2].double()
    plain, ours = (step(one.double(), few) for one in networks.values())
    for name, one, other in zip(("maps", "gradients"), plain, ours, strict=True):
        same(other / one.abs().max(), one / one.abs().max(), name)
    for network in networks.values():
        network.float()
