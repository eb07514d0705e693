"""A training step of step 1: what the calibrator is asked for, once instead of again and again.

Forward pass, loss and backward pass in float32, without the optimiser; weights, pixels and words
are random. The plain form is the released code's: the texts of a step and their negatives are
embedded anew in each, and the image tower sees what maps leave of the images twice, for L_pos and
for L_neg. (It also collects gradients of the frozen tower's weights, which no form does here.)
Between them, a form that shares the image tower alone. Ours knows every text already, as in
training from the second time on that a text comes. Before anything is timed, all must give the
same losses, and the same gradients of L_pos + L_neg by a thousandth of the largest.

Sizes are those of `tris_scenes`, all of whose texts are judged here (it asks about one of each
image, `loss.judged`), and half of the paper's widths with about half of its depths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.asked import noise
from benchmarks.mutual.measuring import Table, compared, same
from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from refseg.methods.tris import TrisResponse, TrisResponseConfig
from refseg.methods.tris.calibrator import Calibrator, calibration
from refseg.methods.tris.response import in_net
from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.recipes.encoders import PAIR_SMALL
from refseg.recipes.tris import tris_scenes
from refseg.types import Batch

NEGATIVES = 3
PLAIN, BETWEEN = "texts anew, image tower twice", "texts anew, image tower once"
OURS = "ours: texts kept, image tower once"
HALF_TEXT = ClipTextConfig(width=256, layers=6, heads=4, mlp_width=1024, embed=512)
HALF = TrisResponseConfig(
    vision=ClipResNetConfig(layers=(2, 2, 3, 2), width=32), text=HALF_TEXT, width=512
)
HALF_PAIR = PairConfig(
    vision=ClipVisionConfig(width=384, layers=6, heads=6, mlp_width=1536, embed=256),
    text=HALF_TEXT.model_copy(update={"embed": 256}),
)


@dataclass(frozen=True)
class Size:
    """The method, its judge, px of a side, and how many images and texts about each."""

    name: str
    config: TrisResponseConfig
    judge: PairConfig
    side: int
    images: int
    each: int

    @property
    def title(self) -> str:
        texts = f"{self.images} images x {self.each} texts, {NEGATIVES} negatives"
        return f"{self.name}, {self.side} px, {texts}"


def judging(runs: int = 5) -> dict[str, Table]:
    """By size: the forms with "ms" a step, "per_second" texts, "as_fast"."""
    small = tris_scenes().tris
    assert small is not None
    loss = small.response.loss.model_copy(update={"judged": "texts"})
    response = small.response.model_copy(update={"loss": loss})
    sizes = (
        Size("scenes", response, PAIR_SMALL, 128, images=16, each=4),
        Size("half of the paper's widths", HALF, HALF_PAIR, 320, images=8, each=1),
    )
    return {size.title: measured(size, runs) for size in sizes}


def measured(size: Size, runs: int) -> Table:
    methods = made(size)
    hw = (size.side, size.side)
    config, each = size.config, [size.each] * size.images
    batch = with_negatives(noise(config.text.vocab_size, config.cut.length, size.side, hw, each))
    agree(methods, batch)
    table = compared({name: partial(step, method, batch) for name, method in methods.items()}, runs)
    for row in table.values():
        row["per_second"] = 1000 * len(batch) / row["ms"]
    return table


def made(size: Size) -> dict[str, TrisResponse]:
    """The forms, with the same weights and one frozen pair."""
    torch.manual_seed(5)  # by which own texts lie on the side of their images: see `agree`
    pair = ClipPair(size.judge)
    plain = Twice(size.config)
    methods = {PLAIN: plain, BETWEEN: TrisResponse(size.config), OURS: TrisResponse(size.config)}
    own = size.config.loss.own_pixels
    for name, method in methods.items():
        method.load_state_dict(plain.state_dict())
        given = (IMAGENET_MEAN, IMAGENET_STD)
        method.judge_by(Calibrator(pair, given, own_pixels=own, cache=name == OURS))
    return methods


def with_negatives(batch: Batch) -> Batch:
    """Each text told apart from those of the next images."""
    each = int((batch.image_of == 0).sum())
    rows = torch.arange(len(batch))[:, None] + each * torch.arange(1, NEGATIVES + 1)
    rows = rows % len(batch)
    return replace(batch, negatives=batch.words[rows], negative_mask=batch.word_mask[rows])


def agree(methods: dict[str, TrisResponse], batch: Batch) -> None:
    """Stop the run where losses or gradients differ by more than rounding."""
    (losses, slope), *others = (judged(method, batch) for method in methods.values())
    assert losses["attract"] < 9, "every cosine is clamped, so that L_pos has no gradient"
    for found, other in others:
        for term, loss in losses.items():
            same(found[term], loss, term)
        same(other / slope.abs().max(), slope / slope.abs().max(), "gradients")


def judged(method: TrisResponse, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """All losses, and the gradient of what the judge said, as one vector."""
    method.zero_grad()
    losses = method.loss(method(batch), batch)
    torch.autograd.backward(losses["attract"] + losses["repel"])
    grads = [p.grad.flatten() for p in method.parameters() if p.grad is not None]
    return {term: loss.detach() for term, loss in losses.items()}, torch.cat(grads)


def step(method: TrisResponse, batch: Batch) -> None:
    method.zero_grad()
    torch.autograd.backward(method.loss(method(batch), batch)["total"])


class Twice(TrisResponse):
    """A pass through the image tower for each of the two terms."""

    def _calibrated(self, own: Tensor, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        judge, read = self._calibrator, self.text.cut_for_judge
        assert judge is not None
        assert batch.negatives is not None
        assert batch.negative_mask is not None
        assert len(rows) == len(batch)
        pixels = batch.images[batch.image_of]
        shown = in_net(own, (pixels.shape[2], pixels.shape[3])).sigmoid()
        texts = judge.texts(*read(batch.words, batch.word_mask))
        flat = read(batch.negatives.flatten(0, 1), batch.negative_mask.flatten(0, 1))
        others = judge.texts(*flat).view(*batch.negatives.shape[:2], -1)
        asked = partial(calibration, weights=batch.weights, clamp=self.config.loss.clamp_repel)
        attract, _ = asked(judge.seen(pixels, shown), texts, None)
        _, repel = asked(judge.seen(pixels, shown), texts, others)
        return attract, repel
