"""A COCO file to write about, beside a data set that tells what is described."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refseg.data.catalog import open_records
from refseg.data.pictures import open_source
from refseg.data.records import Records
from refseg.errors import DataError, UnknownName
from refseg.label import LabelOptions, label
from refseg.label.expressions import ExpressionTask
from refseg.label.pool import Pool

EVALUATION = ("testA", "testB", "val")
Content = dict[str, Any]
Coco = Callable[..., Path]


@pytest.fixture
def world_objects(world: Path) -> Content:
    """instances.json of the world: all pictures, 136 objects."""
    return dict(json.loads((world / "scenes" / "instances.json").read_text()))


@pytest.fixture
def coco(sandbox: Path, world: Path, world_objects: Content) -> Coco:
    """coco(): the world's objects as COCO lays its files out, without any expression.

    image_shift, ann_shift: other ids of the same pictures and objects.
    """

    def make(image_shift: int = 0, ann_shift: int = 0) -> Path:
        folder = sandbox / "coco"
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").symlink_to(world / "images", target_is_directory=True)
        content = json.loads(json.dumps(world_objects))
        for image in content["images"]:
            image["id"] += image_shift
        for thing in content["annotations"]:
            thing["image_id"] += image_shift
            thing["id"] += ann_shift
        path = folder / "annotations" / "instances_train.json"
        path.write_text(json.dumps(content))
        return path

    return make


def options(teacher: Path, data: Path, **changes: Any) -> LabelOptions:
    given: dict[str, Any] = {
        "model": str(teacher), "task": "expressions", "data": str(data), "refs": "scenes",
        "out": Path("taught"), "filter": "none", **changes,
    }  # fmt: skip
    return LabelOptions(**given)


def asked(given: LabelOptions) -> set[int]:
    return {one for image in ExpressionTask(given).plan().images for one in image.asked}


def told_by(records: Records) -> tuple[dict[str, set[int]], set[int]]:
    """Split -> image ids, and the ids of the described objects, by a plain loop."""
    images: dict[str, set[int]] = {}
    described = set()
    ids = records.column("annotations", "ann_id")
    for ref in records.refs():
        images.setdefault(ref.split, set()).add(records.image(ref.image_row).image_id)
        described |= {int(ids[row]) for row in ref.ann_rows}
    return images, described


@pytest.mark.parametrize("split", [None, "pool", "train", "train+pool", "val", "pool+testA"])
@pytest.mark.parametrize("image_shift", [0, 1000])
def test_what_is_asked_about(
    teacher: Path, coco: Coco, world_objects: Content, split: str | None, image_shift: int
) -> None:
    """By a plain loop. With other ids pictures are known by their files."""
    images, described = told_by(open_records("scenes"))
    assert set(images) == {"train", *EVALUATION}
    parts = (split or "train+pool").split("+")
    everywhere = set().union(*images.values())
    wanted = {
        thing["id"]
        for thing in world_objects["annotations"]
        if thing["id"] not in described
        and (
            ("pool" in parts and thing["image_id"] not in everywhere)
            or any(thing["image_id"] in images.get(part, ()) for part in parts)
        )
    }
    assert wanted
    assert asked(options(teacher, coco(image_shift), split=split)) == wanted


@pytest.mark.usefixtures("writer")
def test_the_manifest_tells_how_much_was_left_out(
    teacher: Path, coco: Coco, world_objects: Content
) -> None:
    images, _ = told_by(open_records("scenes"))
    judged = set().union(*(images[name] for name in EVALUATION))
    mine = min(images["train"])
    things = [thing["image_id"] for thing in world_objects["annotations"]]
    result = label(options(teacher, coco(), exclude_images=frozenset({mine})), workers=1)
    told = json.loads(Path("taught/labels.json").read_text())
    assert told["left_out"] == result.left_out
    assert result.left_out["in pictures of testA, testB, val"] == sum(
        image_id in judged for image_id in things
    )
    assert result.left_out["in excluded images"] == things.count(mine) > 0
    assert told["data"] == {
        "name": "instances_train",
        "by": "oracle",
        "split": "default",
        "expressions": "scenes",
        "left out": f"{len(judged)} pictures of testA, testB, val",
    }
    assert result.asked + sum(result.left_out.values()) == len(things)
    written = json.loads(Path("taught/instances.json").read_text())["images"]
    assert not judged & {image["id"] for image in written}


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("limit", [1, 5, None])
def test_pictures_over_the_limit_are_left_out_for_a_reason(
    teacher: Path, coco: Coco, world_objects: Content, limit: int | None
) -> None:
    """All objects are asked about or in one reason; the manifest is what `choose` counted."""
    result = label(options(teacher, coco(), limit=limit), workers=1)
    things = [thing["image_id"] for thing in world_objects["annotations"]]
    assert result.asked + sum(result.left_out.values()) == len(things)
    images, _ = told_by(open_records("scenes"))
    judged = set().union(*(images[name] for name in EVALUATION))
    wanted = sorted({image["id"] for image in world_objects["images"]} - judged)
    over = sum(things.count(image_id) for image_id in wanted[limit:]) if limit else 0
    assert (over > 0) == (limit is not None)
    assert result.left_out.get("over the limit", 0) == over
    assert ("over the limit" in result.left_out) == (limit is not None)


def test_another_data_set_of_expressions_is_another_job(teacher: Path, coco: Coco) -> None:
    path = coco()
    hashes = {
        ExpressionTask(options(teacher, path, refs=refs)).data_hash
        for refs in (None, "scenes", "scenes+")
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train", {1}),
        ("val", {2, 3}),
        ("train+val", {1, 2, 3}),
        ("pool", {4}),
        (None, {1, 4}),
        ("all", {1, 2, 3}),
    ],
)
def test_a_picture_that_is_learned_from_and_judged_by(
    sandbox: Path, split: str | None, wanted: set[int]
) -> None:
    """Picture 2, as in RefCOCOg's split by objects: left out, unless what judges is asked for."""
    things = [
        {"id": 10 * image_id, "image_id": image_id, "category_id": 1, "bbox": [0, 0, 9, 9]}
        for image_id in (1, 2, 3, 4)
    ]
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 9, "width": 9} for n in (1, 2, 3, 4)
        ],
        "annotations": [*things, {**things[1], "id": 21}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (sandbox / "instances.json").write_text(json.dumps(content))
    told = [("train", 10, 1), ("train", 20, 2), ("val", 21, 2), ("val", 30, 3)]
    refs = [
        {
            "ref_id": number, "ann_id": ann_id, "image_id": image_id, "split": split,
            "sentences": [{"sent_id": number, "raw": "cup", "sent": "cup"}],
        }
        for number, (split, ann_id, image_id) in enumerate(told)
    ]  # fmt: skip
    (sandbox / "refs(mine).json").write_text(json.dumps(refs))
    source = open_source(str(sandbox))
    chosen = Pool(source).chosen(split)
    assert set(source.records.column("images", "image_id")[chosen].tolist()) == wanted
    left, _ = Pool(source).passed_over(split)
    assert set(source.records.column("images", "image_id")[left].tolist()) == {1, 2, 3} - wanted


def test_objects_with_ids_of_their_own(teacher: Path, coco: Coco) -> None:
    """Nobody could tell which of them are described; in the pool none is."""
    given = options(teacher, coco(ann_shift=10_000))
    with pytest.raises(DataError, match="none of them by its annotation id"):
        ExpressionTask(given).plan()
    assert len(asked(replace(given, split="pool"))) > 3


def test_pictures_without_files_are_known_by_id_and_name(teacher: Path, coco: Coco) -> None:
    path = coco()
    (path.parent.parent / "images").unlink()
    lone = options(teacher, path, pixels=False)
    assert asked(lone) == asked(options(teacher, Path("scenes"), refs=None, pixels=False))


def test_the_folder_of_coco_is_read(teacher: Path, coco: Coco) -> None:
    path = coco()
    assert asked(options(teacher, path.parent.parent)) == asked(options(teacher, path))
    path.with_name("instances_val.json").write_text(path.read_text())
    with pytest.raises(DataError, match="several COCO files") as caught:
        open_source(str(path.parent.parent))
    assert str(path) in caught.value.remedy
    assert open_source("scenes").records.count("refs") > 0


def test_more_objects_than_there_are_cannot_be_drawn(teacher: Path, coco: Coco) -> None:
    path = coco()
    all_of_them = len(asked(options(teacher, path)))
    drawn = asked(options(teacher, path, filter=f"random:{all_of_them}"))
    assert drawn == asked(options(teacher, path))
    too_many = options(teacher, path, filter=f"random:{all_of_them + 1}")
    for call in (ExpressionTask(too_many).plan, ExpressionTask(too_many).check):
        with pytest.raises(DataError, match=f"has only {all_of_them} that nobody") as caught:
            call()
        assert "draw fewer" in caught.value.remedy
    few = options(teacher, path, filter=f"random:{all_of_them}", limit=2)
    known = len(asked(options(teacher, path, limit=2)))
    with pytest.raises(DataError, match=f"only {known} .* in the 2 pictures asked for") as caught:
        ExpressionTask(few).plan()
    assert "--limit" in caught.value.remedy


def test_a_look_decodes_no_mask(teacher: Path, coco: Coco, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("decoded")

    path = coco()
    monkeypatch.setattr("refseg.data.pictures.decode_segmentation", refuse)
    given = options(teacher, path, filter="area")
    ExpressionTask(given).check()
    with pytest.raises(AssertionError):
        ExpressionTask(given).plan()
    with pytest.raises(UnknownName, match="pond"):
        ExpressionTask(replace(given, split="pond")).check()
    (path.parent.parent / "images").unlink()
    with pytest.raises(DataError, match="no file for image"):
        ExpressionTask(given).check()
