"""Proposals without pixels: the annotated objects themselves, by category and box geometry.

This is not in the paper. It stands where Mask2Former stands, so that the heads, the rewards and
the written expressions can be trained and judged on data that has boxes and no images (all of
RefCOCO). Proposal i is object i of `Batch.objects`; an image's proposals are padded to K.
Letters: I images, K objects, C width, F features of a box.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from refseg.method import ParameterGroup, split_decay
from refseg.methods.mutual.classes import class_numbers
from refseg.methods.mutual.config import AnnotatedExtractorConfig
from refseg.methods.mutual.objects import missing, objects_of
from refseg.methods.mutual.proposals import Matching, Proposals
from refseg.types import Batch, Labels, NetObjects


class AnnotatedObjects(nn.Module):
    """See the module docstring and `refseg.methods.mutual.proposals.Extractor`."""

    reads_pixels = False
    reads_objects = True

    def __init__(self, config: AnnotatedExtractorConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.needs = Labels(frozenset({"box", "category"}))
        self.category = nn.Embedding(len(config.classes), config.width)
        self.geometry = nn.Sequential(
            nn.Linear(geometry_width(config.frequencies), config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, config.width),
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, batch: Batch) -> Proposals:
        """Boxes and categories of the batch's objects -> proposals, features [I, K, C].

        there [I, K]: False on padding and for an object without a box; no levels, as there are no
        masks to predict. Raises DataError without objects, boxes or categories, and for a category
        that is none of `config.classes`.
        """
        objects = objects_of(batch)
        if objects.boxes is None:
            raise missing("boxes", "box")
        classes = class_numbers(objects, self.config.classes)
        # Relative to the image's own frame, so that padding of the net image means nothing.
        boxes = relative_boxes(objects)
        stated = ~boxes.isnan().any(dim=-1)
        told = box_features(boxes.nan_to_num(), self.config.frequencies)
        features = self.norm(self.category(classes) + self.geometry(told))
        return Proposals(features, objects.known & stated, boxes=boxes)

    def match(self, proposals: Proposals, objects: NetObjects) -> Matching:
        """Each object is its own proposal; one without a box has none."""
        assert proposals.there is not None
        rows = torch.arange(objects.known.shape[1], device=objects.known.device)
        own = rows.expand(objects.known.shape).masked_fill(~proposals.there, -1)
        iou = torch.ones(own.shape, device=own.device).masked_fill(own < 0, float("nan"))
        return Matching(own, iou)

    def loss(
        self,
        proposals: Proposals,
        objects: NetObjects,
        matching: Matching,
        weight: float,
    ) -> dict[str, Tensor]:
        """None of its own: the objects are given."""
        return {}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once; norms, biases and the table of categories without decay."""
        table = ParameterGroup("extractor.table", tuple(self.category.parameters()), 1.0, 0.0)
        rest = nn.ModuleDict({"geometry": self.geometry, "norm": self.norm})
        return [table, *split_decay("extractor", rest)]


def relative_boxes(objects: NetObjects) -> Tensor:
    """[I, K, 4] xyxy in 0..1 of the original image."""
    assert objects.boxes is not None
    boxes = objects.boxes
    offset = boxes.new_tensor([(*g.offset_xy, *g.offset_xy) for g in objects.geometry])
    size = boxes.new_tensor(
        [
            (g.scale_xy[0] * g.original_hw[1], g.scale_xy[1] * g.original_hw[0]) * 2
            for g in objects.geometry
        ]
    )
    return (boxes - offset[:, None]) / size[:, None]


def geometry_width(frequencies: int) -> int:
    """F of `box_features`."""
    return 9 + 2 * 6 * frequencies


def box_features(boxes: Tensor, frequencies: int) -> Tensor:
    """boxes [..., 4] xyxy in 0..1 -> [..., F]: corners, centre, size and area, and of corners and
    centre the sine and cosine of 2^k pi times the coordinate.
    """
    x0, y0, x1, y1 = boxes.unbind(dim=-1)
    width, height = x1 - x0, y1 - y0
    places = torch.stack([x0, y0, x1, y1, (x0 + x1) / 2, (y0 + y1) / 2], dim=-1)
    sizes = torch.stack([width, height, width * height], dim=-1)
    turns = math.pi * 2.0 ** torch.arange(frequencies, device=boxes.device)
    angles = (places[..., None] * turns).flatten(-2)
    return torch.cat([places, sizes, angles.sin(), angles.cos()], dim=-1)
