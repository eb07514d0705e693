"""The prompt over words, of all images and texts of a step at once, beside each text by itself.

What `prompt=words` adds to responses: forward and backward, pixels and words random. The plain form
makes dV [I, N, C] of one text after the other (`BilateralPrompt.heard`); ours never makes it
(`heard_along`). Before anything is timed both must give the same in float64, gradients included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.mutual.measuring import Table, Task, compared, same, weighed
from refseg.methods.tris.prompt import BilateralPrompt

PLAIN, OURS = "text by text", "ours: all pairs at once"


@dataclass(frozen=True)
class Size:
    """images, texts, pixels of the grid, words, channels."""

    name: str
    images: int
    texts: int
    pixels: int
    words: int
    width: int


SIZES = (
    Size("scenes, 16 images x 64 texts, 64 places", 16, 64, 64, 24, 128),
    Size("a quarter of the paper's batch, 12 x 12, 100 places", 12, 12, 100, 20, 1024),
)


def hearing(runs: int = 5) -> dict[str, Table]:
    """By size: both forms, with "ms", "as_fast", and memory of fresh processes."""
    tables = {}
    for size in SIZES:
        agree(size)
        makes = {name: partial(made, size, name) for name in (PLAIN, OURS)}
        tasks = {name: make() for name, make in makes.items()}
        tables[size.name] = weighed(compared(tasks, runs), makes)
    return tables


def made(size: Size, name: str) -> Task:
    """Forward and backward of a form."""
    return partial(step, *drawn(size), name)


def drawn(size: Size) -> tuple[BilateralPrompt, tuple[Tensor, ...]]:
    """The prompt, and pixels [I, N, C], words [B, T, C], word_mask [B, T], along [I, B, C]."""
    torch.manual_seed(0)
    prompt = BilateralPrompt(size.width)
    pixels = F.normalize(torch.randn(size.images, size.pixels, size.width), dim=-1)
    words = F.normalize(torch.randn(size.texts, size.words, size.width), dim=-1)
    mask = torch.arange(size.words) < torch.randint(3, size.words + 1, (size.texts, 1))
    along = torch.randn(size.images, size.texts, size.width)
    return prompt, (pixels, words, mask, along)


def step(prompt: BilateralPrompt, given: tuple[Tensor, ...], name: str) -> Tensor:
    """What is added to the responses, [I, N, B]; gradients lie in the prompt."""
    prompt.zero_grad()
    added = prompt.heard_along(*given) if name == OURS else text_by_text(prompt, *given)
    torch.autograd.backward(added.square().mean())
    return added.detach()


def text_by_text(
    prompt: BilateralPrompt, pixels: Tensor, words: Tensor, mask: Tensor, along: Tensor
) -> Tensor:
    images = torch.arange(len(pixels))
    columns = []
    for row in range(len(words)):
        told = words[row].expand(len(images), -1, -1), mask[row].expand(len(images), -1)
        columns.append((prompt.heard(pixels, *told, images) * along[:, row, None]).sum(dim=-1))
    return torch.stack(columns, dim=2)


def agree(size: Size) -> None:
    """Stop the run where the forms differ by more than rounding."""
    prompt, given = drawn(size)
    prompt.double()
    exact = tuple(one.double() if one.is_floating_point() else one for one in given)
    found = []
    for name in (PLAIN, OURS):
        added = step(prompt, exact, name)
        grads = [p.grad.flatten() for p in prompt.parameters() if p.grad is not None]
        found.append((added, torch.cat(grads)))
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs, "forms")
