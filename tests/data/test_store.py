"""The converted store: lossless, keyed by content, whole or absent."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import make_refer_tree

from refseg.data import refer, store
from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.records import TABLES, MaskFile, Records
from refseg.errors import DataError

FINITE = st.floats(allow_nan=False, allow_infinity=False)
POLYGONS = st.lists(st.lists(FINITE, max_size=9), min_size=1, max_size=3)
SIZE = st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=2)
COUNTS = st.text("0123456789ABCXYZabc[]", min_size=1) | st.lists(st.integers(0, 2**50))
RLE = st.fixed_dictionaries({"size": SIZE, "counts": COUNTS})
FILES = st.builds(MaskFile, st.text(), st.text(), st.sampled_from(["zero", "nonzero"]))
SEGMENTATION = st.none() | POLYGONS | RLE | st.lists(RLE, min_size=1, max_size=3) | FILES


def same(a: Records, b: Records) -> bool:
    return a.meta == b.meta and all(a.table(name).equals(b.table(name)) for name in TABLES)


@settings(max_examples=60, deadline=None)
@given(
    segmentations=st.lists(SEGMENTATION, max_size=6),
    boxes=st.lists(st.none() | st.tuples(FINITE, FINITE, FINITE, FINITE), min_size=6, max_size=6),
    images=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    said=st.text(),
)
def test_what_is_built_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    segmentations: list[Any],
    boxes: list[Any],
    images: list[int],
    said: str,
) -> None:
    build = RecordsBuilder("d", "unc", source="here", split_aliases={"val": ("a", "b")})
    for image in range(4):
        build.image(image, f"{image}.jpg", 10, 20 + image)
    for n, segmentation in enumerate(segmentations):
        build.annotation(n, images[n], 1, boxes[n], segmentation)
    everything = list(range(len(segmentations)))
    build.ref(7, 0, "train", everything, [Sentence(1, said, extra={"k": [1, None]})])
    folder = tmp_path_factory.mktemp("store") / "key"
    store.write_store(build.finish(), folder)
    records = store.read_store(folder)
    for ann_id, row in zip(everything, records.ref(0).ann_rows, strict=True):
        assert records.annotation(row).ann_id == ann_id
        assert records.segmentation(row) == segmentations[ann_id]
        box = boxes[ann_id]
        assert np.array_equal(records.box_xywh(row), box or [np.nan] * 4, equal_nan=True)
    sentence = records.sentence(0)
    assert (sentence.raw, sentence.sent, sentence.extra) == (said, said, {"k": [1, None]})
    assert records.meta.split_aliases == {"val": ("a", "b")}
    shutil.rmtree(folder)


def ensure(folder: Path, seen: list[int] | None = None) -> Path:
    def convert() -> Records:
        if seen is not None:
            seen.append(1)
        return refer.read(folder)

    return store.ensure_store("refer", refer.sources(folder), convert)


def test_the_second_opening_converts_nothing_and_gives_the_same(tmp_path: Path) -> None:
    folder, seen = make_refer_tree(tmp_path), []
    first, second = ensure(folder, seen), ensure(folder, seen)
    assert first == second
    assert len(seen) == 1
    assert same(store.read_store(first), refer.read(folder))


def test_nothing_is_written_beside_the_data(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    ensure(folder)
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_a_changed_source_of_equal_size_is_noticed(tmp_path: Path) -> None:
    folder, seen = make_refer_tree(tmp_path), []
    old = ensure(folder, seen)
    refs = folder / "refs(unc).p"
    refs.write_bytes(refs.read_bytes().replace(b"The left one", b"The rear one"))
    new = ensure(folder, seen)
    assert old != new
    assert len(seen) == 2
    assert store.read_store(new).sentence(0).raw == "The rear one"


def test_files_are_hashed_again_only_when_their_stat_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashed = make_refer_tree(tmp_path), []
    real = store.sha256_file
    monkeypatch.setattr(store, "sha256_file", lambda path: hashed.append(path) or real(path))
    sources = refer.sources(folder)
    ensure(folder)
    ensure(folder)
    assert len(hashed) == 4, "files changed within the clock's grain are not trusted"
    an_hour_ago = time.time() - 3600
    for path in sources:
        os.utime(path, (an_hour_ago, an_hour_ago))
    key = ensure(folder)
    hashed.clear()
    assert ensure(folder) == key
    assert hashed == []
    os.utime(sources[0], (an_hour_ago - 1, an_hour_ago - 1))
    assert ensure(folder) == key, "the same content has the same store"
    assert hashed == [sources[0]]


def test_a_copy_elsewhere_shares_the_store_and_other_readers_do_not(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path / "a")
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    assert ensure(folder) == ensure(copy)
    other = store.ensure_store("other", refer.sources(copy), lambda: refer.read(copy))
    assert other != ensure(copy)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "version", "folder is a file"])
def test_a_damaged_store_is_made_again(tmp_path: Path, damage: str) -> None:
    folder, seen = make_refer_tree(tmp_path), []
    made = ensure(folder, seen)
    refs, manifest = made / "refs.arrow", made / "manifest.json"
    if damage == "cut":
        refs.write_bytes(refs.read_bytes()[:-9])
    elif damage == "gone":
        refs.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif damage == "version":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 0}))
    else:
        shutil.rmtree(made)
        made.write_text("")
    assert not store.is_whole(made)
    assert ensure(folder, seen) == made
    assert len(seen) == 2
    assert same(store.read_store(made), refer.read(folder))
    assert [p.name for p in made.parent.iterdir() if p.name.startswith(".")] == []


def test_a_store_damaged_after_opening_is_named(tmp_path: Path) -> None:
    made = ensure(make_refer_tree(tmp_path))
    records = store.read_store(made)
    (made / "refs.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(DataError, match=r"refs\.arrow.*(?s:.)*delete"):
        records.ref(0)
    shutil.rmtree(made)
    with pytest.raises(DataError, match=r"manifest\.json"):
        store.read_store(made)


def test_a_failing_conversion_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    folder = make_refer_tree(tmp_path, edit=lambda refs, _: refs[0].pop("split"))
    with pytest.raises(DataError):
        ensure(folder)
    assert list((cache / "store").glob("*/manifest.json")) == []


def test_a_write_that_breaks_off_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, mode: str) -> None:
        if "sentences" in path:
            raise OSError(28, "No space left on device")
        return real(path, mode)

    real = store.pa.OSFile
    monkeypatch.setattr(store.pa, "OSFile", full)
    folder = make_refer_tree(tmp_path)
    with pytest.raises(DataError, match=r"No space left(?s:.)*REFSEG_CACHE"):
        ensure(folder)
    assert [path.name for path in (cache / "store").iterdir()] == []


def test_what_killed_writers_left_is_swept_away_after_a_day(tmp_path: Path, cache: Path) -> None:
    old, young = cache / "store/.key-old", cache / "store/.key-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    ensure(make_refer_tree(tmp_path))
    assert not old.exists()
    assert young.exists()


def test_the_cache_is_in_the_home_folder_unless_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFSEG_CACHE")
    assert store.cache_folder() == Path.home() / ".cache" / "refseg"
    monkeypatch.setenv("REFSEG_CACHE", "~/elsewhere")
    assert store.cache_folder() == Path.home() / "elsewhere"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written(?s:.)*REFSEG_CACHE"):
        ensure(make_refer_tree(tmp_path))


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    (folder / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json"):
        ensure(folder)


def _convert_at_once(folder: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(20)
    made = ensure(folder)
    answers.put((str(made), store.read_store(made).sentence(0).raw))


def test_processes_that_convert_at_once_share_one_store(tmp_path: Path, cache: Path) -> None:
    folder = make_refer_tree(tmp_path)
    broken = ensure(folder)
    (broken / "refs.arrow").write_bytes(b"")  # so that they also compete in clearing it away
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_convert_at_once, args=(folder, barrier, answers)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    given_back = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert set(given_back) == {(str(broken), "The left one")}
    left = [path.name for path in (cache / "store").iterdir() if path.name != "known"]
    assert left == [broken.name]


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_before_whatever_happens(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if was_on else gc.disable()
        with store.paused_collector():
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
        with pytest.raises(ZeroDivisionError), store.paused_collector():
            raise ZeroDivisionError
        assert gc.isenabled() == was_on
    finally:
        gc.enable() if before else gc.disable()
