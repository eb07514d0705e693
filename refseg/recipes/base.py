"""What a recipe is: method, data, labels, optimiser and stages of one published row, typed.

A recipe is made by a function whose docstring is its promise (paper row, command, hardware,
expected score). Each part is its own immutable model, so `--set part.key=value` is checked.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from refseg.data.selection import MaskRule, TextField, View
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.errors import ConfigError, LabelsError
from refseg.method import MethodConfig
from refseg.methods import method_types
from refseg.methods.mutual.config import MutualConfig, PolicyConfig
from refseg.methods.tris.config import TrisResponseConfig
from refseg.methods.tris.edges import EdgeNetConfig
from refseg.methods.tris.refine import RefineSettings
from refseg.methods.tris.seeds import SeedConfig
from refseg.train.config import TrainConfig
from refseg.types import Labels

#: Metric of training-time evaluation -> the labels it looks at.
METRIC_LABELS = {
    "mIoU": "mask", "oIoU": "mask", "Pr@0.5": "mask", "REC@0.5": "box", "margin": "text"
}  # fmt: skip


class Part(BaseModel):
    """Base of every group of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Part):
    """Which expressions are learnt from, and what of them may be seen.

    name: a known data set or a folder. also: more of them, opened alike, whose training splits are
    learned from in the stage "train" beside that of `name`; images that any of them all evaluates
    on are left out of every one. images: where the pixels are, if not in a usual place.
    labels: all that training sees, evaluation during training included, so that a checkpoint is
    never chosen by labels the method is not granted. view: "ref" draws one sentence a ref and
    epoch (LAVT's habit), "sentence" uses each. limit, evaluate_limit: so many items, drawn once
    by the run's seed. exclude_images: image ids never trained on (leakage into evaluations).
    per_image: up to so many expressions about one image enter a training batch together, as one
    item: the network's image part is shared, and words are learnt from what they tell apart. With
    more than 1 `train.batch_size` counts such items, so that a batch holds up to batch_size x
    per_image expressions. An epoch still deals out each expression once.
    objects: samples bring all annotated objects of their image. pixels: False opens the data
    without images, for methods that look at annotated objects alone.
    mask_share: masks are granted for this share of the training objects alone, drawn once by
    mask_seed; mask_refs: a file of the refs that have them, instead. What learns from masks then
    sees these refs alone, and no mask of the split that is evaluated on.
    negatives: texts about something else that come with each expression, of the same image first
    (tris_response learns from them).
    """

    name: str = "scenes"
    also: tuple[str, ...] = ()
    images: str | None = None
    train: str = "train"
    evaluate: str | None = "val"
    labels: str = "text+mask"
    split_by: str | None = None
    text_field: TextField = "raw"
    view: View = "sentence"
    mask_rule: MaskRule = "union"
    limit: int | None = Field(default=None, ge=1)
    evaluate_limit: int | None = Field(default=None, ge=1)
    exclude_images: tuple[int, ...] = ()
    per_image: int = Field(default=1, ge=1)
    objects: bool = False
    pixels: bool = True
    mask_share: float | None = Field(default=None, gt=0, le=1)
    mask_seed: int = Field(default=0, ge=0)
    mask_refs: str | None = None
    negatives: int = Field(default=0, ge=0)
    augment: AugmentConfig = AugmentConfig()

    @property
    def few_masks(self) -> bool:
        """Whether masks are granted for some of the training refs only."""
        return self.mask_share is not None or self.mask_refs is not None

    @model_validator(mode="after")
    def _one_choice_of_masks(self) -> Self:
        if self.mask_share is not None and self.mask_refs is not None:
            raise ConfigError(
                "data.mask_share and data.mask_refs both say which masks may be seen",
                remedy="set one of them to null",
            )
        if self.few_masks and self.also:
            raise ConfigError(
                "masks for a few refs are those of one data set, and data.also names more",
                remedy="set data.also=[], or grant all masks",
            )
        return self


