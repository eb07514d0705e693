"""Parameters at the published size, counted without their memory, and who learns how fast."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from refseg.methods.sag import Sag, SagConfig
from refseg.methods.sag.config import AnswerConfig
from refseg.types import Labels
from tests.methods.toy import toy_batch, toy_samples


@cache
def released() -> Sag:
    with torch.device("meta"):
        return Sag(SagConfig().released())


def count(module: Any) -> int:
    assert isinstance(module, nn.Module)
    return sum(p.numel() for p in module.parameters())


def test_the_parts_have_the_released_sizes() -> None:
    """In millions: 4.2, 3.1, 0.26, 4.2, 0.98 and 0.6, 13.4 in all, beside ViT-S and BERT-base."""
    method = released()
    assert method.discover is not None
    sizes = {
        "aggregation": count(method.discover.aggregate),
        "interaction": count(method.discover.interact),
        "output": count(method.discover.out),
        "fusion": count(method.fusion),
        "projections": count(method.project_patches) + count(method.project_sentences),
    }
    assert sizes == {
        "aggregation": 4_200_448,
        "interaction": 3_150_848,
        "output": 263_680,
        "fusion": 4_200_448,
        "projections": 590_848,
    }
    assert count(method.discover.first) == 2 * 12 * 512
    assert method.decoder is not None
    # The MLP, and 50 rows and columns.
    assert count(method.decoder) == 985_473 + 2 * 50 * 256
    new = count(method) - count(method.vision) - count(method.text)
    assert new == sum(sizes.values()) + count(method.discover.first) + count(method.decoder)
    assert new / 1e6 == pytest.approx(13.4, abs=0.05)
    assert count(method.vision) == 21_811_584
    assert count(method.text) == 108_891_648


def test_sine_positions_are_no_parameters_and_iterations_share_theirs() -> None:
    with torch.device("meta"):
        paper = Sag(SagConfig())
        once = SagConfig().slots.model_copy(update={"iterations": 1})
        short = Sag(SagConfig(slots=once))
    assert paper.decoder is not None
    assert count(paper.decoder) == 985_473
    assert count(short) == count(paper)


def test_the_paper_and_the_released_scripts() -> None:
    paper, scripts = SagConfig(), SagConfig().released()
    assert (paper.slots.groups, paper.slots.per_group, paper.slots.count) == (18, 2, 36)
    assert (scripts.slots.groups, scripts.slots.per_group, scripts.slots.count) == (12, 3, 36)
    assert (paper.reconstruction.position, scripts.reconstruction.position) == ("sine", "learned")
    assert (paper.loss.others, scripts.loss.others) == ("distinct", "all")
    assert paper.model_dump(exclude={"slots", "reconstruction", "loss"}) == scripts.model_dump(
        exclude={"slots", "reconstruction", "loss"}
    )


def test_shapes_at_the_published_size() -> None:
    """One image and two sentences: 576 patches, 36 slots. (BERT looks into its mask, which has no
    values here.)"""
    tiny = toy_batch(toy_samples(1), share_images=True)
    batch = replace(tiny, images=torch.zeros(1, 3, 384, 384)).to("meta")
    method = released().train()
    try:
        state = method.encode_image(batch)
        sentences = torch.zeros(2, 512, device="meta")
        fuse = method.fusion.weigh(sentences, state.heard, batch.image_of)
        found = method.fusion.pairs(sentences, state.heard)
    finally:
        method.eval()
    assert state.features.shape == (1, 576, 384)
    assert state.hw == (24, 24)
    assert state.slots.shape == (1, 1, 36, 512)
    assert state.attention is not None
    assert state.attention.shape == (1, 1, 36, 576)
    assert fuse.shape == (2, 1, 36)
    assert found.shape == (2, 1, 512)
    assert method.decoder is not None
    made, shares = method.decoder(state.slots[:, 0], state.hw)
    assert made.shape == (1, 576, 384)
    assert shares.shape == (1, 36, 576)


def test_the_image_encoder_learns_at_a_tenth_and_norms_do_not_decay() -> None:
    groups = {group.name: group for group in released().parameter_groups()}
    assert set(groups) == {
        f"{part}{more}" for part in ("vision", "text", "new") for more in ("", ".no_decay")
    }
    for name, group in groups.items():
        assert group.lr_scale == (0.1 if name.startswith("vision") else 1.0)
        assert group.decay_scale == (0.0 if name.endswith("no_decay") else 1.0)


def test_it_learns_from_texts_alone_by_comparing_all_of_a_step() -> None:
    method = released()
    assert method.needs == Labels()
    assert method.compares_samples
    assert not method.wants_originals
    assert set(method.hub_parts()) == {"vision", "text"}
    assert method.config.answer == AnswerConfig()
