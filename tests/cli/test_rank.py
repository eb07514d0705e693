"""What else an expression may mean, when nothing does, and why: ranks, refusals, explanations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refseg import models
from refseg.errors import ConfigError, ExpressionError, ImageError, ModelError
from refseg.explain import explanation
from refseg.ops.masks import rle_decode
from refseg.predict import Predictor, Segmenter, load
from refseg.rank import ALIKE, ranked
from refseg.types import Prediction
from tests.cli.conftest import Run, files_below, refused
from tests.cli.mutual import BOXES, QUERIES, toy_mutual
from tests.methods.toy import toy_model

WORDS = ("left red square", "the blue disc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It can say that nothing is meant."""
    folder = tmp_path_factory.mktemp("models") / "chooser"
    models.save(folder, toy_mutual(absent=0.5))
    return folder


@pytest.fixture
def model(folder: Path) -> Segmenter:
    return load(folder, "cpu")


def iou(one: np.ndarray, other: np.ndarray) -> float:
    either = (one | other).sum()
    return float((one & other).sum() / either) if either else 1.0


def test_ranks_are_a_loop_over_all_proposals(model: Segmenter, photo: Path) -> None:
    predictor = Predictor(model).set_image(photo)
    for text in WORDS:
        with torch.no_grad():
            outputs = model.method(predictor._batch([text]))
        exps = torch.cat([outputs.scores[0], model.method.nothing.detach()]).double().exp()
        chance = (exps / exps.sum())[:-1]
        kept: list[tuple[int, np.ndarray]] = []
        proposals = {one.number: one for one in predictor.propose()}
        for number in chance.argsort(descending=True, stable=True).tolist():
            mask = proposals[number].mask
            if all(iou(mask, other) < ALIKE for _, other in kept):
                kept.append((number, mask))
        found = predictor.rank(text, keep=QUERIES)
        assert [one.proposal.number for one in found] == [number for number, _ in kept]
        assert [one.score for one in found] == pytest.approx([float(chance[n]) for n, _ in kept])
        fewer = predictor.rank(text, keep=2)
        assert [one.proposal.number for one in fewer] == [number for number, _ in kept][:2]
        assert sum(one.score for one in found) < 1
        first = predictor.segment(text)
        np.testing.assert_array_equal(found[0].mask, first.mask)
        assert found[0].score == pytest.approx(first.score)


def test_nothing_found_is_no_answer() -> None:
    assert ranked([], np.zeros(3, np.float32), 5) == ()


def test_equals_are_ranked_as_the_method_chooses(model: Segmenter, photo: Path) -> None:
    """argmax takes the first of equals."""
    proposals = Predictor(model).set_image(photo).propose()
    found = ranked(proposals, np.full(QUERIES, 0.125, np.float32), 1)
    assert found[0].proposal.number == 0


