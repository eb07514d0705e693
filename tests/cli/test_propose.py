"""`refseg propose`: all masks a model chooses from, against masks and scores made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from refseg import draw, models
from refseg.cli.profile import make_case
from refseg.errors import ConfigError
from refseg.models import Model
from refseg.ops.masks import mask_to_box, response_in_px, rle_decode
from refseg.predict import Predictor, Segmenter, load
from refseg.profile import case, count
from refseg.propose import Proposal, distinct
from refseg.types import Geometry, Sample
from tests.cli.conftest import Run, files_below, noise, refused
from tests.cli.mutual import BOXES, CLASSES, QUERIES, toy_mutual
from tests.methods.toy import preprocess, toy_model

WORDS = ("left red square", "the blue disc")
HW = (48, 80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mutual-scenes"
    models.save(folder, toy_mutual())
    return folder


def segmenter(model: Model) -> Segmenter:
    return Segmenter(**vars(model))


def by_hand(model: Model, image: np.ndarray) -> list[tuple[np.ndarray, float, str, float]]:
    """(mask, 1 - p(no object), category, its p) of every query, in the model's order."""
    batch = model.batch([Sample("0", image, "object", 0, 0, 0)])
    with torch.no_grad():
        level = model.method(batch).proposals.levels[-1]
    (geometry,) = batch.geometry
    told = []
    for logits, classes in zip(level.masks[0], level.classes[0], strict=True):
        full = F.interpolate(logits[None, None], geometry.net_hw, mode="bilinear")[0, 0]
        chance = classes.double().exp() / classes.double().exp().sum()
        best = int(chance[:-1].argmax())
        told.append(
            (
                response_in_px(full.numpy(), geometry) > 0,
                float(chance[:-1].sum()),
                CLASSES[best],
                float(chance[best]),
            )
        )
    return told


@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_proposals_are_the_models_queries_surest_first(photo: Path, fit: str) -> None:
    model = replace(toy_mutual(), preprocess=preprocess(fit))
    image = np.asarray(Image.open(photo))
    found = segmenter(model).propose(photo)
    wanted = by_hand(model, image)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert sorted(one.number for one in found) == list(range(QUERIES))
    for one in found:
        mask, score, category, chance = wanted[one.number]
        assert one.mask.shape == HW
        np.testing.assert_array_equal(one.mask, mask)
        assert one.category == category
        np.testing.assert_allclose([one.score, one.category_score], [score, chance], atol=1e-6)


def test_json_is_one_list_and_nothing_else(
    run: Run, photo: Path, folder: Path, sandbox: Path
) -> None:
    result = run("propose", photo, "--model", folder, "--min-score", "0", "--json")
    found = load(folder, "cpu").propose(photo)
    told = json.loads(result.stdout)
    assert result.stderr == ""  # nothing was left out
    for row, one in zip(told, found, strict=True):
        assert set(row) == {"number", "mask", "box", "score", "category", "category_score"}
        assert (row["number"], row["category"]) == (one.number, one.category)
        np.testing.assert_array_equal(rle_decode(row["mask"]), one.mask)
        box = mask_to_box(one.mask)
        assert box is not None
        x, y, w, h = row["box"]
        np.testing.assert_allclose([x, y, x + w, y + h], box)
        np.testing.assert_allclose(row["score"], one.score, atol=1e-6)
    assert files_below(sandbox) == []


def test_the_table_and_its_picture(run: Run, photo: Path, folder: Path, sandbox: Path) -> None:
    result = run("propose", photo, "--model", folder, "--top", "2", "--min-score", "0")
    assert result.exit_code == 0, result.output
    assert files_below(sandbox) == ["out", "out/photo.proposals.png"]
    assert "out/photo.proposals.png" in result.stdout
    assert f"2 of {QUERIES} proposals" in result.stderr
    best = load(folder, "cpu").propose(photo)[:2]
    for one in best:
        assert f"{one.score:.2f}" in result.stdout
    picture = np.asarray(Image.open("out/photo.proposals.png"))
    assert picture.shape[1] % HW[1] == 0
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert {draw.colour_of(one.number) for one in best} <= colours


