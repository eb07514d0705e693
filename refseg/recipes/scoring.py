"""Scores during training: every expression of the evaluation rows once, over all processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.distributed as dist
from torch import nn

from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.evaluate import target_mask
from refseg.method import Method
from refseg.metrics.meter import Meter
from refseg.metrics.protocols import get_protocol

PROTOCOL = "original"


@dataclass
class Scorer:
    """Call it with a method: metric -> value in 0..1, the same in every process.

    rows: dataset rows to score. Expressions about one image share its encoding. The dataset
    must be opened with the label "mask".
    """

    dataset: ReferDataset
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    rows: list[int]
    batch_size: int = 32

    def __call__(self, method: nn.Module) -> dict[str, float]:
        """All metrics of the protocol `original`."""
        rank, world = _place()
        meter = Meter(get_protocol(PROTOCOL))
        batches = self._batches()
        # Every process takes the same number of batches: a sharded method's forward is a
        # collective. The ones too many are computed and not counted.
        for start in range(0, len(batches), world):
            mine = start + rank
            self._update(meter, method, batches[mine % len(batches)], count=mine < len(batches))
        if world > 1:
            meter = _merged(meter, world)
        if len(meter) != len(self.rows):
            raise AssertionError(f"{len(meter)} expressions counted of {len(self.rows)}")
        return meter.result()

    def _batches(self) -> list[list[int]]:
        wanted = set(self.rows)
        ordered = [r for group in self.dataset.groups_by_image() for r in group if r in wanted]
        size = self.batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _update(self, meter: Meter, method: nn.Module, rows: list[int], *, count: bool) -> None:
        samples = self.dataset.samples(rows)
        batch = collate(samples, self.tokenizer, self.preprocess, share_images=True)
        batch = batch.to(next(method.parameters()).device)
        verbs = cast(Method, method)
        predictions = verbs.decode(verbs(batch), batch)
        if not count:
            return
        for sample, prediction in zip(samples, predictions, strict=True):
            target = target_mask(sample)
            meter.update(sample.key, prediction, target, sample.box_xyxy, sample.parts)


def _place() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _merged(meter: Meter, world: int) -> Meter:
    states: list[object] = [None] * world
    dist.all_gather_object(states, meter.state())
    whole = Meter(get_protocol(PROTOCOL))
    for state in states:
        whole.merge(cast("dict[str, object]", state))
    return whole
