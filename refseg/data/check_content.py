"""The part of `refseg data check` that reads the annotations: boxes, expressions, objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from refseg.data.check_files import CheckRow, Status, listed, warn_if
from refseg.data.records import Records
from refseg.data.tokens import MAX_CHARACTERS, WordTokenizer

EXAMPLES = 3
SPECIALS_A_TEXT = 2  # [CLS] and [SEP] count against the limit
BOX_TOLERANCE = 2.0  # px a box may reach over the image's edge

# Data sets in which every expression means something.
ALWAYS_A_TARGET = frozenset(
    {"refcoco", "refcoco+", "refcocog", "refclef", "phrasecut", "referit", "scenes", "scenes+"}
)

# A word, or one sign of punctuation: what BERT splits before it looks at its vocabulary.
_PIECE = r"[\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}\p{C}\s]"


def check_boxes(records: Records) -> CheckRow:
    """Boxes without an area or reaching out of their image."""
    x, y, w, h = (records.column("boxes", name) for name in "xywh")
    image_row = records.column("annotations", "image_row")
    height = records.column("images", "height")[image_row]
    width = records.column("images", "width")[image_row]
    wrong = (w <= 0) | (h <= 0) | (x < -BOX_TOLERANCE) | (y < -BOX_TOLERANCE)
    if records.meta.sizes_exact:
        out = (x + w > width + BOX_TOLERANCE) | (y + h > height + BOX_TOLERANCE)
        wrong |= out & (height > 0) & (width > 0)
    count = int(wrong.sum())
    ids = records.column("annotations", "ann_id")[wrong][:EXAMPLES]
    detail = f"annotations {', '.join(map(str, ids))}" if count else f"{len(x):,} boxes"
    return CheckRow("boxes empty or outside", warn_if(count), count, detail)


def check_texts(
    records: Records, max_words: int, tokenizer: WordTokenizer | None = None
) -> list[CheckRow]:
    """Expressions that cannot be used, would be cut, or look strange."""
    texts = records.table("sentences").column("raw").combine_chunks()
    lengths = token_counts(texts, tokenizer)
    longest = texts[int(np.argmax(lengths))].as_py() if len(texts) else ""
    cut = pa.array(lengths > max_words)
    counted = "tokens" if tokenizer else "words and signs"
    fine = f"the longest has {lengths.max(initial=0)} {counted}: {longest!r:.90}"
    no_words = pc.invert(pc.match_substring_regex(texts, r"[\p{L}\p{N}]"))
    too_long = pc.greater(pc.utf8_length(texts), MAX_CHARACTERS)
    return [
        _text_row("sentences without words", "fail", texts, no_words),
        _text_row(f"sentences over {MAX_CHARACTERS:,} characters", "fail", texts, too_long),
        _text_row(f"sentences cut at {max_words} tokens", "warn", texts, cut, fine),
        _text_row("sentences not in ASCII", "warn", texts, pc.invert(pc.string_is_ascii(texts))),
        _text_row(
            "sentences with control characters", "warn", texts,
            pc.match_substring_regex(texts, r"[\p{Cc}\x{2028}\x{2029}]"),
        ),
    ]  # fmt: skip


def token_counts(texts: pa.Array, tokenizer: WordTokenizer | None) -> NDArray[np.int64]:
    """[sentences] int64: tokens of each text with [CLS] and [SEP]; without a tokenizer, words and
    punctuation in their place."""
    if tokenizer is None:
        return np.asarray(pc.count_substring_regex(texts, _PIECE), np.int64) + SPECIALS_A_TEXT
    encoded = tokenizer.tokenizer.encode_batch(texts.to_pylist())
    return np.array([len(row.ids) for row in encoded], np.int64)


def _text_row(name: str, bad: Status, texts: pa.Array, chosen: Any, fine: str = "") -> CheckRow:
    found = texts.filter(chosen)
    if len(found) == 0:
        return CheckRow(name, "ok", 0, fine)
    examples = [f"{text!r:.60}" for text in found[:EXAMPLES].to_pylist()]
    return CheckRow(name, bad, len(found), listed(examples, len(found)))


def check_objects(records: Records) -> list[CheckRow]:
    """How expressions and objects go together: repetitions, no targets, ambiguous words."""
    targets = [tuple(row) for row in records.table("refs").column("ann_rows").to_pylist()]
    image_rows = records.column("refs", "image_row").tolist()
    texts = records.table("sentences").column("sent").to_pylist()
    meant: dict[tuple[int, str], set[tuple[int, ...]]] = {}
    said: set[tuple[int, str]] = set()
    repeated = 0
    for text, ref_row in zip(texts, records.column("sentences", "ref_row").tolist(), strict=True):
        words = " ".join(text.lower().split())
        repeated += (ref_row, words) in said
        said.add((ref_row, words))
        meant.setdefault((image_rows[ref_row], words), set()).add(targets[ref_row])
    ambiguous = [(row, words) for (row, words), objects in meant.items() if len(objects) > 1]
    ids = records.column("images", "image_id")
    examples = [f"image {ids[row]}: {words!r:.60}" for row, words in ambiguous[:EXAMPLES]]
    objects = [target for target in targets if target]
    empty = len(targets) - len(objects)
    several = len(objects) - len(set(objects))
    always = records.meta.dataset in ALWAYS_A_TARGET
    return [
        CheckRow("same words for different objects", warn_if(len(ambiguous)), len(ambiguous),
                 listed(examples, len(ambiguous))),
        CheckRow("sentences repeated for a ref", "ok", repeated),
        CheckRow("further refs about an object", "ok", several),
        CheckRow("refs without a target", warn_if(empty if always else 0), empty),
    ]  # fmt: skip
