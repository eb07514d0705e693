"""Recipes of the small encoders that the embedded world has instead of hub weights.

`refseg train swin_scenes` and `refseg train bert_scenes` leave folders in the hub's format, which
any recipe takes as `weights.vision` and `weights.text`; both are bundled under their names.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from refseg.data.scenes.model import KINDS
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.config import Mask2FormerExtractorConfig, PointConfig
from refseg.nn.clip import ClipTextConfig
from refseg.nn.clip_pair import PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.nn.sizes import check_bert, check_swin
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.nn.vit import ViTVisionConfig
from refseg.recipes.base import Part, TokenConfig
from refseg.train.config import TrainConfig

#: The world that the encoders and the `scenes` presets learn from; no image of it is in `scenes`.
WORLD = "scenes-all@12000"
#: Shared by the encoders and the methods that start from them.
SWIN_SMALL = SwinVisionConfig(
    image_size=128,
    width=32,
    depths=(2, 2, 4, 2),
    heads=(1, 2, 4, 8),
    window=4,
    drop_path=0.0,
    absolute_positions=True,
)
BERT_SMALL = BertTextConfig(
    vocab_size=600,
    width=128,
    layers=2,
    heads=4,
    mlp_width=512,
    max_positions=64,
    drop=0.0,
    frozen="none",
)
#: A ViT for one core, 0.17 GMAC an image: 256 patches, since objects are 10 to 60 px.
VIT_SMALL = ViTVisionConfig(
    image_size=128, patch=8, width=96, layers=4, heads=3, mlp_width=384, drop_path=0.0
)
#: The pixels that ViTs trained on ImageNet-21k know; `vit_scenes` and all of `sag` have them.
VIT_PIXELS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
#: An image-text pair small enough for one core: its last map has stride 16, since objects are 10 to
#: 60 px, and there is room for captions of sixty pieces.
CLIP_SMALL = ClipResNetConfig(
    layers=(1, 2, 2, 2), width=16, strides=(1, 2, 2, 1), pool=True, pool_heads=8, embed=128,
    image_size=128,
)  # fmt: skip
PAIR_SMALL = PairConfig(
    vision=CLIP_SMALL,
    text=ClipTextConfig(
        vocab_size=700, width=128, layers=3, heads=4, mlp_width=512, max_positions=64, embed=128
    ),
)  # fmt: skip
#: A Mask2Former that fits a laptop; the pictures have seven objects at most.
PROPOSALS_SMALL = Mask2FormerExtractorConfig(
    backbone=SWIN_SMALL,
    classes=KINDS,
    queries=12,
    width=64,
    heads=4,
    mlp_width=256,
    layers=3,
    pixel_layers=2,
    pixel_mlp_width=256,
    points=PointConfig(points=400),
)


class EncoderData(Part):
    """name: a rendered world; for "proposals" any data with masks: a data set, or a COCO file or
    its folder. images: where the pictures are, if not in a usual place. evaluate: the split that
    the progress is measured on, None for none; of a data set without expressions every picture is
    in the split "pool". exclude_images: image ids never trained on.
    """

    name: str = WORLD
    images: str | None = None
    train: str = "train"
    evaluate: str | None = "val"
    evaluate_limit: int | None = Field(default=200, ge=1)
    exclude_images: tuple[int, ...] = ()


class EncoderRecipe(Part):
    """An encoder learned before the methods. kind: "objects" (vision), "words" (text), "proposals"
    (a Mask2Former: objects' masks and categories), "pairs" (images and captions, in the manner of
    CLIP) or "attributes" (a ViT: what occurs in whole pictures).

    vision, text, proposals, pair, vit: the encoder of each kind. zoom: chance that a picture is
    enlarged up to `most` times around one of its objects, and mirrored ("objects"). hide: share of
    words hidden, at least one an expression ("words"). mirror: chance that a picture is mirrored
    ("proposals", "pairs", "attributes"). captions: how many of a picture's captions are read as one
    text at most, drawn ("pairs"). start: where the backbone's weights come from
    ("proposals"); None is random weights.
    """

    name: str
    promise: str = ""
    kind: Literal["objects", "words", "proposals", "pairs", "attributes"]
    vision: SwinVisionConfig = SWIN_SMALL
    text: BertTextConfig = BERT_SMALL
    proposals: Mask2FormerExtractorConfig = PROPOSALS_SMALL
    pair: PairConfig = PAIR_SMALL
    vit: ViTVisionConfig = VIT_SMALL
    start: str | None = None
    data: EncoderData = EncoderData()
    preprocess: PreprocessConfig = PreprocessConfig(size=128)
    tokens: TokenConfig = TokenConfig(vocabulary=600, max_words=24)
    zoom: float = Field(default=0.4, ge=0, le=1)
    most: float = Field(default=2.2, gt=1)
    hide: float = Field(default=0.25, gt=0, lt=1)
    mirror: float = Field(default=0.5, ge=0, le=1)
    captions: int = Field(default=1, ge=1)
    train: TrainConfig

    @property
    def labels(self) -> str:
        """What is looked at. Attributes are none of the contract's labels: see pictures.py."""
        if self.kind == "proposals":
            return "box+category" if self.proposals.region == "box" else "mask+category"
        return {
            "objects": "box+attributes",
            "words": "text",
            "pairs": "text",
            "attributes": "attributes of whole pictures",
        }[self.kind]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_swin(self.vision)
        check_bert(self.text)
        if self.kind == "pairs" and self.tokens.max_words > self.pair.text.max_positions:
            raise ConfigError(
                f"tokens.max_words is {self.tokens.max_words}, but pair.text.max_positions only "
                f"{self.pair.text.max_positions}",
                remedy="lower the one or raise the other",
            )
        if self.kind == "attributes" and self.preprocess.size % self.vit.patch:
            raise ConfigError(
                f"preprocess.size {self.preprocess.size} is no whole number of patches of "
                f"{self.vit.patch} px",
                remedy="give a multiple of vit.patch",
            )
        if self.kind == "words" and self.tokens.max_words > self.text.max_positions:
            raise ConfigError(
                f"tokens.max_words is {self.tokens.max_words}, but text.max_positions only "
                f"{self.text.max_positions}",
                remedy="lower the one or raise the other",
            )
        return self


