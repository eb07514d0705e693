"""Colours drawn by words: by a loop over all records, and what comes of it on the bundled ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from refseg.data.catalog import open_records
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.colour_words import colours_told
from refseg.methods.mutual.config import RECORDS
from refseg.methods.mutual.draws import drawn, share
from refseg.methods.mutual.simulated import Records
from refseg.methods.mutual.simulated_looks import (
    HEEDLESS,
    MADE_UP,
    OFTEN,
    OTHERS,
    _made_up,
    draw_looks,
)
from refseg.methods.mutual.things import LOOKS
from refseg.ops.colours import COLOURS, ZONES

Q, R = 3, 30
SALT = 11


def literal(
    looks: torch.Tensor, kinds: list[int], kind: list[int], ids: list[int], told: torch.Tensor
) -> list[torch.Tensor]:
    """One image, record by record. told: [K, ZONES, 11]."""
    drawn_looks = []
    zones = looks.view(len(looks), ZONES, -1)

    def much(row: int, zone: int, colour: int) -> float:
        return float(zones[row, :, colour].max() if zone == 0 else zones[row, zone, colour])

    for k, number in enumerate(ids):
        one = torch.tensor([[number]])
        own = [tuple(place) for place in torch.nonzero(told[k]).tolist()]
        wanted = own or [tuple(p[2:]) for p in torch.nonzero(_made_up(one, SALT)).tolist()]
        heeded = bool(wanted) and float(share(one, SALT ^ 0x4EED)) >= HEEDLESS
        rivals = {
            colour
            for other in range(len(ids))
            for _, colour in torch.nonzero(told[other]).tolist()
            if kind[other] == kind[k] and colour not in {c for _, c in own}
        }
        weights = []
        for row in range(len(looks)):
            weight = 1.0 if kinds[row] == kind[k] else OTHERS
            if heeded:
                mean = sum(much(row, zone, colour) for zone, colour in wanted) / len(wanted)
                weight *= mean**2 + 1e-6
            for colour in rivals:
                weight *= max(1 - much(row, 0, colour), 0.05)
            weights.append(weight)
        rows = []
        for turn in range(2):
            left, row = float(share(one, SALT ^ (0xC0105 + turn))) * sum(weights), 0
            while left >= weights[row] and row < len(weights) - 1:
                left -= weights[row]
                row += 1
            rows.append(row)
        part = 0.5 + 0.5 * float(share(one, SALT ^ 0xB1E4D))
        drawn_looks.append(part * looks[rows[0]] + (1 - part) * looks[rows[1]])
    return drawn_looks


@pytest.mark.parametrize("seed", range(6))
def test_record_by_record(seed: int) -> None:
    torch.manual_seed(seed)
    looks, kinds = torch.rand(R, LOOKS).double(), torch.arange(R) % Q
    kind = torch.randint(Q, (4, 5))
    ids = torch.arange(20).view(4, 5) + 100 * seed
    told = (torch.rand(4, 5, ZONES, len(COLOURS)) < 0.02).double()
    found = draw_looks(looks, kinds, kind, ids, told, SALT)
    for image in range(4):
        wanted = literal(
            looks, kinds.tolist(), kind[image].tolist(), ids[image].tolist(), told[image]
        )
        torch.testing.assert_close(found[image], torch.stack(wanted))


@pytest.mark.parametrize("colour", ["red", "green", "pink", "purple", "yellow", "black"])
@pytest.mark.parametrize("kind", ["person", "car", "umbrella"])
def test_a_colour_told_is_mostly_a_colour_seen(colour: str, kind: str) -> None:
    """More than 15 % of it somewhere in the object; else words would not mean what they say."""
    pool, count = Records.read(RECORDS), 400
    number = COLOURS.index(colour)
    told = torch.zeros(count, 1, ZONES, len(COLOURS))
    told[..., 0, number] = 1
    kinds = torch.full((count, 1), COCO_CLASSES.index(kind))
    ids = torch.arange(count)[:, None]
    found = draw_looks(pool.looks, pool.kinds, kinds, ids, told, 0)
    seen = (found.view(count, ZONES, -1)[..., number].amax(dim=1) > 0.15).double()
    assert float(seen.mean()) > 0.7
    nothing = draw_looks(pool.looks, pool.kinds, kinds, ids, torch.zeros_like(told), 0)
    without = (nothing.view(count, ZONES, -1)[..., number].amax(dim=1) > 0.15).double()
    assert float(seen.mean()) > float(without.mean()) + 0.05


def test_a_shirt_is_above_and_trousers_below() -> None:
    pool, count = Records.read(RECORDS), 400
    blue, ids = COLOURS.index("blue"), torch.arange(count)[:, None]
    halves = []
    for zone in (1, 2):
        told = torch.zeros(count, 1, ZONES, len(COLOURS))
        told[..., zone, blue] = 1
        found = draw_looks(pool.looks, pool.kinds, torch.zeros_like(ids), ids, told, 0)
        halves.append(found.view(count, ZONES, -1)[:, 1:, blue].mean(dim=0))
    assert halves[0][0] > 1.3 * halves[1][0]
    assert halves[1][1] > 1.3 * halves[0][1]


def test_colours_are_made_up_as_often_as_they_are_told() -> None:
    ids = torch.arange(40_000)[None]
    made = _made_up(ids, 3)[0]
    assert float(made.flatten(1).any(dim=1).double().mean()) == pytest.approx(MADE_UP, abs=0.01)
    assert not made[:, 1:].any()
    shares = made[:, 0].sum(dim=0) / made.sum()
    for name, wanted in OFTEN.items():
        assert float(shares[COLOURS.index(name)]) == pytest.approx(
            wanted / sum(OFTEN.values()), abs=0.02
        )
    assert drawn(ids, 3, 7).shape == ids.shape


def test_real_expressions_tell_colours_as_often_and_as_unevenly(shared_data: Path) -> None:
    """Of the objects that training expressions are about, and of all colours that these tell."""
    objects, counts = [], Counter[str]()
    for name in ("refcoco", "refcoco+"):
        records = open_records(shared_data / "refcoco_boxes" / name)
        names, codes = records.splits()
        train = names.index("train")
        for ref, code in zip(records.refs(), codes.tolist(), strict=True):
            if code == train:
                texts = [records.text("sentences", "raw", row) for row in ref.sent_rows]
                colours = [COLOURS[row] for text in texts for _, row in colours_told(text)]
                objects.append(bool(colours))
                counts.update(colours)
    assert sum(objects) / len(objects) == pytest.approx(MADE_UP, abs=0.03)
    for name, share_of in OFTEN.items():
        assert counts[name] / counts.total() == pytest.approx(share_of, abs=0.01)
