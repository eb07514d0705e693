"""Simulated detections: drawn from records, the same for an object whatever else is asked."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.errors import ModelError
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.detected import RECORDS
from refseg.methods.mutual.simulated import (
    CANDIDATES,
    FAINT,
    HALF,
    SIZES,
    Records,
    Simulation,
    _drawn,
    size_bins,
)
from refseg.methods.mutual.things import LOOKS, Things
from refseg.ops.colours import COLOURS, ZONES

Q = 4


def records(count: int = 12, seed: int = 0) -> Records:
    """Two detections of an object, one beside; every third object is not found."""
    torch.manual_seed(seed)
    chances = torch.rand(count, 2, 2).sort(dim=-1, descending=True).values
    chances[::3] = 0
    return Records(
        torch.arange(count) % Q,
        torch.arange(count) % (len(SIZES) + 1),
        torch.randn(count, 2, 4) * 0.1,
        torch.stack([torch.randperm(Q)[:2] for _ in range(2 * count)]).view(count, 2, 2),
        chances,
        torch.tensor([[[0.1, 0.2, 0.5, 0.6]], [[0.3, 0.3, 0.4, 0.9]]]),
        torch.tensor([[[1, 2]], [[3, 0]]]),
        torch.tensor([[[0.6, 0.2]], [[0.0, 0.0]]]),
        torch.rand(count, LOOKS).round(decimals=2),
    )


def annotated(seed: int, images: int = 3, count: int = 4) -> tuple[Things, torch.Tensor]:
    torch.manual_seed(seed)
    corners = torch.rand(images, count, 2) * 0.5
    boxes = torch.cat([corners, corners + 0.1 + torch.rand(images, count, 2) * 0.4], dim=-1)
    kinds = torch.randint(Q, (images, count))
    there = torch.ones(images, count, dtype=torch.bool)
    there[-1, -2:] = False
    classes = torch.nn.functional.one_hot(kinds, Q).float() * there[..., None]
    ids = torch.arange(images * count).view(images, count) + 1000 * seed
    return Things.unseen(boxes * there[..., None], classes, there), ids.masked_fill(~there, -1)


def literal(
    things: Things, ids: torch.Tensor, simulation: Simulation, salt: int, image: int
) -> list:
    """(box, classes) of one image's detections, object by object."""
    pool, found = simulation.records, []
    rows = [k for k in range(ids.shape[1]) if things.there[image, k]]
    for k in rows:
        x0, y0, x1, y1 = things.boxes[image, k].tolist()
        kind = int(things.classes[image, k].argmax())
        bin_ = sum((x1 - x0) * (y1 - y0) >= edge for edge in SIZES)
        column = int(_drawn(ids[image, k], salt, CANDIDATES))
        row = int(simulation.like[kind, bin_, column])
        for shift, numbers, chances in zip(
            pool.boxes[row].tolist(),
            pool.classes[row].tolist(),
            pool.chances[row].tolist(),
            strict=True,
        ):
            if chances[0] == 0:
                continue
            cx = (x0 + x1) / 2 + shift[0] * (x1 - x0)
            cy = (y0 + y1) / 2 + shift[1] * (y1 - y0)
            w, h = exp(shift[2]) * (x1 - x0), exp(shift[3]) * (y1 - y0)
            box = [min(max(v, 0), 1) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
            other = int(pool.kinds[row])
            told = [0.0] * Q
            for number, chance in zip(numbers, chances, strict=True):
                swapped = {other: kind, kind: other}.get(number, number)
                told[swapped] = max(told[swapped], chance)
            found.append((box, told))
    if rows:
        first = min(int(ids[image, k]) for k in rows)
        row = int(_drawn(torch.tensor(first), salt ^ 0x5EED, len(pool.beside_boxes)))
        for box, numbers, chances in zip(
            pool.beside_boxes[row].tolist(),
            pool.beside_classes[row].tolist(),
            pool.beside_chances[row].tolist(),
            strict=True,
        ):
            if chances[0]:
                told = [0.0] * Q
                for number, chance in zip(numbers, chances, strict=True):
                    told[number] = max(told[number], chance)
                found.append((box, told))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_one_by_one(seed: int) -> None:
    simulation = Simulation.of(records(), Q)
    things, ids = annotated(seed)
    found = simulation(things, ids, salt=seed)
    for image in range(len(ids)):
        wanted = literal(things, ids, simulation, seed, image)
        there = found.there[image]
        assert int(there.sum()) == len(wanted)
        torch.testing.assert_close(
            found.boxes[image][there], torch.tensor([b for b, _ in wanted]).view(-1, 4)
        )
        torch.testing.assert_close(
            found.classes[image][there], torch.tensor([c for _, c in wanted]).view(-1, Q)
        )
        assert not found.classes[image][~there].any()


def test_a_fate_hangs_on_object_and_salt_alone() -> None:
    simulation = Simulation.of(records(), Q)
    things, ids = annotated(1)
    whole = simulation(things, ids, salt=5)
    turned = torch.tensor([[1, 0, 3, 2]]).expand(len(ids), -1)
    again = simulation(things.at(turned), ids.gather(1, turned), salt=5)
    assert _as_set(whole, 0) == _as_set(again, 0)
    alone = simulation(_first(things), ids[:1], salt=5)
    assert _as_set(whole, 0) == _as_set(alone, 0)
    salts = {frozenset(_as_set(simulation(things, ids, salt), 0)) for salt in range(20)}
    assert len(salts) > 10


def _first(things: Things) -> Things:
    return Things(*(part[:1] for part in vars(things).values()))


def _as_set(things: Things, image: int) -> set[tuple[float, ...]]:
    return {tuple(box) for box in things.boxes[image][things.there[image]].tolist()}


def test_objects_look_as_words_tell_of_them() -> None:
    """Which record's looks stand for an object, by weights added up one by one."""
    simulation = Simulation.of(records(40), Q)
    pool = simulation.records
    things, ids = annotated(2, images=30)
    colours = torch.zeros(*ids.shape, len(COLOURS))
    colours[:, 0, 3], colours[:, 1, [2, 5]] = 1, 1
    found = simulation(things, ids, 4, colours)
    assert (found.looked == found.there).all()
    places = found.there[:, : ids.shape[1] * 2].view(*ids.shape, 2)
    looks = found.looks[:, : ids.shape[1] * 2].view(*ids.shape, 2, LOOKS)
    for image, k in torch.nonzero(places.any(dim=-1)).tolist():
        x0, y0, x1, y1 = things.boxes[image, k].tolist()
        kind = int(things.classes[image, k].argmax())
        rows = simulation.like[kind, int(size_bins(torch.tensor((x1 - x0) * (y1 - y0))))].tolist()
        told = torch.nonzero(colours[image, k])[:, 0].tolist()
        weights = [1.0] * len(rows)
        if told:
            most = [pool.looks[row].view(ZONES, -1).amax(dim=0) for row in rows]
            weights = [sum(float(m[c]) for c in told) / len(told) + FAINT for m in most]
        share = int(_drawn(ids[image, k], 4 ^ 0xC0105, 2**20)) / 2**20 * sum(weights)
        left, place = share, 0
        while left >= weights[place]:
            left -= weights[place]
            place += 1
        for look in looks[image, k][places[image, k]]:
            torch.testing.assert_close(look, pool.looks[rows[place]])
    without = simulation(things, ids, 4)
    assert not without.looked.any()
    torch.testing.assert_close(without.boxes, found.boxes)  # looks change no other fate
    torch.testing.assert_close(without.classes, found.classes)


def test_a_colour_told_is_a_colour_seen_more_often() -> None:
    simulation = Simulation.of(Records.read(RECORDS), len(COCO_CLASSES))
    count = 400
    boxes = torch.tensor([0.2, 0.1, 0.6, 0.9]).expand(count, 1, 4)
    classes = torch.eye(80)[0].expand(count, 1, 80)  # persons
    things = Things.unseen(boxes, classes, torch.ones(count, 1, dtype=torch.bool))
    ids = torch.arange(count)[:, None]
    red = COLOURS.index("red")
    shares = {}
    for name, told in (("nothing", []), ("red", [red])):
        colours = torch.zeros(count, 1, len(COLOURS))
        colours[..., told] = 1
        found = simulation(things, ids, 0, colours)
        first = found.looks[:, 0].view(count, ZONES, -1)[found.there[:, 0]]
        shares[name] = float(first.amax(dim=1)[:, red].mean())
    assert shares["red"] > 3 * shares["nothing"]


def test_pictures_without_objects_show_nothing() -> None:
    simulation = Simulation.of(records(), Q)
    none = Things.unseen(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, Q), torch.zeros(2, 1, dtype=torch.bool)
    )
    found = simulation(none, torch.full((2, 1), -1), salt=0)
    assert not found.there.any()
    assert not found.boxes.any()