def laptop_training(**changes: Any) -> TrainConfig:
    """Training of small models on one core: Muon, warm-up and cosine, averaged weights, and
    bfloat16 where the processor has it.
    """
    settings: dict[str, Any] = {
        "optimiser": "muon",
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup": 100,
        "clip_norm": 5.0,
        "ema": 0.998,
        "precision": "auto",
        "evaluate_every": None,
        "save_every": 250,
    }
    return TrainConfig(**(settings | changes))


def swin_scenes() -> EncoderRecipe:
    """A small Swin that names the objects of 8,400 rendered pictures: kind, colour, size, ...

    Command: refseg train swin_scenes --out runs/swin_scenes
    Hardware: one CPU core, about 20 minutes. Labels used: boxes and attributes, no expression and
    no mask. Score: the card in the run's model folder; docs/results.md has the methods' scores.

    It stands for ImageNet weights. Muon instead of AdamW: docs/decisions/0018 has both side by
    side, with the commands.
    """
    return EncoderRecipe(
        name="swin_scenes",
        kind="objects",
        train=laptop_training(steps=4_000, batch_size=32, lr=3e-3, ema=None, evaluate_every=500),
    )


def bert_scenes() -> EncoderRecipe:
    """A small BERT that guesses hidden words of the 209,919 training expressions.

    Command: refseg train bert_scenes --out runs/bert_scenes
    Hardware: one CPU core, about 4 minutes. Labels used: text. It stands for BERT's own weights.
    """
    return EncoderRecipe(
        name="bert_scenes",
        kind="words",
        train=TrainConfig(
            steps=1_200,
            batch_size=256,
            lr=1e-3,
            weight_decay=1e-2,
            schedule="cosine",
            warmup=100,
            clip_norm=1.0,
            precision="auto",
            evaluate_every=None,
            save_every=200,
        ),
    )