def test_who_ranks_nothing_says_so(model: Segmenter, photo: Path, toy_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no others to rank"):
        load(toy_folder, "cpu").rank(photo, "disc")
    with pytest.raises(ConfigError, match="no others to rank"):
        Segmenter(**vars(toy_mutual(BOXES))).rank(photo, "disc")
    with pytest.raises(ConfigError, match="0 answers are too few"):
        model.rank(photo, "disc", keep=0)
    with pytest.raises(ExpressionError):
        model.rank(photo, " ")
    with pytest.raises(ImageError, match="set_image"):
        Predictor(model).rank("disc")


def test_top_is_in_the_json_and_the_table(run: Run, photo: Path, folder: Path) -> None:
    said = run("predict", photo, *WORDS, "--model", folder, "--top", 3, "--json")
    answers = json.loads(said.stdout)
    for answer, text in zip(answers, WORDS, strict=True):
        first, *others = answer["answers"]
        assert 1 <= len(others) <= 2
        assert first["mask"] == answer["mask"]
        assert first["box"] == answer["box"]
        assert first["score"] == pytest.approx(answer["score"], abs=1e-5)
        scores = [one["score"] for one in answer["answers"]]
        assert scores == sorted(scores, reverse=True)
        expected = load(folder, "cpu").rank(photo, text, keep=3)
        for one, own in zip(answer["answers"], expected, strict=True):
            assert set(one) == {"mask", "box", "score", "category", "category_score"}
            np.testing.assert_array_equal(rle_decode(one["mask"]), own.mask)
    table = run("predict", photo, *WORDS, "--model", folder, "--top", 3).stdout
    assert table.count("or 2.") == 2
    assert "what" in table
    assert "what" not in run("predict", photo, *WORDS, "--model", folder).stdout


def test_one_that_ranks_nothing_is_refused_before_it_looks(
    run: Run, photo: Path, sandbox: Path
) -> None:
    refused(run("predict", photo, "disc", "--top", 2), "no others to rank", "photos")
    refused(run("predict", photo, "disc", "--top", 0), "--top")
    refused(run("predict", photo, "disc", "--min-score", "1"), "--min-score 1.0", "below 1")
    assert files_below(sandbox) == []


def test_a_low_score_means_that_nothing_is_there(run: Run, photo: Path, folder: Path) -> None:
    words = ("predict", photo, "disc", "--model", folder)
    sure, unsure = (
        json.loads(run(*words, "--json", "--min-score", least, "--threshold", 0.2).stdout)[0]
        for least in ("0", "0.999")
    )
    assert not sure["empty"]
    assert unsure["empty"]
    assert unsure["box"] is None
    assert not rle_decode(unsure["mask"]).any()
    assert unsure["score"] == sure["score"] < 0.999
    assert "nothing there" in run(*words, "--min-score", 0.999).stdout
    assert not np.asarray(Image.open("out/photo.1.png")).any()


def test_a_model_has_a_measure_of_its_own(run: Run, photo: Path, tmp_path: Path) -> None:
    """It travels with the folder; a person's own comes before it."""
    made = toy_mutual(absent=0.5)
    score = Segmenter(**vars(made)).segment(photo, "disc").score
    models.save(tmp_path / "strict", replace(made, min_score=score + 0.01))
    strict = load(tmp_path / "strict", "cpu")
    assert strict.min_score == score + 0.01
    assert strict.segment(photo, ["disc"])[0].empty
    assert strict.rank(photo, "disc", keep=1)[0].mask.any()
    words = ("predict", photo, "disc", "--model", tmp_path / "strict", "--json")
    assert json.loads(run(*words).stdout)[0]["empty"]
    assert not json.loads(run(*words, "--min-score", score - 0.01).stdout)[0]["empty"]
    text = (tmp_path / "strict" / "config.json").read_text()
    told = {**json.loads(text), "min_score": 1.5}
    (tmp_path / "strict" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="min_score"):
        load(tmp_path / "strict", "cpu")


def test_explanations_are_drawn(run: Run, photo: Path, folder: Path, sandbox: Path) -> None:
    """A chooser's proposals; of another method its response and inner maps."""
    for name in (folder, "vega-scenes"):
        out = sandbox / Path(name).name
        said = run("predict", photo, *WORDS, "--explain", "--model", name, "--out", out)
        assert said.exit_code == 0, said.output
        for number in (1, 2):
            assert f"photo.{number}.explain.png" in said.stdout
            with Image.open(out / f"photo.{number}.explain.png") as picture:
                assert picture.width >= 80
        assert (out / "photo.1.explain.png").read_bytes() != photo.read_bytes()
    quiet = run("predict", photo, *WORDS, "--explain", "--json", "--model", folder)
    assert set(json.loads(quiet.stdout)[0]) == {
        "expression", "mask", "box", "score", "empty", "ms",
    }  # fmt: skip


def test_an_explanation_shows_what_there_is(photo: Path) -> None:
    pixels = np.asarray(Image.open(photo))
    vega: Any = Segmenter(**vars(toy_model("vega")))
    told: Prediction = vega.segment(photo, "disc")
    both = explanation(pixels, told)
    one = explanation(pixels, replace(told, maps={}))
    assert both is not None
    assert one is not None
    assert 2 * len(both) == 3 * len(one), "response, CLS similarity, answer"
    assert explanation(pixels, replace(told, maps={}, response=None)) is None
    none = explanation(pixels, told, ())
    assert none is not None
    assert none.shape[1] == one.shape[1]
