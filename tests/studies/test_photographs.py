"""The studies about photographs: what is kept of detections, other eyes, and the tables."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from refseg.data.catalog import open_data
from refseg.errors import DataError
from refseg.evaluate_objects import evaluate_objects
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.simulated import Simulation
from refseg.methods.mutual.things import LOOKS, surest
from refseg.ops.boxes import box_iou
from refseg.recipes.training import left_out
from refseg.types import Labels, Objects
from studies import photographs, photographs_page
from studies.detections import (
    ATTACHED,
    BESIDE,
    OF_ONE,
    Photo,
    annotated,
    as_things,
    compared,
    found_of,
    measured,
    records_of,
)
from studies.held_out import HELD_OUT, held_out
from studies.photographs_chain import seconds
from studies.photographs_choice import AmongDetections, check_left_out
from studies.photographs_eyes import Colourless, KnowsClasses, Remembering, identity
from studies.photographs_nothing import measured as measured_scores
from studies.photographs_nothing import questions, scored, threshold
from studies.photographs_small import measured as measured_sizes
from studies.photographs_small import shrunk
from tests.data.refer_trees import make_refer
from tests.methods.mutual.test_photographs import SEEN, ToldEyes, batch_of, image, model

Q = len(COCO_CLASSES)


def photo(seed: int, objects: int = 3, found: int = 12) -> Photo:
    """Annotated boxes, and detections near them and elsewhere."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 0.5, (objects, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.4, (objects, 2))], axis=1)
    near = boxes[rng.integers(objects, size=found)] + rng.normal(0, 0.1, (found, 4))
    near = np.sort(near.reshape(found, 2, 2), axis=1).reshape(found, 4).clip(0, 1)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.01)
    chances = rng.random((found, Q)) ** 8
    order = np.argsort(-chances.max(axis=1))
    return Photo(
        np.arange(objects) + 100 * seed, rng.integers(Q, size=objects), boxes.astype(np.float32),
        rng.random((objects, LOOKS)).astype(np.float32), near[order].astype(np.float32),
        chances[order].astype(np.float32),
    )  # fmt: skip


def test_photographs_that_were_held_out_stand_beside_the_others() -> None:
    out = sorted(HELD_OUT)[:5]
    photos = [replace(photo(n), image_id=n) for n in range(5)]  # 0..4 are none of those
    photos += [replace(photo(9 + n), image_id=number) for n, number in enumerate(out)]
    bare = {name: getattr(photo(3), name)[:0] for name in ("ann_ids", "kinds", "boxes", "looks")}
    photos.append(replace(photo(3), image_id=out[0], **bare))
    rows = held_out(photos, [0.2])
    assert [(row["photographs"], row["n"], row["objects"]) for row in rows] == [
        ("learned from", 5, 15), ("held out", 5, 15)
    ]  # fmt: skip
    for row, own in zip(rows, (photos[:5], photos[5:10]), strict=True):
        alone = measured([(one, surest(as_things(one), 0.2, 64)) for one in own])
        assert {name: row[name] for name in alone} == alone
        assert row["interval"][0] <= row["found"] <= row["interval"][1]
        found = [found_of(one, surest(as_things(one), 0.2, 64)) for one in own]
        assert np.concatenate(found).mean() == pytest.approx(row["found"])
    assert held_out([], [0.2]) == []


def test_what_is_kept_gives_the_detections_back() -> None:
    photos = [photo(seed) for seed in range(4)]
    kept = records_of(photos)
    row = 0
    for number, one in enumerate(photos):
        overlap = box_iou(one.found, one.boxes)
        beside = [n for n in range(len(one.found)) if overlap[n].max() < ATTACHED]
        for k in range(len(one.boxes)):
            own = [
                n for n in range(len(one.found))
                if overlap[n].argmax() == k and overlap[n, k] >= ATTACHED
            ][:OF_ONE]  # fmt: skip
            there = kept.chances[row, :, 0] > 0
            assert int(there.sum()) == len(own)
            x0, y0, x1, y1 = one.boxes[k]
            for place, n in enumerate(own):
                dx, dy, lw, lh = kept.boxes[row, place].tolist()
                w, h = exp(lw) * (x1 - x0), exp(lh) * (y1 - y0)
                cx, cy = (x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)
                box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                np.testing.assert_allclose(box, one.found[n], atol=1e-5)
                first = int(kept.classes[row, place, 0])
                assert first == one.chances[n].argmax()
                assert float(kept.chances[row, place, 0]) == pytest.approx(one.chances[n].max())
            assert int(kept.kinds[row]) == one.kinds[k]
            assert int(kept.photos[row]) == number
            np.testing.assert_array_equal(kept.looks[row], one.looks[k])
            row += 1
        count = int((kept.beside_chances[number, :, 0] > 0).sum())
        assert count == min(len(beside), BESIDE)
        np.testing.assert_allclose(kept.beside_boxes[number, :count], one.found[beside[:BESIDE]])