def clip_scenes() -> EncoderRecipe:
    """A small CLIP that tells which caption goes with which of 8,400 rendered pictures.

    Command: refseg train clip_scenes --out runs/clip_scenes
    Hardware: one CPU core, about an hour (2 s a step). Labels used: text, and of that only
    captions of whole pictures. 14 of 100 held-out captions find their own picture first; many fit
    several ("three balls"). Up to three of a picture are read together, which fit few: with one at
    a time as many are found, and MaskCLIP's maps point half as well (docs/log.md).

    It stands for CLIP's weights where a method may see no label but texts: TRIS starts from it.
    """
    return EncoderRecipe(
        name="clip_scenes",
        kind="pairs",
        data=EncoderData(name="scenes@12000"),
        tokens=TokenConfig(vocabulary=700, max_words=64),
        captions=3,
        train=laptop_training(
            steps=2_000, batch_size=64, lr=3e-3, turn_kernels=True, ema=None, evaluate_every=500,
        ),
    )  # fmt: skip


def vit_scenes() -> EncoderRecipe:
    """A small ViT that tells what occurs in each of 8,400 rendered pictures: a ball, something red,
    a red ball, ...

    Command: refseg train vit_scenes --out runs/vit_scenes
    Hardware: one CPU core, about 40 minutes (0.8 s a step of 16 GMAC). Labels used: attributes of
    whole pictures; no box, no mask, no count, no expression. Score: the card in the run's model
    folder.

    It stands for ImageNet's weights where a method may be told no place: `sag_scenes` starts from
    it.
    """
    return EncoderRecipe(
        name="vit_scenes",
        kind="attributes",
        data=EncoderData(evaluate_limit=400),
        preprocess=PreprocessConfig(size=128, **VIT_PIXELS),
        train=laptop_training(steps=3_000, batch_size=32, lr=3e-3, ema=None, evaluate_every=500),
    )


def proposals_scenes() -> EncoderRecipe:
    """A small Mask2Former that finds the objects of 8,400 rendered pictures, by masks and kinds.

    Command: refseg train proposals_scenes --out runs/proposals_scenes
    Hardware: one CPU core, about 55 minutes. Labels used: masks and categories of all objects, no
    expression. Score: the card in the run's model folder; docs/results.md has the methods' scores.

    It stands for Mask2Former's COCO weights, whose place in the paper's recipes it takes.
    """
    return EncoderRecipe(
        name="proposals_scenes",
        kind="proposals",
        start="swin-scenes",
        train=laptop_training(steps=12_000, batch_size=8, lr=3e-3, evaluate_every=1000),
    )


def proposals_coco() -> EncoderRecipe:
    """The paper's extractor before step 1: Mask2Former with ResNet-101 on COCO's instances.

    Command: torchrun --nproc-per-node 8 -m refseg train proposals_coco --out runs/proposals_coco
    --set data.name=annotations/instances_train2017.json --set data.images=train2017
    --set "data.exclude_images=[...]" (every image of a RefCOCO, RefCOCO+ or RefCOCOg val or test)
    Hardware: Mask2Former states 8 GPUs for 50 epochs. Not reproduced here. Labels used: masks and
    categories. Sizes and rates are Mask2Former's, but for its crops (which cut objects that
    expressions will be about) and its many matchings.
    """
    return EncoderRecipe(
        name="proposals_coco",
        kind="proposals",
        proposals=Mask2FormerExtractorConfig(classes=COCO_CLASSES),
        start="microsoft/resnet-101",
        data=EncoderData(name="instances_train2017.json", train="pool", evaluate=None),
        preprocess=PreprocessConfig(size=1024, fit="letterbox"),
        train=TrainConfig(
            epochs=50,
            batch_size=16,
            lr=1e-4,
            weight_decay=0.05,
            schedule="step",
            step_at=(0.9, 0.95),
            warmup=10,
            clip_norm=0.01,
            precision="bf16",
            evaluate_every=None,
            workers=4,
        ),
    )
