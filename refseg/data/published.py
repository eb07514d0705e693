"""The sizes of the published splits, to compare a folder with.

Refs and images: the REFER files as TFDS tabulates them; sentences: TRIS's supplement (they add up
to the total of REFER's own notebook, 142,210; papers print 142,209). PhraseCut: its README, where
val includes miniv. ReferIt: counted in the text_objseg files. None: not published.
"""

from __future__ import annotations

from typing import NamedTuple


class SplitSize(NamedTuple):
    """Refs, sentences and images of a split; None where nobody states it."""

    refs: int | None
    sentences: int | None
    images: int | None


# (data set, split_by, split) -> size
PUBLISHED: dict[tuple[str, str, str], SplitSize] = {
    ("refcoco", "unc", "train"): SplitSize(42404, 120624, 16994),
    ("refcoco", "unc", "val"): SplitSize(3811, 10834, 1500),
    ("refcoco", "unc", "testA"): SplitSize(1975, 5657, 750),
    ("refcoco", "unc", "testB"): SplitSize(1810, 5095, 750),
    ("refcoco", "unc", "all"): SplitSize(50000, 142210, 19994),
    ("refcoco", "google", "train"): SplitSize(40000, None, 19213),
    ("refcoco", "google", "val"): SplitSize(5000, None, 4559),
    ("refcoco", "google", "test"): SplitSize(5000, None, 4527),
    ("refcoco+", "unc", "train"): SplitSize(42278, 120191, 16992),
    ("refcoco+", "unc", "val"): SplitSize(3805, 10758, 1500),
    ("refcoco+", "unc", "testA"): SplitSize(1975, 5726, 750),
    ("refcoco+", "unc", "testB"): SplitSize(1798, 4889, 750),
    ("refcoco+", "unc", "all"): SplitSize(49856, 141564, 19992),
    ("refcocog", "umd", "train"): SplitSize(42226, 80512, 21899),
    ("refcocog", "umd", "val"): SplitSize(2573, 4896, 1300),
    ("refcocog", "umd", "test"): SplitSize(5023, 9602, 2600),
    ("refcocog", "umd", "all"): SplitSize(49822, 95010, 25799),
    ("refcocog", "google", "train"): SplitSize(44822, 85474, 24698),
    ("refcocog", "google", "val"): SplitSize(5000, 9536, 4650),
    ("phrasecut", "official", "train"): SplitSize(310816, 310816, 71746),
    ("phrasecut", "official", "val"): SplitSize(20316, 20316, 2971),
    ("phrasecut", "official", "test"): SplitSize(14354, 14354, 2545),
    ("phrasecut", "official", "miniv"): SplitSize(821, 821, 100),
    ("referit", "text_objseg", "train"): SplitSize(44649, 54134, 8995),
    ("referit", "text_objseg", "val"): SplitSize(4866, 5842, 1000),
    ("referit", "text_objseg", "trainval"): SplitSize(49515, 59976, 9995),
    ("referit", "text_objseg", "test"): SplitSize(49730, 60105, 9994),
    ("referit", "text_objseg", "all"): SplitSize(99245, 120081, 19989),
}
