"""Detections as proposals: learned from annotated objects as a detector would tell of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from refseg.errors import DataError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.colour_words import told_of_objects
from refseg.methods.mutual.config import DetectedExtractorConfig
from refseg.methods.mutual.detected import DetectedThings
from refseg.methods.mutual.disambiguation import Meant, _Own
from refseg.methods.mutual.loss import selection_loss
from refseg.methods.mutual.meant import chosen_objects
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.things import LOOKS, Things, annotated_things, box_overlap
from refseg.ops.boxes import box_iou
from refseg.types import Batch, Objects, Sample
from tests.methods.mutual.test_disambiguation import learner_of
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import detected_config, mutual_config

KINDS = ("person", "dog", "person")
BOXES = np.array([[4, 6, 20, 36], [30, 2, 50, 30], [10, 20, 60, 38]], np.float32)


def extractor(**changes: Any) -> DetectedThings:
    torch.manual_seed(0)
    return DetectedThings(DetectedExtractorConfig(width=16, mlp_width=16, **changes))


def batch_of(*rows: tuple[int, ...], ids: int = 0) -> Batch:
    samples = []
    for number, chosen in enumerate(rows or ((0, 1, 2),)):
        take = list(chosen)
        objects = Objects(
            np.arange(3)[take] + ids + 10 * number, tuple(KINDS[i] for i in take), BOXES[take]
        )
        image = np.zeros((40, 64, 0), np.uint8)
        told = Sample(
            f"s{number}", image, "left red disc", number, number, number, objects=objects, target=0
        )
        samples.append(told)
    return toy_batch(samples)


def test_asked_it_takes_what_is_annotated_as_it_is() -> None:
    made, batch = extractor().eval(), batch_of((0, 1, 2), (2,))
    found = made(batch)
    things = annotated_things(objects_of(batch), COCO_CLASSES)
    assert found.there is not None
    assert found.there.tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(found.boxes, things.boxes)
    torch.testing.assert_close(found.features, made.embed(things).features)
    matching = made.match(found, objects_of(batch))
    assert matching.proposal.tolist() == [[0, 1, 2], [0, -1, -1]]
    assert (matching.iou[matching.proposal >= 0] > 0.999).all()


def test_learning_it_sees_detections_and_each_time_others() -> None:
    made, batch = extractor(clean=0), batch_of()
    torch.manual_seed(3)
    first, second = made(batch), made(batch)
    assert first.features.shape != second.features.shape or bool(
        (first.features != second.features).any()
    )
    torch.manual_seed(3)
    torch.testing.assert_close(made(batch).features, first.features)


def test_always_it_is_the_same_detections_when_asked() -> None:
    made = extractor(simulate="always").eval()
    first, second = made(batch_of()), made(batch_of())
    torch.testing.assert_close(first.features, second.features)
    assert first.boxes is not None
    assert first.boxes.shape[1] != 3 or bool((first.boxes[0, :3] != made_boxes()).any())


def made_boxes() -> torch.Tensor:
    return torch.from_numpy(BOXES) / torch.tensor([64.0, 40, 64, 40])


def test_doubtful_detections_do_not_count() -> None:
    for least in (0.1, 0.6):
        made = extractor(simulate="always", least=least)
        batches = [objects_of(batch_of(ids=i)) for i in range(0, 300, 10)]
        seen = [
            made.detected(annotated_things(objects, COCO_CLASSES), objects.ann_ids, 0)
            for objects in batches
        ]
        sure = torch.cat([one.sure[one.there] for one in seen])
        assert float(sure.min()) >= least
        assert len(sure) > 0


def test_each_object_has_the_detection_that_fits_and_none_has_two() -> None:
    """Of all assignments the one with the largest sum of overlaps of 0.5 and more."""
    made = extractor().eval()
    objects = objects_of(batch_of())
    rng = np.random.default_rng(0)
    for _ in range(20):
        shaken = np.repeat(BOXES, 2, axis=0) + rng.normal(0, 3, (6, 4)).astype(np.float32)
        boxes = torch.from_numpy(shaken)[None] / torch.tensor([64.0, 40, 64, 40])
        there = torch.from_numpy(rng.random((1, 6)) < 0.8)
        found = made.embed(Things.unseen(boxes, torch.rand(1, 6, 80), there))
        told = made.match(found, objects)
        overlap = box_iou(BOXES, shaken) * there[0].numpy()
        overlap[overlap < 0.5] = 0
        best = max(sum(overlap[k, n] for k, n in enumerate(p)) for p in permutations(range(6), 3))
        proposals = told.proposal[0].tolist()
        reached = sum(overlap[k, n] for k, n in enumerate(proposals) if n >= 0)
        assert reached == pytest.approx(best, abs=1e-5)
        for k, n in enumerate(proposals):
            if n < 0:
                assert told.iou[0, k].isnan()
            else:
                assert float(told.iou[0, k]) == pytest.approx(overlap[k, n], abs=1e-5)


def test_overlaps_as_elsewhere() -> None:
    torch.manual_seed(0)
    corners = torch.rand(2, 7, 2)
    boxes = torch.cat([corners, corners + torch.rand(2, 7, 2) - 0.1], dim=-1)
    for image in range(2):
        wanted = box_iou(boxes[image, :3].numpy(), boxes[image, 3:].numpy())
        got = box_overlap(boxes[:, :3], boxes[:, 3:])[image]
        torch.testing.assert_close(got.double(), torch.from_numpy(wanted), atol=1e-5, rtol=1e-5)


def test_an_expression_whose_object_is_missed_teaches_nothing_and_breaks_nothing() -> None:
    config = mutual_config(DetectedExtractorConfig(width=32, mlp_width=16, least=0.99, clean=0))
    torch.manual_seed(0)
    method = Mutual(config).train()
    batch = batch_of((0, 1, 2), (2,))
    terms = method.loss(method(batch), batch)  # nothing is as sure as that
    assert all(bool(value.isfinite()) for value in terms.values())
    assert float(terms["selection"].detach()) == 0
    terms["total"].backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_words_are_learned_from_detections() -> None:
    """Every part gets its gradient where something is detected."""
    config = mutual_config(DetectedExtractorConfig(width=32, mlp_width=16))
    torch.manual_seed(0)
    method = Mutual(config).train()
    for _ in range(10):
        batch = batch_of((0, 1, 2), (1, 2))
        method.loss(method(batch), batch)["total"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.extractor.parameters())


def test_what_nobody_looked_at_has_no_colours() -> None:
    made = extractor().eval()
    things = annotated_things(objects_of(batch_of()), COCO_CLASSES)
    looks = torch.rand(1, 3, LOOKS)
    unseen = replace(things, looks=looks)
    seen = replace(unseen, looked=things.there)
    plain, blind, told = (made.embed(one).features for one in (things, unseen, seen))
    torch.testing.assert_close(plain, blind)
    assert bool((plain != told).any(dim=-1).all())
    without = extractor(looks=False).eval()
    torch.testing.assert_close(without.embed(things).features, without.embed(seen).features)


def test_some_images_are_not_looked_at_while_learning() -> None:
    things = annotated_things(objects_of(batch_of(*[(0, 1, 2)] * 200)), COCO_CLASSES)
    seen = replace(things, looks=torch.rand(200, 3, LOOKS), looked=things.there)
    for blind in (0.0, 0.25, 1.0):
        known = extractor(blind=blind)._blinded(seen).looked
        assert (known == known[:, :1]).all()
        assert float(known.double().mean()) == pytest.approx(1 - blind, abs=0.1)
    assert extractor()._shown(seen)[..., -1].all()


def test_some_images_are_shrunk_while_learning_and_matched_as_they_were() -> None:
    batch = batch_of(*[(0, 1, 2)] * 300)
    things = annotated_things(objects_of(batch), COCO_CLASSES)
    made = extractor(clean=1.0, blind=0.0, zoom=0.4).train()
    torch.manual_seed(5)
    scale, corner = made._zooms(things)
    assert float((scale < 1).double().mean()) == pytest.approx(0.4, abs=0.1)
    assert float(scale.min()) >= 0.2
    small = things.boxes * scale + corner
    assert float(small.min()) >= 0
    assert float(small.max()) <= 1
    torch.testing.assert_close(box_overlap(small, small), box_overlap(things.boxes, things.boxes))
    torch.manual_seed(5)
    found = made(batch)
    wanted = replace(things, boxes=small)
    told = made(batch).features  # other draws
    assert bool((told != found.features).any())
    torch.manual_seed(5)
    made._zooms(things)
    torch.testing.assert_close(found.features, made.embed(wanted).features)
    torch.testing.assert_close(found.boxes, things.boxes, atol=1e-5, rtol=0)
    assert found.features.shape[0] == 300
    asked = made.eval()(batch)
    torch.testing.assert_close(asked.features, made.embed(things).features)
    padded = extractor(clean=1.0, zoom=1.0).train()(batch_of((0, 1, 2), (2,)))
    assert not padded.boxes[1, 1:].any()


def test_without_zoom_nothing_more_is_drawn() -> None:
    made, batch = extractor(clean=0, blind=0).train(), batch_of()
    torch.manual_seed(3)
    first = made(batch)
    torch.manual_seed(3)
    things = annotated_things(objects_of(batch), COCO_CLASSES)
    torch.rand(())
    salt = int(torch.randint(2**31, ()))
    things = made.detected(made._thinned(things), objects_of(batch).ann_ids, salt, told(batch))
    torch.testing.assert_close(first.features, made.embed(things).features)


def told(batch: Batch) -> torch.Tensor:
    return told_of_objects(batch, 3)


def test_step_2_learns_from_detections_without_being_in_train_mode() -> None:
    torch.manual_seed(0)
    simulating = DetectedExtractorConfig(width=32, mlp_width=32, clean=0, blind=0, thin=0)
    method = Mutual(mutual_config(simulating)).eval()
    batch = batch_of((0, 1, 2), (1, 2))
    asked, _ = _Own(method)(batch)
    again, matching = _Own(method)(batch)
    assert asked.boxes is not None
    assert again.boxes is not None
    assert asked.boxes.shape != again.boxes.shape or bool((asked.boxes != again.boxes).any())
    torch.testing.assert_close(matching.proposal, method.match(again, batch).proposal)
    plain = method.propose(batch)
    torch.testing.assert_close(plain.features, method.propose(batch).features)
    annotated = Mutual(mutual_config(detected_config())).eval()
    shapes = toy_batch(toy_samples(2), share_images=True)
    told = (annotated.practise(shapes).features, annotated.propose(shapes).features)
    torch.testing.assert_close(*told)


def test_the_reward_adds_up_what_a_thing_detected_twice_is_chosen_by() -> None:
    torch.manual_seed(1)
    simulating = DetectedExtractorConfig(width=32, mlp_width=32, clean=0, blind=0, thin=0)
    learner = learner_of(Mutual(mutual_config(simulating)))
    method, batch = learner.method, batch_of((0, 1, 2))
    object_box = BOXES[0] / np.array([64, 40, 64, 40], np.float32)
    for _ in range(50):  # until the object is detected more than once
        proposals, matching = learner.source(batch)
        assert proposals.boxes is not None
        boxes = proposals.boxes[0].numpy()
        every = BOXES / np.array([64, 40, 64, 40], np.float32)
        fits = [
            box_iou(object_box[None], box[None])[0, 0] >= 0.5
            and box_iou(every, box[None])[:, 0].argmax() == 0
            for box in boxes
        ]
        if sum(fits) > 1 and int(matching.proposal[0, 0]) >= 0:
            break
    else:
        pytest.fail("no draw detects it twice")
    rows, target = chosen_objects(matching, batch)
    same = method.same(proposals, batch, rows)
    assert same is not None
    assert same[0].tolist() == fits
    image_of = batch.image_of[rows]
    memory = method.remember(proposals, image_of, target)
    with torch.no_grad():
        found = method.generator.write(memory, beams=3)
        meant = Meant(image_of, target, same)
        clear, _, _ = learner._rewards(proposals, meant, [0], found)
    for place, (ids, length) in enumerate(
        zip(found.words[0].tolist(), found.lengths[0].tolist(), strict=True)
    ):
        text = learner.texts.spell(ids[:length])
        words, mask = learner.texts.read([text])
        with torch.no_grad():
            scores = method.score(proposals, image_of, words, mask)[0] / learner.config.tau
        chance = scores.softmax(0)
        wanted = sum(float(chance[n]) for n in range(len(fits)) if fits[n] or n == int(target))
        assert float(clear[0, place]) == pytest.approx(learner.config.alpha * wanted, rel=1e-4)


def test_some_images_lose_half_of_their_objects_while_learning() -> None:
    things = annotated_things(objects_of(batch_of(*[(0, 1, 2)] * 300)), COCO_CLASSES)
    kept = extractor(thin=0.5)._thinned(things)
    whole = kept.there.all(dim=1).double().mean()
    assert float(whole) == pytest.approx(0.5 + 0.5 / 8, abs=0.08)
    assert float(kept.there.double().mean()) == pytest.approx(0.75, abs=0.05)
    assert not kept.boxes[~kept.there].any()
    assert extractor(thin=0)._thinned(things).there.all()


def test_some_batches_are_learned_as_they_are_annotated() -> None:
    batch = batch_of()
    things = annotated_things(objects_of(batch), COCO_CLASSES)
    made = extractor(clean=1.0).train()
    torch.testing.assert_close(made(batch).boxes, things.boxes)


def test_what_is_detected_twice_is_right_twice() -> None:
    """Every detection of the object that is meant counts as a right choice."""
    made, batch = extractor().eval(), batch_of()
    objects = objects_of(batch)
    boxes = made_boxes()[None]
    shifted = boxes + 0.01
    heap = torch.tensor([[[0.0, 0, 1, 1]]])
    seen = torch.cat([boxes, shifted, heap], dim=1)
    found = made.embed(
        Things.unseen(seen, torch.rand(1, 7, 80), torch.ones(1, 7, dtype=torch.bool))
    )
    right = made.doubles(found, objects)[0]
    overlap = box_iou(seen[0].numpy(), boxes[0].numpy())
    for k in range(3):
        wanted = [n for n in range(7) if overlap[n].argmax() == k and overlap[n, k] >= 0.5]
        assert torch.nonzero(right[k])[:, 0].tolist() == wanted
    scores = torch.randn(1, 7)
    chance = scores.softmax(dim=1)[0]
    loss = selection_loss(scores, torch.tensor([0]), torch.tensor([1]), torch.ones(1), right[1:2])
    assert float(loss) == pytest.approx(-float(chance[right[1]].sum().log()), abs=1e-5)
    alone = selection_loss(scores, torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    assert float(alone) == pytest.approx(-float(chance[1].log()), abs=1e-5)


def test_other_classes_than_the_detectors_cannot_be_simulated() -> None:
    with pytest.raises(ValueError, match="never"):
        DetectedExtractorConfig(classes=("disc", "square"))
    with pytest.raises(ValueError, match="looks to false"):
        DetectedExtractorConfig(simulate="never")


def test_what_is_missing_says_so() -> None:
    made, batch = extractor(), batch_of()
    objects = objects_of(batch)
    with pytest.raises(DataError, match=r'(?s)boxes.*"box"'):
        made(replace(batch, objects=replace(objects, boxes=None)))
    with pytest.raises(DataError, match=r'(?s)categories.*"category"'):
        made(replace(batch, objects=replace(objects, categories=None)))
    found = made.eval()(batch)
    with pytest.raises(DataError, match="boxes"):
        made.match(found, replace(objects, boxes=None))
    strange = replace(objects, categories=(("person", "unicorn", "dog"),))
    with pytest.raises(DataError, match="unicorn"):
        made(replace(batch, objects=strange))
