"""Every choice TRIS leaves to its user. Defaults are the released code's where it and the paper
differ, each repair a switch named here.

Sizes are those of CLIP RN50 at 320 px.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.clip import ClipTextConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.nn.resnet import ResNetVisionConfig
from refseg.nn.sizes import check_heads, check_swin
from refseg.nn.vision import SwinVisionConfig

#: Image encoders (supplement, Table 3). All give four maps; as published at strides 4 to 32.
Encoder = ClipResNetConfig | ResNetVisionConfig | SwinVisionConfig
Width = Annotated[int, Field(ge=1)]


class CutConfig(MethodConfig):
    """How many ids of a sentence are read, start and end included.

    length: ids; longer sentences are cut, shorter ones filled up to it where the padding is read.
    keep_end: a cut sentence keeps its end, whose state stands for it. False is the released code,
        in which a long sentence has no end and the state of its start, the same for every
        sentence, stands for it.
    """

    length: int = Field(default=20, ge=3)
    keep_end: bool = False


class ScoreConfig(MethodConfig):
    """From a response map to how much a text fits an image.

    pooling: "mean+max", or one of them (the first release). power, floor: of the penalty on small
        maps (1 - m)^power * ln(floor + m); power 0 leaves it out. background: the constant logit
        that a map competes with in m.
    """

    pooling: Literal["mean+max", "mean", "max"] = "mean+max"
    power: float = Field(default=3.0, ge=0)
    floor: float = Field(default=0.01, gt=0)
    background: float = 1.0


class ResponseLossConfig(MethodConfig):
    """L = classification * L_cls + attract * L_pos + repel * L_neg.

    classification: lambda, 5 in the paper. attract, repel: the paper knows one L_cal with weight 1;
        the released code has 1 and 2 (2 and 1 before 2023-12-29). Both 0: no calibration.
    others: which texts of the batch a text's image is told not to show: "all" but its own, or
        "distinct", which leaves out those about the same image and those of the same words.
    clamp_repel: keep 1 - cosine of a negative away from 0 as that of the positive is.
    own_pixels: the calibrator sees pixels normalised as those it learned from; False hands it the
        encoder's, as the released code does.
    judged: which texts the calibrator is asked about: all "texts", or of those about one image the
        first of the batch alone ("images"), which is as much work as in the released code, whose
        images come with one text each; the same there.
    """

    classification: float = Field(default=5.0, ge=0)
    attract: float = Field(default=1.0, ge=0)
    repel: float = Field(default=2.0, ge=0)
    others: Literal["all", "distinct"] = "all"
    clamp_repel: bool = False
    own_pixels: bool = False
    judged: Literal["texts", "images"] = "texts"

    @property
    def calibrated(self) -> bool:
        """Whether a calibrator is asked at all."""
        return self.attract > 0 or self.repel > 0


class TrisResponseConfig(MethodConfig):
    """Step 1: response maps learned by classifying texts.

    level: which of the encoder's four maps texts are compared with, finest first. width: C_d.
    prompt: "batch" lets pixels attend to all texts of the batch, and each text to the pixels: with
        one text, as in every answer, its visual half is a constant. "words" lets pixels attend to
        the words of the text that they are compared with, in training and answers alike. "off".
    prompt_weight: of what the prompt adds. temperature: of the comparison; never learned.
    encoder_lr_scale: of both encoders, against the new parts.
    select_map: what PRMS multiplies the image by: "relu" of the response, as released, or its
        "sigmoid", as in calibration.
    """

    vision: Annotated[Encoder, Field(union_mode="left_to_right")] = ClipResNetConfig()
    text: ClipTextConfig = ClipTextConfig()
    cut: CutConfig = CutConfig()
    level: Literal[1, 2, 3, 4] = 4
    width: int = Field(default=1024, ge=1)
    prompt: Literal["batch", "words", "off"] = "batch"
    prompt_weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    score: ScoreConfig = ScoreConfig()
    loss: ResponseLossConfig = ResponseLossConfig()
    encoder_lr_scale: float = Field(default=0.1, gt=0)
    select_map: Literal["relu", "sigmoid"] = "relu"

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_encoders(self.vision, self.text, self.cut)
        return self


class TrisConfig(MethodConfig):
    """Step 2: a segmentation network with words in three of its four levels.

    mask_padding: words that are padding are not attended to; False is the released code, which
        reads all places of a sentence.
    widths: channels that the levels at strides 4, 8, 16, 32 are narrowed to. Each step of the
        decoder goes on with the next finer level's, the last with half of the finest's. None is a
        quarter of the encoder's: 64, 128, 256, 512 for CLIP RN50.
    encoder_lr_scale: of both encoders, against the new parts.
    """

    vision: Annotated[Encoder, Field(union_mode="left_to_right")] = ClipResNetConfig()
    text: ClipTextConfig = ClipTextConfig()
    cut: CutConfig = CutConfig()
    mask_padding: bool = False
    widths: tuple[Width, Width, Width, Width] | None = None
    encoder_lr_scale: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_encoders(self.vision, self.text, self.cut)
        return self


def check_encoders(vision: Encoder, text: ClipTextConfig, cut: CutConfig) -> None:
    """Refuse sizes that transformers would take and fail on later. Raises ConfigError."""
    if isinstance(vision, SwinVisionConfig):
        check_swin(vision)
    check_heads("text", text.width, text.heads)
    if cut.length > text.max_positions:
        raise ConfigError(
            f"cut.length is {cut.length}, but text.max_positions only {text.max_positions}",
            remedy="lower the one or raise the other",
        )