def test_draws_are_even_and_unlike() -> None:
    ids = torch.arange(20_000)
    for salt in (0, 1, 2**31 - 1):
        counts = _drawn(ids, salt, 50).bincount(minlength=50).double()
        assert float(((counts - 400) ** 2 / 400).sum()) < 90  # chi squared, 49 degrees: p > 0.0003
    assert float((_drawn(ids, 0, 50) == _drawn(ids, 1, 50)).double().mean()) < 0.03


def test_the_more_records_of_a_class_the_more_they_are_drawn_from() -> None:
    pool = records(120)
    like = Simulation.of(pool, Q).like
    for kind in range(Q):
        for size in range(len(SIZES) + 1):
            own = (pool.kinds == kind) & (pool.bins == size)
            wanted = round(CANDIDATES * int(own.sum()) / (int(own.sum()) + HALF))
            assert int(own[like[kind, size]].sum()) >= wanted
            assert (pool.bins[like[kind, size]] == size).all()
    # A class and size that nobody has seen is drawn from all of that size.
    lone = Simulation.of(records(5), Q)
    assert (lone.records.bins[lone.like[3, 1]] == 1).all()


def test_size_bins_by_their_edges() -> None:
    areas = torch.tensor([0.0, 0.0099, 0.01, 0.0299, 0.03, 0.1, 0.29, 0.3, 1.0])
    assert size_bins(areas).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]


