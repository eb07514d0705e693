"""Tokenizers: what is cut is counted, what is unknown stays in place, the same for every run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from refseg.data.tokens import (
    MAX_CHARACTERS,
    SPECIALS,
    WordTokenizer,
    clean,
    load_tokenizer,
    train_wordpiece,
    wordpiece,
)
from refseg.errors import ExpressionError, ModelError

PAD, UNK, CLS, SEP = range(4)
TEXTS = [
    "left red ball",
    "striped mug behind the cube",
    "the 2nd cone from right",
    "biggest shiny ring",
    "small blue cylinder on the left",
]


@pytest.fixture(scope="module")
def tokens() -> WordTokenizer:
    return train_wordpiece(TEXTS, size=200, max_words=8)


def test_special_ids_are_berts(tokens: WordTokenizer) -> None:
    ids = [tokens.tokenizer.token_to_id(name) for name in SPECIALS]
    assert ids == [0, 1, 2, 3, 4]
    assert SPECIALS[:4] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def test_a_text_stands_between_cls_and_sep(tokens: WordTokenizer) -> None:
    found = tokens.encode(["left red ball", "ring"])
    assert found.words.dtype == np.int64
    assert found.mask.dtype == np.bool_
    assert (found.words[:, 0] == CLS).all()
    for row, mask in zip(found.words, found.mask, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert row[length - 1] == SEP
        assert (row[length:] == PAD).all()
    assert tokens.pieces("left red ball") == ["[CLS]", "left", "red", "ball", "[SEP]"]


def test_padding_is_to_the_longest_or_further(tokens: WordTokenizer) -> None:
    texts = ["ring", "left red ball"]
    assert tokens.encode(texts).words.shape == (2, 5)
    assert tokens.encode(texts, pad_to=7).words.shape == (2, 7)
    assert tokens.encode(texts, pad_to=99).words.shape == (2, 8), "at most max_words"
    assert tokens.encode(texts, pad_to=2).words.shape == (2, 5), "never shorter than a text"
    np.testing.assert_array_equal(
        tokens.encode(texts).words, tokens.encode(texts, pad_to=7).words[:, :5]
    )


def test_a_long_text_keeps_its_first_words_and_its_sep(tokens: WordTokenizer) -> None:
    text = "small blue cylinder on the left ball cube ring"
    found = tokens.encode([text, "ring"])
    assert found.truncated.tolist() == [True, False]
    assert tokens.pieces(text) == [
        *("[CLS]", "small", "blue", "cylinder", "on", "the", "left"),
        "[SEP]",
    ]
    exact = tokens.encode(["small blue cylinder on the left"])
    assert not exact.truncated[0], "exactly max_words is not too long"
    np.testing.assert_array_equal(exact.words, found.words[:1])


@pytest.mark.parametrize("budget", [20, 21])
def test_the_budget_counts_cls_and_sep(budget: int) -> None:
    tokens = train_wordpiece(TEXTS, size=200, max_words=budget)
    fits = " ".join(["ball"] * (budget - 2))
    assert not tokens.encode([fits]).truncated[0]
    found = tokens.encode([f"{fits} ball"])
    assert found.truncated[0]
    assert found.words.shape == (1, budget)
    assert found.words[0, -1] == SEP


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80), budget=st.integers(2, 12))
def test_any_text_is_encoded_or_refused(text: str, budget: int) -> None:
    shared = trained(budget)
    if not any(c.isalnum() and c.isprintable() for c in text):
        with pytest.raises(ExpressionError):
            shared.encode([text])
        return
    found = shared.encode([text])
    length = int(found.mask.sum())
    assert 2 <= length <= budget
    assert found.words[0, 0] == CLS
    assert found.words[0, length - 1] == SEP
    assert SEP not in found.words[0, 1 : length - 1]
    assert PAD not in found.words[0, :length]
    assert found.words.max() < shared.vocab_size


def clean_or_empty(text: str) -> str:
    try:
        return clean(text)
    except ExpressionError:
        return ""


_TRAINED: dict[int, WordTokenizer] = {}


def trained(budget: int) -> WordTokenizer:
    if budget not in _TRAINED:
        _TRAINED[budget] = train_wordpiece(TEXTS, size=200, max_words=budget)
    return _TRAINED[budget]


def test_rows_do_not_depend_on_their_neighbours(tokens: WordTokenizer) -> None:
    together = tokens.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = tokens.encode([text])
        length = alone.words.shape[1]
        np.testing.assert_array_equal(together.words[row, :length], alone.words[0])
        assert not together.mask[row, length:].any()


def test_no_texts_is_an_empty_table(tokens: WordTokenizer) -> None:
    assert tokens.encode([]).words.shape == (0, 1)


def test_capitals_accents_and_spaces_do_not_matter(tokens: WordTokenizer) -> None:
    plain = tokens.encode(["left red ball"]).words
    for text in [
        "LEFT Red bAll",
        "  left \t red\nball ",
        "léft red bàll",
        "left\u200bred\u00a0ball",
    ]:
        np.testing.assert_array_equal(tokens.encode([text]).words, plain)


@pytest.mark.parametrize("word", ["bal", "lft", "rde", "cyllinder", "mugg", "10th", "xqzj"])
def test_typos_stay_readable(tokens: WordTokenizer, word: str) -> None:
    wide = WordTokenizer(tokens.tokenizer, 20)
    pieces = wide.pieces(word)[1:-1]
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == word


def test_unknown_letters_are_one_unknown_word_in_its_place(tokens: WordTokenizer) -> None:
    assert tokens.pieces("left мяч ball") == ["[CLS]", "left", "[UNK]", "ball", "[SEP]"]
    assert tokens.pieces("left 球 ball") == ["[CLS]", "left", "[UNK]", "ball", "[SEP]"]


def test_special_words_typed_by_a_person_are_only_words(tokens: WordTokenizer) -> None:
    found = tokens.encode(["left [SEP] [PAD] ball"])
    inner = found.words[0, 1 : int(found.mask.sum()) - 1]
    assert not {PAD, CLS, SEP} & set(inner.tolist())


def test_length_limit() -> None:
    assert len(clean("a" * MAX_CHARACTERS)) == MAX_CHARACTERS == 1000
    with pytest.raises(ExpressionError, match="1,001 characters"):
        clean("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(ExpressionError, match="10,000 characters") as caught:
        clean("b" * 10_000)
    assert len(str(caught.value)) < 300, "the error does not repeat the text"


@pytest.mark.parametrize("text", ["", " ", "\n\t", "...", "?!", "\x00\x07", "\u200b", "😀"])
def test_texts_without_words_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="without words"):
        clean(text)


@given(st.text(max_size=60))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean_or_empty(text)
    if once:
        assert clean(once) == once
        assert "\n" not in once
        assert once.isprintable()
        assert once == once.strip()


def test_vocabulary_has_every_letter_alone_and_inside(tokens: WordTokenizer) -> None:
    vocabulary = tokens.tokenizer.get_vocab()
    for letter in "abcdefghijklmnopqrstuvwxyz0123456789":
        assert letter in vocabulary
        assert f"##{letter}" in vocabulary
    assert sorted(vocabulary.values()) == list(range(tokens.vocab_size))
    assert tokens.vocab_size <= 200


def test_texts_in_another_order_make_the_same_vocabulary(tokens: WordTokenizer) -> None:
    turned = train_wordpiece([*reversed(TEXTS), *TEXTS], size=200, max_words=8)
    assert turned.tokenizer.get_vocab() == tokens.tokenizer.get_vocab()


TRAIN = """
import hashlib
from refseg.data.tokens import train_wordpiece
words = "left right red blue ball cube ring mug cone of the behind striped dotted small".split()
texts = [f"{a} {b} {c}" for a in words for b in words for c in words[:4]]
tokens = train_wordpiece(texts, size=130, max_words=9)
print(tokens.vocab_size, hashlib.sha256(tokens.tokenizer.to_str().encode()).hexdigest())
"""


def test_training_is_the_same_in_every_process() -> None:
    told = set()
    for seed in ("0", "1", "77", "random"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", TRAIN], env=env, capture_output=True, text=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_saving_and_loading(tokens: WordTokenizer, tmp_path: Path) -> None:
    tokens.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json", 8)
    from_folder = load_tokenizer(tmp_path, 8)
    texts = [*TEXTS, "typpo ünknown мяч"]
    for other in (again, from_folder):
        np.testing.assert_array_equal(tokens.encode(texts).words, other.encode(texts).words)
        assert other.vocab_size == tokens.vocab_size


def test_a_files_own_padding_and_truncation_are_switched_off(
    tokens: WordTokenizer, tmp_path: Path
) -> None:
    """Files on the hub often carry a truncation, which would cut without being counted."""
    inner = Tokenizer.from_str(tokens.tokenizer.to_str())
    inner.enable_truncation(4)
    inner.enable_padding(length=30)
    inner.save(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path, 8)
    found = again.encode(["left red ball cube"])
    assert found.words.shape == (1, 6)
    assert not found.truncated[0]


VOCABULARY = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "ball", "##s"]


def test_a_hub_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    tokens = load_tokenizer(tmp_path, 10)
    assert tokens.vocab_size == 9
    assert tokens.encode(["Left balls"]).words.tolist() == [[3, 6, 7, 8, 4]]


def test_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(VOCABULARY).encode())
    assert load_tokenizer(tmp_path, 10).encode(["left balls"]).words.tolist() == [[3, 6, 7, 8, 4]]


def test_odd_line_ends_are_tokens_not_lines(tmp_path: Path) -> None:
    """BERT vocabularies contain single characters that Python counts as ends of lines."""
    odd = [*VOCABULARY[:6], "\u2028", "\x85", "\x0c", *VOCABULARY[6:]]
    (tmp_path / "vocab.txt").write_text("\n".join(odd) + "\n", encoding="utf-8")
    tokens = load_tokenizer(tmp_path, 10)
    assert tokens.vocab_size == 12
    assert tokens.encode(["left balls"]).words.tolist() == [[3, 9, 10, 11, 4]]


def test_it_reads_berts_own_word_pieces(tmp_path: Path) -> None:
    """Greedy longest match, lower case, punctuation apart, as BERT's tokenizer."""
    vocabulary = [*VOCABULARY, "##b", "a", "b", "'", "-", "un", "##aff", "##able"]
    tokens = wordpiece(vocabulary, 20)
    assert tokens.pieces("UNaffable b-a's")[1:-1] == [
        *("un", "##aff", "##able", "b", "-", "a", "'"),
        "[UNK]",
    ]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer.json", "", "broken tokenizer"),
        ("tokenizer.json", "{}", "broken tokenizer"),
        ("vocab.txt", "left\nball\n", r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        ("vocab.txt", "", "lacks"),
    ],
)
def test_broken_files_are_refused_by_name(
    name: str, content: str, match: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=match):
        load_tokenizer(tmp_path, 8)


