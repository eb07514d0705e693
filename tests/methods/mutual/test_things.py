"""Things that a detector tells of: what they are told as, and how they rank among others."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.methods.mutual.things import LOOKS, RANKS, Things, annotated_things, ranks, surest
from refseg.types import Geometry, NetObjects

Q = 3


def things(seed: int, images: int = 2, count: int = 5) -> Things:
    """Drawn things; of the last image one is padding."""
    torch.manual_seed(seed)
    corners = torch.rand(images, count, 2) * 0.6
    boxes = torch.cat([corners, corners + torch.rand(images, count, 2) * 0.4], dim=-1)
    there = torch.ones(images, count, dtype=torch.bool)
    there[-1, -1] = False
    classes = torch.rand(images, count, Q) * there[..., None]
    looks = torch.rand(images, count, LOOKS) * there[..., None]
    return Things(boxes * there[..., None], classes, there, looks, there.clone())


def literal_ranks(found: Things, image: int, one: int) -> list[float]:
    """Of one thing, other by other."""
    boxes, classes, there = found.boxes[image], found.classes[image], found.there[image]

    def place(row: int) -> tuple[float, float, float]:
        x0, y0, x1, y1 = boxes[row].tolist()
        return (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * (y1 - y0)

    def share(row: int) -> torch.Tensor:
        return classes[row] / classes[row].sum()

    counts = [0.0] * RANKS
    for other in range(len(boxes)):
        if not there[other]:
            continue
        sure = float(classes[other].max())
        alike = float(share(one) @ share(other))
        (x, y, a), (ox, oy, oa) = place(one), place(other)
        holds = [ox < x, ox > x, oy < y, oy > y, oa > a, oa < a]
        for index, true in enumerate(holds):
            counts[index] += true * sure
            counts[6 + index] += true * sure * alike
    return [count / (count + 2) for count in counts]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_ranks_count_one_by_one(seed: int) -> None:
    found = things(seed)
    told = ranks(found)
    for image in range(2):
        for row in torch.nonzero(found.there[image])[:, 0].tolist():
            wanted = torch.tensor(literal_ranks(found, image, row))
            torch.testing.assert_close(told[image, row], wanted, atol=1e-5, rtol=0)


def test_padding_counts_for_nobody() -> None:
    found = things(0)
    more = Things(
        *(torch.cat([part, torch.zeros_like(part)], dim=1) for part in vars(found).values())
    )
    torch.testing.assert_close(ranks(more)[:, :5], ranks(found))


def test_annotated_objects_are_of_one_class_beyond_doubt() -> None:
    geometry = Geometry((40, 80), (64, 64), (0.5, 0.5), (4.0, 8.0))
    boxes = torch.tensor(
        [[[4.0, 8, 24, 18], [24, 18, 44, 28], [float("nan")] * 4, [float("nan")] * 4]]
    )
    known = torch.tensor([[True, True, True, False]])
    objects = NetObjects(
        known, torch.tensor([[7, 8, 9, -1]]), (geometry,), boxes, categories=(("b", "c", "a"),)
    )
    found = annotated_things(objects, ("a", "b", "c"))
    assert found.there.tolist() == [[True, True, False, False]]  # the third has no box
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0, 0, 0.5, 0.5]))
    torch.testing.assert_close(found.boxes[0, 1], torch.tensor([0.5, 0.5, 1, 1]))
    assert found.classes[0].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert found.sure.tolist() == [[1, 1, 0, 0]]
    assert not found.looked.any()
    assert not found.looks.any()


def test_the_surest_come_first_and_the_doubtful_not_at_all() -> None:
    found = things(3, images=3, count=6)
    for least, most in ((0.5, 10), (0.5, 2), (0.99, 10), (0.01, 10)):
        kept = surest(found, least, most)
        for image in range(3):
            sure = [
                (float(found.sure[image, row]), found.boxes[image, row].tolist())
                for row in range(6)
                if found.there[image, row] and found.sure[image, row] >= least
            ]
            wanted = [box for _, box in sorted(sure, key=lambda pair: -pair[0])][:most]
            assert kept.boxes[image][kept.there[image]].tolist() == wanted
            for part in (kept.classes, kept.looks, kept.boxes):
                assert not part[image][~kept.there[image]].any()
            torch.testing.assert_close(kept.looked, kept.there)
        assert kept.there.shape[1] == max(int(kept.there.sum(dim=1).max()), 1)
    nothing = surest(found, 1.0, 10)
    assert nothing.there.tolist() == [[False]] * 3
