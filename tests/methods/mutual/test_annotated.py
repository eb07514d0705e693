"""Annotated objects as proposals: by category and box alone, whatever the net image is."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import pytest
import torch

from refseg.errors import ConfigError, DataError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.annotated import (
    AnnotatedObjects,
    box_features,
    geometry_width,
    relative_boxes,
)
from refseg.methods.mutual.classes import class_numbers
from refseg.methods.mutual.objects import objects_of
from refseg.types import Batch, Objects, Sample
from tests.methods.mutual.toy import shaken
from tests.methods.toy import answers, losses, toy_batch, toy_method
from tests.methods.toy_configs import SHAPES, annotated_config, mutual_config

BOXES = np.array([[4, 6, 20, 16], [30, 2, 50, 30], [10, 20, 60, 38]], np.float32)
KINDS = ("disc", "square", "square")


def extractor() -> AnnotatedObjects:
    torch.manual_seed(0)
    made: AnnotatedObjects = shaken(AnnotatedObjects(annotated_config())).float()
    return made


def objects(rows: tuple[int, ...] = (0, 1, 2)) -> Objects:
    take = list(rows)
    return Objects(np.arange(3)[take], tuple(KINDS[i] for i in take), BOXES[take])


def sample(number: int, target: int | None, seen: Objects | None = None) -> Sample:
    """A picture of 40 x 64 px without pixels; all of these objects unless others are given."""
    image, seen = np.zeros((40, 64, 0), np.uint8), objects() if seen is None else seen
    return Sample(
        f"s{number}", image, "left red disc", number, number, number, objects=seen, target=target
    )


def batch_of(*seen: Objects, fit: str = "square", target: int | None = 0) -> Batch:
    rows = [sample(n, target if len(one) else None, one) for n, one in enumerate(seen)]
    return toy_batch(rows, fit=fit)


def test_the_net_image_means_nothing() -> None:
    """Letterboxed or squeezed, a box is where it is in the original picture."""
    wanted = torch.from_numpy(BOXES) / torch.tensor([64.0, 40, 64, 40])
    made, seen = extractor(), []
    for fit in ("square", "letterbox"):
        batch = batch_of(objects(), fit=fit)
        torch.testing.assert_close(relative_boxes(objects_of(batch))[0], wanted)
        seen.append(made(batch).features)
    torch.testing.assert_close(*seen)


def test_a_box_in_numbers() -> None:
    x0, y0, x1, y1 = box = (0.1, 0.25, 0.4, 0.75)
    places = [*box, (x0 + x1) / 2, (y0 + y1) / 2]
    angles = [2**k * pi * place for place in places for k in range(3)]
    wanted = [*places, x1 - x0, y1 - y0, (x1 - x0) * (y1 - y0)]
    wanted += [*map(sin, angles), *map(cos, angles)]
    found = box_features(torch.tensor([box]), 3)
    assert found.shape == (1, geometry_width(3))
    torch.testing.assert_close(found[0], torch.tensor(wanted))
    assert box_features(torch.rand(2, 5, 4), 0).shape == (2, 5, geometry_width(0))


def test_category_and_box_both_tell_objects_apart() -> None:
    made = extractor()
    moved = replace(objects(), boxes_xyxy=BOXES[[1, 0, 2]])
    renamed = replace(objects(), categories=("square", "square", "square"))
    with torch.no_grad():
        base, other, named = (made(batch_of(o)).features[0] for o in (objects(), moved, renamed))
    far = [(base - one).abs().amax(dim=1) > 1e-3 for one in (other, named)]
    assert far[0].tolist() == [True, True, False]
    assert far[1].tolist() == [True, False, False]


def test_padding_is_not_there() -> None:
    made = extractor()
    batch = batch_of(objects(), objects((2,)))
    with torch.no_grad():
        found, alone = made(batch), made(batch_of(objects((2,))))
    assert found.there is not None
    assert found.there.tolist() == [[True] * 3, [True, False, False]]
    assert found.masks is None
    torch.testing.assert_close(found.features[1, :1], alone.features[0])
    assert found.features.isfinite().all()


def test_every_object_is_its_own_proposal() -> None:
    made = extractor()
    boxes = BOXES.copy()
    boxes[1] = np.nan
    batch = batch_of(replace(objects(), boxes_xyxy=boxes), objects((2, 0)))
    found = made(batch)
    matching = made.match(found, objects_of(batch))
    assert matching.proposal.tolist() == [[0, -1, 2], [0, 1, -1]]
    assert torch.equal(matching.iou.isnan(), matching.proposal < 0)
    assert (matching.iou[matching.proposal >= 0] == 1).all()
    assert made.loss(found, objects_of(batch), matching, 1.0) == {}


def test_objects_in_another_order_are_scored_in_that_order() -> None:
    method = shaken(toy_method("mutual annotated")).float()
    with torch.no_grad():
        straight = method(batch_of(objects())).scores
        for turn in ((2, 0, 1), (1, 0, 2)):
            turned = method(batch_of(objects(turn))).scores
            torch.testing.assert_close(turned, straight[:, list(turn)])
    assert straight.unique().numel() == 3


def test_an_object_without_a_box_is_never_chosen() -> None:
    """Nor heard of: the others score as if it were not in the picture."""
    method = shaken(toy_method("mutual annotated")).float()
    boxes = BOXES.copy()
    boxes[1] = np.nan
    batch = batch_of(replace(objects(), boxes_xyxy=boxes))
    with torch.no_grad():
        scores = method(batch).scores
        without = method(batch_of(objects((0, 2)))).scores
    assert scores[0, 1] == -torch.inf
    torch.testing.assert_close(scores[:, [0, 2]], without)
    (prediction,) = answers(method, batch)
    filled = np.zeros((40, 64), bool)
    x0, y0, x1, y1 = boxes[0 if scores[0, 0] > scores[0, 2] else 2].astype(int)
    filled[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(prediction.mask, filled)


def test_pictures_without_any_object() -> None:
    """No mask and no certainty, beside a picture that has some and alone."""
    method = shaken(toy_method("mutual annotated")).float()
    nothing = Objects(np.zeros(0, np.int64), (), np.zeros((0, 4), np.float32))
    for seen in ((objects(), nothing), (nothing, nothing)):
        batch = batch_of(*seen)
        *_, last = answers(method, batch)
        assert not last.mask.any()
        assert last.score == 0
        terms = losses(method, batch)
        assert all(bool(value.isfinite()) for value in terms.values())
        terms["total"].backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.parameters())


def test_no_pixels_are_needed_and_none_are_encoded() -> None:
    method = toy_method("mutual annotated")
    assert not method.reads_pixels
    assert method.reads_objects
    assert method.needs.granted == {"text", "box", "category"}
    with pytest.raises(ConfigError, match=r"(?s)annotated objects.*mutual-scenes"):
        method.encode_image(batch_of(objects()))


def test_unknown_categories_name_the_remedy() -> None:
    made = extractor()
    strange = replace(objects(), categories=("disc", "unicorn", "square"))
    with pytest.raises(DataError, match=r'(?s)"unicorn".*2.*method\.extractor\.classes'):
        made(batch_of(strange))
    with pytest.raises(DataError, match=r'(?s)categories.*objects=True.*"category"'):
        made(batch_of(replace(objects(), categories=None)))
    with pytest.raises(DataError, match=r'(?s)boxes.*objects=True.*"box"'):
        made(batch_of(replace(objects(), boxes_xyxy=None)))
    with pytest.raises(DataError, match="objects=True"):
        made(replace(batch_of(objects()), objects=None))


def test_names_to_numbers() -> None:
    seen = objects_of(batch_of(objects(), objects((2,))))
    numbers = [[SHAPES.index(kind) for kind in KINDS], [SHAPES.index("square"), 0, 0]]
    assert class_numbers(seen, SHAPES).tolist() == numbers
    # One name stands for everything, and nobody asks which.
    assert class_numbers(replace(seen, categories=None), ("thing",)).tolist() == [[0] * 3] * 2


def test_the_target_alone_can_be_described() -> None:
    """Target-only: the other objects do not matter to the generator (Table 3, a to c)."""
    config = mutual_config(annotated_config())
    indicator = config.generator.indicator.model_copy(update={"target_only": True})
    generator = config.generator.model_copy(update={"indicator": indicator})
    torch.manual_seed(0)
    method = shaken(Mutual(config.model_copy(update={"generator": generator}))).float()
    batch, alone = batch_of(objects()), batch_of(objects((0,)))
    with torch.no_grad():
        terms, other = losses(method, batch), losses(method, alone)
    torch.testing.assert_close(terms["generation"], other["generation"])
    assert not torch.isclose(terms["selection"], other["selection"])