class TokenConfig(Part):
    """Where word pieces come from. source: "data" learns `vocabulary` pieces from the training
    expressions; anything else is a folder or hub id with tokenizer.json or vocab.txt.
    max_words: tokens kept of an expression, [CLS] and [SEP] included.
    """

    source: str = "data"
    vocabulary: int = Field(default=1000, ge=100)
    max_words: int = Field(default=21, ge=3)


class WeightsConfig(Part):
    """Where training starts from: a bundled name, a folder, a file or a hub id; None is random
    weights.

    model: a whole refseg model; the others are then not read. vision, text, proposals: parts in
    the hub's format (bundled: "swin-scenes", "bert-scenes", "proposals-scenes"); proposals is a
    whole Mask2Former, its backbone included. rec: a REC model of the method partial_res, whose word
    pieces and weights a RES model of it takes over where both have them (the stage "res").
    calibrator: a frozen image-text pair that judges response maps, trained by nothing (tris).
    edges: what the network that finds edges sees by, frozen too (the stage "edges" of tris).
    respond: step 1's image encoder, where it is another than step 2's (tris); None: `vision`.
    """

    model: str | None = None
    vision: str | None = None
    text: str | None = None
    proposals: str | None = None
    rec: str | None = None
    calibrator: str | None = None
    edges: str | None = None
    respond: str | None = None


class DisambiguationConfig(Part):
    """The stage "disambiguate" (mutual, step 2): what is written is rewarded for being understood.

    start: the model whose generator learns; None is that of the stage before. cached: the frozen
    extractor looks at each image once and its proposals are kept; without it, in every step.
    merge: data sets whose expressions of the same objects join the references of the reward's
    CIDEr, as where the evaluation merges them. No image is augmented here (`data.augment` is for
    the other stages): the references tell of images as they are.
    """

    policy: PolicyConfig = PolicyConfig()
    train: TrainConfig
    start: str | None = None
    cached: bool = True
    merge: tuple[str, ...] = ()


class PseudoConfig(Part):
    """The stages "label" and "retrain" (mutual, step 3): expressions for what nobody described.

    source: whose objects are written about: a data set, or a COCO file or its folder; None is
    `data.name`, whose splits and expressions count either way. images: where the source's pixels
    are, if not in a usual place.
    split: whose objects; "pool": of pictures without expressions; "train+pool": both. Pictures of
    the splits for evaluation are never among them, unless such a split is named. beams: q2.
    min_area: smaller objects (px) are left out by the filter "area"; "random:N" keeps N drawn
    ones, "none" all. weight: of a written expression in L_sel. data: a data set that was written
    before, by `refseg label` or another run; with it there is no stage "label". steps: of the
    retraining; None is as many as the recipe trains.
    """

    source: str | None = None
    images: str | None = None
    split: str = "train+pool"
    beams: int = Field(default=3, ge=1)
    filter: str = "area"
    min_area: int = Field(default=1024, ge=0)
    weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    data: str | None = None
    steps: int | None = Field(default=None, ge=1)


class PartialConfig(Part):
    """The stages "rec", "res", "pseudo" and "res_pseudo" of partial_res.

    rec: training on boxes, the backbone included. plain: with SeqTR's own model, as the paper's
    code does; False has CCTF, PMCA and the sentence's token in it already. agree: a pseudo mask is
    kept where its projection score against the known box is below it (RPP; the paper: 0.1, and 3
    keeps every mask). weight: of a pseudo mask beside a true one. again_steps: of training on both;
    None is as long as the recipe trains.
    """

    rec: TrainConfig
    plain: bool = True
    agree: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    again_steps: int | None = Field(default=None, ge=1)


