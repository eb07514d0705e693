"""Proposals that a detector finds: what each may be, where it lies, and how it ranks among others.

It stands where Mask2Former stands in the paper, and learns from annotated objects without pixels:
while training, each image's objects are replaced by what a detector would make of them
(simulated.py), so that the heads learn to live with misses, doubts and doubles. With `eyes` it
looks at photographs. Proposal n is the n-th surest detection.
Letters: I images, N proposals, K objects, C width, Q classes, L cells a side of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from refseg.errors import DataError
from refseg.method import ParameterGroup, split_decay
from refseg.methods.mutual.annotated import box_features, geometry_width, relative_boxes
from refseg.methods.mutual.colour_words import told_of_objects
from refseg.methods.mutual.config import RECORDS, DetectedExtractorConfig, MatchingConfig
from refseg.methods.mutual.matching import match_masks
from refseg.methods.mutual.objects import missing, objects_of
from refseg.methods.mutual.proposals import MATCHED, Level, Matching, Proposals
from refseg.methods.mutual.simulated import Records, Simulation
from refseg.methods.mutual.things import (
    LOOKS,
    RANKS,
    Things,
    annotated_things,
    box_overlap,
    ranks,
    surest,
)
from refseg.nn.eyes import Eyes
from refseg.nn.mobile_sam import NOWHERE
from refseg.types import Batch, Labels, NetObjects

SMALLEST = 0.2  # of an image's sides, where it is shrunk while learning


class DetectedThings(nn.Module):
    """See the module docstring and `refseg.methods.mutual.proposals.Extractor`."""

    def __init__(self, config: DetectedExtractorConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.needs = Labels(frozenset({"box", "category"}))
        self.category = nn.Linear(len(config.classes), config.width, bias=False)
        # Of a detection beside its place: how sure it is, and its ranks.
        told = geometry_width(config.frequencies) + 1 + (RANKS if config.ranks else 0)
        self.geometry = nn.Sequential(
            nn.Linear(told, config.mlp_width), nn.ReLU(), nn.Linear(config.mlp_width, config.width)
        )
        if config.looks:
            self.looks = nn.Linear(LOOKS + 1, config.width)
        self.norm = nn.LayerNorm(config.width)
        self._simulation: Simulation | None = None
        self.eyes: Callable[[], Eyes] | None = None
        self.reads_pixels, self.reads_objects = False, True

    def see_by(self, eyes: Callable[[], Eyes] | None) -> None:
        """Look at photographs from now on; None: take what is annotated, as while learning.

        eyes: asked whenever an image is looked at; it may raise.
        """
        self.eyes = eyes
        self.reads_pixels, self.reads_objects = eyes is not None, eyes is None

    def forward(self, batch: Batch) -> Proposals:
        """What is detected in the batch's images, or in place of their annotated objects ->
        proposals [I, N, C].

        With eyes: of `Batch.originals`, with masks; raises DataError without them and what `eyes`
        raises. Else raises DataError without objects, boxes or categories, and for a category that
        is none of `config.classes`.
        """
        if self.eyes is not None:
            return self._seen(batch, self.eyes())
        if self.training:
            return self.practise(batch)
        objects = objects_of(batch)
        things = annotated_things(objects, self.config.classes)
        if self.config.simulate == "always":
            things = self.detected(things, objects.ann_ids, 0)
        return self.embed(things)

    def practise(self, batch: Batch) -> Proposals:
        """What the heads learn from, drawn anew each time: simulated detections; in some batches
        objects as annotated (`clean`), in some images half of them (`thin`), or without colours
        (`blind`), or small (`zoom`).

        With `simulate="never"` always as annotated. The boxes of what is shrunk are told as they
        were, so that they can be matched. Raises DataError as `forward`.
        """
        objects = objects_of(batch)
        things = annotated_things(objects, self.config.classes)
        scale, corner = self._zooms(things)
        things = replace(things, boxes=(things.boxes * scale + corner) * things.there[..., None])
        if self.config.simulate != "never" and float(torch.rand(())) >= self.config.clean:
            salt, told = int(torch.randint(2**31, ())), self._colours(batch, things)
            things = self.detected(self._thinned(things), objects.ann_ids, salt, told)
        shown = self.embed(self._blinded(things))
        assert shown.boxes is not None
        return replace(shown, boxes=(shown.boxes - corner) / scale * things.there[..., None])

    def _zooms(self, things: Things) -> tuple[Tensor, Tensor]:
        """scale [I, 1, 1], most are 1, and corner [I, 1, 4], the upper left one twice: where in the
        unit square each image is put. Overlaps stay what they are.
        """
        one = things.boxes.new_ones(len(things.there), 1, 1)
        if not self.config.zoom:
            return one, one.new_zeros(len(one), 1, 4)
        some, depth = torch.rand_like(one) < self.config.zoom, torch.rand_like(one)
        scale = torch.where(some, SMALLEST**depth, one)
        room = torch.rand(len(one), 1, 2, device=one.device) * (1 - scale)
        return scale, room.repeat(1, 1, 2)

    def _thinned(self, things: Things) -> Things:
        """The same, without half of the objects of some images."""
        device = things.there.device
        thin = torch.rand(len(things.there), 1, device=device) < self.config.thin
        return things.only(things.there & ~(thin & (torch.rand_like(things.sure) < 0.5)))

    def _blinded(self, things: Things) -> Things:
        """The same, with some images not looked at."""
        if not (self.config.looks and self.config.blind):
            return things
        blind = torch.rand(len(things.looked), device=things.looked.device) < self.config.blind
        return replace(things, looked=things.looked & ~blind[:, None])

    def _colours(self, batch: Batch, things: Things) -> Tensor | None:
        """Those that the batch's words tell of its objects, if looks are learned."""
        if not self.config.looks:
            return None
        return told_of_objects(batch, things.there.shape[1]).to(things.boxes.device)

    @torch.no_grad()
    def _looked(self, images: Sequence[NDArray[np.uint8]], eyes: Eyes) -> tuple[Things, Tensor]:
        """Things [I, N] and the logits of their masks [I, N, L, L], padding far below zero."""
        config, device = self.config, self.category.weight.device
        seen = [eyes.look(image, least=config.least, most=config.most) for image in images]
        boxes, chances, looks = [], [], []
        for image, one in zip(images, seen, strict=True):
            height, width = image.shape[:2]
            boxes.append(torch.from_numpy(one.boxes) / torch.tensor([width, height] * 2))
            chances.append(torch.from_numpy(one.chances))
            unseen = np.zeros((len(one), LOOKS), np.float32)
            looks.append(torch.from_numpy(unseen if one.looks is None else one.looks))
        there = [torch.ones(len(one), dtype=torch.bool) for one in seen]
        looked = [part & (one.looks is not None) for part, one in zip(there, seen, strict=True)]
        parts = boxes, chances, there, looks, looked
        things = Things(*(_padded(part, 0.0).to(device) for part in parts))
        return things, _padded([one.logits for one in seen], NOWHERE).to(device)

    def _seen(self, batch: Batch, eyes: Eyes) -> Proposals:
        if batch.originals is None:
            raise DataError(
                "this model looks at photographs as they are, and the batch has none",
                remedy='open them with pixels=True, and let preprocess.fit be "whole"',
            )
        things, logits = self._looked(batch.originals, eyes)
        # What `Level` has are logits of classes that exclude each other, the last being none.
        sure = things.sure[..., None]
        classes = torch.cat([things.share * sure, 1 - sure], dim=-1).clamp(min=1e-9).log()
        return replace(self.embed(things), levels=(Level(logits, classes),))

    def detected(
        self, things: Things, ids: Tensor, salt: int, colours: Tensor | None = None
    ) -> Things:
        """What a detector would make of annotated things; see `Simulation`. ids: [I, K]."""
        if self._simulation is None:
            self._simulation = Simulation.of(Records.read(RECORDS), len(self.config.classes))
        self._simulation = self._simulation.to(ids.device)
        found = self._simulation(things, ids, salt, colours)
        return surest(found, self.config.least, self.config.most)

    def embed(self, things: Things) -> Proposals:
        """O [I, N, C] of things."""
        told = [box_features(things.boxes, self.config.frequencies), things.sure[..., None]]
        if self.config.ranks:
            told.append(ranks(things))
        x = self.category(things.share) + self.geometry(torch.cat(told, dim=-1))
        if self.config.looks:
            x = x + self.looks(self._shown(things))
        return Proposals(self.norm(x), things.there, boxes=things.boxes)

    def _shown(self, things: Things) -> Tensor:
        """[I, N, A + 1]: square roots of the shares, so that little tells too; whether known."""
        known = things.looked[..., None].to(things.looks.dtype)
        return torch.cat([things.looks.clamp(min=0).sqrt() * known, known], dim=-1)

    def match(self, proposals: Proposals, objects: NetObjects) -> Matching:
        """One to one by the overlap of boxes, best in sum, from an IoU of `MATCHED`; by masks as
        for Mask2Former where both have them, however little they overlap.

        Raises DataError without boxes.
        """
        if proposals.levels and objects.masks is not None and objects.has_mask is not None:
            known = objects.known & objects.has_mask & objects.masks.flatten(2).any(dim=2)
            level, there = proposals.levels[-1], proposals.there
            return match_masks(level, objects.masks, known, MatchingConfig(), there=there)
        if objects.boxes is None:
            raise missing("boxes", "box")
        assert proposals.boxes is not None
        assert proposals.there is not None
        boxes = relative_boxes(objects)
        there = objects.known & ~boxes.isnan().any(dim=-1)
        overlap = box_overlap(boxes.nan_to_num(), proposals.boxes)  # [I, K, N]
        overlap = overlap * (there[..., None] & proposals.there[:, None])
        fits = torch.where(overlap >= MATCHED, overlap, torch.zeros_like(overlap)).cpu().numpy()
        proposal = torch.full(there.shape, -1, dtype=torch.int64)
        for image, table in enumerate(fits):
            rows, columns = linear_sum_assignment(-table)
            good = table[rows, columns] > 0
            proposal[image, rows[good]] = torch.from_numpy(columns[good])
        proposal = proposal.to(there.device)
        iou = overlap.gather(2, proposal.clamp(min=0)[..., None])[..., 0]
        return Matching(proposal, iou.masked_fill(proposal < 0, float("nan")))

    def doubles(self, proposals: Proposals, objects: NetObjects) -> Tensor:
        """[I, K, N] bool: detections that show an object as well as the one that is matched to it.

        They overlap it by `MATCHED` or more, and no other object more.
        """
        assert proposals.boxes is not None
        assert proposals.there is not None
        boxes = relative_boxes(objects)
        known = objects.known & ~boxes.isnan().any(dim=-1)
        overlap = box_overlap(boxes.nan_to_num(), proposals.boxes) * known[..., None]
        best = overlap == overlap.amax(dim=1, keepdim=True)
        return best & (overlap >= MATCHED) & proposals.there[:, None]

    def loss(
        self, proposals: Proposals, objects: NetObjects, matching: Matching, weight: float
    ) -> dict[str, Tensor]:
        """None of its own: the detector is not trained."""
        return {}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once; norms, biases and the table of categories without decay."""
        table = ParameterGroup("extractor.table", tuple(self.category.parameters()), 1.0, 0.0)
        rest = nn.ModuleDict({"geometry": self.geometry, "norm": self.norm})
        if self.config.looks:
            rest["looks"] = self.looks
        return [table, *split_decay("extractor", rest)]


def _padded(parts: Sequence[Tensor], value: float) -> Tensor:
    """[n, ...] each -> [I, N, ...], N >= 1."""
    most = max([1, *map(len, parts)])
    rows = [
        torch.cat([part, part.new_full((most - len(part), *part.shape[1:]), value)])
        for part in parts
    ]
    return torch.stack(rows)