def test_one_photo_drawn_from_itself_is_itself() -> None:
    """With one record of each class and size nothing else can be drawn."""
    one = photo(5, objects=1, found=4)
    simulation = Simulation.of(records_of([one]), Q)
    drawn = simulation(annotated(one), torch.from_numpy(one.ann_ids)[None], 0)
    boxes = sorted(drawn.boxes[0][drawn.there[0]].tolist())
    torch.testing.assert_close(
        torch.tensor(boxes), torch.tensor(sorted(one.found.tolist())), atol=1e-5, rtol=0
    )


def test_measures_by_hand() -> None:
    one = photo(1, objects=1, found=2)
    box = one.boxes[0]
    shifted = box + np.float32(0.02)
    chances = np.zeros((2, Q), np.float32)
    chances[0, one.kinds[0]], chances[1, (one.kinds[0] + 1) % Q] = 0.9, 0.3
    told = Photo(one.ann_ids, one.kinds, one.boxes, one.looks, np.stack([shifted, box]), chances)
    values = measured([(told, as_things(told))])
    assert values["found"] == 1
    assert values["class right"] == 0  # the best box is of another class
    assert values["IoU"] == pytest.approx(1)
    assert values["probability"] == pytest.approx(0.3)
    assert (values["detections a photo"], values["detections of it"]) == (2, 2)
    rows = compared([photo(seed) for seed in range(8)], (0.1, 0.5))
    assert [(row["least"], row["source"]) for row in rows] == [
        (0.1, "detector"), (0.1, "simulated"), (0.5, "detector"), (0.5, "simulated"),
    ]  # fmt: skip


def test_other_eyes() -> None:
    told: Any = ToldEyes()
    eyes, picture = Remembering(told), image((40, 64))
    first = eyes.look(picture, least=0.2, most=5)
    assert eyes.look(picture.copy(), least=0.2, most=5) is first
    assert len(told.asked) == 1
    assert Colourless(eyes).look(picture, least=0.2, most=5).looks is None
    boxes = np.array([[0, 0, 30, 40], [40, 30, 44, 34]], np.float32)
    objects = Objects(np.arange(2), ("dog", "cat"), boxes)
    knowing = KnowsClasses(eyes, {identity(picture): objects})
    seen = knowing.look(picture, least=0.2, most=5)
    names = [COCO_CLASSES[row.argmax()] for row in seen.chances]
    assert names == ["dog", COCO_CLASSES[16]]  # the second overlaps nothing by half
    assert seen.chances[0].max() == 1


def test_without_colours_the_heads_are_told_so() -> None:
    made = model(ToldEyes())
    seen: Any = Colourless(Remembering(ToldEyes()))  # type: ignore[arg-type]
    with torch.no_grad():
        batch = batch_of((40, 64))
        coloured = made.method.propose(batch).features
        made.method.see_by(lambda: seen)
        plain = made.method.propose(batch).features
    assert bool((coloured != plain).any())


def test_a_choice_among_detections_is_of_the_object_it_overlaps(tmp_path: Path) -> None:
    folder = make_refer(tmp_path)
    dataset = open_data(
        folder, "train", Labels.parse("text+box+category"), objects=True, pixels=False
    )
    made = model()
    chooser = AmongDetections(made)
    report = evaluate_objects(chooser, dataset)
    assert report.n == len(dataset)
    samples = dataset.samples(range(len(dataset)))
    outputs = made.method.eval()(made.batch(samples, share_images=True))
    for row, (sample, scores) in enumerate(zip(samples, chooser.scores(samples), strict=True)):
        image_row = int(made.batch(samples, share_images=True).image_of[row])
        box = outputs.proposals.boxes[image_row, int(outputs.scores[row].argmax())].detach().numpy()
        assert sample.objects is not None
        overlap = box_iou(_in_image(sample.objects.boxes_xyxy, sample.image.shape), box[None])[:, 0]
        wanted = {int(overlap.argmax())} if overlap.max() >= 0.5 else set()
        assert {int(k) for k in np.flatnonzero(scores > -np.inf)} == wanted


