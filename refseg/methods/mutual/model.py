"""Mutual supervision of RES and REG: one set of proposals, one head that chooses, one that writes.

Paper map:
  proposal extractor, O and masks        -> mask2former.py (annotated.py and detected.py are ours)
  BERT, F_Y                              -> `Mutual.text`
  proposal selection head, S             -> selection.py
  indicator, generation head             -> indicator.py, generator.py
  bipartite matching, k                  -> matching.py, `Mutual.match`
  Eq. 2 L_gen, L_sel, L (section joint)  -> loss.py
  Eq. 4 L_R, reward                      -> policy.py, disambiguation.py
  M_k, k = argmax S                      -> decode.py
  (ours) nothing of that kind is there   -> absent.py

We differ: proposals may be fewer in one image than in another (annotated objects), so both heads
take a mask of those that are there. The paper's silences are decided in config.py, field by field.
Letters: B expressions, I images, N proposals, K objects, E (image, object) pairs, T words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.mutual.absent import absent_loss, chances, elsewhere
from refseg.methods.mutual.annotated import AnnotatedObjects
from refseg.methods.mutual.appearance import Appearance
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.config import (
    AnnotatedExtractorConfig,
    DetectedExtractorConfig,
    Mask2FormerExtractorConfig,
    MutualConfig,
)
from refseg.methods.mutual.decode import decode
from refseg.methods.mutual.detected import DetectedThings
from refseg.methods.mutual.generator import Generator, Memory
from refseg.methods.mutual.loss import generation_loss, selection_loss
from refseg.methods.mutual.mask2former import Mask2FormerExtractor
from refseg.methods.mutual.matching import match_shares
from refseg.methods.mutual.meant import alike, chosen_objects
from refseg.methods.mutual.nearest import nearest_boxes
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import Extractor, Matching, Proposals
from refseg.methods.mutual.selection import ProposalSelection
from refseg.methods.mutual.slices import fair
from refseg.nn.beam import Found
from refseg.nn.eyes import Eyes
from refseg.nn.text import BertWords
from refseg.nn.vision import SwinVisionConfig
from refseg.types import Batch, Labels, Prediction


@dataclass(frozen=True)
class MutualOutputs:
    """proposals: of the I images. scores S: [B, N], -inf where an image has fewer proposals;
    None for a model that only writes.
    """

    proposals: Proposals
    scores: Tensor | None


class Mutual(nn.Module):
    """The method (see `refseg.method.Method`)."""

    extractor: Extractor

    def __init__(self, config: MutualConfig) -> None:
        super().__init__()
        self.config = config
        self.extractor = make_extractor(config.extractor)
        channels = self.extractor.width
        self.appearance = None
        if config.appearance and isinstance(self.extractor, Mask2FormerExtractor):
            self.appearance = Appearance(self.extractor.channels, channels)
        if config.select:
            self.text = BertWords(config.text)
            self.selection = ProposalSelection(config.selection, channels, config.text.width)
        # s0, the score of nothing; see absent.py.
        self.nothing = nn.Parameter(torch.zeros(1)) if config.absent else None
        if config.generate:
            self.generator = Generator(config.generator, channels)

    @property
    def needs(self) -> Labels:
        """What the losses read."""
        own = {"category"} if self.config.absent else set()
        return Labels(self.extractor.needs.granted | own)

    @property
    def reads_pixels(self) -> bool:
        """Whether images are looked at; if not, data are best opened with pixels=False."""
        return self.extractor.reads_pixels

    @property
    def reads_objects(self) -> bool:
        """Whether the annotated objects are what is chosen from, in answers too."""
        return self.extractor.reads_objects

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest expression, in tokens, that each part has places for: key -> tokens."""
        limits = {}
        if self.config.select:
            limits["text.max_positions"] = self.config.text.max_positions
        if self.config.generate:
            limits["generator.max_words"] = self.config.generator.max_words
        return limits

    @property
    def word_ids(self) -> dict[str, int]:
        """The ids that the generator takes for special tokens; empty if it only reads."""
        config = self.config.generator
        ids = {"[CLS]": config.start, "[SEP]": config.end, "[PAD]": config.pad}
        return ids if self.config.generate else {}

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from the hub's weights: kind -> (module, its name in task models)."""
        parts: dict[str, tuple[nn.Module, str]] = {}
        if isinstance(self.extractor, Mask2FormerExtractor):
            backbone = self.extractor.config.backbone
            name = "swin." if isinstance(backbone, SwinVisionConfig) else "resnet."
            parts["vision"] = (self.extractor.vision, name)
            parts["proposals"] = (self.extractor.whole, "")
        if self.config.select:
            parts["text"] = (self.text.bert, "bert.")
        return parts

    # -- the four verbs ------------------------------------------------------------------------

    def propose(self, batch: Batch) -> Proposals:
        """The proposals of the batch's I images; no expression is read."""
        return self._shown(self.extractor(batch))

    def practise(self, batch: Batch) -> Proposals:
        """The proposals that step 2 learns from: as `propose`, but for an extractor that learns
        from more than it is asked (`DetectedThings.practise`).
        """
        if isinstance(self.extractor, DetectedThings):
            return self._shown(self.extractor.practise(batch))
        return self.propose(batch)

    def same(self, proposals: Proposals, batch: Batch, rows: Tensor) -> Tensor | None:
        """[E, N] bool: all detections of what the expressions `rows` [E] mean; None where proposals
        are no detections, and the matched one alone is right, as in the paper.
        """
        if not isinstance(self.extractor, DetectedThings):
            return None
        assert batch.targets is not None
        doubles = self.extractor.doubles(proposals, objects_of(batch))
        return doubles[batch.image_of[rows], batch.targets[rows]]

    def alike(self, proposals: Proposals, image_of: Tensor, target: Tensor) -> Tensor:
        """[E, N] bool: the proposals target [E] of images image_of [E] and, of detections, those of
        the same thing (`alike`): an expression that leads to one of them leads to it.
        """
        if self.reads_pixels and isinstance(self.extractor, DetectedThings):
            return alike(proposals, image_of, target)
        return F.one_hot(target, proposals.features.shape[1]).bool()

    def _shown(self, proposals: Proposals) -> Proposals:
        """Proposals as the heads see them."""
        if not self.config.end_to_end:
            proposals = proposals.detach()
        if self.appearance is not None:
            features = proposals.features + self.appearance(proposals)
            proposals = replace(proposals, features=features)
        return replace(proposals, maps=())  # nobody else looks at them

    def forward(self, batch: Batch) -> MutualOutputs:
        """B expressions about I images -> proposals and scores; labels are not read, unless the
        annotated objects are the proposals.
        """
        return self.answer(self.propose(batch), batch)

    def answer(self, state: Proposals, batch: Batch) -> MutualOutputs:
        """The same as `forward(batch)`, the image part not repeated."""
        if not self.config.select:
            return MutualOutputs(state, None)
        scores = self.score(state, batch.image_of, batch.words, batch.word_mask)
        return MutualOutputs(state, scores)

    def loss(self, outputs: MutualOutputs, batch: Batch) -> dict[str, Tensor]:
        """L = L_m2f + a L_gen + b L_sel, its parts by name; "total". A collective (`fair`).

        Beside them, in no sum, how the objects were matched (`match_shares`), where proposals are
        not the objects themselves. Raises DataError without objects and the labels in `needs`.
        """
        config, proposals, objects = self.config, outputs.proposals, objects_of(batch)
        matching = self.match(proposals, batch)
        terms = self.extractor.loss(proposals, objects, matching, self.loss_weight(batch))
        rows, target = chosen_objects(matching, batch)
        if outputs.scores is not None:
            right = self.same(proposals, batch, rows)
            loss = selection_loss(outputs.scores, rows, target, batch.weights, right, self.nothing)
            terms["selection"] = config.selection_weight * loss
            if self.nothing is not None:
                terms["absent"] = config.selection_weight * self._absent(proposals, batch)
        if config.generate:
            terms["generation"] = config.generation_weight * self._generation(
                proposals, rows, target, batch
            )
        total, seen = torch.stack(list(terms.values())).sum(), {}
        if not isinstance(self.extractor, AnnotatedObjects):
            assert batch.targets is not None
            seen = match_shares(matching, batch.image_of, batch.targets)
        return {**terms, **seen, "total": total}

    def decode(self, outputs: MutualOutputs, batch: Batch) -> list[Prediction]:
        """The mask of the best proposal of each expression, px. Raises ConfigError if the model
        only writes.
        """
        if outputs.scores is None:
            raise only_writes()
        return decode(outputs.proposals, outputs.scores, batch, self.nothing)

    def chances(self, outputs: MutualOutputs) -> Tensor:
        """[B, N] float32: the probability that an expression means each proposal, 0 on padding.

        What is missing to 1 is that of nothing (`MutualConfig.absent`). Raises ConfigError if the
        model only writes.
        """
        if outputs.scores is None:
            raise only_writes()
        return chances(outputs.scores, self.nothing)

    def loss_weight(self, batch: Batch) -> float:
        """Rows of a slice among the global batch's: L_sel is a mean over expressions. L_m2f, over
        masks and proposals, and L_gen, over words, are put right by `fair`.
        """
        return float(len(batch))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Extractor (`extractor_lr_scale`), BERT (`text_lr_scale`), heads: each parameter once."""
        scale = self.config.extractor_lr_scale
        own = self.extractor.parameter_groups()
        groups = [replace(group, lr_scale=scale * group.lr_scale) for group in own]
        heads = nn.ModuleDict()
        if self.appearance is not None:
            heads["appearance"] = self.appearance
        if self.config.select:
            groups += split_decay("text", self.text, lr_scale=self.config.text_lr_scale)
            heads["selection"] = self.selection
        if self.config.generate:
            heads["generator"] = self.generator
        groups += split_decay("heads", heads)
        if self.nothing is not None:
            groups.append(ParameterGroup("nothing", (self.nothing,), 1.0, 0.0))
        check_groups(self, groups)
        return groups

    # -- abilities -----------------------------------------------------------------------------

    def encode_image(self, batch: Batch) -> Proposals:
        """The batch's I images -> state that `answer` takes for any number of expressions.

        Raises ConfigError for a model whose proposals are annotated objects, ModelError for one
        that sees by weights of others which are not there.
        """
        if not self.reads_pixels:
            raise ConfigError(
                "this model chooses among annotated objects and sees no pixels",
                remedy="evaluate it on a data set with boxes, or use a model that sees, such as "
                "mutual-scenes",
            )
        return self.propose(batch)

    def see_by(self, eyes: Callable[[], Eyes] | None) -> None:
        """Find proposals in pixels from now on; None: choose among annotated objects, as while
        learning; see `DetectedThings.see_by`. Raises ConfigError where proposals are no detections.
        """
        if not isinstance(self.extractor, DetectedThings):
            raise ConfigError(
                "the proposals of this model are no detections", remedy="leave its eyes alone"
            )
        self.extractor.see_by(eyes)

    @property
    def wants_eyes(self) -> bool:
        """Whether proposals are found in pixels by weights that are not the model's own."""
        extractor = self.config.extractor
        return isinstance(extractor, DetectedExtractorConfig) and extractor.classes == COCO_CLASSES

    def match(self, proposals: Proposals, batch: Batch, *, by_class: bool = True) -> Matching:
        """Which proposal stands for each of the K annotated objects of the batch's I images.

        by_class: whether their categories count, as they do while learning. A region that is
        asked about is found by its shape alone: the answer must not hang on a label that a
        person's region has not, nor on whether the model knows the category.
        Raises DataError for a batch without objects, or without their masks or boxes; with
        by_class for a category that is none of the extractor's classes.
        """
        objects = objects_of(batch)
        if not by_class:
            objects = replace(objects, categories=None)
        return self.extractor.match(proposals, objects)

    def nearest(self, proposals: Proposals, batch: Batch) -> Matching:
        """Which proposal comes nearest to each of the objects' boxes, which people drew, whatever
        else is asked about: as `match`, but by boxes alone (`nearest_boxes`).
        """
        return nearest_boxes(proposals, objects_of(batch))

    def score(
        self, proposals: Proposals, image_of: Tensor, words: Tensor, word_mask: Tensor
    ) -> Tensor:
        """S [B, N] of B expressions, words and word_mask [B, T] about images image_of [B].

        -inf where an image has fewer proposals. Raises ConfigError if the model only writes.
        """
        if not self.config.select:
            raise only_writes()
        features = self.text(words, word_mask)
        scores: Tensor = self.selection(
            proposals.features, image_of, features, word_mask, proposals.there
        )
        return scores

    def remember(self, proposals: Proposals, image_of: Tensor, target: Tensor) -> Memory:
        """What the generator knows of E objects: images image_of [E], proposals target [E].

        Raises ConfigError if the model only reads.
        """
        if not self.config.generate:
            raise ConfigError(
                "this model reads expressions and was not taught to write them",
                remedy="use a model with method.generate=true",
            )
        return self.generator.remember(proposals.features, image_of, target, proposals.there)

    def write(
        self, proposals: Proposals, image_of: Tensor, target: Tensor, *, beams: int, keep: int
    ) -> Found:
        """The best `keep` sentences about each of E proposals, without gradient.

        image_of: [E] int64, rows of `proposals`. target: [E] int64, 0..N-1. beams: width of the
        search, 1 (then keep is 1 too) is greedy. Returns words [E, keep, L] and their
        log-probabilities [E, keep], best first (`refseg.nn.beam.Found`).
        Raises ConfigError if the model only reads, ValueError in train mode with dropout and for
        numbers that no search can have.
        """
        memory = self.remember(proposals, image_of, target)
        return self.generator.write(memory, beams=beams, keep=keep)

    def _absent(self, proposals: Proposals, batch: Batch) -> Tensor:
        """L_abs of expressions of the batch that are asked of images which show no such thing."""
        assert self.nothing is not None
        rows, images = elsewhere(batch, self.config.absent)
        if len(rows) == 0:
            return 0.0 * self.nothing.sum()
        scores = self.score(proposals, images, batch.words[rows], batch.word_mask[rows])
        return absent_loss(scores, self.nothing, batch.weights[rows], len(batch))

    def _generation(
        self, proposals: Proposals, rows: Tensor, target: Tensor, batch: Batch
    ) -> Tensor:
        """L_gen of the expressions `rows`. Those that a model wrote are left out, or with
        `pseudo_generates` count by their weights.
        """
        if batch.pseudo is not None and not self.config.pseudo_generates:
            human = ~batch.pseudo[rows]
            rows, target = rows[human], target[human]
        words, mask = batch.words[rows], batch.word_mask[rows][:, 1:]
        (factor,) = fair(mask.sum()[None].float(), self.loss_weight(batch))
        if len(rows) == 0:  # a batch of pseudo-expressions alone teaches the generator nothing
            return 0.0 * sum(p.sum() for p in self.generator.parameters())  # type: ignore[return-value]
        memory = self.remember(proposals, batch.image_of[rows], target)
        logits = self.generator(words[:, :-1], memory)
        loss: Tensor = factor * generation_loss(logits, words[:, 1:], mask, batch.weights[rows])
        return loss


def make_extractor(
    config: Mask2FormerExtractorConfig | AnnotatedExtractorConfig | DetectedExtractorConfig,
) -> Extractor:
    """The untrained extractor that `config` describes; a `torch.nn.Module`."""
    if isinstance(config, AnnotatedExtractorConfig):
        return AnnotatedObjects(config)
    if isinstance(config, DetectedExtractorConfig):
        return DetectedThings(config)
    return Mask2FormerExtractor(config)


def only_writes() -> ConfigError:
    """The error for a model that is asked to read and cannot."""
    return ConfigError(
        "this model writes expressions and was not taught to read them",
        remedy="use a model with method.select=true",
    )
