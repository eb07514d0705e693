"""Every choice of SeqTR and Partial-RES. Defaults: the paper's DarkNet-53, bi-GRU, 12 points.

Where the paper and its code disagree, the field says what we take and which value is the code's.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.darknet import DarkNetVisionConfig
from refseg.nn.gru import GruTextConfig
from refseg.nn.sizes import check_bert, check_heads, check_swin
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig

#: Groups of the group norm on the tokens that enter the encoder (SeqTR).
TOKEN_GROUPS = 32


class FusionConfig(MethodConfig):
    """From the backbone's levels to one map V, joined with the sentence by tanh(V) * tanh(y).

    strides: the backbone's levels that are used, finest first. grid: the stride of V, one of
    them: finer levels are pooled down to it (SeqTR's bottom-up form), coarser ones, which SeqTR
    has not, are enlarged. width: channels of V and of y. norm: "batch" as SeqTR; "group" where
    batches are small or split over processes. normed: V and the sentence are normalised before
    tanh, so that words weigh from the first step; without, as SeqTR, the largest of a GRU's first
    features are nearly alike for all sentences.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    grid: int = 32
    width: int = Field(default=1024, ge=1)
    norm: Literal["batch", "group"] = "batch"
    normed: bool = False


class TransformerConfig(MethodConfig):
    """Encoder and decoder of SeqTR, post-norm. predictor: layers of the MLP before the classes.

    placed: the cells' positions are part of what enters the encoder, too; SeqTR adds them to
    queries and keys alone, and takes far longer to learn where a cell is.
    """

    width: int = Field(default=256, ge=4, multiple_of=4)
    heads: int = Field(default=8, ge=1)
    mlp_width: int = Field(default=1024, ge=1)
    encoder_layers: int = Field(default=6, ge=1)
    decoder_layers: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    predictor: int = Field(default=3, ge=1)
    placed: bool = False


class SequenceConfig(MethodConfig):
    """What is written. points: N contour points of a mask (12; SeqTR has 18 on RefCOCO).

    bins: coordinates an axis is cut into; one vocabulary for x and y, and END behind it.
    contour: "uniform" by arc length, exactly N points of the outline along the pixels' edges;
    "stride" is the papers' rule (every ceil(M / N)-th boundary pixel, END where there are fewer),
    "rays" their centre-based option. bin_centre: a bin means its centre (False: its left edge, as
    the papers' code). shuffle: share of the rows whose points come in one other order while
    learning (SeqTR: 0.2 on RefCOCO+ and RefCOCOg; Partial-RES: 0).
    sines: the table of coordinates begins as sines, so that neighbours are alike (False: the
    papers' random numbers).
    jitter: while learning, the outline's coordinates that go in are off by a Gaussian of so many
    bins, as a whole and each apart; those that are asked for stay true (0: the papers, which let
    the true ones in). What learns to go on from true points drifts with its own.
    constrained: decoding allows END after three whole points and never instead of a y; False is
    the papers' form, where it may come at any step and what is cut off is dropped.
    """

    points: int = Field(default=12, ge=3)
    bins: int = Field(default=1000, ge=2)
    contour: Literal["uniform", "stride", "rays"] = "uniform"
    bin_centre: bool = True
    shuffle: float = Field(default=0.0, ge=0, le=1)
    sines: bool = False
    jitter: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    constrained: bool = True


class LossConfig(MethodConfig):
    """Cross-entropy over the tokens. smoothing: mass taken from the true id, shared by all others
    as 1 / (bins + 1) of it each (so the target sums to a little less than one, as in the code).
    spread: the true coordinate's mass lies over its neighbours, too, as a Gaussian of so many bins,
    and the smoothing over all ids (0: the papers' single bin).
    end: weight of a target that is END in "res". first: weight of the first coordinate in "rec" and
    "multi". normalise: "tokens" divides by their number (the code), "weights" by the weights' sum.
    inside: weight of a second term, which asks of every cell of the memory whether it lies in the
    box ("rec" and "multi"; 0: the papers, which have none). It tells a small model in few steps
    which object is meant.
    """

    smoothing: float = Field(default=0.1, ge=0, lt=1)
    spread: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    end: float = Field(default=0.1, ge=0)
    first: float = Field(default=1.5, ge=0)
    normalise: Literal["tokens", "weights"] = "tokens"
    inside: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class PmcaConfig(MethodConfig):
    """Point-modulated cross-attention. scale: what s starts from, 1 being SMCA's; at 0 nothing
    would ever be learned, at the code's random start inherited attention is destroyed.
    noise: standard deviation of the last layer's first weights.
    """

    on: bool = True
    scale: float = Field(default=0.2, gt=0)
    noise: float = Field(default=0.01, ge=0)


class PartialResConfig(MethodConfig):
    """The whole method.

    task: what the sequence is: "rec" two corners of the box, "res" N points of the contour,
    "multi" the one after the other. task_token: what stands before it: "learnable" (Partial-RES),
    "zero" (SeqTR), or "task-wise", the learned pair of "multi". cctf: co-content teacher forcing:
    "intended" adds to an x the mean over the column that it points at, to a y that over the row;
    "swapped" is the released code's (an x picks a row, END has content too); "off".
    language_token: the sentence is one more token of the encoder. freeze_vision: a Swin keeps its
    weights (DarkNet has `vision.frozen`). vision_lr_scale, text_lr_scale: learning-rate factors.
    """

    vision: SwinVisionConfig | DarkNetVisionConfig = DarkNetVisionConfig()
    text: GruTextConfig | BertTextConfig = GruTextConfig()
    fusion: FusionConfig = FusionConfig()
    transformer: TransformerConfig = TransformerConfig()
    task: Literal["rec", "res", "multi"] = "res"
    task_token: Literal["learnable", "zero", "task-wise"] = "learnable"
    sequence: SequenceConfig = SequenceConfig()
    cctf: Literal["intended", "swapped", "off"] = "intended"
    pmca: PmcaConfig = PmcaConfig()
    language_token: bool = True
    loss: LossConfig = LossConfig()
    freeze_vision: bool = False
    vision_lr_scale: float = Field(default=1.0, gt=0)
    text_lr_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """Raises ConfigError."""
        if isinstance(self.vision, SwinVisionConfig):
            check_swin(self.vision)
        if isinstance(self.text, BertTextConfig):
            check_bert(self.text)
        check_heads("transformer.heads", self.transformer.width, self.transformer.heads)
        if self.transformer.width % TOKEN_GROUPS:
            raise ConfigError(
                f"transformer.width {self.transformer.width} does not fall into {TOKEN_GROUPS} "
                "groups",
                remedy=f"give a multiple of {TOKEN_GROUPS}",
            )
        _check_fusion(self.fusion, self.vision)
        if (self.task == "multi") != (self.task_token == "task-wise"):
            raise ConfigError(
                f'task "{self.task}" with task_token "{self.task_token}": the learned pair is for '
                "both tasks in one sequence, and these have no other",
                remedy="set task=multi and task_token=task-wise together, or neither",
            )
        return self

    @property
    def asks_inside(self) -> bool:
        """Whether cells are asked for the box; only where boxes are learned."""
        return self.loss.inside > 0 and self.task != "res"

    @property
    def length(self) -> int:
        """T, the decoder's positions: 5 for "rec", 2N + 1 for "res", 2N + 6 for "multi"."""
        contour = 2 * self.sequence.points + 1
        return {"rec": 5, "res": contour, "multi": contour + 5}[self.task]

    def seqtr(self, task: Literal["rec", "res"]) -> PartialResConfig:
        """The same sizes without what Partial-RES adds: SeqTR for one of its tasks."""
        return self.model_copy(
            update={
                "task": task,
                "task_token": "zero",
                "cctf": "off",
                "pmca": self.pmca.model_copy(update={"on": False}),
                "language_token": False,
            }
        )


def strides_of(vision: SwinVisionConfig | DarkNetVisionConfig) -> tuple[int, ...]:
    """Strides of the backbone's levels, finest first."""
    if isinstance(vision, SwinVisionConfig):
        return tuple(vision.patch * 2**stage for stage in range(4))
    return (8, 16, 32)


def _check_fusion(fusion: FusionConfig, vision: SwinVisionConfig | DarkNetVisionConfig) -> None:
    there = strides_of(vision)
    absent = [stride for stride in fusion.strides if stride not in there]
    if absent or list(fusion.strides) != sorted(set(fusion.strides)):
        raise ConfigError(
            f"fusion.strides {fusion.strides}: the backbone has levels at strides {there}",
            remedy="name some of these, finest first",
        )
    if fusion.grid not in fusion.strides:
        raise ConfigError(
            f"fusion.grid is {fusion.grid}, which is not in fusion.strides {fusion.strides}",
            remedy="choose the stride of one of the levels that are used",
        )
