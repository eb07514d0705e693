"""The task "expressions": which objects are asked about, and what a student reads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg.data.catalog import open_data, open_records
from refseg.errors import ConfigError, DataError, UnknownName
from refseg.label import LabelOptions, LabelResult, label, writing
from refseg.ops.masks import rle_encode
from refseg.types import Labels, Sample
from tests.label import fakes

LABELS = Labels.parse("text+box+mask+category")
SIDE = 64


def options(teacher: Path, **changes: Any) -> LabelOptions:
    given: dict[str, Any] = {
        "model": str(teacher), "task": "expressions", "data": "scenes", "out": Path("taught"),
        "min_area": 200, "shard_images": 3, **changes,
    }  # fmt: skip
    return LabelOptions(**given)


def written(result: LabelResult) -> list[Sample]:
    data = open_data(result.out, "train", LABELS)
    return [data[index] for index in range(len(data))]


def asked_ids(out: str = "taught") -> set[int]:
    records = open_records(out)
    ids = records.column("annotations", "ann_id")
    return {int(ids[row]) for ref in records.refs() for row in ref.ann_rows}


def sentences(out: str) -> dict[int, list[tuple[str, float]]]:
    """Annotation id -> texts and their scores."""
    records = open_records(out)
    ids = records.column("annotations", "ann_id")
    return {
        int(ids[ref.ann_rows[0]]): [
            (records.sentence(row).raw, records.extra("sentences", row)["score"])
            for row in ref.sent_rows
        ]
        for ref in records.refs()
    }


def first(count: int) -> np.ndarray:
    mask = np.zeros(SIDE * SIDE, bool)
    mask[:count] = True
    return mask.reshape(SIDE, SIDE)


@pytest.fixture
def coco(sandbox: Path) -> Path:
    """Image 7 with objects around 32 x 32 px: masks, boxes alone, a crowd, nothing at all."""
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(sandbox / "000000000007.jpg")

    def thing(ann_id: int, segmentation: Any, box: list[float] | None, crowd: int = 0) -> Any:
        return {
            "id": ann_id, "image_id": 7, "category_id": 2, "bbox": box, "iscrowd": crowd,
            "segmentation": segmentation,
        }  # fmt: skip

    content = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 2, "name": "cup"}],
        "annotations": [
            thing(1, rle_encode(first(1023)), [0, 0, 64, 16]),
            thing(2, rle_encode(first(1024)), [0, 0, 64, 16]),
            thing(3, [[0, 0, 32, 0, 32, 32, 0, 32]], [0, 0, 32, 32]),
            thing(4, [[0, 0, 31, 0, 31, 32, 0, 32]], [0, 0, 40, 40]),
            thing(5, None, [0, 0, 32, 32]),
            thing(6, None, [0, 0, 31.9, 32]),
            thing(7, rle_encode(first(2000)), [0, 0, 64, 32], crowd=1),
            thing(8, None, None),
        ],
    }
    path = sandbox / "instances_mine.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.usefixtures("writer")
def test_an_object_of_1024_px_stays_and_one_of_1023_goes(teacher: Path, coco: Path) -> None:
    result = label(options(teacher, data=str(coco), min_area=1024), workers=1)
    assert asked_ids() == {2, 3, 5}
    assert result.asked == 3
    assert result.left_out == {
        "crowd": 1, "described already": 0, "neither mask nor box": 1, "under 1024 px": 3
    }  # fmt: skip


@pytest.mark.usefixtures("writer")
def test_a_folder_with_a_coco_file_alone_is_read_too(teacher: Path, coco: Path) -> None:
    result = label(options(teacher, data=str(coco.parent), filter="none"), workers=1)
    assert asked_ids() == {1, 2, 3, 4, 5, 6}
    assert result.left_out == {"crowd": 1, "described already": 0, "neither mask nor box": 1}


@pytest.mark.usefixtures("writer")
def test_objects_are_copied_as_they_are(teacher: Path, coco: Path) -> None:
    label(options(teacher, data=str(coco), filter="none"), workers=1)
    told = {
        s["id"]: s for s in json.loads(Path("taught/instances.json").read_text())["annotations"]
    }
    source = {s["id"]: s for s in json.loads(coco.read_text())["annotations"]}
    assert told == source  # crowds and objects without anything too


@pytest.mark.usefixtures("writer")
def test_every_object_nobody_described_once(teacher: Path, world: Path) -> None:
    """By a plain loop over the world's files."""
    result = label(options(teacher, filter="none"), workers=1)
    records = open_records("scenes")
    instances = json.loads((world / "scenes" / "instances.json").read_text())
    ids = records.column("annotations", "ann_id")
    described, evaluated = set(), set()
    for ref in records.refs():
        described |= {int(ids[row]) for row in ref.ann_rows}
        if ref.split != "train":
            evaluated.add(records.image(ref.image_row).image_id)
    wanted = {
        a["id"]
        for a in instances["annotations"]
        if a["id"] not in described and a["image_id"] not in evaluated
    }
    refs = list(open_records("taught").refs())
    assert asked_ids() == wanted
    assert len(refs) == len(wanted) == result.asked == result.counts["refs"] > 10
    assert {ref.split for ref in refs} == {"train"}


