"""Boxes that people draw, where proposals are masks: a box is compared with boxes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refseg.ops.boxes import box_iou
from refseg.ops.masks import box_mask, mask_to_box
from refseg.predict import Predictor
from tests.cli.mutual import toy_mutual


def test_a_box_drawn_around_a_proposal_fits_it(photo: Path) -> None:
    """It, or one that is as good."""
    predictor = Predictor(toy_mutual()).set_image(photo)
    boxes = {one.number: mask_to_box(one.mask) for one in predictor.propose()}
    drawn = [box for box in boxes.values() if box is not None]
    assert len(drawn) > 3
    for box in drawn:
        told = predictor.describe_region(box)
        theirs = boxes[told.proposal]
        assert theirs is not None
        assert told.iou == pytest.approx(float(box_iou(box, theirs)[0, 0]))
        assert float(told.iou or 0) >= 0.7  # chosen on a grid of cells of up to 5 px


def test_a_box_around_something_thin_fits_and_a_filled_mask_does_not(photo: Path) -> None:
    predictor = Predictor(toy_mutual()).set_image(photo)
    level = predictor._state.levels[-1]
    logits = torch.full_like(level.masks, -8)
    logits[0, 2].fill_diagonal_(8)
    predictor._state = replace(predictor._state, levels=(replace(level, masks=logits),))
    thin = next(one.mask for one in predictor.propose() if one.number == 2)
    box = mask_to_box(thin)
    assert box is not None
    told = predictor.describe_region(box)
    assert (told.proposal, told.iou) == (2, 1)
    filled = box_mask(box, thin.shape)
    assert thin.sum() < 0.5 * filled.sum()
    as_mask = predictor.describe_region(filled)
    assert (as_mask.proposal, as_mask.iou) == (2, thin.sum() / filled.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictor.describe(box)
        with pytest.raises(UserWarning, match=f"IoU of {as_mask.iou:.2f}"):
            predictor.describe(filled)
