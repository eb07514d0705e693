"""What the studies are made of: each number against a dumb twin."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refseg import models
from refseg.evaluate import Options, evaluate_all
from studies import base, embedding, ksweep, paired, questions, trained
from studies.auc import auc
from studies.inside import cells_of, look_inside, unit
from tests.methods.toy import toy_samples

pytestmark = pytest.mark.usefixtures("small_world")


# -- small parts against their twins -----------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int8, st.integers(1, 30), elements=st.integers(-3, 3)), st.randoms())
def test_auc_is_the_share_of_pairs_in_order(scores: np.ndarray, random: Any) -> None:
    mask = np.array([random.random() < 0.4 for _ in scores], bool)
    pairs = list(product(scores[mask].tolist(), scores[~mask].tolist()))
    found = auc(scores, mask)
    if not pairs:
        assert found is None
    else:
        wins = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
        assert found == pytest.approx(wins / len(pairs))


@pytest.mark.parametrize(("hw", "cells"), [((8, 8), (4, 2)), ((7, 5), (3, 2)), ((2, 3), (4, 4))])
def test_cells_hold_the_share_of_the_mask(hw: tuple[int, int], cells: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(hw) < 0.5
    # Twin: repeat every pixel so often that cells and pixels share their edges, then average.
    fine = mask.repeat(cells[0], axis=0).repeat(cells[1], axis=1).astype(float)
    wanted = fine.reshape(cells[0], hw[0], cells[1], hw[1]).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(cells_of(mask, cells), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("red ball", "appearance only"),
        ("striped one that is not red", "appearance only"),
        ("left red ball", "location"),
        ("mug closest to us", "location"),
        ("2nd ball from left", "ordinal"),
        ("biggest cube", "superlative"),
        ("ball behind the biggest cube", "relation"),
        ("left ball next to the red mug", "relation"),
        ("a giraffe", "unknown"),
    ],
)
def test_kind_of_an_expression(text: str, kind: str) -> None:
    assert questions.kind_of(text) == kind


def test_every_expression_of_the_world_has_a_known_kind() -> None:
    for style in base.STYLES:
        dataset = base.open_scenes(style, "val")
        kinds = {questions.kind_of(dataset.entry(i).text) for i in range(len(dataset))}
        assert kinds <= set(questions.KINDS)
        assert kinds


@given(st.lists(st.floats(0, 1), min_size=3, max_size=40))
def test_thirds_keep_the_order_of_sizes(shares: list[float]) -> None:
    names, (low, high) = questions.thirds(shares)
    assert low <= high
    for share, name in zip(shares, names, strict=True):
        wanted = "small" if share <= low else "medium" if share <= high else "large"
        assert name == wanted


@pytest.mark.parametrize(
    ("overlap", "pointed"),
    [([0.2, 0.5], "right"), ([0.6, 0.5], "wrong"), ([0.0, 0.0], "nothing"), ([0.4, 0.4], "right")],
)
def test_which_object_a_mask_points_at(overlap: list[float], pointed: str) -> None:
    assert questions.pointed_at(np.array(overlap), target=1) == pointed


def test_answers_know_their_targets() -> None:
    class Perfect:
        """Answers with the truth, which it looks up."""

        name, card = "perfect", {"labels used": "all"}

        def __init__(self, truth: dict[str, np.ndarray]) -> None:
            self.truth = truth

        def predict(self, samples: Any) -> list[Any]:
            from refseg.types import Geometry, Prediction

            hws = [s.image.shape[:2] for s in samples]
            return [
                Prediction(self.truth[s.key], 1.0, Geometry(hw, hw, (1.0, 1.0)))
                for s, hw in zip(samples, hws, strict=True)
            ]

    dataset = base.open_scenes("scenesg", "val")
    samples = dataset.samples(range(len(dataset)))
    truth = {s.key: s.mask for s in samples if s.mask is not None}
    keep = questions.Answers(dataset)
    evaluate_all(Perfect(truth), dataset, ["original"], options=Options(keep=keep))
    assert {row.pointed for row in keep.rows} == {"right"}
    for row in keep.rows:
        assert row.area_share == pytest.approx(truth[row.key].mean())
    assert questions.scores(keep.rows)["mIoU where right"] == 1.0


# -- t-SNE ---------------------------------------------------------------------------------------


def _clusters() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(c, 1, (15, 6)) for c in (0, 8, -8)]).astype(np.float32)


def test_affinities_have_the_perplexity_that_was_asked_for() -> None:
    points = _clusters().astype(float)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    for row in range(len(points)):
        shares = embedding._row(squared[row], row, np.log(7.0))
        entropy = -sum(p * np.log(p) for p in shares if p > 0)
        assert np.exp(entropy) == pytest.approx(7.0, rel=1e-4)
        assert shares[row] == 0
    joint = embedding.affinities(points, 7.0)
    np.testing.assert_allclose(joint, joint.T)
    assert joint.sum() == pytest.approx(1.0)


def test_slope_is_the_gradient_of_the_divergence() -> None:
    rng = np.random.default_rng(1)
    high = embedding.affinities(rng.normal(size=(9, 4)), 3.0)
    places, step = rng.normal(size=(9, 2)), 1e-5
    wanted = np.zeros_like(places)
    for index in np.ndindex(places.shape):
        up, down = places.copy(), places.copy()
        up[index] += step
        down[index] -= step
        rise = embedding.divergence(high, up) - embedding.divergence(high, down)
        wanted[index] = rise / (2 * step)
    np.testing.assert_allclose(embedding.slope(high, places), wanted, atol=1e-8)


def test_embedding_keeps_clusters_apart_and_is_the_same_again() -> None:
    points = _clusters()
    places = embedding.embed(points, perplexity=8.0)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    cluster = np.arange(45) // 15
    assert (cluster[gaps.argmin(axis=1)] == cluster).all()
    high = embedding.affinities(points.astype(float), 8.0)
    start = embedding._main_components(points.astype(float))
    assert embedding.divergence(high, places) < 0.5 * embedding.divergence(high, start)
    np.testing.assert_array_equal(places, embedding.embed(points, perplexity=8.0))


# -- inside the model --------------------------------------------------------------------------


def test_what_is_seen_inside_is_what_the_model_answers_with(toy: Path) -> None:
    model, samples = models.load(toy), toy_samples(3)
    told = look_inside(model, samples)
    for sample, inside in zip(samples, told, strict=True):
        count = len(inside.pieces)
        assert inside.pieces[0] == "[CLS]"
        pixels = inside.hw[0] * inside.hw[1]
        assert inside.pixels.shape[0] == inside.scores.shape[1] == pixels
        assert len(inside.language) == len(inside.visual) == len(inside.selected) == count
        # The selection again, the plain way: the best K of every row.
        chosen = inside.selected.sum(axis=1)
        assert (chosen == int(0.3 * pixels)).all()
        for scores, selected in zip(inside.scores, inside.selected, strict=True):
            assert scores[selected].min() >= scores[~selected].max()
        alone = model.predict([sample])[0]
        np.testing.assert_allclose(
            alone.maps["cls_similarity"].ravel(), inside.scores[0], atol=1e-5
        )
        np.testing.assert_allclose(alone.response, inside.prediction.response, atol=1e-4)
    assert np.allclose(np.linalg.norm(unit(told[0].pixels), axis=1), 1)


def test_another_k_at_inference_is_another_model_and_then_the_same_again(toy: Path) -> None:
    model, samples = models.load(toy), toy_samples(2)
    before = model.predict(samples)
    with ksweep.selecting(model, 1.0):
        assert all(inside.selected.all() for inside in look_inside(model, samples))
        assert not np.array_equal(model.predict(samples)[0].response, before[0].response)
    for old, new in zip(before, model.predict(samples), strict=True):
        np.testing.assert_array_equal(old.response, new.response)


# -- comparing trained variants ----------------------------------------------------------------


def _run(variant: str, seed: int, miou: float, cls_auc: float | None = None) -> trained.Trained:
    return trained.Trained(variant, seed, 10, miou, miou / 2, cls_auc, 5, "text+mask", "0")


def test_paired_differences_use_the_seeds_both_have() -> None:
    done = [_run("a", s, 0.5 + s / 10, 0.9) for s in (0, 1, 2)]
    done += [_run("b", s, 0.4 + s / 10 + s / 1000) for s in (0, 1)]
    rows = {row["measure"]: row for row in paired.differences(done, ["a", "b"], trained.MEASURES)}
    assert set(rows) == {"mIoU", "oIoU"}
    assert rows["mIoU"]["seeds"] == 2
    assert rows["mIoU"]["difference"] == pytest.approx(0.0995)
    # The t interval of two numbers 0.1 and 0.099: half width 12.706 * sd / sqrt(2).
    low, high = rows["mIoU"]["interval"]
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.0005, rel=1e-3)
    assert rows["mIoU"]["verdict"] == "higher"


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([0.1], "inconclusive"),
        ([0.1, -0.1, 0.1], "inconclusive"),
        ([0.1, 0.101, 0.099], "higher"),
        ([-0.1, -0.101, -0.099], "lower"),
    ],
)
def test_verdicts(gaps: list[float], verdict: str) -> None:
    assert paired.paired(gaps)["verdict"] == verdict


def test_summary_gives_means_and_spreads() -> None:
    done = [_run("a", 0, 0.2, 0.6), _run("a", 1, 0.4, 0.8), _run("b", 0, 0.1)]
    rows = paired.summary(done, "ab", trained.MEASURES)
    assert rows[0]["mIoU"] == pytest.approx(0.3)
    assert rows[0]["mIoU spread"] == pytest.approx(0.2 / np.sqrt(2))
    assert rows[0]["CLS AUC"] == pytest.approx(0.7)
    assert rows[1]["mIoU spread"] is None
    assert rows[1]["CLS AUC"] is None