def test_filters_leave_out_what_they_say(run: Run, photo: Path, folder: Path) -> None:
    every = load(folder, "cpu").propose(photo)
    cut = every[2].score - 1e-6

    def numbers(*options: object) -> list[int]:
        result = run("propose", photo, "--model", folder, "--json", *options)
        return [row["number"] for row in json.loads(result.stdout)]

    assert numbers("--min-score", cut) == [one.number for one in every[:3]]
    assert numbers("--min-score", "0", "--top", "4") == [one.number for one in every[:4]]
    assert numbers() == [one.number for one in every if one.score >= 0.5]
    assert numbers("--min-score", "1") == []
    kept = numbers("--min-score", "0", "--distinct", "0.6")
    assert kept == [one.number for one in without_twins(every, 0.6)]
    assert 1 <= len(kept) < QUERIES


def without_twins(proposals: Sequence[Proposal], limit: float) -> list[Proposal]:
    """By pixels, pair by pair."""
    kept: list[Proposal] = []
    for one in proposals:
        overlaps = [
            (one.mask & other.mask).sum() / max((one.mask | other.mask).sum(), 1) for other in kept
        ]
        if all(overlap < limit for overlap in overlaps):
            kept.append(one)
    return kept


def square(number: int, columns: slice, score: float) -> Proposal:
    logits = np.full((8, 8), -9.0, np.float32)
    logits[:, columns] = 9.0
    return Proposal(number, score, "disc", score, logits, Geometry((8, 8), (8, 8), (1.0, 1.0)))


def test_the_box_of_a_proposal_is_where_it_was_found_or_around_its_mask() -> None:
    one = square(0, slice(2, 5), 0.5)
    assert one.box_xyxy is not None
    assert one.box_xyxy.tolist() == [2, 0, 5, 8]
    assert square(0, slice(0, 0), 0.5).box_xyxy is None
    found = np.array([1.5, 0, 5, 8], np.float32)
    assert replace(one, found_xyxy=found).box_xyxy is found


def test_of_near_duplicates_the_surest_stays() -> None:
    wide, half = square(0, slice(0, 8), 0.5), square(1, slice(0, 4), 0.9)
    same, none, void = square(2, slice(0, 4), 0.8), square(3, slice(0, 0), 0.7), square(4, slice(0, 0), 0.6)  # fmt: skip  # noqa: E501
    every = [wide, half, same, none, void]
    assert [one.number for one in distinct(every, 1.0)] == [1, 3, 0]
    assert [one.number for one in distinct(every, 0.5)] == [1, 3]  # IoU of the halves: exactly 0.5
    assert [one.number for one in distinct(every, 0.51)] == [1, 3, 0]
    assert distinct([], 0.5) == []


def test_masks_without_a_pixel_are_told_as_such(
    run: Run, photo: Path, tmp_path: Path, sandbox: Path
) -> None:
    model = toy_mutual()
    with torch.no_grad():  # mask = MLP(O) . F: without the last layer every logit is 0
        final = model.method.extractor.net.transformer_module.decoder.mask_predictor.mask_embedder
        for parameter in list(final.parameters())[-2:]:
            parameter.zero_()
    models.save(tmp_path / "blind", model)
    arguments = ("propose", photo, "--model", tmp_path / "blind", "--min-score", "0")
    assert [row["box"] for row in json.loads(run(*arguments, "--json").stdout)] == [None] * QUERIES
    assert run(*arguments).stdout.count("no pixel") == QUERIES


def test_one_pixel_is_an_image(run: Run, folder: Path, sandbox: Path) -> None:
    Image.fromarray(noise((1, 1))).save(sandbox / "dot.png")
    result = run("propose", "dot.png", "--model", folder, "--min-score", "0")
    assert result.exit_code == 0, result.output


def test_bad_input_is_refused(
    run: Run, photo: Path, folder: Path, toy_folder: Path, sandbox: Path, tmp_path: Path
) -> None:
    models.save(tmp_path / "blind-boxes", toy_mutual(extractor=BOXES))
    for arguments, told in (
        (("--min-score", "1.5"), "--min-score 1.5"),
        (("--min-score", "nan"), "--min-score nan"),
        (("--top", "0"), "--top 0"),
        (("--distinct", "0"), "--distinct 0"),
        (("--distinct", "1.01"), "--distinct 1.01"),
        (("--model", toy_folder), "vega-scenes (method vega) makes no proposals"),
        (("--model", tmp_path / "blind-boxes"), "sees no pixels"),
        (("--model", "mutual-scene"), 'unknown model "mutual-scene"'),
    ):
        refused(run("propose", photo, "--model", folder, *arguments), told, "->")
    refused(run("propose", "absent.png", "--model", folder), "absent.png")
    (sandbox / "taken").write_text("a file")
    refused(run("propose", photo, "--model", folder, "--out", "taken"), "taken")
    assert files_below(sandbox) == ["taken"]


