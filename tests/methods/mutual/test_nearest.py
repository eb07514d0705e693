"""Boxes that people draw against the boxes of proposals, by loops over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.methods.mutual.config import DetectedExtractorConfig
from refseg.methods.mutual.detected import DetectedThings
from refseg.methods.mutual.mask2former import Mask2FormerExtractor
from refseg.methods.mutual.nearest import nearest_boxes, tight_boxes
from refseg.methods.mutual.proposals import Level, Proposals
from refseg.ops.boxes import boxes_to_net
from refseg.ops.images import letterbox_geometry, square_geometry
from refseg.types import Geometry, NetObjects
from tests.methods.toy_configs import mask2former_config

Box = Sequence[float]
HW = (32, 64)  # rows, columns: powers of two, so that 0..1 and px are the same to the bit
PLAIN = Geometry(HW, HW, (1.0, 1.0))
LETTERBOX = letterbox_geometry((30, 64), (64, 64))
boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2).map(
    lambda b: [float(v) for v in (b[0], b[1], b[0] + b[2], b[1] + b[3])]
)
several = st.lists(boxes, min_size=1, max_size=6)


def asked(rows: Sequence[Box], geometry: Geometry = PLAIN) -> NetObjects:
    """Regions of one image, px."""
    placed = boxes_to_net(np.array(rows, np.float32), geometry)[None]
    known = torch.ones(1, len(rows), dtype=torch.bool)
    ids = torch.zeros(1, len(rows), dtype=torch.int64)
    return NetObjects(known, ids, (geometry,), boxes=torch.from_numpy(placed))


def detections(rows: Sequence[Box], there: Sequence[bool] | None = None) -> Proposals:
    """Of one image, boxes px."""
    size = torch.tensor([HW[1], HW[0], HW[1], HW[0]])
    real = torch.ones(len(rows), dtype=torch.bool) if there is None else torch.tensor(there)
    return Proposals(
        torch.zeros(1, len(rows), 1), real[None], boxes=(torch.tensor(rows) / size)[None]
    )


def queries(masks: np.ndarray, sure: Sequence[float] | None = None) -> Proposals:
    """Proposals that are masks [N, h, w] and no more; sure: of each, a logit."""
    logits = torch.from_numpy(np.where(masks, 4.0, -4.0).astype(np.float32))
    told = torch.zeros(len(masks), 2)
    told[:, 0] = torch.tensor(sure if sure is not None else [0.0] * len(masks))
    return Proposals(torch.zeros(1, len(masks), 1), None, (Level(logits[None], told[None]),))


def overlaps(a: Box, b: Box) -> tuple[float, float]:
    """IoU and GIoU of two boxes of an extent."""
    across = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    down = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - across * down
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = across * down / union
    return iou, iou - (hull - union) / hull


def literal(one: Box, found: Sequence[Box], order: Sequence[int]) -> tuple[int, float]:
    """The nearest of the proposals in `order`, the first of equals, and its IoU."""
    best, near, fits = -1, -np.inf, np.nan
    for number in order:
        iou, giou = overlaps(one, found[number])
        closeness = iou if iou > 0 else giou
        if closeness > near:
            best, near, fits = number, closeness, iou
    return best, fits


@given(several, several, st.data())
def test_each_box_has_the_nearest_whoever_else_asks(
    ours: list[Box], theirs: list[Box], data: st.DataObject
) -> None:
    there = data.draw(st.lists(st.booleans(), min_size=len(theirs), max_size=len(theirs)))
    told = nearest_boxes(detections(theirs, there), asked(ours))
    order = [number for number, real in enumerate(there) if real]
    for row, one in enumerate(ours):
        number, iou = literal(one, theirs, order)
        assert int(told.proposal[0, row]) == number
        np.testing.assert_allclose(float(told.iou[0, row]), iou, atol=1e-6)
        alone = nearest_boxes(detections(theirs, there), asked([one]))
        assert int(alone.proposal[0, 0]) == number


@given(several, st.lists(boxes, min_size=3, max_size=3), st.permutations([0.0, 1.0, 2.0]))
def test_of_equals_the_surest(ours: list[Box], theirs: list[Box], sure: list[float]) -> None:
    """On a grid many masks have the same box: each of these has a double."""
    cells = np.zeros((6, *HW), bool)
    every = [*theirs, *theirs]
    surety = [*sure, *(value + 0.5 for value in sure)]
    for mask, (x0, y0, x1, y1) in zip(cells, every, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    told = nearest_boxes(queries(cells, surety), asked(ours))
    order = sorted(range(6), key=lambda number: -surety[number])
    assert told.proposal[0].tolist() == [literal(one, every, order)[0] for one in ours]


@pytest.mark.parametrize("geometry", [LETTERBOX, square_geometry((30, 50), (64, 64))])
def test_the_box_of_a_mask_is_tight_around_what_lies_in_the_image(geometry: Geometry) -> None:
    """Cell by cell; what a letterbox pads with is nowhere."""
    rng = np.random.default_rng(0)
    masks = rng.random((8, 16, 16)) < 0.02
    masks[0] = False
    masks[1, 0, 3] = masks[1, 8, 8] = True  # in a letterbox the first is padding
    (height, width), (sx, sy) = geometry.original_hw, geometry.scale_xy
    ox, oy = geometry.offset_xy
    for mask, box in zip(masks, tight_boxes(masks, geometry), strict=True):
        edges = []
        for y, x in zip(*np.nonzero(mask), strict=True):
            x0, x1 = ((4 * column - ox) / sx for column in (x, x + 1))
            y0, y1 = ((4 * line - oy) / sy for line in (y, y + 1))
            if 0 <= (x0 + x1) / 2 < width and 0 <= (y0 + y1) / 2 < height:
                edges.append((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))
        if edges:
            near, far = np.min(edges, axis=0), np.max(edges, axis=0)
            np.testing.assert_allclose(box, [*near[:2], *far[2:]], atol=1e-4)
        else:
            assert np.isnan(box).all()
    assert np.isnan(tight_boxes(masks, geometry)[0]).all()


@pytest.mark.parametrize("geometry", [PLAIN, LETTERBOX])
def test_what_fills_little_of_its_box_fits_it_wholly(geometry: Geometry) -> None:
    """A thin diagonal, beside a mask that would be the better one to a filled box."""
    diagonal, block = np.zeros((2, *geometry.net_hw), bool)
    diagonal[range(20, 30), range(20, 30)] = True
    block[20:28, 20:28] = True
    box = tight_boxes(diagonal[None], geometry)[0].tolist()
    told = nearest_boxes(queries(np.stack([block, diagonal])), asked([box], geometry))
    assert told.proposal.tolist() == [[1]]
    assert float(told.iou) == pytest.approx(1, abs=1e-5)


def test_an_empty_mask_is_last_and_no_proposal_is_none() -> None:
    nothing, far = np.zeros((2, *HW), bool)
    far[28:, 60:] = True
    told = nearest_boxes(queries(np.stack([nothing, far]), [9.0, 0.0]), asked([[0, 0, 4, 4]]))
    assert (told.proposal.tolist(), told.iou.tolist()) == ([[1]], [[0.0]])
    lone = nearest_boxes(queries(nothing[None]), asked([[0, 0, 4, 4]]))
    assert (lone.proposal.tolist(), lone.iou.tolist()) == ([[0]], [[0.0]])
    empty = nearest_boxes(detections([[0, 0, 4, 4]], [False]), asked([[0, 0, 4, 4]]))
    assert empty.proposal.tolist() == [[-1]]
    assert empty.iou.isnan().all()


def test_boxes_that_are_not_stated_have_none() -> None:
    nowhere = float("nan")
    objects = asked([[0, 0, 4, 4], [nowhere] * 4, [8, 8, 9, 9]])
    objects = replace(objects, known=torch.tensor([[True, True, False]]))
    told = nearest_boxes(detections([[0, 0, 5, 5]]), objects)
    assert told.proposal.tolist() == [[0, -1, -1]]
    assert told.iou.isnan().tolist() == [[False, True, True]]
    with pytest.raises(DataError, match="boxes"):
        nearest_boxes(detections([[0, 0, 5, 5]]), replace(objects, boxes=None))


def test_two_images_are_as_each_alone() -> None:
    rows = [[[0, 0, 4, 4], [9, 9, 20, 20]], [[5, 5, 9, 9], [0, 0, 30, 30]]]
    pairs = [
        (detections([[1, 1, 4, 4], [8, 8, 20, 20]], [True, number == 0]), asked(regions))
        for number, regions in enumerate(rows)
    ]
    both = Proposals(
        torch.zeros(2, 2, 1),
        torch.cat([p.there for p, _ in pairs if p.there is not None]),
        boxes=torch.cat([p.boxes for p, _ in pairs if p.boxes is not None]),
    )
    known = torch.cat([o.known for _, o in pairs])
    placed = torch.cat([o.boxes for _, o in pairs if o.boxes is not None])
    objects = NetObjects(known, known.long(), (PLAIN, PLAIN), boxes=placed)
    told = nearest_boxes(both, objects)
    for row, (proposals, one) in enumerate(pairs):
        alone = nearest_boxes(proposals, one)
        assert torch.equal(told.proposal[row : row + 1], alone.proposal)
        assert torch.equal(told.iou[row : row + 1], alone.iou)


def test_objects_of_data_sets_are_matched_as_before() -> None:
    """One to one from an IoU of 0.5; and not at all by boxes, if it is masks that were learned."""
    objects = asked([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]])
    found = detections([[0, 0, 10, 9], [18, 0, 24, 10]])
    made = DetectedThings(DetectedExtractorConfig(width=8, mlp_width=8))
    assert sorted(made.match(found, objects).proposal[0].tolist()) == [-1, -1, 0]
    assert nearest_boxes(found, objects).proposal.tolist() == [[0, 0, 1]]
    masks = Mask2FormerExtractor(mask2former_config())
    with pytest.raises(DataError, match="need the mask"):
        masks.match(queries(np.ones((1, *HW), bool)), objects)
