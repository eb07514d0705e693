"""CLIP's byte-pair tokenizers: its own two special tokens, its pieces, what is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from refseg.data.tokens import (
    CLIP_SPECIALS,
    WordTokenizer,
    load_tokenizer,
)
from refseg.errors import ModelError

START, END = CLIP_SPECIALS
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_file(folder: Path) -> Path:
    """A folder with a tokenizer.json like those of CLIP on the hub, with a handful of merges."""
    merges: list[tuple[str, str]] = []
    for word in ["red", "ball", "the", "man", "left", "cup"]:
        *letters, end = word
        merges += [(word[:i], word[i]) for i in range(1, len(letters))]
        merges.append(("".join(letters), f"{end}</w>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    singles = sorted(alphabet, key=lambda letter: (letter != "!", letter))  # "!" has the id 0
    pieces = [*singles, *(f"{letter}</w>" for letter in singles)]
    pieces += [*dict.fromkeys("".join(pair) for pair in merges), START, END]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing((END, ids[END]), (START, ids[START]))
    tokenizer.add_special_tokens([START, END])
    tokenizer.enable_truncation(6)  # the published file cuts at 77
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> WordTokenizer:
    return load_tokenizer(clip_file(tmp_path_factory.mktemp("clip")), 9)


def test_a_text_stands_between_clips_own_two(clip: WordTokenizer) -> None:
    start, end = clip.vocab_size - 2, clip.vocab_size - 1
    found = clip.encode(["the RED ball", "cup"])
    assert found.words.shape == (2, 5)
    assert found.words[:, 0].tolist() == [start, start]
    assert found.words[0, 4] == found.words[1, 2] == end
    assert found.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert (found.words[1, 3:] == 0).all(), "padding is 0 whatever the tokenizer"
    assert clip.pieces("the red ball") == [START, "the</w>", "red</w>", "ball</w>", END]
    assert clip.encode(["the cup"], pad_to=99).words.shape == (1, 9)


def test_a_long_text_keeps_clips_end(clip: WordTokenizer) -> None:
    """Where it is lost, every long text has the vector of the start (tris.md, fact 16)."""
    text = "the red ball left the cup the man"
    found = clip.encode([text, "the red ball left the cup the"])
    assert found.truncated.tolist() == [True, False]
    assert found.words[0].tolist() == found.words[1].tolist()
    assert found.words[0, -1] == clip.vocab_size - 1


def test_what_clips_pieces_say(clip: WordTokenizer, tmp_path: Path) -> None:
    wide = WordTokenizer(clip.tokenizer, 60)
    for text in ["the man's red t-shirt", "the left cup", "café überall", "the reds' ball"]:
        encoded = wide.encode([text, "a much longer text than the other"])
        assert wide.decode(encoded.words[0][encoded.mask[0]].tolist()) == text
    assert clip.decode([]) == ""
    assert clip.knows("red")
    assert clip.knows("мяч"), "its bytes are pieces"
    clip.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path, 9)
    assert (
        again.encode(["the red cup"]).words.tolist() == clip.encode(["the red cup"]).words.tolist()
    )


def test_half_of_clips_special_tokens_is_none_of_its_tokenizers(
    clip: WordTokenizer, tmp_path: Path
) -> None:
    told = json.loads(clip.tokenizer.to_str())
    text = json.dumps(told).replace(START, "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(
        ModelError, match=r"lacks \[PAD\].*\n.*BERT, or the tokenizer\.json of CLIP"
    ):
        load_tokenizer(tmp_path, 9)