def test_a_predictor_proposes_only_about_an_image() -> None:
    with pytest.raises(Exception, match="no image has been set"):
        Predictor(toy_mutual()).propose()
    with pytest.raises(ConfigError, match="makes no proposals"):
        segmenter(toy_model("vega")).propose(noise((8, 8)))


# -- the picture --------------------------------------------------------------------------------


def test_numbers_lie_inside_and_nothing_is_tinted() -> None:
    image = np.full((600, 800, 3), 100, np.uint8)
    mask = np.zeros((600, 800), bool)
    mask[100:400, 200:500] = True
    out = draw.numbered(image, (m for m in (mask, ~mask & False)), [3, 4])
    assert out.shape == image.shape
    np.testing.assert_array_equal(out[150, 250], [100, 100, 100])
    np.testing.assert_array_equal(out[500, 100], [100, 100, 100])
    changed = (out != image).any(axis=2)
    assert changed[240:260, 340:360].any()  # the number, at the point farthest from the border
    assert (out[100, 300] == draw.colour_of(3)).all()  # the outline
    assert not (out == draw.colour_of(4)).all(axis=2).any()  # nothing to outline


@pytest.mark.parametrize("hw", [(1, 1), (3, 500), (420, 420)])
def test_a_number_at_the_border_stays_in_the_picture(hw: tuple[int, int]) -> None:
    everything = np.ones(hw, bool)
    corner = np.zeros(hw, bool)
    corner[0, 0] = True
    for mask in (everything, corner):
        out = draw.numbered(noise(hw), [mask], [88])
        assert out.shape[1] % hw[1] == 0
        assert (out == draw.colour_of(88)).all(axis=2).any()


# -- the other commands ---------------------------------------------------------------------------


def test_predict_answers_with_one_of_the_proposals(
    run: Run, photo: Path, folder: Path, sandbox: Path
) -> None:
    predicted = json.loads(run("predict", photo, *WORDS, "--model", folder, "--json").stdout)
    model = load(folder, "cpu")
    numbered: dict[int, Any] = {one.number: one.mask for one in model.propose(photo)}
    image = np.asarray(Image.open(photo))
    samples = [Sample(str(i), image, text, 0, 0, i) for i, text in enumerate(WORDS)]
    for answer, scores in zip(predicted, model.scores(samples), strict=True):
        np.testing.assert_array_equal(rle_decode(answer["mask"]), numbered[int(scores.argmax())])
        chance = np.exp(scores - scores.max())
        np.testing.assert_allclose(answer["score"], (chance / chance.sum()).max(), atol=1e-5)
    assert run("predict", photo, *WORDS, "--model", folder).exit_code == 0
    assert "out/photo.overlay.png" in files_below(sandbox)


def test_its_cost_can_be_told(folder: Path) -> None:
    parts, macs = count(load(folder, "cpu").method, case(64, 8))
    names = {part.name: part for part in parts}
    assert {"extractor", "text", "selection", "generator"} <= set(names)
    assert names["generator"].macs == 0  # nothing is written to answer an expression
    assert macs >= names["extractor"].macs > 0


def test_the_cost_among_annotated_objects(tmp_path: Path) -> None:
    models.save(tmp_path / "boxes", toy_mutual(extractor=BOXES))
    method, batch = make_case(str(tmp_path / "boxes"), False, None, None)
    assert batch.objects is not None
    assert batch.objects.known.shape == (1, len(CLASSES))
    parts, _ = count(method, batch)
    assert next(part.macs for part in parts if part.name == "selection") > 0


def test_it_is_listed(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUNDLED", folder.parent)
    (row,) = json.loads(run("models", "--json").stdout)
    assert (row["name"], row["method"]) == ("mutual-scenes", "mutual")
    assert "mutual-scenes" in run("models").stdout
