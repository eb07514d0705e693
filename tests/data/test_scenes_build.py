"""The embedded world on disk: layout, splits, exact masks, the same bytes on every build."""

from __future__ import annotations

import collections
import errno
import hashlib
import io
import json
import pickle
import pickletools
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from refseg.data.catalog import open_data
from refseg.data.scenes import picture, workers
from refseg.data.scenes.build import build_scenes, ensure_scenes, plain_pickle
from refseg.data.scenes.model import KINDS
from refseg.data.scenes.picture import (
    STYLES,
    TEST_A_KINDS,
    Order,
    image_name,
    make_picture,
    split_of,
)
from refseg.data.scenes.render import render
from refseg.data.scenes.serial import read_scenes, scene_from_json, stage_from_json
from refseg.errors import DataError, RunError
from refseg.ops.masks import mask_to_box, rle_decode
from refseg.types import Labels

IMAGES = 27


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_scenes(
        tmp_path_factory.mktemp("world") / "w", images=IMAGES, workers=1, ambiguous_share=0.3
    )


def read(world: Path, style: str) -> tuple[list[dict], dict]:
    refs = pickle.loads((world / style / "refs(oracle).p").read_bytes())
    return refs, json.loads((world / style / "instances.json").read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    one = build_scenes(tmp_path / "one", seed=5, images=12, workers=1)
    two = build_scenes(tmp_path / "two", seed=5, images=12, workers=2)
    assert tree_hash(one) == tree_hash(two)
    other = build_scenes(tmp_path / "other", seed=6, images=12, workers=1)
    assert tree_hash(other) != tree_hash(one)
    assert len(list((one / "images").iterdir())) == 12


def test_splits_are_in_proportion():
    counts = collections.Counter(split_of(i, 4000) for i in range(4000))
    assert counts == {"train": 2800, "val": 300, "testA": 300, "testB": 300, "pool": 300}
    for images in (1, 2, 7, 13, 99):
        named = [split_of(i, images) for i in range(images)]
        assert named == sorted(named, key=["train", "val", "testA", "testB", "pool"].index)


def test_masks_are_exact_and_restored_scenes_redraw_the_same_picture(world):
    _, instances = read(world, "scenes")
    by_image = collections.defaultdict(list)
    for annotation in instances["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    rows = lines(world / "scenes.jsonl")
    assert [row["image_id"] for row in rows] == list(range(1, IMAGES + 1))
    for row, image in zip(rows, instances["images"], strict=True):
        scene = scene_from_json(row["scene"])
        rendered = render(scene, stage_from_json(row["stage"]))
        assert rendered.scene == scene
        path = world / "images" / row["file_name"]
        stored = cv2.imread(str(path))[..., ::-1]
        np.testing.assert_array_equal(stored, rendered.image)
        assert (image["id"], image["height"], image["width"]) == (row["image_id"], *scene.size_hw)
        assert image["file_name"] == row["file_name"]
        taken = np.zeros(scene.size_hw, int)
        for item, annotation in zip(scene.objects, by_image[image["id"]], strict=True):
            mask = rle_decode(annotation["segmentation"])
            np.testing.assert_array_equal(mask, rendered.owner == item.object_id)
            taken += mask
            assert annotation["area"] == item.area == mask.sum()
            x, y, w, h = annotation["bbox"]
            np.testing.assert_array_equal(mask_to_box(mask), (x, y, x + w, y + h))
            assert KINDS[annotation["category_id"] - 1] == item.kind
            assert annotation["iscrowd"] == 0
        assert taken.max() == 1
    assert dict(read_scenes(world)) == {r["image_id"]: scene_from_json(r["scene"]) for r in rows}


@pytest.mark.parametrize("style", STYLES)
def test_refs_have_the_layout_of_refer(world, style):
    refs, instances = read(world, style)
    annotations = {a["id"]: a for a in instances["annotations"]}
    assert [ref["ref_id"] for ref in refs] == list(range(1, len(refs) + 1))
    sent_ids = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert sent_ids == list(range(len(sent_ids)))
    assert len({ref["ann_id"] for ref in refs}) == len(refs)
    for ref in refs:
        annotation = annotations[ref["ann_id"]]
        assert ref["image_id"] == annotation["image_id"]
        assert ref["category_id"] == annotation["category_id"]
        assert ref["split"] == split_of(ref["image_id"] - 1, IMAGES)
        assert ref["file_name"] == image_name(ref["image_id"], ref["ann_id"])
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
        assert 1 <= len(ref["sentences"]) <= 3
        for sentence in ref["sentences"]:
            assert sentence["sent"].split() == sentence["tokens"] != []
            assert sentence["raw"]
    per_image = collections.Counter(ref["image_id"] for ref in refs)
    assert set(per_image.values()) <= {1, 2, 3, 4}
    full = sum(len(ref["sentences"]) == 3 for ref in refs)
    assert full > 0.9 * len(refs)


@pytest.mark.parametrize("style", STYLES)
def test_only_train_has_ambiguous_sentences(world, style):
    refs, _ = read(world, style)
    marked = collections.Counter()
    total = collections.Counter()
    for ref in refs:
        for sentence in ref["sentences"]:
            total[ref["split"]] += 1
            marked[ref["split"]] += sentence.get("ambiguous", False)
    assert set(total) == {"train", "val", "testA", "testB"}
    assert 0.1 < marked["train"] / total["train"] < 0.4
    assert marked["val"] == marked["testA"] == marked["testB"] == 0


def test_test_splits_ask_about_their_own_kinds_and_the_pool_about_nothing(world):
    pool = json.loads((world / "pool.json").read_text())["image_ids"]
    assert pool == [i + 1 for i in range(IMAGES) if split_of(i, IMAGES) == "pool"]
    assert pool
    for style in STYLES:
        refs, instances = read(world, style)
        names = {c["id"]: c["name"] for c in instances["categories"]}
        assert list(names.values()) == list(KINDS)
        for ref in refs:
            curved = names[ref["category_id"]] in TEST_A_KINDS
            assert ref["split"] != "testA" or curved
            assert ref["split"] != "testB" or not curved
        asked = {ref["image_id"] for ref in refs}
        assert asked == set(range(1, IMAGES + 1)) - set(pool)
        assert set(pool) <= {a["image_id"] for a in instances["annotations"]}


def test_every_image_has_captions(world):
    rows = lines(world / "captions.jsonl")
    assert len(rows) == IMAGES
    for row in rows:
        assert len(row["captions"]) == 3
        assert all(isinstance(caption, str) and caption for caption in row["captions"])
        assert row["split"] == split_of(row["image_id"] - 1, IMAGES)


def test_the_manifest_counts_what_is_there(world):
    manifest = json.loads((world / "world.json").read_text())
    assert sum(manifest["images_by_split"].values()) == manifest["images"] == IMAGES
    for style in STYLES:
        refs, _ = read(world, style)
        assert manifest["refs"][style] == len(refs)
        assert manifest["sentences"][style] == sum(len(ref["sentences"]) for ref in refs)


def test_the_pickle_names_no_global(world):
    data = (world / "scenes" / "refs(oracle).p").read_bytes()
    assert data[:2] == b"\x80\x02"
    names = {op.name for op, _, _ in pickletools.genops(io.BytesIO(data))}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "BUILD", "NEWOBJ"}
    twice = ["a b", "".join(["a", " b"])]
    assert plain_pickle(twice) == plain_pickle(["a b", "a b"])


def test_the_real_reader_reads_it(world):
    from refseg.data.catalog import open_data
    from refseg.types import ALL_LABELS

    refs, instances = read(world, "scenes+")
    val = [ref for ref in refs if ref["split"] == "val"]
    data = open_data(world / "scenes+", "val", ALL_LABELS)
    assert len(data) == sum(len(ref["sentences"]) for ref in val)
    masks = {a["id"]: a["segmentation"] for a in instances["annotations"]}
    by_ref = {ref["ref_id"]: ref for ref in val}
    for index in range(len(data)):
        sample = data[index]
        ref = by_ref[sample.ref_id]
        np.testing.assert_array_equal(sample.mask, rle_decode(masks[ref["ann_id"]]))
        assert sample.image.shape[:2] == sample.mask.shape
        assert sample.text in [sentence["raw"] for sentence in ref["sentences"]]


def test_two_that_need_the_world_at_once_build_it_once(tmp_path):
    calls, folders = [], []

    def need() -> None:
        folders.append(
            ensure_scenes(tmp_path, images=4, workers=1, progress=lambda *c: calls.append(c))
        )

    threads = [threading.Thread(target=need) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(folders) == {tmp_path / "scenes-v1-0-4"}
    before = tree_hash(folders[0])
    ensure_scenes(tmp_path, images=4, progress=lambda *c: calls.append(c))
    assert len(calls) == 4
    assert tree_hash(folders[0]) == before


def test_a_build_that_is_killed_leaves_nothing_that_looks_whole(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from refseg.data.scenes.build import ensure_scenes\n"
        "def stop(done, total):\n    if done == 2: os._exit(9)\n"
        "ensure_scenes(Path(sys.argv[1]), images=4, workers=1, progress=stop)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "scenes-v1-0-4").exists()
    assert list(tmp_path.glob(".scenes-v1-0-4.*.tmp"))
    folder = ensure_scenes(tmp_path, images=4, workers=1)
    assert not list(tmp_path.glob(".scenes-v1-0-4.*.tmp"))
    assert tree_hash(folder) == tree_hash(build_scenes(tmp_path / "new", images=4, workers=1))


def test_an_error_while_building_leaves_no_folder(tmp_path):
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_scenes(tmp_path / "w", images=3, workers=1, progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad", [{"images": 0}, {"workers": 0}, {"seed": -1}, {"ambiguous_share": 1.5}]
)
def test_values_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match=next(iter(bad))):
        build_scenes(tmp_path / "w", **bad)
    assert not (tmp_path / "w").exists()


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", "import os; os._exit(3)")
    with pytest.raises(RunError, match="stopped with code 3"):
        list(workers.pictures(Order(0, 4, 0.0, str(tmp_path)), range(4), 2))


def test_a_worker_that_cannot_write_says_why(tmp_path):
    order = Order(0, 4, 0.0, str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        list(workers.pictures(order, range(4), 2))


def test_a_full_disk_in_a_worker_is_a_clear_error(tmp_path, monkeypatch):
    def full(order: Order, indices: object, count: int) -> object:
        raise OSError(errno.ENOSPC, "no space")
        yield

    monkeypatch.setattr("refseg.data.scenes.build.pictures", full)
    with pytest.raises(RunError, match="disk is full"):
        build_scenes(tmp_path / "w", images=2)
    assert list(tmp_path.iterdir()) == []


def test_one_split_alone_is_that_split_of_the_whole_world(tmp_path):
    whole = build_scenes(tmp_path / "whole", images=30, workers=1)
    val = ensure_scenes(tmp_path, images=30, workers=2, only="val")
    assert val.name == "scenes-v1-0-30-val"
    names = sorted(p.name for p in (val / "images").iterdir())
    assert names == [f"scene_{n:06d}.png" for n in range(1, 31) if split_of(n - 1, 30) == "val"]
    for name in names:
        pixels = (whole / "images" / name).read_bytes()
        assert (val / "images" / name).read_bytes() == pixels
    one, other = (open_data(f / "scenes", "val", Labels.parse("mask")) for f in (whole, val))
    assert [one.entry(i).text for i in range(len(one))] == [
        other.entry(i).text for i in range(len(other))
    ]
    assert all((one[i].mask == other[i].mask).all() for i in range(len(one)))


def test_a_world_that_is_whole_serves_for_a_split(tmp_path):
    whole = ensure_scenes(tmp_path, images=4, workers=1)
    assert ensure_scenes(tmp_path, images=4, only="val") == whole


def test_a_picture_depends_on_seed_and_index_alone(tmp_path):
    order = Order(3, 40, 0.05, str(tmp_path))
    first = make_picture(order, 7)
    make_picture(order, 8)
    assert make_picture(order, 7) == first
    assert picture.image_name(8) == "scene_000008.png"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene_000008.png", "scene_000009.png"]
