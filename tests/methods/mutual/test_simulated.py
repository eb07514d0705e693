"""Simulated detections: drawn from records, the same for an object whatever else is asked."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.errors import ModelError
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.config import RECORDS
from refseg.methods.mutual.draws import drawn, share
from refseg.methods.mutual.simulated import (
    CANDIDATES,
    HALF,
    SIZES,
    Records,
    Simulation,
    size_bins,
)
from refseg.methods.mutual.simulated_looks import draw_looks
from refseg.methods.mutual.things import LOOKS, Things
from refseg.ops.boxes import box_iou
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
        torch.arange(count) % 2,
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
        column = int(drawn(ids[image, k], salt, CANDIDATES))
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
        frequent = int(things.classes[image].sum(dim=0).argmax())
        holds = sorted(
            {int(p) for p, k in zip(pool.photos, pool.kinds, strict=True) if k == frequent}
        )
        holds = holds or [0, 1]
        column = int(drawn(torch.tensor(first), salt ^ 0x5EED, CANDIDATES))
        row = holds[column * len(holds) // CANDIDATES]
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


def test_looks_change_no_other_fate() -> None:
    simulation = Simulation.of(records(40), Q)
    things, ids = annotated(2, images=30)
    colours = torch.zeros(*ids.shape, ZONES, len(COLOURS))
    colours[:, 0, 0, 3] = 1
    found, without = simulation(things, ids, 4, colours), simulation(things, ids, 4)
    assert (found.looked == found.there).all()
    assert not without.looked.any()
    torch.testing.assert_close(without.boxes, found.boxes)
    torch.testing.assert_close(without.classes, found.classes)


def test_a_detection_has_its_objects_colours_as_far_as_it_fits() -> None:
    simulation = Simulation.of(records(40), Q)
    things, ids = annotated(2, images=30)
    told = torch.zeros(*ids.shape, ZONES, len(COLOURS))
    found, places = simulation(things, ids, 4, told), ids.shape[1] * 2
    pool, kind = simulation.records, things.classes.argmax(dim=-1)
    own = draw_looks(pool.looks, pool.kinds, kind, ids, told, 4)
    for image, place in torch.nonzero(found.there[:, :places]).tolist():
        k, d = divmod(place, 2)
        fit = box_iou(things.boxes[image, k][None].numpy(), found.boxes[image, place][None].numpy())
        other = pool.looks[int(drawn(ids[image, k] * 2 + d, 4 ^ 0x07E4, len(pool)))]
        wanted = float(fit[0, 0]) * own[image, k] + (1 - float(fit[0, 0])) * other
        torch.testing.assert_close(found.looks[image, place], wanted, atol=1e-5, rtol=0)


def test_colours_are_drawn_for_what_is_there_alone() -> None:
    """Padding gets none, and what it is told changes nothing for the others."""
    pool, (things, ids) = records(40), annotated(2, images=30)
    there = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    told = torch.zeros(*ids.shape, ZONES, len(COLOURS))
    told[:, ::2, 0, 3] = 1
    kind = things.classes.argmax(dim=-1)
    told = told * there[..., None, None]
    found = draw_looks(pool.looks, pool.kinds, kind, ids, told, 4, there=there)
    whole = draw_looks(pool.looks, pool.kinds, kind, ids, told, 4)
    torch.testing.assert_close(found[there], whole[there])
    assert found[there].any()
    assert not found[~there].any()
    assert not draw_looks(pool.looks, pool.kinds, kind, ids, told, 4, there=there & ~there).any()


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
    shares = share(ids, 9)
    assert float(shares.min()) >= 0
    assert float(shares.max()) < 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    for salt in (0, 1, 2**31 - 1):
        counts = drawn(ids, salt, 50).bincount(minlength=50).double()
        assert float(((counts - 400) ** 2 / 400).sum()) < 90  # chi squared, 49 degrees: p > 0.0003
    assert float((drawn(ids, 0, 50) == drawn(ids, 1, 50)).double().mean()) < 0.03


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
    records().save(path)
    path.write_bytes(path.read_bytes()[:-200])  # cut off, as by a full disk
    with pytest.raises(ModelError, match="no records"):
        Records.read(path)
    np.savez(path, kinds=np.zeros(1))
    with pytest.raises(ModelError, match="no records"):
        Records.read(path)


def test_the_bundled_records_are_of_coco() -> None:
    pool = Records.read(RECORDS)
    assert len(pool) > 3000
    assert int(pool.classes.max()) < len(COCO_CLASSES)
    assert int(pool.kinds.max()) < len(COCO_CLASSES)
    assert set(pool.photos.tolist()) <= set(range(len(pool.beside_boxes)))
    sums = pool.looks.view(len(pool), ZONES, -1)[:, 0].sum(dim=-1)
    assert float(((sums - 1).abs() < 0.03).double().mean()) > 0.99  # a few are too thin for a cell
    assert set(pool.bins.tolist()) == set(range(len(SIZES) + 1))
    assert ((pool.chances >= 0) & (pool.chances <= 1)).all()
    assert (pool.chances[..., :-1] >= pool.chances[..., 1:]).all()
    seen = pool.chances[..., 0] > 0
    assert (seen[:, :-1] | ~seen[:, 1:]).all()  # detections first, padding last
