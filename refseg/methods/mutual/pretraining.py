"""The proposal extractor learned alone, before any expression: the paper's start of step 1.

Paper map ("pre-trained on COCO instance segmentation"): L_m2f by itself -> `ProposalLearner.loss`
Letters: I images, K objects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg.method import ParameterGroup, check_groups
from refseg.methods.mutual.config import Mask2FormerExtractorConfig
from refseg.methods.mutual.mask2former import Mask2FormerExtractor
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import Proposals
from refseg.types import Batch


class ProposalLearner(nn.Module):
    """forward(Batch of images with objects) -> proposals; loss: L_m2f."""

    def __init__(self, config: Mask2FormerExtractorConfig) -> None:
        super().__init__()
        self.config = config
        self.extractor = Mask2FormerExtractor(config)

    def forward(self, batch: Batch) -> Proposals:
        """images [I, 3, H, W] -> their proposals, features [I, N, C]; no label is read.

        Raises DataError for a batch without pixels.
        """
        proposals: Proposals = self.extractor(batch)
        return proposals

    def loss(self, outputs: Proposals, batch: Batch) -> dict[str, Tensor]:
        """L_m2f and its parts. Raises DataError without objects and the labels in `needs`."""
        objects = objects_of(batch)
        matching = self.extractor.match(outputs, objects)
        terms = self.extractor.loss(outputs, objects, matching, self.loss_weight(batch))
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def loss_weight(self, batch: Batch) -> float:
        """Its mask terms are means over objects."""
        return max(float(objects_of(batch).known.sum()), 1e-6)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once."""
        groups = self.extractor.parameter_groups()
        check_groups(self, groups)
        return groups
