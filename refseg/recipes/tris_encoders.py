"""Recipes of TRIS with other image encoders (supplement, Tables 3 and 6), which no `--set` can
name: a ResNet, a Swin and CLIP's ResNet are configured by different groups of settings.

Table 3 is about step 1, so "respond" is the only stage. Table 6 is about step 2, from CLIP RN50's
pseudo masks.
"""

from __future__ import annotations

from refseg.methods.tris.config import Encoder, TrisConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.nn.resnet import ResNetVisionConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.recipes.base import Recipe
from refseg.recipes.tris import CLIP_RN50, RESNET_50, tris_refcocog_umd
from refseg.recipes.vega import SWIN_B

#: CLIP RN101, as CLIP_RN50. Its texts and images meet in 512 channels.
CLIP_RN101 = "clip-rn101"
RN101 = ClipResNetConfig(layers=(3, 4, 23, 3), embed=512)
#: At TRIS's size; the rest, stochastic depth too, as VEGA has it: the supplement says nothing.
SWIN = SwinVisionConfig(image_size=320)


def tris_refcocog_umd_rn101() -> Recipe:
    """Step 1 of TRIS on RefCOCOg (UMD) with CLIP RN101: mIoU 27.47, PointIt 67.28 on val
    (supplement, Table 3; with CLIP RN50 26.62, 65.07).

    Command: refseg train tris_refcocog_umd_rn101 --set data.name=DIR \\
        --set weights.vision=clip-rn101 --set weights.text=clip-rn101
    Hardware: one GPU. Not reproduced here. The text encoder is RN101's, too.
    """
    base = _step_1("tris_refcocog_umd_rn101", RN101, CLIP_RN101)
    assert base.tris is not None
    text = base.tris.response.text.model_copy(update={"embed": RN101.embed})
    response = base.tris.response.model_copy(update={"text": text})
    return base.model_copy(
        update={
            "tris": base.tris.model_copy(update={"response": response}),
            "weights": base.weights.model_copy(update={"text": CLIP_RN101}),
        }
    )


def tris_refcocog_umd_imagenet_rn50() -> Recipe:
    """Step 1 of TRIS on RefCOCOg (UMD) with a ResNet-50 of ImageNet: mIoU 24.86, PointIt 61.83 on
    val (supplement, Table 3).

    Command: refseg train tris_refcocog_umd_imagenet_rn50 --set data.name=DIR \\
        --set weights.text=clip-rn50
    Hardware: one GPU. Not reproduced here. The supplement does not say which text encoder there is
    beside it: CLIP RN50's stays.
    """
    return _step_1("tris_refcocog_umd_imagenet_rn50", ResNetVisionConfig(), RESNET_50)


def tris_refcocog_umd_swinb() -> Recipe:
    """Step 1 of TRIS on RefCOCOg (UMD) with a Swin-B of ImageNet: mIoU 24.32, PointIt 64.44 on val
    (supplement, Table 3).

    Command: refseg train tris_refcocog_umd_swinb --set data.name=DIR --set weights.text=clip-rn50
    Hardware: one GPU. Not reproduced here. Text encoder: as in tris_refcocog_umd_imagenet_rn50.
    """
    return _step_1("tris_refcocog_umd_swinb", SWIN, SWIN_B)


def tris_refcocog_umd_step2_swinb() -> Recipe:
    """TRIS on RefCOCOg (UMD), step 2 with a Swin-B of ImageNet, step 1 with CLIP RN50: mIoU 36.80,
    PointIt 67.53, PointM 58.70 on val (supplement, Table 6; with CLIP RN50 in both 36.19, 68.53,
    58.84).

    Command: refseg train tris_refcocog_umd_step2_swinb --set data.name=DIR \\
        --set weights.respond=clip-rn50 --set weights.text=clip-rn50
    Hardware: as tris_refcoco. Not reproduced here. Text encoder: as in
    tris_refcocog_umd_imagenet_rn50.
    """
    base = tris_refcocog_umd()
    assert isinstance(base.method, TrisConfig)
    return base.model_copy(
        update={
            "name": "tris_refcocog_umd_step2_swinb",
            "method": base.method.model_copy(update={"vision": SWIN}),
            "weights": base.weights.model_copy(update={"vision": SWIN_B, "respond": CLIP_RN50}),
        }
    )


def _step_1(name: str, vision: Encoder, weights: str) -> Recipe:
    """Step 1 alone, with another image encoder and CLIP RN50's text encoder."""
    base = tris_refcocog_umd()
    assert base.tris is not None
    response = base.tris.response.model_copy(update={"vision": vision})
    return base.model_copy(
        update={
            "name": name,
            "stages": ("respond",),
            "tris": base.tris.model_copy(update={"response": response}),
            "weights": base.weights.model_copy(update={"vision": weights, "text": CLIP_RN50}),
        }
    )
