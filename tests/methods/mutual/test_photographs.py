"""Detections in photographs as proposals: eyes that are told what to see."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from refseg.data.collate import collate, collate_pictures
from refseg.data.transforms import PreprocessConfig
from refseg.describe import describe, refer_back
from refseg.errors import ConfigError, DataError, ModelError, NoProposal
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import DetectedExtractorConfig
from refseg.methods.mutual.things import Things
from refseg.models import Model
from refseg.nn.eyes import CLASS_IDS, Seen, looks
from refseg.nn.mobile_sam import NOWHERE, BoxMasks
from refseg.ops.colours import COLOURS, ZONES, colour_names, colour_zones
from refseg.ops.images import corner_geometry
from refseg.predict import Predictor
from refseg.types import Objects, Picture, Sample
from tests.methods.toy import toy_tokenizer
from tests.methods.toy_configs import mutual_config

SIDE, CELLS = 64, 16
WHOLE = PreprocessConfig(size=SIDE, fit="whole")
#: Images by their size (rows, columns): boxes px, classes and probabilities.
SEEN: dict[tuple[int, int], tuple[list[list[float]], list[tuple[int, float]]]] = {
    (40, 64): ([[0, 0, 32, 40], [32, 8, 64, 40]], [(0, 0.9), (16, 0.4)]),
    (128, 64): ([[0, 64, 64, 128]], [(2, 0.7)]),
    (32, 32): ([], []),
}


@dataclass
class ToldEyes:
    """Sees what `SEEN` says of an image of that size, and counts how often it looks.

    thin: masks are diagonals of their boxes, which are filled otherwise.
    """

    asked: list[tuple[float, int]] = field(default_factory=list)
    thin: bool = False

    def look(self, image: NDArray[np.uint8], *, least: float, most: int) -> Seen:
        self.asked.append((least, most))
        height, width = image.shape[:2]
        boxes, kinds = SEEN[height, width]
        geometry = corner_geometry((height, width), SIDE)
        logits = torch.full((len(boxes), CELLS, CELLS), NOWHERE)
        chances = np.zeros((len(boxes), 80), np.float32)
        for row, (box, (kind, chance)) in enumerate(zip(boxes, kinds, strict=True)):
            x0, y0, x1, y1 = (
                round(v * s * CELLS / SIDE) for v, s in zip(box, geometry.scale_xy * 2, strict=True)
            )
            logits[row, y0:y1, x0:x1] = -8.0 if self.thin else 8.0
            logits[row, y0:y1, x0:x1].fill_diagonal_(8.0)
            chances[row, kind] = chance
        found = np.array(boxes, np.float32).reshape(-1, 4)
        masks = BoxMasks(logits, np.ones(len(boxes), np.float32), geometry)
        return Seen(found, chances, masks, looks(image, (logits > 0).numpy()))


def image(hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.full((*hw, 3), 90, np.uint8)


def model(eyes: ToldEyes | None = None) -> Model:
    torch.manual_seed(0)
    config = mutual_config(DetectedExtractorConfig(width=32, mlp_width=16, least=0.2, most=5))
    method = Mutual(config).eval()
    if eyes is not None:
        told: Any = eyes
        method.see_by(lambda: told)
    return Model("photos", "mutual", method, toy_tokenizer(), WHOLE, {})


def samples(*sizes: tuple[int, int]) -> list[Sample]:
    return [
        Sample(str(n), image(hw), f"left red {word}", n, n, n)
        for n, hw in enumerate(sizes)
        for word in ("disc", "square")
    ]


def batch_of(*sizes: tuple[int, int]) -> Any:
    return collate(samples(*sizes), toy_tokenizer(), WHOLE, share_images=True)


def test_whole_images_reach_the_method_once_each() -> None:
    batch = batch_of((40, 64), (128, 64))
    assert batch.images.shape == (2, 3, 0, 0)
    assert batch.originals is not None
    assert [one.shape for one in batch.originals] == [(40, 64, 3), (128, 64, 3)]
    assert batch.image_of.tolist() == [0, 0, 1, 1]
    assert batch.geometry[2] == corner_geometry((128, 64), SIDE)
    assert batch.to("cpu").originals is batch.originals
    bare = [Sample("0", np.zeros((40, 64, 0), np.uint8), "disc", 0, 0, 0)]
    assert collate(bare, toy_tokenizer(), WHOLE).originals is None
    pictures = collate_pictures([Picture(0, image((40, 64)))], WHOLE)
    assert pictures.originals is not None


def test_what_is_seen_becomes_proposals() -> None:
    eyes = ToldEyes()
    made = model(eyes)
    sizes = tuple(SEEN)
    with torch.no_grad():
        found = made.method.propose(batch_of(*sizes))
    assert eyes.asked == [(0.2, 5)] * 3
    assert found.there.tolist() == [[True, True], [True, False], [False, False]]
    boxes = [[0, 0, 0.5, 1], [0.5, 0.2, 1, 1], [0, 0.5, 1, 1]]
    torch.testing.assert_close(found.boxes[found.there], torch.tensor(boxes))
    classes = torch.zeros(3, 80)
    for row, (kind, chance) in enumerate(((0, 0.9), (16, 0.4), (2, 0.7))):
        classes[row, kind] = chance
    # As the same things would be embedded that an annotation tells.
    spread = torch.zeros(3, 2, 80).index_put((found.there,), classes)
    gray = torch.zeros(3, 2, ZONES, len(COLOURS))
    gray[found.there] = torch.eye(len(COLOURS))[COLOURS.index("gray")]
    told = Things(found.boxes, spread, found.there, gray.flatten(2), found.there)
    same = made.method.extractor.embed(told)
    torch.testing.assert_close(found.features, same.features)
    level = found.levels[-1]
    chance = level.classes.softmax(dim=-1)[found.there]
    torch.testing.assert_close(chance[:, :80], classes, atol=1e-4, rtol=0)
    torch.testing.assert_close(chance[:, 80], 1 - classes.amax(dim=1), atol=1e-4, rtol=0)
    assert (level.masks[~found.there] == NOWHERE).all()


def test_pictures_are_looked_at_once_however_many_questions() -> None:
    eyes = ToldEyes()
    made = model(eyes)
    predictor = Predictor(made).set_image(image((40, 64)))
    answers = predictor.segment(["left red disc", "square"])
    alone = made.predict(samples((40, 64)))[0]
    assert len(eyes.asked) == 2  # once for each of the two ways
    told = predictor.segment("left red disc")
    assert told.score == pytest.approx(alone.score, abs=1e-6)
    halves = [np.zeros((40, 64), bool), np.zeros((40, 64), bool)]
    halves[0][:, :32] = True
    halves[1][8:, 32:] = True
    for one in (*answers, told):
        overlap = max((one.mask & half).sum() / (one.mask | half).sum() for half in halves)
        assert overlap > 0.9
    assert len(eyes.asked) == 2
    assert all(one.candidates is told.candidates for one in answers)  # one array, whoever asks


def test_nothing_detected_is_no_mask_and_no_certainty() -> None:
    made = model(ToldEyes())
    first, *_ = made.predict(samples((32, 32)))
    assert not first.mask.any()
    assert first.score == 0
    assert first.empty
    mixed = made.predict(samples((32, 32), (40, 64)))
    assert not mixed[0].mask.any()
    assert mixed[-1].mask.any()
    assert [one.empty for one in mixed] == [True, True, False, False]


def test_a_region_is_described_by_the_detection_that_fits() -> None:
    made = model(ToldEyes())
    right = np.zeros((40, 64), bool)
    right[8:, 32:] = True
    objects = Objects(np.array([1]), None, None, (right,))
    (told,) = describe(made, [Picture(0, image((40, 64)), objects)], [(0, 0)])
    assert told.proposal == 1
    assert told.iou is not None
    assert told.iou > 0.9


def test_a_box_is_compared_with_the_boxes_of_detections() -> None:
    """Drawn around something thin it fits, though most of it is not that thing."""
    made = model(ToldEyes(thin=True))
    predictor = Predictor(made).set_image(image((40, 64)))
    assert [one.found_xyxy for one in predictor.propose()] == [
        pytest.approx(np.array(box)) for box in SEEN[40, 64][0]
    ]
    for number, (x0, y0, x1, y1) in enumerate(SEEN[40, 64][0]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert predictor.describe((x0, y0, x1, y1))
        told = predictor.describe_region((x0, y0, x1, y1), verify=True)
        assert told.proposal == number
        assert told.iou == pytest.approx(1, abs=1e-6)
        filled = np.zeros((40, 64), bool)
        filled[int(y0) : int(y1), int(x0) : int(x1)] = True
        as_mask = predictor.describe_region(filled)
        thin = next(one.mask for one in predictor.propose() if one.number == as_mask.proposal)
        assert as_mask.iou == (thin & filled).sum() / (thin | filled).sum() < 0.5
        with pytest.warns(UserWarning, match=f"an IoU of {as_mask.iou:.2f}"):
            predictor.describe(filled)


@pytest.mark.parametrize(
    ("box", "number", "iou"),
    [
        ((0.0, 0, 32, 16), 0, 0.4),  # of what it lies in
        ((34.0, 8, 50, 16), 1, 0.125),
        ((40.0, 1, 60, 7), 1, 0.0),  # it touches neither; the other one is farther off
    ],
)
def test_a_box_that_fits_badly_is_told_with_its_iou(
    box: tuple[float, ...], number: int, iou: float
) -> None:
    predictor = Predictor(model(ToldEyes())).set_image(image((40, 64)))
    told = predictor.describe_region(box)
    assert told.proposal == number
    assert told.iou == pytest.approx(iou, abs=1e-6)
    assert told.expressions
    with pytest.warns(UserWarning, match=f"nearest to the region has an IoU of {iou:.2f} with it"):
        assert tuple(predictor.describe(box)) == told.expressions


def test_an_expression_that_leads_to_a_double_leads_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boxes: list[list[float]] = [[0, 0, 30, 40], [1, 0, 31, 40], [34, 0, 60, 50]]
    monkeypatch.setitem(SEEN, (50, 60), (boxes, [(0, 0.9), (5, 0.5), (0, 0.4)]))
    made = model(ToldEyes())
    batch = batch_of((50, 60))
    proposals = made.method.propose(batch)
    image_of, target = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    same = made.method.alike(proposals, image_of, target)
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    scores = torch.tensor([0.0, 2.0, 1.0])
    monkeypatch.setattr(made.method, "score", lambda *_: scores[None])
    chance = scores.softmax(0).tolist()
    own = Objects(np.array([7]), boxes_xyxy=np.array([boxes[0]], np.float32))
    seen = replace(Picture(0, image((50, 60))), objects=own)
    (verdict,) = refer_back(made, [seen], [(0, 0)], ["left red disc"])
    assert verdict.hit
    assert verdict.margin == pytest.approx(chance[0] + chance[1] - chance[2], abs=1e-5)
    made.method.see_by(None)
    alone = made.method.alike(proposals, image_of, target)
    assert alone.tolist() == torch.eye(3).bool().tolist()


def test_where_nothing_is_detected_nothing_is_described() -> None:
    """Padding stands for nothing, alone and beside a picture in which more was seen."""
    made = model(ToldEyes())
    empty = Picture(
        0, image((32, 32)), Objects(np.array([1]), None, None, (np.ones((32, 32), bool),))
    )
    region = np.zeros((40, 64), bool)
    region[:, :20] = True
    full = Picture(1, image((40, 64)), Objects(np.array([2]), None, None, (region,)))
    for pictures in ([empty], [empty, full]):
        asked = [(row, 0) for row in range(len(pictures))]
        told = describe(made, pictures, asked, strict=False, verify=True)
        assert (told[0].expressions, told[0].iou, told[0].proposal) == ((), 0.0, -1)
        verdicts = refer_back(made, pictures, asked, ["red disc"] * len(asked), strict=False)
        assert (verdicts[0].hit, verdicts[0].matched, verdicts[0].margin) == (False, False, -1)
        assert all(one.proposal == 0 for one in told[1:])
    with pytest.raises(NoProposal):
        describe(made, [empty], [(0, 0)])
    predictor = Predictor(made).set_image(image((32, 32)))
    with pytest.raises(DataError, match="found no object in the image"):
        predictor.describe((2.0, 2.0, 20.0, 20.0))
    assert [one.mask.any() for one in predictor.propose()] == []


def test_more_regions_than_detections_leave_some_without() -> None:
    """An image with one detection, padded beside one with two."""
    made = model(ToldEyes())
    halves = tuple(np.zeros((128, 64), bool) for _ in range(2))
    halves[0][:64], halves[1][64:] = True, True
    lone = Picture(0, image((128, 64)), Objects(np.arange(2), None, None, halves))
    rich = Picture(
        1, image((40, 64)), Objects(np.array([5]), None, None, (np.ones((40, 64), bool),))
    )
    told = describe(made, [lone, rich], [(0, 0), (0, 1), (1, 0)], strict=False)
    assert [one.proposal for one in told[:2]] == [-1, 0]


@pytest.mark.parametrize("pixels", [True, False])
def test_without_eyes_it_takes_what_is_annotated(pixels: bool) -> None:
    made = model()
    assert (made.method.reads_pixels, made.method.reads_objects) == (False, True)
    with pytest.raises(ConfigError, match="sees no pixels"):
        made.method.encode_image(batch_of((40, 64)))
    made.method.see_by(lambda: None)
    assert (made.method.reads_pixels, made.method.reads_objects) == (True, False)
    made.method.see_by(None)
    assert made.method.reads_objects
    objects = Objects(
        np.array([3, 4]), ("person", "dog"), np.array([[0, 0, 9, 9], [4, 4, 20, 30]], np.float32)
    )
    hw = (40, 64)
    shown = image(hw) if pixels else np.zeros((*hw, 0), np.uint8)
    scores = made.scores([Sample("0", shown, "red disc", 0, 0, 0, objects=objects)])
    assert scores[0].shape == (2,)


def test_eyes_that_are_shut_say_so() -> None:
    made = model(ToldEyes())
    bare = [Sample("0", np.zeros((40, 64, 0), np.uint8), "red disc", 0, 0, 0)]
    with pytest.raises(DataError, match=r"(?s)photographs as they are.*whole"):
        made.predict(bare)

    def closed() -> Any:
        raise ModelError("photos has not been pulled", remedy="refseg models pull photos")

    made.method.see_by(closed)
    with pytest.raises(ModelError, match="pull photos"):
        Predictor(made).set_image(image((40, 64)))


def test_colours_are_looked_at_on_the_grid_of_the_masks() -> None:
    """Of a picture as large as the grid, to the pixel; padding counts for none."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (CELLS // 2, CELLS, 3), np.uint8)
    masks = rng.random((3, CELLS, CELLS)) < 0.5
    wanted = [colour_zones(colour_names(picture), mask[: CELLS // 2]).ravel() for mask in masks]
    np.testing.assert_allclose(looks(picture, masks), wanted)
    assert looks(picture, masks[:0]).shape == (0, 33)
    tall = rng.integers(0, 255, (4000, 30, 3), np.uint8)
    assert np.isfinite(looks(tall, masks)).all()


def test_coco_has_eighty_classes() -> None:
    assert len(CLASS_IDS) == 80
    assert CLASS_IDS[0] == 1
    assert CLASS_IDS[-1] == 90
