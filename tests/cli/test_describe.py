"""`refseg describe` and `model.describe`: against the library asked with its own eyes."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg import models, predict
from refseg.describe import Described, describe, writers
from refseg.errors import ConfigError, DataError, ImageError
from refseg.ops.boxes import box_iou
from refseg.ops.masks import mask_to_box, rle_decode
from refseg.predict import Predictor, Segmenter, load
from refseg.types import Expression, Objects, Picture
from tests.cli.conftest import Run, files_below, noise, refused
from tests.cli.mutual import BOXES, TAUGHT_ON_BOXES, toy_mutual
from tests.methods.toy import preprocess

HW = (48, 80)
BOX = (5, 10, 35, 40)  # x0 y0 x1 y1
TOLD = "5,10,30,30"  # x y w h


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mutual-scenes"
    models.save(folder, toy_mutual())
    return folder


@pytest.fixture
def model(folder: Path) -> Segmenter:
    return load(folder, "cpu")


def segmenter(**changes: Any) -> Segmenter:
    return Segmenter(**vars(toy_mutual(**changes)))


def boxed(box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def plainly(model: Segmenter, photo: Path, mask: np.ndarray, **options: Any) -> Described:
    """The region as the one object of a picture with its pixels, encoded for it alone; of a box
    (by_box=True) the mask is not looked at.
    """
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    own = Objects(np.array([7]), boxes_xyxy=np.array([box], np.float32), masks=(mask,))
    picture = Picture(0, np.asarray(Image.open(photo)), own)
    (described,) = describe(model, [picture], [(0, 0)], **options)
    return described


def assert_alike(ours: Any, theirs: Any) -> None:
    """Two rows of expressions, the verdicts included."""
    assert [one.text for one in ours] == [one.text for one in theirs]
    assert [one.refers_back for one in ours] == [one.refers_back for one in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.score, b.score, atol=1e-4)
        if b.margin is not None:
            np.testing.assert_allclose(a.margin, b.margin, atol=1e-4)


# -- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
def test_json_is_what_the_library_says(
    run: Run, photo: Path, folder: Path, model: Segmenter, sandbox: Path, verify: bool
) -> None:
    options = ("--beams", "4", "--keep", "2", *(["--verify"] if verify else []))
    result = run("describe", photo, "--box", TOLD, "--model", folder, "--json", *options)
    told = json.loads(result.stdout)
    assert set(told) == {"expressions", "region", "iou", "matched"}
    wanted = plainly(model, photo, boxed(BOX), beams=4, keep=2, verify=verify, by_box=True)
    for one in told["expressions"]:
        assert set(one) == {"text", "score", "refers_back", "margin"}
        assert (one["margin"] is None) == (one["refers_back"] is None) == (not verify)
    assert_alike([Expression(**one) for one in told["expressions"]], wanted.expressions)
    assert len(wanted.expressions) == 2
    scores = [one["score"] for one in told["expressions"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < 0
    assert told["region"]["box"] == [5, 10, 30, 30]
    np.testing.assert_array_equal(rle_decode(told["region"]["mask"]), boxed(BOX))
    proposals = {one.number: one.mask for one in model.propose(photo)}
    theirs = mask_to_box(proposals[wanted.proposal])
    assert theirs is not None
    np.testing.assert_allclose(told["iou"], box_iou(np.array(BOX), theirs)[0, 0], atol=1e-5)
    assert files_below(sandbox) == []


def test_a_mask_is_a_region_too(
    run: Run, photo: Path, folder: Path, model: Segmenter, sandbox: Path
) -> None:
    mask = np.zeros(HW, bool)
    mask[10:30, 8:12] = mask[26:30, 8:40] = True
    Image.fromarray(mask).save("region.png")
    result = run("describe", photo, "--mask", "region.png", "--model", folder, "--json")
    told = json.loads(result.stdout)
    np.testing.assert_array_equal(rle_decode(told["region"]["mask"]), mask)
    assert told["region"]["box"] == [8, 10, 32, 20]
    wanted = plainly(model, photo, mask, beams=5, keep=3).expressions
    assert_alike([Expression(**one) for one in told["expressions"]], wanted)


def test_a_region_that_fits_no_proposal_is_told(
    run: Run, photo: Path, folder: Path, model: Segmenter, sandbox: Path
) -> None:
    fitting = next(
        one.mask
        for one in model.propose(photo)
        if Predictor(model).set_image(photo).describe_region(one.mask).iou == 1
    )
    Image.fromarray(fitting).save("region.png")
    good = run("describe", photo, "--mask", "region.png", "--model", folder, "--json")
    assert (json.loads(good.stdout)["matched"], json.loads(good.stdout)["iou"]) == (True, 1.0)
    assert good.stderr == ""
    for more in ((), ("--json",)):
        bad = run("describe", photo, "--box", "0,0,6,6", "--model", folder, *more)
        assert bad.exit_code == 0
        assert "has an IoU of 0.0" in " ".join(bad.stderr.split())
    told = json.loads(bad.stdout)
    assert told["matched"] is False
    assert told["iou"] < 0.5
    assert told["expressions"]


def test_the_table_and_its_picture(
    run: Run, photo: Path, folder: Path, model: Segmenter, sandbox: Path
) -> None:
    arguments = ("describe", photo, "--box", TOLD, "--model", folder)
    plain = run(*arguments).stdout
    assert "refers back" not in plain
    assert files_below(sandbox) == []  # a picture is drawn on request only
    result = run(*arguments, "--verify", "--out", "x/y")
    told = Predictor(model).set_image(photo).describe_region(BOX, verify=True)
    for one in told.expressions:
        (line,) = [row for row in result.stdout.splitlines() if row.split()[:1] == [one.text]]
        assert f"{one.score:.2f}" in line
        assert line.split()[2] == ("yes" if one.refers_back else "no")
        assert one.text in plain
    assert files_below(sandbox) == ["x", "x/y", "x/y/photo.described.png"]
    assert "x/y/photo.described.png" in result.stdout
    picture = np.asarray(Image.open("x/y/photo.described.png"))
    factor = picture.shape[1] // HW[1]
    assert (picture[10 * factor, 20 * factor] == 255).all()  # the region's line, in white
    assert picture.shape[0] > HW[0] * factor  # the words below


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "no region is given"),
        (("--box", TOLD, "--mask", "region.png"), "--mask and --box are both given"),
        (("--box", "1,2,3"), '--box "1,2,3" is not four numbers'),
        (("--box", "a,b,c,d"), '--box "a,b,c,d"'),
        (("--box", "nan,2,3,4"), "is not four numbers"),
        (("--box", "1,2,inf,4"), "is not four numbers"),
        (("--box", "1,2,1e999,4"), "is not four numbers"),
        (("--box", "10,10,0,5"), "from (10, 10) to (10, 15) has no area"),
        (("--box", "10,10,5,-5"), "has no area"),
        (("--box", "100,10,20,20"), "is not inside the image of 80 x 48 pixels"),
        (("--box", "10,10,75,20"), "is not inside the image"),
        (("--box", "-9,10,20,20"), "is not inside the image"),
        (("--box", "10.6,10.6,0.3,0.3"), "holds no pixel's centre"),
        (("--box", "-1,-1,1.2,1.2"), "holds no pixel's centre"),
        (("--mask", "absent.png"), "absent.png"),
        (("--mask", "void.png"), "the mask is empty"),
        (("--mask", "small.png"), "the mask is 48 x 80 pixels, the image 80 x 48"),
        (("--mask", "lossy.jpg"), "lossy.jpg is in a lossy format"),
        (("--mask", "notes.png"), "notes.png"),
        (("--box", TOLD, "--beams", "0"), "beams 0 is out of range"),
        (("--box", TOLD, "--beams", "101"), "beams 101"),
        (("--box", TOLD, "--keep", "0"), "keep 0 is out of range"),
        (("--box", TOLD, "--beams", "2", "--keep", "3"), "search more (--beams 3)"),
        (("--box", TOLD, "--model", "mutual-scene"), 'unknown model "mutual-scene"'),
        (("--box", TOLD, "--out", "taken"), "taken"),
    ],
)
def test_bad_input_is_refused(
    run: Run, photo: Path, folder: Path, sandbox: Path, options: tuple[str, ...], told: str
) -> None:
    Image.fromarray(boxed(BOX)).save("region.png")
    Image.fromarray(np.zeros(HW, np.uint8)).save("void.png")
    Image.fromarray(boxed(BOX).T).save("small.png")
    Image.fromarray(noise(HW)).save("lossy.jpg")
    for name in ("notes.png", "taken"):
        (sandbox / name).write_text("no picture")
    before = files_below(sandbox)
    refused(run("describe", photo, "--model", folder, *options), told, "->")
    assert files_below(sandbox) == before


def test_a_picture_that_cannot_be_written_is_told_before_the_model_is_loaded(
    run: Run, photo: Path, folder: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sandbox / "taken").write_text("a file")

    def refuse(*given: Any) -> Any:
        raise AssertionError("loaded")

    monkeypatch.setattr("refseg.predict.load", refuse)
    for command in (("describe", "--box", TOLD), ("propose",)):
        words = (command[0], photo, *command[1:], "--model", folder)
        refused(run(*words, "--out", "taken"), "--out taken/photo.", "cannot be written", "->")
        with pytest.raises(AssertionError, match="loaded"):
            run(*words, "--out", "free")
    assert files_below(sandbox) == ["taken"]


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_as_many_as_were_searched_for_three_at_most(
    run: Run, photo: Path, folder: Path, beams: int
) -> None:
    result = run("describe", photo, "--box", TOLD, "--model", folder, "--beams", beams, "--json")
    assert len(json.loads(result.stdout)["expressions"]) == min(beams, 3)


def test_models_that_cannot_do_it_are_refused(
    run: Run,
    photo: Path,
    folder: Path,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(model: Path, *options: str) -> Any:
        return run("describe", photo, "--box", TOLD, "--model", model, *options)

    assert writers() == []
    refused(ask(toy_folder), "vega-scenes (method vega) cannot write expressions", "mutual")
    models.save(tmp_path / "blind", toy_mutual(extractor=BOXES))
    models.save(tmp_path / "reader", toy_mutual(generate=False))
    models.save(tmp_path / "writer", toy_mutual(select=False))
    refused(ask(tmp_path / "blind"), "sees no pixels", "->")
    refused(ask(tmp_path / "writer", "--verify"), "was not taught to read")
    assert ask(tmp_path / "writer").exit_code == 0
    models.save(tmp_path / "bundled" / "mutual-scenes", toy_mutual())
    models.save(tmp_path / "bundled" / "mutual-reader", toy_mutual(generate=False))
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "bundled")
    assert writers() == ["mutual-scenes"]
    refused(ask(tmp_path / "reader"), "reader (method mutual)", "these can: mutual-scenes")
    monkeypatch.setattr(predict, "default_model", lambda: "mutual-scenes")
    assert run("describe", photo, "--box", TOLD).exit_code == 0


# -- in Python ----------------------------------------------------------------------------------


def test_the_image_is_encoded_once(
    model: Segmenter, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    extract = model.method.extractor.extract

    def counted(images: Any) -> Any:
        calls.append(1)
        return extract(images)

    monkeypatch.setattr(model.method.extractor, "extract", counted)
    predictor = Predictor(model).set_image(photo)
    predictor.propose()
    mask = predictor.segment("left red square").mask
    for region in (mask if mask.any() else boxed(BOX), BOX):
        predictor.describe_region(region, verify=True)
    assert len(calls) == 1


@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_a_region_is_placed_as_the_image_is(photo: Path, fit: str) -> None:
    model = replace(segmenter(), preprocess=preprocess(fit))
    for box in (BOX, (50, 2, 79, 20), (0, 40, 80, 48)):
        ours = Predictor(model).set_image(photo).describe_region(box, verify=True)
        theirs = plainly(model, photo, boxed(box), beams=5, keep=3, verify=True, by_box=True)
        assert ours.proposal == theirs.proposal
        assert_alike(ours.expressions, theirs.expressions)


def test_boxes_may_be_tuples_lists_and_arrays(model: Segmenter, photo: Path) -> None:
    predictor = Predictor(model).set_image(photo)
    told = predictor.describe_region(BOX)
    assert predictor.describe_region(list(BOX)) == predictor.describe_region(np.array(BOX)) == told


def test_a_mask_is_its_tight_box_to_a_model_taught_on_boxes(photo: Path) -> None:
    predictor = Predictor(segmenter(extractor=TAUGHT_ON_BOXES)).set_image(photo)
    corner = boxed(BOX)
    corner[15:40, 10:35] = False  # an L, whose tight box is the same
    told = predictor.describe_region(corner)
    assert told == predictor.describe_region(BOX) == predictor.describe_region(boxed(BOX))
    theirs = next(one.mask for one in predictor.propose() if one.number == told.proposal)
    assert told.iou == (theirs & boxed(BOX)).sum() / (theirs | boxed(BOX)).sum()


def test_python_warns_of_a_region_that_fits_no_proposal(model: Segmenter, photo: Path) -> None:
    predictor = Predictor(model).set_image(photo)
    with pytest.warns(UserWarning, match=r"IoU of 0\.0"):
        first = predictor.describe((0, 0, 6, 6))
    with pytest.warns(UserWarning, match="mutual-scenes"):
        assert model.describe(photo, (0, 0, 6, 6)) == first
    with pytest.warns(UserWarning, match="IoU") as told:
        model.describe(photo, (0, 0, 6, 6))
    assert told[0].filename == __file__  # the caller's line, not ours
    fitting = max(
        (one.mask for one in model.propose(photo)),
        key=lambda mask: predictor.describe_region(mask).iou or 0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictor.describe(fitting)


def test_fewer_where_the_search_finds_no_more(model: Segmenter, photo: Path) -> None:
    predictor = Predictor(model).set_image(photo)
    greedy = predictor.describe_region(BOX, beams=1, keep=3).expressions
    many = predictor.describe_region(BOX, beams=4, keep=4).expressions
    assert len(greedy) == 1
    assert len({one.text for one in many}) == len(many) == 4
    assert predictor.describe_region(BOX, beams=4, keep=2).expressions == many[:2]


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (np.ones(HW, np.uint8), "mask of type uint8"),
        (np.zeros(HW, bool), "the mask is empty"),
        (np.ones((48, 79), bool), "79 x 48 pixels, the image 80 x 48"),
        (np.ones((1, *HW), bool), "neither a mask nor a box"),
        ((1, 2, 3), "neither a mask nor a box"),
        ((1, 2, float("nan"), 4), "neither a mask nor a box"),
        ("left", "neither a mask nor a box"),
        (("a", "b", "c", "d"), "neither a mask nor a box"),
        ([[1, 2], [3]], "neither a mask nor a box"),
        (None, "neither a mask nor a box"),
        ((30, 30, 20, 40), "has no area"),
        ((10, 10, 20, 50), "is not inside"),
    ],
)
def test_bad_regions(model: Segmenter, photo: Path, region: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        model.describe(photo, region)


def test_a_region_that_vanishes_where_the_model_looks(
    run: Run, folder: Path, model: Segmenter, sandbox: Path
) -> None:
    """One pixel in a picture twenty times the model's: no grid cell is more in than out."""
    side = 20 * model.preprocess.size
    big, one = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), bool)
    one[101, 101] = True
    with pytest.raises(
        DataError, match=f"too small: of its 1 px nothing is left in the {side // 20} px"
    ):
        model.describe(big, one)
    Image.fromarray(big).save("big.png")
    Image.fromarray(one).save("one.png")
    refused = run("describe", "big.png", "--mask", "one.png", "--model", folder)
    assert refused.exit_code == 2
    told = " ".join(refused.stderr.split())
    assert "the region is too small" in told
    assert "give a larger region" in told
    with pytest.warns(UserWarning, match=r"IoU of 0\.00"):  # a box has an extent, however small
        assert model.describe(big, (101, 101, 102, 102))


def test_bad_questions(model: Segmenter, photo: Path) -> None:
    with pytest.raises(ImageError, match="no image has been set"):
        Predictor(model).describe(BOX)
    with pytest.raises(ConfigError, match="beams 0"):
        model.describe(photo, BOX, beams=0)
    for wrong in (2.5, "two", None):
        with pytest.raises(ConfigError, match=f"beams {wrong!r} is no whole number"):
            model.describe(photo, BOX, beams=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"keep 1\.0 is no whole number"):
        model.describe(photo, BOX, keep=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keep is 9, but only 2 beams") as caught:
        model.describe(photo, BOX, beams=2, keep=9)
    assert caught.value.remedy == "search more (--beams 9) or keep fewer (--keep)"
    assert (
        Predictor(model)
        .set_image(photo)
        .describe_region(BOX, beams=np.int64(2), keep=2)
        .expressions
    )
    with pytest.raises(ConfigError, match="cannot write"):
        segmenter(generate=False).describe(photo, BOX)
