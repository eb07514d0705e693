"""Sentences cut to their places, and what stands for one that lost its end (fact 16)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refseg.methods.tris.config import CutConfig
from refseg.methods.tris.encoders import TextReader, cut_words
from refseg.nn.clip import ClipTextConfig
from tests.methods.tris.toys import clip_text

VOCAB = clip_text().vocab_size
START, END = VOCAB - 2, VOCAB - 1  # the largest ids, as in CLIP's vocabulary
KEEP = (False, True)


def sentences(*lengths: int, places: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sentences of so many ids, start and end included, junk behind them."""
    generator = torch.Generator().manual_seed(seed)
    places = max(places, *lengths)
    words = torch.randint(5, START, (len(lengths), places), generator=generator)
    words[:, 0] = START
    for row, length in zip(words, lengths, strict=True):
        row[length - 1] = END
    return words, torch.arange(places) < torch.tensor(lengths)[:, None]


def reader(length: int = 6, *, keep_end: bool = False, sentence: bool = True) -> TextReader:
    torch.manual_seed(0)
    cut = CutConfig(length=length, keep_end=keep_end)
    return TextReader(clip_text(), cut, sentence=sentence).eval()


@torch.no_grad()
def embedded(reads: TextReader, words: Tensor, word_mask: Tensor) -> Tensor:
    sentence = reads(words, word_mask).sentence
    assert sentence is not None
    return sentence


@pytest.mark.parametrize("keep_end", KEEP)
@pytest.mark.parametrize("places", [0, 6, 9, 20])
def test_a_sentence_that_fits_is_filled_up_to_its_places(keep_end: bool, places: int) -> None:
    words, mask = sentences(3, 5, places=places)
    ids, real, end = cut_words(words, mask, CutConfig(length=6, keep_end=keep_end))
    for row, length in enumerate((3, 5)):
        assert ids[row].tolist() == [*words[row, :length].tolist(), *[0] * (6 - length)]
        assert real[row].tolist() == [True] * length + [False] * (6 - length)
        assert end[row] == length - 1


@pytest.mark.parametrize("keep_end", KEEP)
def test_a_sentence_that_just_fits_keeps_its_end(keep_end: bool) -> None:
    words, mask = sentences(6, places=9)
    ids, real, end = cut_words(words, mask, CutConfig(length=6, keep_end=keep_end))
    assert torch.equal(ids, words[:, :6])
    assert real.all()
    assert end.tolist() == [5]


def test_a_longer_one_loses_its_end_or_its_last_words() -> None:
    words, mask = sentences(9, 4)
    lost, real, end = cut_words(words, mask, CutConfig(length=6))
    assert torch.equal(lost[0], words[0, :6])
    assert real[0].all()
    assert end.tolist() == [0, 3]
    kept, real, end = cut_words(words, mask, CutConfig(length=6, keep_end=True))
    assert kept[0].tolist() == [*words[0, :5].tolist(), END]
    assert real[0].all()
    assert end.tolist() == [5, 3]
    assert torch.equal(kept[1], lost[1])


def test_the_end_is_where_the_released_code_looks_for_it() -> None:
    """There it is the place of the largest id among those that are left."""
    words, mask = sentences(3, 4, 5, 6, 7, 8, 12)
    ids, _, end = cut_words(words, mask, CutConfig(length=6))
    assert torch.equal(ids.argmax(dim=1), end)
    kept, _, end = cut_words(words, mask, CutConfig(length=6, keep_end=True))
    assert torch.equal(kept.argmax(dim=1), end)


@pytest.mark.parametrize("keep_end", KEEP)
def test_what_goes_in_is_left_alone_and_rows_are_blind_to_each_other(keep_end: bool) -> None:
    words, mask = sentences(3, 6, 12)
    before, cut = words.clone(), CutConfig(length=6, keep_end=keep_end)
    together = cut_words(words, mask, cut)
    assert torch.equal(words, before)
    for row, length in enumerate((3, 6, 12)):
        alone = cut_words(words[row : row + 1, :length], mask[row : row + 1, :length], cut)
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one[0], other[row])


