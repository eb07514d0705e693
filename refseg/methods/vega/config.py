"""Every choice VEGA leaves to its user. Defaults are the paper's model (Swin-B, BERT-base, 480 px).

Where the paper is silent the default is the best-supported reading; the field says which.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.sizes import check_bert, check_heads, check_swin
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig

#: Groups of the decoder's group norm.
NORM_GROUPS = 8


class SelectionConfig(MethodConfig):
    """The visual information selection module (VEGA sections 3.2, Tables 3 and 4).

    stage: encoder stage its pixels come from (paper silent; 4 by the size of its tensors).
    ratio: k, the share of pixels each token selects (Figure 4: 0.3).
    method: "topk", or "sigmoid" which keeps scores > 0 (Table 4a).
    weighting: what multiplies the pixels: "masked" softmax over the selected (Eq. 4),
        "unmasked" softmax over all then masked, "raw" scores, or "none" (Tables 4c, 4d).
    divide_by_k: the paper divides by K after a softmax that already sums to one.
    pre_norm: a norm on E before it asks (ours: divided by K, E is far smaller than a pixel and
        would hear every pixel alike). With it the size of E changes nothing, so `divide_by_k` and
        "masked" against "unmasked" make no difference: their gap in Table 4d must be noise, or
        the paper's code has no such norm.
    attention: pixels the cross-attention sees: "selected", "all", or "none" (Table 4e).
    cues: whose tokens ask: "both", "global" (CLS), "local" (words), or "none", which asks
        with learned queries that know nothing of the text (Table 3b; paper silent on "none").
    element: visual half of the guidance set: the "expression", "topk" pixels chosen by the
        CLS token, or "all" pixels (Table 3a).
    """

    stage: Literal[1, 2, 3, 4] = 4
    ratio: float = Field(default=0.3, gt=0, le=1)
    method: Literal["topk", "sigmoid"] = "topk"
    weighting: Literal["masked", "unmasked", "raw", "none"] = "masked"
    divide_by_k: bool = True
    pre_norm: bool = True
    attention: Literal["selected", "all", "none"] = "selected"
    cues: Literal["both", "global", "local", "none"] = "both"
    element: Literal["expression", "topk", "all"] = "expression"
    heads: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=21, ge=2)


class DecoderConfig(MethodConfig):
    """The decoder. widths: channels at strides 32, 16, 8, 4 (LAVT's simple decoder uses 512).

    norm: "batch" as LAVT; "group" where batches are small or split over processes.
    mlp_ratio: 0 leaves the cross-attention block without its MLP. align_corners: as the LAVT
    family if True. head: "binary" (VEGA) or "two-class" (LAVT). subpixel: logits per side of a
    finest-level cell; 1 is the paper, more lets a small model draw finer than its stride.
    attend_finest: cross-attention at the finest level too.
    """

    widths: tuple[int, int, int, int] = (512, 512, 512, 512)
    heads: int = Field(default=8, ge=1)
    norm: Literal["batch", "group"] = "batch"
    mlp_ratio: float = Field(default=0.0, ge=0)
    align_corners: bool = False
    head: Literal["binary", "two-class"] = "binary"
    subpixel: int = Field(default=1, ge=1, le=8)
    attend_finest: bool = True


class LossConfig(MethodConfig):
    """Loss weights (paper silent on them: 1 and 1) and the temperature of Eq. 5.

    dice: weight of an added Dice term (0: paper). class_weights: two-class head only (LAVT).
    contrastive: weight of the pixel contrastive loss (0 switches it off, Table 4b).
    contrastive_target: "upsample" the scores to the mask (CrossVLT), or "downsample" the mask.
    tau_init, tau_min, tau_max: the learnable temperature is kept in that range.
    """

    segmentation: float = Field(default=1.0, ge=0)
    contrastive: float = Field(default=1.0, ge=0)
    dice: float = Field(default=0.0, ge=0)
    class_weights: tuple[float, float] = (0.9, 1.1)
    contrastive_target: Literal["upsample", "downsample"] = "upsample"
    tau_init: float = Field(default=1.0, gt=0)
    tau_min: float = Field(default=0.01, gt=0)
    tau_max: float = Field(default=1.0, gt=0)


class VegaConfig(MethodConfig):
    """The whole method.

    guidance: what the decoder listens to (Table 2): "language", "enhanced",
        "language+visual", "enhanced+visual", or "visual" (VIPA's choice, which repeats the idea).
    fusion: where words enter the encoder: "early" (each stage), "late" (after the last
        stage, so one encoding serves many expressions), or "none".
    fusion_heads: heads of the fusion attention (LAVT: 1). gate_zero_init: start as plain Swin.
    new_lr_scale: learning-rate factor of everything that is not Swin or BERT (paper: 1).
    text_lr_scale: learning-rate factor of BERT (paper: 1).
    """

    vision: SwinVisionConfig = SwinVisionConfig()
    text: BertTextConfig = BertTextConfig()
    guidance: Literal["language", "enhanced", "language+visual", "enhanced+visual", "visual"] = (
        "enhanced+visual"
    )
    fusion: Literal["early", "late", "none"] = "early"
    fusion_heads: int = Field(default=1, ge=1)
    gate_zero_init: bool = True
    selection: SelectionConfig = SelectionConfig()
    decoder: DecoderConfig = DecoderConfig()
    loss: LossConfig = LossConfig()
    new_lr_scale: float = Field(default=1.0, gt=0)
    text_lr_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        """Of the parts that are built; raises ConfigError."""
        check_swin(self.vision)
        check_bert(self.text)
        fused = {"early": self.vision.channels, "late": self.vision.channels[3:], "none": ()}
        for channels in fused[self.fusion]:
            check_heads("fusion_heads", channels, self.fusion_heads)
        parts = self.guidance.split("+")
        asks = "visual" in parts and self.selection.element == "expression"
        if asks or "enhanced" in parts:
            check_heads("selection.heads", self.text.width, self.selection.heads)
        _check_decoder(self.decoder)
        return self


def _check_decoder(config: DecoderConfig) -> None:
    attending = config.widths if config.attend_finest else config.widths[:3]
    for width in attending:
        check_heads("decoder.heads", width, config.heads)
    if config.norm == "group" and any(width % NORM_GROUPS for width in config.widths[1:]):
        raise ConfigError(
            f"decoder.widths {config.widths[1:]} do not fall into {NORM_GROUPS} groups each",
            remedy=f'give multiples of {NORM_GROUPS}, or set decoder.norm to "batch"',
        )