def test_records_come_back(tmp_path: Path) -> None:
    made = records()
    made.save(tmp_path / "records.npz")
    back = Records.read(tmp_path / "records.npz")
    for name, value in vars(made).items():
        torch.testing.assert_close(getattr(back, name), value, atol=2e-3, rtol=1e-3)
        assert getattr(back, name).dtype == value.dtype


@pytest.mark.parametrize("content", [None, b"nothing", b""])
def test_what_is_no_record_says_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "records.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"(?s)records\.npz.*install refseg again"):
        Records.read(path)
    np.savez(path, kinds=np.zeros(1))
    with pytest.raises(ModelError, match="no records"):
        Records.read(path)


def test_the_bundled_records_are_of_coco() -> None:
    pool = Records.read(RECORDS)
    assert len(pool) > 3000
    assert int(pool.classes.max()) < len(COCO_CLASSES)
    assert (pool.kinds.unique() >= 0).all()
    assert set(pool.bins.tolist()) == set(range(len(SIZES) + 1))
    assert ((pool.chances >= 0) & (pool.chances <= 1)).all()
    assert (pool.chances[..., :-1] >= pool.chances[..., 1:]).all()
    seen = pool.chances[..., 0] > 0
    assert (seen[:, :-1] | ~seen[:, 1:]).all()  # detections first, padding last