@pytest.mark.usefixtures("writer")
def test_a_student_reads_the_object_and_the_weight(teacher: Path, world: Path) -> None:
    samples = written(label(options(teacher, per_object=2), workers=1))
    annotations = json.loads((world / "scenes" / "instances.json").read_text())["annotations"]
    source = {a["id"]: a for a in annotations}
    records = open_records("taught")
    ids = records.column("annotations", "ann_id")
    assert len(samples) > 20
    for sample in samples:
        ref = next(ref for ref in records.refs() if ref.ref_id == sample.ref_id)
        thing = source[int(ids[ref.ann_rows[0]])]
        x, y, w, h = thing["bbox"]
        assert (sample.weight, sample.pseudo) == (0.1, True)
        assert sample.image.shape[2] == 3
        assert sample.mask is not None
        assert rle_encode(sample.mask)["counts"] == thing["segmentation"]["counts"]
        np.testing.assert_allclose(sample.box_xyxy, [x, y, x + w, y + h], atol=1e-3)
        texts = [records.sentence(row).raw for row in ref.sent_rows]
        assert texts[0] == f"{sample.category} {thing['id']}"
        assert len(texts) == len(set(texts)) == 2
        extra = records.extra("sentences", ref.sent_rows[0])
        assert set(extra) == {"weight", "pseudo", "score"}
        assert extra["score"] < 0


@pytest.mark.usefixtures("writer")
def test_sentences_can_be_referred_back(teacher: Path) -> None:
    result = label(options(teacher, verify=True, weight=0.5), workers=1)
    records = open_records("taught")
    for ref in records.refs():
        extras = [records.extra("sentences", row) for row in ref.sent_rows]
        assert [extra["refers_back"] for extra in extras] == [True, False, False]
        assert [extra["margin"] for extra in extras] == [0.5, -0.1, -0.1]
        assert {extra["weight"] for extra in extras} == {0.5}
    poor = [ref for ref in records.refs() if ref.extra["iou"] < 0.5]
    assert 0 < len(poor) == result.counts["no proposal fits"] < result.asked


@pytest.mark.usefixtures("writer")
def test_an_object_that_no_proposal_stands_for(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, has no ref, and changes nothing for the others."""
    whole = label(options(teacher, out=Path("whole")), workers=1)
    lost = set(sorted(asked_ids("whole"))[::5])
    monkeypatch.setattr(writing, "describe", partial(fakes.describe, lost=lost))
    result = label(options(teacher), workers=1)
    assert result.asked == whole.asked
    assert asked_ids() == asked_ids("whole") - lost
    assert result.counts["nothing written"] == len(lost) > 1
    assert sentences("taught") == {n: s for n, s in sentences("whole").items() if n not in lost}


@pytest.mark.usefixtures("writer")
def test_random_objects_are_a_seeded_draw(teacher: Path) -> None:
    drawn = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = label(options(teacher, filter="random:9", seed=seed, out=Path(name)), workers=1)
        assert result.asked == 9
        drawn[name] = asked_ids(name)
    assert drawn["a"] == drawn["b"] != drawn["c"]


@pytest.mark.usefixtures("writer")
def test_the_pool_by_its_file_and_by_its_name(teacher: Path, world: Path) -> None:
    pool = json.loads((world / "pool.json").read_text())["image_ids"]
    results = [
        label(options(teacher, data=str(world / "pool.json"), out=Path("a")), workers=1),
        label(options(teacher, split="pool", out=Path("b")), workers=1),
    ]
    for result in results:
        assert {sample.image_id for sample in written(result)} <= set(pool)
    assert asked_ids("a") == asked_ids("b") != set()


@pytest.mark.usefixtures("writer")
def test_unknown_refs_leave_their_objects_to_be_described(teacher: Path) -> None:
    """A learning curve: a tenth of the refs has human expressions, the model writes the rest."""
    records = open_records("scenes")
    ids = records.column("annotations", "ann_id")
    train = [ref for ref in records.refs() if ref.split == "train"]
    asked = options(
        teacher, split="train", filter="none", known_refs=frozenset(r.ref_id for r in train[:5])
    )
    label(asked, workers=1)
    known = {int(ids[row]) for ref in train[:5] for row in ref.ann_rows}
    others = {int(ids[row]) for ref in train[5:] for row in ref.ann_rows}
    assert others <= asked_ids()
    assert not known & asked_ids()


@pytest.mark.usefixtures("writer")
def test_without_pixels_no_image_is_looked_for(teacher: Path, coco: Path) -> None:
    (coco.parent / "000000000007.jpg").unlink()
    with pytest.raises(DataError, match="1 of 1 images"):
        label(options(teacher, data=str(coco)), workers=1)
    label(options(teacher, data=str(coco), pixels=False), workers=1)
    assert not Path("taught/images").exists()
    assert len(open_data("taught", "train", Labels())) > 0


@pytest.mark.usefixtures("writer")
def test_nothing_is_left(teacher: Path, coco: Path) -> None:
    with pytest.raises(
        DataError, match="left out: crowd 1, neither mask nor box 1, under 9999 px 6"
    ):
        label(options(teacher, data=str(coco), min_area=9999), workers=1)
    with pytest.raises(DataError, match="described already"):
        label(
            options(teacher, split="train", exclude_images=frozenset(range(2, 99)), min_area=9999)
        )
    bare = json.loads(coco.read_text()) | {"annotations": []}
    coco.write_text(json.dumps(bare))
    with pytest.raises(DataError, match="no annotated objects"):
        label(options(teacher, data=str(coco)), workers=1)
    assert not Path("taught").exists()


def test_a_method_that_cannot_write(teacher: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write expressions"):
        label(options(teacher))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"task": "poems"}, UnknownName),
        ({"filter": "random:0"}, UnknownName),
        ({"filter": "aera"}, UnknownName),
        ({"per_object": 4}, ConfigError),
        ({"beams": 0}, ConfigError),
        ({"weight": float("nan")}, ConfigError),
        ({"shard_images": 0}, ConfigError),
        ({"limit": 0}, ConfigError),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        options(Path("model"), **changes)
