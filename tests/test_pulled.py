"""The default model by the weights that are pulled, on the two photographs of the package.

Skipped where they were not pulled: no test downloads anything.
"""

from __future__ import annotations

import numpy as np
import pytest

from refseg import models
from refseg.demo_photographs import PHOTOGRAPHS
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.nn.eyes import Eyes, Seen
from refseg.ops.boxes import box_iou
from refseg.predict import Predictor
from refseg.pull.kept import is_pulled, pulled_folder

pytestmark = pytest.mark.skipif(not is_pulled("photos"), reason="needs `refseg models pull photos`")
PICTURES = {one.name: one.read() for one in PHOTOGRAPHS}
#: Class, probability and box px of what is seen, and the share of the photograph that its mask has.
SEEN = {
    "coffee": [
        ("cup", 0.957, (173, 13, 410, 240), 0.174),
        ("dining table", 0.670, (2, 0, 597, 398), 0.479),
        ("spoon", 0.338, (339, 90, 464, 334), 0.039),
    ],
    "astronaut": [
        ("person", 0.768, (14, 15, 372, 510), 0.407),
        ("mouse", 0.375, (288, 344, 503, 509), 0.116),
    ],
}


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes.load(pulled_folder("photos"))


@pytest.mark.parametrize("name", SEEN)
def test_detector_and_masks_see_what_they_saw(eyes: Eyes, name: str) -> None:
    """As seen when the conversion agreed with the original graph's answers."""
    seen: Seen = eyes.look(PICTURES[name], least=0.3, most=20)
    assert len(seen) == len(SEEN[name])
    for row, (kind, chance, box, share) in enumerate(SEEN[name]):
        assert COCO_CLASSES[seen.chances[row].argmax()] == kind
        assert float(seen.chances[row].max()) == pytest.approx(chance, abs=0.01)
        assert float(box_iou(seen.boxes[row][None], np.array([box], np.float32))[0, 0]) > 0.97
        assert float(seen.masks.in_px([row]).mean()) == pytest.approx(share, abs=0.01)


@pytest.fixture(scope="module")
def asked() -> dict[str, Predictor]:
    model = models.load(models.find_model("photos"))
    return {name: Predictor(model).set_image(image) for name, image in PICTURES.items()}


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("coffee", "the cup", 0),
        ("coffee", "wooden table", 1),
        ("astronaut", "woman in orange", 0),
        ("astronaut", "smiling woman", 0),
    ],
)
def test_words_lead_to_the_thing(
    asked: dict[str, Predictor], name: str, text: str, row: int
) -> None:
    answer = asked[name].segment(text)
    assert answer.score is not None
    assert not answer.empty
    rows, columns = np.nonzero(answer.mask)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    assert float(box_iou(box, np.array([SEEN[name][row][2]], np.float32))[0, 0]) > 0.8


@pytest.mark.parametrize(("name", "text"), [("coffee", "the dog"), ("astronaut", "the bus")])
def test_what_is_not_there_is_told(asked: dict[str, Predictor], name: str, text: str) -> None:
    answer = asked[name].segment(text)
    assert answer.empty
    assert not answer.mask.any()
