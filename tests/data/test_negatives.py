"""What an expression is told apart from: other refs of the same image first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.data.catalog import open_data
from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.negatives import TRIES, Negatives
from refseg.data.tokens import train_wordpiece
from refseg.data.transforms import PreprocessConfig, flip
from refseg.types import Labels, Sample
from tests.data.refer_trees import make_refer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReferDataset:
    """Refs 0 and 1 are about image 1, ref 2 alone about image 2; two sentences each."""
    folder = make_refer(tmp_path_factory.mktemp("tree"))
    return open_data(str(folder), "train", Labels())


def rows_of(data: ReferDataset, ref_id: int) -> list[int]:
    return [row for row in range(len(data)) if data.entry(row).ref_id == ref_id]


def texts_of(data: ReferDataset, ref_id: int) -> set[str]:
    return {data.entry(row).text for row in rows_of(data, ref_id)}


def test_the_other_refs_of_the_image_come_first(data: ReferDataset) -> None:
    others, rng = Negatives(data), np.random.default_rng(0)
    for row in rows_of(data, 0):
        drawn = Counter(others.draw(row, 400, rng))
        assert set(drawn) == texts_of(data, 1)  # every sentence of the other, none of its own
        assert min(drawn.values()) > 120


def test_refs_are_drawn_before_their_sentences() -> None:
    """A ref of many sentences is drawn no more often than one of few."""

    class Three:
        """Item 0 is asked about; ref 1 has one sentence, ref 2 nine; all about one image."""

        def __len__(self) -> int:
            return 11

        def groups_by_image(self) -> list[list[int]]:
            return [list(range(11))]

        def entry(self, row: int) -> object:
            ref = min(row, 2)
            return type("Entry", (), {"ref_id": ref, "text": f"{ref} {row}"})

    drawn = Negatives(Three()).draw(0, 2000, np.random.default_rng(1))  # type: ignore[arg-type]
    assert 900 < sum(text.startswith("1") for text in drawn) < 1100


def test_a_lonely_ref_gets_any_text_but_its_own(data: ReferDataset) -> None:
    others, rng = Negatives(data), np.random.default_rng(0)
    for row in rows_of(data, 2):
        drawn = set(others.draw(row, 300, rng))
        assert drawn == {data.entry(r).text for r in range(len(data))} - {data.entry(row).text}


def test_only_the_rows_that_are_learned_from_lend_texts(data: ReferDataset) -> None:
    rows = [*rows_of(data, 0)[:1], *rows_of(data, 2)]
    others, rng = Negatives(data, rows), np.random.default_rng(0)
    assert set(others.draw(rows[0], 200, rng)) == texts_of(data, 2)


def test_data_of_one_text_ends_all_the_same(data: ReferDataset) -> None:
    row = rows_of(data, 2)[0]
    others = Negatives(data, [row])
    assert others.draw(row, 2, np.random.default_rng(0)) == (data.entry(row).text,) * 2
    assert TRIES > 1


def test_the_same_generator_draws_the_same(data: ReferDataset) -> None:
    others = Negatives(data)
    first, again = (others.draw(0, 5, np.random.default_rng(7)) for _ in range(2))
    assert first == again


def test_no_label_is_opened(tmp_path: Path) -> None:
    data = open_data(str(make_refer(tmp_path)), "train", Labels())
    Negatives(data).draw(0, 3, np.random.default_rng(0))
    assert not data.records.tables_opened & {"boxes", "segmentations", "annotations", "categories"}


TOKENS = train_wordpiece(["left red ball", "the right cube on top"], size=120, max_words=8)
NET = PreprocessConfig(size=8)
SAMPLE = Sample(
    "a", np.zeros((8, 8, 3), np.uint8), "left ball", 1, 1, 1, negatives=("right ball", "the cube")
)


def test_they_mirror_with_the_picture() -> None:
    mirrored = flip(SAMPLE)
    assert mirrored.text == "right ball"
    assert mirrored.negatives == ("left ball", "the cube")
    assert flip(mirrored).negatives == SAMPLE.negatives


def test_a_batch_holds_them_row_by_row() -> None:
    other = replace(SAMPLE, key="b", negatives=("left cube on top", "red"))
    batch = collate([SAMPLE, other], TOKENS, NET)
    assert batch.negatives is not None
    assert batch.negative_mask is not None
    assert batch.negatives.shape == batch.negative_mask.shape
    assert batch.negatives.shape[:2] == (2, 2)
    for b, sample in enumerate((SAMPLE, other)):
        for n, text in enumerate(sample.negatives):
            alone = torch.from_numpy(TOKENS.encode([text]).words[0])
            assert torch.equal(batch.negatives[b, n][batch.negative_mask[b, n]], alone)
    moved = batch.to("meta")
    assert moved.negatives is not None
    assert moved.negatives.device.type == "meta"


def test_a_batch_without_any_says_so_and_uneven_ones_are_refused() -> None:
    none = replace(SAMPLE, negatives=())
    batch = collate([none, none], TOKENS, NET)
    assert batch.negatives is None
    assert batch.negative_mask is None
    with pytest.raises(ValueError, match="more negatives"):
        collate([SAMPLE, none], TOKENS, NET)
