"""From scores to masks: the best proposal's logits, resized, and cut last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.annotated import relative_boxes
from refseg.methods.mutual.decode import decode
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import Level, Proposals
from refseg.types import Batch
from tests.methods.mutual import literal
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mutual_config

N, GRID, SIZES = 5, (9, 7), ((40, 90), (75, 30))


def batch_of(fit: str = "letterbox") -> Batch:
    """Four expressions about a wide and a high image."""
    return toy_batch(toy_samples(2, SIZES), share_images=True, fit=fit)


def found(seed: int = 0) -> tuple[Proposals, Tensor]:
    """Proposals of two images, of which none is clearly inside or outside, and scores [4, N]."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(2, N, *GRID, generator=generator)
    level = Level(masks, torch.zeros(2, N, 2))
    return Proposals(torch.zeros(2, N, 4), None, (level,)), torch.randn(4, N, generator=generator)


@pytest.mark.parametrize("fit", ["letterbox", "square"])
def test_it_is_the_plain_way(fit: str) -> None:
    batch, (proposals, scores) = batch_of(fit), found()
    masks = proposals.levels[-1].masks
    assert len(set(scores.argmax(dim=1).tolist())) > 2
    for row, prediction in enumerate(decode(proposals, scores, batch)):
        logits = masks[int(batch.image_of[row])].double().numpy()
        mask, sure = literal.decoded(scores[row].double().numpy(), logits, batch.geometry[row])
        assert prediction.mask.shape == batch.geometry[row].original_hw
        assert prediction.score == pytest.approx(sure, abs=1e-6)
        assert 0.2 < mask.mean() < 0.8
        # A value within rounding of zero may fall to either side, and to no other.
        assert (prediction.mask != mask).mean() < 0.001


def test_cut_before_the_resize_it_would_be_another_mask() -> None:
    """Section 2.6: guards the test above, which must tell the two apart."""
    batch, (proposals, scores) = batch_of(), found()
    cut = proposals.levels[-1].masks.sign()
    early = replace(proposals, levels=(Level(cut, proposals.levels[-1].classes),))
    pairs = zip(decode(proposals, scores, batch), decode(early, scores, batch), strict=True)
    assert all((ours.mask != other.mask).mean() > 0.02 for ours, other in pairs)


def test_what_was_chosen_from_is_told_once_an_image() -> None:
    batch, (proposals, scores) = batch_of(), found()
    told = decode(proposals, scores, batch)
    for row, image in enumerate(batch.image_of.tolist()):
        expected = proposals.levels[-1].masks[image].sigmoid().numpy()
        np.testing.assert_allclose(told[row].candidates, expected, atol=1e-6)
        assert told[row].candidates is told[2 * image].candidates


def test_an_annotated_object_is_its_filled_box() -> None:
    batch = batch_of()
    scores = torch.tensor([[0.0, 1], [2, 0], [-torch.inf, 0], [0, 3]])
    boxes = [sample.objects.boxes_xyxy for sample in toy_samples(2, SIZES) if sample.objects]
    found = Proposals(torch.zeros(2, 2, 4), boxes=relative_boxes(objects_of(batch)))
    told = decode(found, scores, batch)
    for row, k in enumerate([1, 0, 1, 1]):
        mask = np.zeros(batch.geometry[row].original_hw, bool)
        x0, y0, x1, y1 = boxes[row][k].astype(int)  # whole pixels
        mask[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(told[row].mask, mask)
        assert told[row].score == pytest.approx(float(scores[row].softmax(0)[k]))
        assert told[row].candidates is None


def test_an_image_without_any_object_is_answered_with_nothing() -> None:
    batch = batch_of()
    bare = Proposals(torch.zeros(2, 2, 4), boxes=torch.full((2, 2, 4), torch.nan))
    told = decode(bare, torch.full((4, 2), -torch.inf), batch)
    assert [(one.mask.any(), one.score) for one in told] == [(False, 0.0)] * 4


@pytest.mark.parametrize("kept", ["select", "generate"])
def test_a_head_that_is_not_there_says_so(kept: str) -> None:
    torch.manual_seed(0)
    config = mutual_config(annotated_config(), select=kept == "select", generate=kept == "generate")
    method, batch = Mutual(config).eval(), batch_of()
    with torch.no_grad():
        proposals = method.propose(batch)
        k = torch.zeros(len(batch), dtype=torch.int64)
        if kept == "generate":
            for ask in (
                lambda: method.score(proposals, batch.image_of, batch.words, batch.word_mask),
                lambda: method.decode(method(batch), batch),
            ):
                with pytest.raises(ConfigError, match=r"(?s)not taught to read.*select=true"):
                    ask()
        else:
            for ask in (
                lambda: method.remember(proposals, batch.image_of, k),
                lambda: method.write(proposals, batch.image_of, k, beams=1, keep=1),
            ):
                with pytest.raises(ConfigError, match=r"(?s)not taught to write.*generate=true"):
                    ask()