def test_a_tokenizer_of_another_kind_is_refused(tokens: WordTokenizer, tmp_path: Path) -> None:
    """Without our special tokens, cut texts would end in None and padding would be a word."""
    told = json.loads(tokens.tokenizer.to_str())
    told["model"]["vocab"] = {"[UNK]": 0, "left": 1}
    told["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"\[PAD\]"):
        load_tokenizer(tmp_path, 8)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_tokenizer(tmp_path, 8)
    with pytest.raises(ModelError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "vocab.txt", 8)
    with pytest.raises(ModelError):
        load_tokenizer(tmp_path / "tokenizer.json", 8)


# -- and back ----------------------------------------------------------------------------------


def spoken(tokens: WordTokenizer, text: str) -> str:
    """What the pieces of a text say."""
    encoded = tokens.encode([text])
    return tokens.decode(encoded.words[0].tolist())  # padding and specials among them


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Left red BALL", "left red ball"),
        ("the man's t-shirt", "the man's t-shirt"),
        ("the 2nd-from-right one", "the 2nd-from-right one"),
        ("guy w/ hat, back row", "guy w / hat , back row"),
        ("x-y-z's", "x-y-z's"),
        ("girls' - coats", "girls' - coats"),
        ("- left", "- left"),
        ("xylophonist", "xylophonist"),  # no word of the vocabulary, letter by letter
    ],
)
def test_pieces_are_spelled_out(text: str, told: str) -> None:
    marks = [*"/,", *(letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789'-")]
    inside = [f"##{letter}" for letter in marks]
    tokens = wordpiece([*SPECIALS, *marks, *inside, "left", "red", "ball", "the", "man"], 40)
    assert spoken(tokens, text) == told


def test_specials_say_nothing(tokens: WordTokenizer) -> None:
    ids = tokens.encode(["left red"], pad_to=8).words[0].tolist()
    assert ids[-1] == PAD
    assert tokens.decode([*ids, UNK]) == "left red"
    assert tokens.decode([]) == tokens.decode([PAD, CLS, SEP]) == ""


@settings(max_examples=60)
@given(
    text=st.text(alphabet="abz09 '-,.", min_size=1, max_size=25).filter(lambda t: t.strip(" '-,."))
)
def test_what_is_spelled_is_cut_into_the_same_pieces(tokens: WordTokenizer, text: str) -> None:
    wide = WordTokenizer(tokens.tokenizer, 64)
    first = wide.encode([text]).words[0]
    if UNK not in first:
        again = wide.encode([wide.decode(first.tolist())]).words[0]
        np.testing.assert_array_equal(again, first)


TYPED = [
    "man's hand holding the phone", "t-shirt guy", "the woman's left-most suitcase",
    "2nd-to-last bike", "the boy who's looking down", "half-eaten sandwich on the left",
    "girl in the yankees' cap", "it's the giraffe that isn't eating", "black-and-white dog",
    "the kid's brother's bat", "umbrella 3 o'clock", "partially-hidden zebra's behind",
]  # fmt: skip


def test_typed_sentences_survive_the_way_there_and_back() -> None:
    """Apostrophes and hyphens of people, in pieces of few letters."""
    small = train_wordpiece(TYPED, size=110, max_words=60)
    assert sum(piece.startswith("##") for text in TYPED for piece in small.pieces(text)) > 50
    assert [spoken(small, text) for text in TYPED] == TYPED