def test_long_sentences_share_an_embedding_unless_they_keep_their_end() -> None:
    words, mask = sentences(9, 12, 4)
    first, second, short = embedded(reader(), words, mask)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    assert (first - short).abs().max() > 0.1
    first, second, again = embedded(reader(keep_end=True), words, mask)
    assert (first - second).abs().max() > 0.1
    torch.testing.assert_close(again, short)


def test_a_sentence_that_lost_its_end_is_its_start() -> None:
    reads = reader()
    words, mask = sentences(9)
    with torch.no_grad():
        _, start = reads.words(torch.tensor([[START]]), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(embedded(reads, words, mask), start, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("keep_end", KEEP)
def test_a_sentence_that_fits_is_clips_own(keep_end: bool) -> None:
    reads = reader(keep_end=keep_end)
    words, mask = sentences(6, 3)
    with torch.no_grad():
        states, sentence = reads.words(words, mask)
        read = reads(words, mask)
        torch.testing.assert_close(read.sentence, sentence)
        torch.testing.assert_close(read.states[mask], states[mask])
        assert torch.equal(read.mask, mask)
        torch.testing.assert_close(reads.joint(read.states)[0, 5], sentence[0])


def test_padding_of_the_batch_changes_no_place() -> None:
    """Also none of padding, which the released step 2 reads."""
    reads = reader(8)
    words, mask = sentences(3, 5)
    more, more_mask = sentences(3, 5, places=15, seed=1)
    more[mask.nonzero(as_tuple=True)] = words[mask]
    with torch.no_grad():
        assert torch.equal(reads(words, mask).states, reads(more, more_mask).states)


def test_padding_hears_the_words_and_says_so() -> None:
    reads = reader(8)
    words, mask = sentences(5)
    other = words.clone()
    other[0, 2] = 5 if words[0, 2] != 5 else 6
    with torch.no_grad():
        one, two = reads(words, mask).states[0], reads(other, mask).states[0]
    assert torch.equal(one[:2], two[:2])
    assert (one[5:] - two[5:]).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("keep_end", KEEP)
def test_a_judge_reads_at_the_same_end(keep_end: bool) -> None:
    """It is handed no place but a mask, at whose last place it reads."""
    reads = reader(keep_end=keep_end)
    words, mask = sentences(9, 12, 6, 3)
    ids, seen = reads.cut_for_judge(words, mask)
    with torch.no_grad():
        _, judged = reads.words(ids, seen)
    torch.testing.assert_close(judged, embedded(reads, words, mask), atol=1e-5, rtol=1e-5)


def test_without_a_sentence_the_projection_rests() -> None:
    words, mask = sentences(4)
    reads = reader(sentence=False)
    read = reads(words, mask)
    assert read.sentence is None
    read.states.sum().backward()
    frozen = [name for name, p in reads.named_parameters() if not p.requires_grad]
    assert frozen == ["words.projection.weight"]
    assert all(p.grad is not None for p in reads.parameters() if p.requires_grad)


def test_places_beyond_the_cut_learn_nothing() -> None:
    """Fact 9: rows 20 to 76 of CLIP's position table."""
    reads = TextReader(clip_text(max_positions=12), CutConfig(length=6))
    sentence = reads(*sentences(9, 5)).sentence
    assert sentence is not None
    sentence.square().sum().backward()
    tables = [p.grad for n, p in reads.named_parameters() if "position_embedding" in n]
    assert len(tables) == 1
    assert tables[0] is not None
    assert tables[0][:5].abs().sum(dim=1).min() > 0
    assert not tables[0][6:].any()


def test_the_published_text_side() -> None:
    """Fact 17, the temperature left out."""
    with torch.device("meta"):
        reads = TextReader(ClipTextConfig(), CutConfig())
    assert sum(p.numel() for p in reads.parameters()) == 63_690_241 - 1