class TrisPart(Part):
    """The stages "respond", "select", "edges" and "refine" of tris.

    response, train: step 1's method and training. choice: which map of a ref's sentences is kept,
    the best by the calibrator ("prms") or the first's. smooth: how seeds keep to the image's
    outlines: a fully connected CRF by "pydensecrf2" (the papers' package, the extra `crf`) or by
    "lattice" (the same equation without it), or "none". seeds, edges, edges_train, edge_refs: what
    edges are learned from and how, by so many refs drawn once by the run's seed (None: all), in
    squares of edge_crop px out of pictures at their own scale. refine: the walk and its threshold.
    """

    response: TrisResponseConfig
    train: TrainConfig
    edges_train: TrainConfig
    choice: Literal["prms", "first"] = "prms"
    smooth: Literal["pydensecrf2", "lattice", "none"] = "pydensecrf2"
    seeds: SeedConfig = SeedConfig()
    edges: EdgeNetConfig = EdgeNetConfig()
    edge_refs: int | None = Field(default=None, ge=1)
    edge_crop: int = Field(default=512, ge=32)
    refine: RefineSettings = RefineSettings()


class Recipe(Part):
    """One row to reproduce. method: the configuration of the method `method_name`.

    select: the metric on `data.evaluate` that picks the exported weights; None exports the last.
    stages: run in this order; each leaves a folder in the run. disambiguation, pseudo, partial,
    tris: of the stages that need them.
    """

    name: str
    promise: str = ""
    method_name: str
    method: SerializeAsAny[MethodConfig]
    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    tokens: TokenConfig = TokenConfig()
    weights: WeightsConfig = WeightsConfig()
    train: TrainConfig
    select: Literal["mIoU", "oIoU", "Pr@0.5", "REC@0.5", "margin"] | None = "oIoU"
    stages: tuple[str, ...] = ("train",)
    disambiguation: DisambiguationConfig | None = None
    pseudo: PseudoConfig | None = None
    partial: PartialConfig | None = None
    tris: TrisPart | None = None

    @model_validator(mode="before")
    @classmethod
    def _typed_method(cls, values: Any) -> Any:
        """Read back from JSON, the method's configuration gets the type its name says."""
        if isinstance(values, dict) and isinstance(values.get("method"), dict):
            config_type = method_types(values["method_name"])[1]
            values = {**values, "method": config_type.model_validate(values["method"])}
        return values

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        config_type = method_types(self.method_name)[1]
        if not isinstance(self.method, config_type):
            raise ConfigError(
                f"recipe {self.name}: method {self.method_name} is configured by "
                f"{config_type.__name__}, not {type(self.method).__name__}",
                remedy="choose a recipe of that method instead of changing its name",
            )
        return self

    @model_validator(mode="after")
    def _labels_cover_choice(self) -> Self:
        granted = self.evaluation_labels()
        if self.select and self.data.evaluate and not granted.allows(METRIC_LABELS[self.select]):
            raise LabelsError(
                f"recipe {self.name} would choose its checkpoint by {self.select} with the label "
                f'"{METRIC_LABELS[self.select]}", but only {granted} is granted',
                remedy="set select=null (the last weights are kept) or grant the label",
            )
        return self

    @model_validator(mode="after")
    def _can_be_scored(self) -> Self:
        if isinstance(self.method, MutualConfig) and not self.method.select and self.data.evaluate:
            raise ConfigError(
                f"recipe {self.name}: data.evaluate={self.data.evaluate} asks for masks, and a "
                "model with method.select=false finds none",
                remedy="set data.evaluate=null",
            )
        return self

    def on(self, name: str, data: str, split_by: str | None) -> Recipe:
        """The same under another name, on another data set."""
        changed = self.data.model_copy(update={"name": data, "split_by": split_by})
        return self.model_copy(update={"name": name, "data": changed})

    def labels(self) -> Labels:
        """The granted kinds of labels. Raises UnknownName for a word that is no label."""
        return Labels.parse(self.data.labels)

    def evaluation_labels(self) -> Labels:
        """What of the other splits may be seen: no mask where a few of training are granted."""
        granted = self.labels().granted
        return Labels(granted - {"mask"} if self.data.few_masks else granted)
