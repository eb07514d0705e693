"""Every choice of the two heads and of their mutual supervision. Defaults are the paper's model.

Where the paper is silent the default is the best-supported reading; the field says which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from refseg.method import MethodConfig
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig

#: What a detector told of annotated objects; see simulated.py.
RECORDS = Path(__file__).with_name("detections.npz")


class ResNetVisionConfig(MethodConfig):
    """A ResNet backbone. Defaults are ResNet-101 (42.5 M parameters). stem: width of its stem."""

    stem: int = Field(default=64, ge=1)
    channels: tuple[int, int, int, int] = (256, 512, 1024, 2048)
    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    block: Literal["basic", "bottleneck"] = "bottleneck"


class MatchingConfig(MethodConfig):
    """Costs of a proposal for an object (Mask2Former): 5 BCE + 5 Dice - 2 p of its class.

    The class counts where it is known; a region that a person gives has none.
    """

    mask_cost: float = Field(default=5.0, ge=0)
    dice_cost: float = Field(default=5.0, ge=0)
    class_cost: float = Field(default=2.0, ge=0)


class PointConfig(MethodConfig):
    """Where the mask losses look (Mask2Former): `points` a mask, of which the share `importance`
    are the least sure of `oversample` times as many.
    """

    points: int = Field(default=12544, ge=1)
    oversample: float = Field(default=3.0, ge=1)
    importance: float = Field(default=0.75, ge=0, le=1)


class Mask2FormerExtractorConfig(MethodConfig):
    """The paper's proposal extractor. Defaults: Mask2Former with ResNet-101 (63.0 M parameters).

    classes: names of the categories that its loss tells apart; one name means class-agnostic and
        needs no category label. queries: N. width: C, a multiple of 32. layers: of the
        transformer decoder. pixel_layers, pixel_mlp_width: of the pixel decoder.
    no_object, class_weight, mask_weight, dice_weight: Mask2Former's weights.
    backbone_lr_scale: 0.1 as in Mask2Former (paper: silent).
    region: "box" learns filled boxes in place of masks and takes regions so (paper's box input).
    """

    kind: Literal["mask2former"] = "mask2former"
    backbone: SwinVisionConfig | ResNetVisionConfig = ResNetVisionConfig()
    classes: tuple[str, ...] = ("object",)
    queries: int = Field(default=100, ge=1)
    width: int = Field(default=256, ge=32, multiple_of=32)
    heads: int = Field(default=8, ge=1)
    mlp_width: int = Field(default=2048, ge=1)
    layers: int = Field(default=9, ge=1)
    pixel_layers: int = Field(default=6, ge=1)
    pixel_mlp_width: int = Field(default=1024, ge=1)
    points: PointConfig = PointConfig()
    matching: MatchingConfig = MatchingConfig()
    no_object: float = Field(default=0.1, gt=0)
    class_weight: float = Field(default=2.0, ge=0)
    mask_weight: float = Field(default=5.0, ge=0)
    dice_weight: float = Field(default=5.0, ge=0)
    backbone_lr_scale: float = Field(default=0.1, ge=0)
    region: Literal["mask", "box"] = "mask"

    @model_validator(mode="after")
    def _classes_are_names(self) -> Mask2FormerExtractorConfig:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be one name or more, each once")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be cut into {self.heads} heads")
        return self


class AnnotatedExtractorConfig(MethodConfig):
    """Proposals that are the annotated objects: category and box geometry, embedded (ours).

    classes: names of the categories. width: C. frequencies: of the sines and cosines that tell
    coordinates (in 0..1 of the image) apart, the k-th being 2^k pi. mlp_width: of the MLP that
    embeds a box.
    """

    kind: Literal["annotated"] = "annotated"
    classes: tuple[str, ...] = COCO_CLASSES
    width: int = Field(default=256, ge=1)
    frequencies: int = Field(default=6, ge=0)
    mlp_width: int = Field(default=256, ge=1)


class DetectedExtractorConfig(MethodConfig):
    """Proposals that a detector finds: doubtful classes and box geometry, embedded (ours).

    classes, width, frequencies, mlp_width: as of annotated objects. ranks: whether each thing is
        told how many others lie left of it, are larger, and so on. looks: whether it is told the
        colours of each thing, where somebody looked; in training they are drawn by the words.
    blind: share of the training images at which nobody looks. thin: share of which half of the
        objects are left out: in RefCOCO no object that is meant is the only one of its kind, and
        what is alone of its kind would be taken for a false detection. clean: share of the training
        batches whose objects are taken as they are annotated.
    zoom: share of the training images that are shrunk, all things of one together, to as little as
        a fifth: what RefCOCO describes covers 5 % of its picture or more, and smaller things would
        be taken for absent.
    least: probability of the likeliest class from which a detection counts. most: detections of an
        image, the surest.
    simulate: when annotated objects stand in for an image, whether they are taken as a detector
        would tell of them: in training alone, always (to measure), or never.
    """

    kind: Literal["detected"] = "detected"
    classes: tuple[str, ...] = COCO_CLASSES
    width: int = Field(default=256, ge=1)
    frequencies: int = Field(default=6, ge=0)
    mlp_width: int = Field(default=256, ge=1)
    ranks: bool = True
    looks: bool = True
    blind: float = Field(default=0.25, ge=0, le=1)
    thin: float = Field(default=0.15, ge=0, le=1)
    clean: float = Field(default=0.1, ge=0, le=1)
    zoom: float = Field(default=0.0, ge=0, le=1)
    least: float = Field(default=0.1, gt=0, lt=1)
    most: int = Field(default=64, ge=1)
    simulate: Literal["train", "always", "never"] = "train"

    @model_validator(mode="after")
    def _detector_knows_classes(self) -> DetectedExtractorConfig:
        if self.simulate != "never" and self.classes != COCO_CLASSES:
            raise ValueError("the detector knows COCO's classes: set simulate to never for others")
        if self.simulate == "never" and self.looks:
            raise ValueError("colours are learned from simulated detections: set looks to false")
        return self


class IndicatorConfig(MethodConfig):
    """Which proposal the sentence is to be about (the paper's indicator module, Table 3).

    target_only: no indicator; the generator sees the target proposal alone (ablations a to c).
    init_std: spread of I_pos and I_neg at the start (silent; the spread of a normalised
        proposal, so that the mark is neither lost nor all there is).
    """

    target_only: bool = False
    init_std: float = Field(default=1.0, ge=0)


class GeneratorConfig(MethodConfig):
    """The indicated generation head: a 4-layer transformer decoder (paper).

    Width, heads, MLP, dropout, vocabulary: silent; Mask2Former's own sizes and BERT's words.

    vocab_size: word pieces. max_words: longest sentence as the tokenizer counts, [CLS] and [SEP]
        included. start, end, pad: ids of [CLS], [SEP], [PAD]. never: ids that are never written
        (padding, [UNK], [CLS], [MASK]); their probability is not shared out among the others.
    tied: the output layer's weights are the word table's (silent; 7.8 M parameters fewer).
    dropout: 0.1 while learning from sentences, 0 while learning from rewards.
    rank: by which log-probability found sentences compete, the "sum" or the "mean" of their words'
        (silent); step 2 takes the sum, whose gradient Eq. 4 is.
    """

    width: int = Field(default=256, ge=1)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    vocab_size: int = Field(default=30522, ge=5)
    max_words: int = Field(default=21, ge=3)
    start: int = Field(default=101, ge=0)
    end: int = Field(default=102, ge=0)
    pad: int = Field(default=0, ge=0)
    never: tuple[int, ...] = (0, 100, 101, 103)
    tied: bool = True
    rank: Literal["sum", "mean"] = "sum"
    indicator: IndicatorConfig = IndicatorConfig()

    @model_validator(mode="after")
    def _ids_are_words(self) -> GeneratorConfig:
        beyond = [i for i in (self.start, self.end, self.pad, *self.never) if i >= self.vocab_size]
        if beyond:
            raise ValueError(f"ids {beyond} are outside a vocabulary of {self.vocab_size}")
        if self.end in self.never:
            raise ValueError("never must not hold the id that ends a sentence")
        return self


class SelectionConfig(MethodConfig):
    """The proposal selection head: a 4-layer decoder whose queries are proposals (paper).

    Sizes: silent; as the generation head. score_width: hidden width of the two-layer score MLP.
    """

    width: int = Field(default=256, ge=1)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    score_width: int = Field(default=256, ge=1)


class PolicyConfig(MethodConfig):
    """Disambiguation supervision: the reward r(Y, k), Eq. 4, Table 5.

    alpha, tau: 4 and 2.5 (paper). form: "softmax" over all proposals, or "sigmoid" of the
        target's own score (Table 5), which tau does not touch. tau = 1 is Table 5's "softmax".
    cider: factor of CIDEr in the reward (paper: 1; 0 is Table 5's "unambiguity only").
    cider_end: whether CIDEr counts a sentence's end as a word (paper: silent). Without it
        "ball behind the" is worth as much as "ball", and step 2 learns to stop anywhere.
    beams: q1, sentences per object (paper: 5).
    with_greedy: whether the greedy sentence, where no beam is it, is one more of them (ours). Beams
        are short, and greedy sentences that are not among them can run on: nothing tells them.
    baseline: what is taken from a reward: "none" (Eq. 4 to the letter), "mean" over the object's
        sentences (ours: without it every beam is pushed up, as all rewards are positive),
        "greedy" (the reward of the greedy sentence), "leave_one_out" (mean of the others).
    log_p: of a sentence, the "sum" over its words (Eq. 4) or their "mean".
    weighting: "equal" for all sentences of an object (Eq. 4 as sampled), or "posterior": p of
        each over the sum of p, which with the mean baseline is minimum-risk training.
    """

    alpha: float = Field(default=4.0, ge=0)
    tau: float = Field(default=2.5, gt=0)
    form: Literal["softmax", "sigmoid"] = "softmax"
    cider: float = Field(default=1.0, ge=0)
    cider_end: bool = False
    beams: int = Field(default=5, ge=1)
    with_greedy: bool = False
    baseline: Literal["none", "mean", "greedy", "leave_one_out"] = "mean"
    log_p: Literal["sum", "mean"] = "sum"
    weighting: Literal["equal", "posterior"] = "equal"


class MutualConfig(MethodConfig):
    """The whole system. The paper's: Mask2Former, BERT-base, both heads, end to end.

    select, generate: which of the two tasks are learned and can be asked for (single-task
        ablations of Tables 3 and 6 switch one off).
    end_to_end: False keeps the heads' gradients from the extractor (rows "E2E off").
    appearance: add what a proposal looks like to O (ours; see appearance.py). For small extractors.
    selection_weight, generation_weight: of L_sel and L_gen beside L_m2f (silent; 1 and 1).
    pseudo_generates: whether sentences that a model wrote teach the generator too, by their weight
        (silent; no).
    absent: share of a batch's expressions that are also asked of an image without such a thing.
        Above 0 the head can also say that nothing is meant (ours; see absent.py).
    text_lr_scale: 0.1, as BERT diverges at the paper's 5e-4 (silent). extractor_lr_scale: of the
        whole extractor, its backbone's own factor included.
    """

    extractor: Mask2FormerExtractorConfig | AnnotatedExtractorConfig | DetectedExtractorConfig = (
        Field(default=Mask2FormerExtractorConfig(classes=COCO_CLASSES), discriminator="kind")
    )
    text: BertTextConfig = BertTextConfig(frozen="none")
    generator: GeneratorConfig = GeneratorConfig()
    selection: SelectionConfig = SelectionConfig()
    select: bool = True
    generate: bool = True
    end_to_end: bool = True
    appearance: bool = False
    selection_weight: float = Field(default=1.0, ge=0)
    generation_weight: float = Field(default=1.0, ge=0)
    pseudo_generates: bool = False
    absent: float = Field(default=0.0, ge=0, le=1)
    text_lr_scale: float = Field(default=0.1, ge=0)
    extractor_lr_scale: float = Field(default=1.0, ge=0)

    @property
    def learned_with(self) -> dict[Path, str]:
        """Files of the package that decide what is learned -> the labels that they were made of."""
        extractor = self.extractor
        simulates = isinstance(extractor, DetectedExtractorConfig) and extractor.simulate != "never"
        return {RECORDS: "box+mask+category"} if simulates else {}

    @model_validator(mode="after")
    def _some_task(self) -> MutualConfig:
        if self.appearance and not isinstance(self.extractor, Mask2FormerExtractorConfig):
            raise ValueError("boxes have no pixels to look at: set appearance to false")
        if self.absent and not self.select:
            raise ValueError("absent teaches the selection head, and select is off: set it to 0")
        if not (self.select or self.generate):
            raise ValueError("select and generate are both off: there is nothing to learn")
        if self.generate and self.generator.vocab_size != self.text.vocab_size:
            raise ValueError(
                f"the generator writes {self.generator.vocab_size} word pieces and BERT reads "
                f"{self.text.vocab_size}: one vocabulary serves both"
            )
        return self
