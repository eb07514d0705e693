"""Tokenizers: text in, padded token ids out, truncation counted and never silent.

Built on the tokenizers library and kept as one `tokenizer.json` per model. (transformers'
BertTokenizer ignores its vocab_file argument in some 5.x versions, so it is not used.)
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from refseg.errors import ExpressionError, ModelError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLIP_SPECIALS = ("<|startoftext|>", "<|endoftext|>")
MAX_CHARACTERS = 1000
_HYPHEN = re.compile(r"(?<=\w) - (?=\w)")
_ENDING = re.compile(r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll)\b)|(?<=\bo) ' (?=\w)")
_APOSTROPHE = re.compile(r"(?<=\w) '(?= |$)")


@dataclass(frozen=True)
class Encoded:
    """words: [B, T] int64 ids, 0 where padded. mask: [B, T] bool. truncated: [B] bool."""

    words: NDArray[np.int64]
    mask: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class WordTokenizer:
    """WordPiece with [CLS] first and [SEP] last, or CLIP's byte pairs between its own two.

    max_words counts both.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int) -> None:
        self.tokenizer = tokenizer
        self.max_words = max_words
        self._clip = _need_specials(tokenizer.get_vocab())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._end = _token_id(tokenizer, CLIP_SPECIALS[1] if self._clip else "[SEP]")

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str], *, pad_to: int | None = None) -> Encoded:
        """Token ids of `texts`, padded to the longest (or to `pad_to`, at most max_words).

        A longer text keeps its first words and its end. Raises ExpressionError for a text
        without words or with more than 1,000 characters.
        """
        rows = [e.ids for e in self.tokenizer.encode_batch([clean(text) for text in texts])]
        truncated = np.array([len(row) > self.max_words for row in rows], dtype=bool)
        rows = [
            [*row[: self.max_words - 1], self._end] if cut else row
            for row, cut in zip(rows, truncated, strict=True)
        ]
        length = max((len(row) for row in rows), default=1)
        length = max(length, min(pad_to or 0, self.max_words))
        words = np.zeros((len(rows), length), dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=bool)
        for index, row in enumerate(rows):
            words[index, : len(row)] = row
            mask[index, : len(row)] = True
        return Encoded(words, mask, truncated)

    def pieces(self, text: str) -> list[str]:
        """The word pieces of one text, specials included, cut as `encode` cuts."""
        encoded = self.encode([text])
        ids = encoded.words[0][encoded.mask[0]]
        return [self.tokenizer.id_to_token(int(i)) or "[UNK]" for i in ids]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text as it is, uncut and unchecked, the two special ones included."""
        return list(self.tokenizer.encode(text).ids)

    def knows(self, text: str) -> bool:
        """Whether any word of the text is known, or a piece of one."""
        return not {*self.pieces(text)} <= {*SPECIALS, *CLIP_SPECIALS}

    def decode(self, ids: Iterable[int]) -> str:
        """The text of word pieces, special tokens left out: "##" joins a piece to the one before
        (CLIP's end a word with "</w>"), a hyphen between letters both sides ("t-shirt"), an
        apostrophe the word before and an ending behind it ("man's", "yankees' cap").

        Without the padding: CLIP has no piece for it, id 0 is a letter.
        """
        pieces = [self.tokenizer.id_to_token(int(i)) or "[UNK]" for i in ids]
        pieces = [piece for piece in pieces if piece not in (*SPECIALS, *CLIP_SPECIALS)]
        words = _clip_words(pieces) if self._clip else _words(pieces)
        text = _HYPHEN.sub("-", " ".join(words))
        return _APOSTROPHE.sub("'", _ENDING.sub("'", text))

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        path.write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")


def _words(pieces: list[str]) -> list[str]:
    words: list[str] = []
    for piece in pieces:
        if piece.startswith("##") and words:
            words[-1] += piece[2:]
        else:
            words.append(piece.removeprefix("##"))
    return words


def _clip_words(pieces: list[str]) -> list[str]:
    """CLIP's pieces are spelled in bytes, each as a letter of its own."""
    text = str(decoders.ByteLevel().decode(pieces))
    return text.replace("</w>", " ").replace(" '", "'").split()


def clean(text: str) -> str:
    """One line of printable text. Raises ExpressionError when nothing is left or far too much."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"an expression of {len(text):,} characters: {text[:40]!r}...",
            remedy=f"say what is meant in at most {MAX_CHARACTERS:,} characters",
        )
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not any(c.isalnum() for c in line):
        raise ExpressionError(
            f"an expression without words: {text!r}",
            remedy='describe one object, for example "the cup left of the laptop"',
        )
    return line


def load_tokenizer(path: Path, max_words: int) -> WordTokenizer:
    """Read `tokenizer.json`, or the `vocab.txt` of a BERT folder in the hub's format.

    Raises ModelError when the folder has neither or the file is broken.
    """
    if path.is_dir():
        for name in ("tokenizer.json", "vocab.txt"):
            if (path / name).is_file():
                return load_tokenizer(path / name, max_words)
        raise ModelError(
            f"no tokenizer in {path}", remedy="the folder needs tokenizer.json or vocab.txt"
        )
    try:
        if path.name == "vocab.txt":
            # Not splitlines: Unicode's other line ends are tokens, and each line counts as an id.
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            return wordpiece(lines, max_words)
        return WordTokenizer(Tokenizer.from_file(str(path)), max_words)
    except FileNotFoundError:
        raise ModelError(f"no tokenizer at {path}", remedy="check the model folder") from None
    except Exception as error:  # the tokenizers library raises bare Exception on broken files
        raise ModelError(f"broken tokenizer {path}: {error}", remedy="get the file again") from None


def wordpiece(vocabulary: Iterable[str], max_words: int) -> WordTokenizer:
    """BERT-uncased word pieces over a given vocabulary, ids in its order."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    _need_specials(ids)
    return WordTokenizer(_bert_like(Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))), max_words)


def train_wordpiece(texts: Iterable[str], *, size: int, max_words: int) -> WordTokenizer:
    """Learn word pieces from `texts`. Letters and digits are always in, so typos stay readable."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789'-"
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*SPECIALS, *letters, *(f"##{c}" for c in letters)],
        initial_alphabet=list(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    # Rebuilt from the sorted vocabulary: the trainer breaks ties by hash order.
    learned = sorted(token for token in tokenizer.get_vocab() if token not in SPECIALS)
    return wordpiece([*SPECIALS, *learned], max_words)


def _need_specials(vocabulary: Container[str]) -> bool:
    """Whether a vocabulary is CLIP's. Raises ModelError for one that is neither that nor BERT's."""
    if all(special in vocabulary for special in CLIP_SPECIALS):
        return True
    missing = [special for special in SPECIALS[:4] if special not in vocabulary]
    if missing:
        raise ModelError(
            f"vocabulary lacks {', '.join(missing)}",
            remedy="use the vocabulary of BERT, or the tokenizer.json of CLIP, as published",
        )
    return False


def _bert_like(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = _token_id(tokenizer, "[CLS]"), _token_id(tokenizer, "[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return tokenizer


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ModelError(
            f"the tokenizer has no {token}", remedy="use word pieces with [CLS], [SEP]"
        )
    return int(number)
