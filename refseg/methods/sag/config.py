"""Every choice Shatter and Gather leaves to its user. Defaults are the paper's; where it and the
released code differ, or a repair is on by default, the field says so.

Sizes are those of ViT-S/16 at 384 px and BERT-base.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.sizes import check_bert, check_heads
from refseg.nn.text import BertTextConfig
from refseg.nn.vit import ViTVisionConfig


class SlotsConfig(MethodConfig):
    """The entity discovery module: patches are shattered into K slots.

    kind: where slots begin. "entity": samples of `groups` learned Gaussians (the paper's);
        "random": samples of one; "query": learned vectors, no noise. The last two are the
        ablation's; all their slots are one group, which the paper does not say.
    groups, per_group: K_g and K_s. 18 x 2 is the paper's best row and its headline, 12 x 3 what the
        released scripts run. Random and query slots are as many.
    iterations: T; all share their weights. heads, head_width: of the aggregation. mlp_factor: width
        of its MLP and of the interaction's, in widths.
    over: what the aggregation's softmax runs over. "patches" is ordinary attention, an ablation.
    interaction: whether the slots of a group hear each other after each aggregation, with
        `interaction_heads` heads.
    drop: dropout of both blocks while training.
    apart: deviation that the means of entity slots' Gaussians are drawn with at the start; None is
        the released code's, sqrt(2 / (D (K_g + 1))), 0.014 as published: a slot's noise hides its
        group, slots share every patch alike, and leave that state after very many steps.
    """

    kind: Literal["entity", "random", "query"] = "entity"
    groups: int = Field(default=18, ge=1)
    per_group: int = Field(default=2, ge=1)
    iterations: int = Field(default=6, ge=1)
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=256, ge=1)
    mlp_factor: float = Field(default=4.0, gt=0)
    over: Literal["slots", "patches"] = "slots"
    interaction: bool = True
    interaction_heads: int = Field(default=4, ge=1)
    drop: float = Field(default=0.1, ge=0, lt=1)
    apart: float | None = Field(default=None, gt=0)

    @property
    def count(self) -> int:
        """K, the slots of an image."""
        return self.groups * self.per_group

    @property
    def group_size(self) -> int:
        """Slots that the interaction lets hear each other."""
        return self.per_group if self.kind == "entity" else self.count


class FusionConfig(MethodConfig):
    """The modality fusion module: a sentence weighs the slots of an image.

    kind: "attention" is the paper's cross-attention. "none" is its ablation without the module and
        without C3, in a form that is ours, the paper tells none: plain products of sentence and
        slots stand for the attention, the mean slot for what it makes, and the sentence is no
        detached target, else nothing would teach it.
    heads, head_width, mlp_factor: of the cross-attention. drop: dropout of what it adds.
    """

    kind: Literal["attention", "none"] = "attention"
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=256, ge=1)
    mlp_factor: float = Field(default=4.0, gt=0)
    drop: float = Field(default=0.1, ge=0, lt=1)


class ReconstructionConfig(MethodConfig):
    """The spatial broadcast decoder and its loss; nothing of it is used in answers.

    weight: lambda; 0 builds no decoder. position: "sine" (supplement) or "learned" rows and columns
        (released code), 50 of each at most. layers, width: of its MLP. share: of the patches, drawn
        anew each step, that are reconstructed while training: less memory, the same mean.
    """

    weight: float = Field(default=1.0, ge=0)
    position: Literal["sine", "learned"] = "sine"
    layers: int = Field(default=4, ge=2)
    width: int = Field(default=512, ge=1)
    share: float = Field(default=1.0, gt=0, le=1)


class LossConfig(MethodConfig):
    """The contrastive cycle-consistency loss (C3).

    temperature: tau_c. others: which images of the batch a sentence is told apart from: "all" but
        its own (the released code), or "distinct", which leaves out those with the same pixels and
        those that come with the same words, of which the sentence is true, too. In a large data set
        a batch hardly has any; in a small one they are common.
    """

    temperature: float = Field(default=1.0, gt=0)
    others: Literal["all", "distinct"] = "distinct"


class AnswerConfig(MethodConfig):
    """From relevance to a mask.

    scheme: M is the "sum" of the slots' maps weighted by relevance, or the map of the slot of
        "max" or "min" relevance (ablations). threshold: tau, of M stretched to 0..1 in px.
    draws: S, how often slots are drawn; the maps are averaged. The paper has 1. seed: of the noise,
        beside the image's own pixels.
    crf: how the stretched map keeps to outlines; "pydensecrf2" (the extra `crf`) and "lattice" are
        told apart in `refseg.ops.crf`. crf_settings: "masks" are pydensecrf's own example, "rmi"
        those of the code that the released pipeline descends from; the paper states none.
        crf_scale: of the image's sides meanwhile; 0.5 is some five times as fast as 1.
    """

    scheme: Literal["sum", "max", "min"] = "sum"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    draws: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    crf: Literal["none", "pydensecrf2", "lattice"] = "none"
    crf_settings: Literal["masks", "rmi"] = "masks"
    crf_scale: float = Field(default=1.0, gt=0, le=1)


class SagConfig(MethodConfig):
    """Shatter and Gather.

    vision, text: both learn. width: D, of slots, sentences and patches behind their maps.
    discovery: False is the ablation without entities: the sentence weighs patches instead of slots;
        no reconstruction then. slots, fusion, reconstruction, loss, answer: see there.
    vision_lr_scale: of the image encoder, against all else (1e-6 and 1e-5 in the released code).
    """

    vision: ViTVisionConfig = ViTVisionConfig()
    text: BertTextConfig = BertTextConfig(frozen="none")
    width: int = Field(default=512, ge=4)
    discovery: bool = True
    slots: SlotsConfig = SlotsConfig()
    fusion: FusionConfig = FusionConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    loss: LossConfig = LossConfig()
    answer: AnswerConfig = AnswerConfig()
    vision_lr_scale: float = Field(default=0.1, gt=0)

    @property
    def reconstructs(self) -> bool:
        """Whether there is a decoder."""
        return self.discovery and self.reconstruction.weight > 0

    @property
    def draws(self) -> int:
        """S, how often slots are drawn for an answer: once where nothing is random."""
        return self.answer.draws if self.discovery and self.slots.kind != "query" else 1

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        check_bert(self.text)
        if self.width % 4:
            raise ConfigError(
                f"width is {self.width}",
                remedy="give a multiple of 4: sine and cosine of rows and of columns share it",
            )
        if self.discovery and self.slots.interaction:
            check_heads("slots.interaction_heads", self.width, self.slots.interaction_heads)
        if not self.discovery and self.answer.scheme != "sum":
            raise ConfigError(
                f'answer.scheme is "{self.answer.scheme}", but without discovery there is no slot '
                "to choose",
                remedy='set answer.scheme="sum" or discovery=true',
            )
        return self

    def released(self) -> SagConfig:
        """As the released scripts run it: 12 x 3 slots, learned positions in the decoder, and all
        other images told apart.
        """
        changed = {
            "slots": self.slots.model_copy(update={"groups": 12, "per_group": 3}),
            "reconstruction": self.reconstruction.model_copy(update={"position": "learned"}),
            "loss": self.loss.model_copy(update={"others": "all"}),
        }
        return self.model_copy(update=changed)