def _in_image(boxes: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    assert boxes is not None
    return boxes / np.array([shape[1], shape[0]] * 2, np.float32)


def with_a_dog(instances: Any, refs: Any) -> None:
    """Image 2 shows no cup."""
    instances["categories"].append({"id": 2, "name": "dog"})
    for one in instances["annotations"]:
        if one["image_id"] == 2:
            one["category_id"] = 2
    for one in refs:
        if one["image_id"] == 2:
            one["category_id"] = 2


def test_foreign_expressions_are_of_what_nobody_annotated(tmp_path: Path) -> None:
    folder = make_refer(tmp_path, change=with_a_dog)
    dataset = open_data(
        folder, "train", Labels.parse("text+box+category"), objects=True, pixels=False
    )
    asked = {samples[0].image_id: (samples, own) for samples, own in questions(dataset)}
    texts = {
        image_id: [s.text for s in samples[:own]] for image_id, (samples, own) in asked.items()
    }
    assert set(texts) == {1, 2}
    for image_id, (samples, own) in asked.items():
        foreign = [sample.text for sample in samples[own:]]
        other = texts[3 - image_id]
        assert len(foreign) == min(own, len(other)) > 0
        assert set(foreign) <= set(other)
        assert len(set(foreign)) == len(foreign)
        assert {sample.image_id for sample in samples} == {image_id}
    assert len(list(questions(dataset, limit=1))) == 1
    again = [s.text for samples, _ in questions(dataset) for s in samples]
    assert again == [s.text for samples, _ in questions(dataset) for s in samples]
    made = model()
    made.method = Mutual(made.method.config.model_copy(update={"absent": 0.5})).eval()
    told = scored(made, dataset, None)
    with torch.no_grad():
        first = made.method(made.batch(asked[1][0], share_images=True))
        exps = torch.cat([first.scores, made.method.nothing.expand(len(first.scores), 1)], 1).exp()
    by_hand = (exps[:, :-1] / exps.sum(dim=1, keepdim=True)).amax(dim=1)
    own = asked[1][1]
    np.testing.assert_allclose(told["own, with nothing"][:own], by_hand[:own], rtol=1e-4)
    assert (told["own, without"] > told["own, with nothing"]).all()


def test_a_threshold_spares_nearly_all() -> None:
    own = np.arange(100) / 100
    least = threshold(own)
    assert (own < least).mean() == pytest.approx(0.05)
    foreign = np.array([0.01, 0.02, 0.5, 0.03])
    scores = {f"{whose}, {way}": values for whose, values in (("own", own), ("foreign", foreign))
              for way in ("with nothing", "without")}  # fmt: skip
    told = measured_scores(scores, least)
    assert told["own refused"] == pytest.approx(0.05)
    assert told["foreign refused"] == 0.75
    wins = sum((own > one).sum() + 0.5 * (own == one).sum() for one in foreign)
    assert told["AUC"] == told["AUC without"] == pytest.approx(wins / 400)
    page = photographs_page.nothing(
        {"rows": [{"data": "refcoco val, photographs", **told}], "least": least, "spared": 0.05}
    )
    assert "| refcoco val, photographs | 100 | 5.0 | 4 | **75.0** | 85.5 | 85.5 |" in page["table"]
    assert (page["least"], page["spared"]) == ("0.05", "5 %")


def test_tables() -> None:
    score = {"accuracy": 0.5, "chance": 0.1}
    rows = [
        {"among": among, "data": "refcoco", "split": "val", "n": 10, "metrics": score,
         "intervals": {"accuracy": [0.4, 0.6]}}
        for among in (photographs_page.ANNOTATED, photographs_page.DETECTED)
    ]  # fmt: skip
    told = photographs_page.choice({"rows": rows, "never": 67})["table"]
    assert "| refcoco val | 10 | **50.0** | 40.0 to 60.0 | **50.0** | 40.0 to 60.0 | 10.0 |" in told
    one = {"mIoU": 0.6, "oIoU": 0.5, "Pr@0.5": 0.7}
    spread = {"mIoU": [0.5, 0.7], "oIoU": [0.4, 0.6]}
    chain = photographs_page.chain(
        {"rows": [{"data": "refcoco", "variant": "baseline:whole-image", "metrics": one,
                   "intervals": spread}], "photographs": 21,
         "seconds": {"first": 1.234, "further": 0.0061}}
    )  # fmt: skip
    assert (chain["first"], chain["further"]) == ("1.23 s", "6.1 ms")
    assert (
        "| refcoco | whole image | **60.0** | 50.0 to 70.0 | 50.0 | 40.0 to 60.0 | 70.0 | - |"
        in chain["table"]
    )


def test_the_headline_is_the_model_as_it_is() -> None:
    rows = [{"variant": name} for name in ("photos", "baseline:whole-image", "without colours")]
    assert photographs_page.headline({"rows": rows}) == {"reports": rows[:2]}


def test_how_long_it_takes_is_told_of_every_photograph(tmp_path: Path) -> None:
    dataset = open_data(make_refer(tmp_path), "train", Labels.parse("text"))
    told: Any = ToldEyes()
    hw = dataset.samples([0])[0].image.shape[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEEN, hw, ([[0, 0, 20, 20]], [(0, 0.9)]))
        made = model(told)
        taken = seconds(made, [dataset])
    assert len(told.asked) == len(dataset.groups_by_image())
    assert taken["further"] is not None
    assert taken["first"] > 0 < taken["further"]


def test_shrunk_boxes_lie_to_one_another_as_before(tmp_path: Path) -> None:
    labels = Labels.parse("text+box+category")
    dataset = open_data(make_refer(tmp_path), "train", labels, objects=True, pixels=False)
    samples = dataset.samples(range(len(dataset)))
    made = model()
    made.min_score = 0.4
    for side in (1.0, 0.5):
        small = [shrunk(one, side) for one in samples]
        for one, other in zip(samples, small, strict=True):
            height, width = one.image.shape[:2]
            assert one.objects is not None
            assert other.objects is not None
            assert one.objects.boxes_xyxy is not None
            assert other.objects.boxes_xyxy is not None
            for (x0, y0, x1, y1), found in zip(
                one.objects.boxes_xyxy.tolist(), other.objects.boxes_xyxy.tolist(), strict=True
            ):
                by_hand = [
                    width / 2 + side * (x0 - width / 2), height / 2 + side * (y0 - height / 2),
                    width / 2 + side * (x1 - width / 2), height / 2 + side * (y1 - height / 2),
                ]  # fmt: skip
                assert found == pytest.approx(by_hand, abs=1e-3)
        told = measured_sizes(made, small)
        scores = made.scores(small)
        hits = [int(s.argmax()) == one.target for s, one in zip(scores, small, strict=True)]
        assert told["accuracy"] == pytest.approx(np.mean(hits))
        chances = [float(torch.tensor(s).softmax(0).max()) for s in scores]
        assert told["refused"] == pytest.approx(np.mean([chance < 0.4 for chance in chances]))
        if side == 1:
            whole = told["share"]
        assert told["share"] == pytest.approx(whole * side**2, rel=1e-3)
    row = {"data": "refcoco val", "side": 0.5, "n": 9, "share": 0.03, "accuracy": 0.5,
           "refused": 0.25}  # fmt: skip
    page = photographs_page.small({"rows": [row], "least": 0.248})
    assert "| refcoco val | 9 | x 0.5 | 3.0 | **50.0** | 25.0 |" in page["table"]


def test_a_model_that_may_have_seen_the_judging_images_is_refused() -> None:
    never = frozenset({3, 1, 2})
    check_left_out("m", {"images left out": left_out([1, 2, 3])}, never)
    check_left_out("m", {}, frozenset())
    for card in ({}, {"images left out": left_out([1, 2])}):
        with pytest.raises(DataError, match=r"(?s)photos: its card.*exclude_images"):
            check_left_out("photos", card, never)


def test_the_command_names_no_machine() -> None:
    words = ["choice", "--real", "/some/where/refcoco_boxes", "--model", "/runs/photos/model"]
    told = photographs.command(photographs._parser().parse_args(words))
    assert told == "python -m studies.photographs choice --real refcoco_boxes --model photos"
    words = ["written", "--real", "/a/boxes", "--photos", "/a/photos", "--judge", "/runs/j/model"]
    told = photographs.command(photographs._parser().parse_args(words))
    assert told == ("python -m studies.photographs written --real boxes --photos photos --judge j")


def test_bad_input_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detections", "--real", str(tmp_path), "--records", str(tmp_path / "x.npz")]
    assert photographs.main([*words, "--out", str(tmp_path)]) == 2
    assert "instances.json" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
