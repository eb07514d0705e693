"""`refseg predict`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.ops.masks import mask_to_box, rle_decode
from tests.cli.conftest import Run, files_below, noise, refused

WORDS = ("left red square", "the blue disc")


def test_writes_a_mask_each_and_one_overlay(run: Run, photo: Path, sandbox: Path) -> None:
    result = run("predict", photo, *WORDS)
    assert result.exit_code == 0, result.output
    assert files_below(sandbox) == [
        "out", "out/photo.1.png", "out/photo.2.png", "out/photo.overlay.png",
    ]  # fmt: skip
    mask = np.asarray(Image.open("out/photo.1.png"))
    assert mask.shape == (48, 80)
    assert set(np.unique(mask)) <= {0, 255}
    for words in (*WORDS, "out/photo.overlay.png", "area %", "score"):
        assert words in result.stdout


def test_json_is_one_list_and_nothing_else(run: Run, photo: Path, sandbox: Path) -> None:
    result = run("predict", photo, *WORDS, "--json")
    answers = json.loads(result.stdout)
    assert [answer["expression"] for answer in answers] == list(WORDS)
    for answer in answers:
        assert set(answer) == {"expression", "mask", "box", "score", "empty", "ms"}
        assert answer["empty"] is False
        mask = rle_decode(answer["mask"])
        assert mask.shape == (48, 80)
        box = mask_to_box(mask)
        if box is None:
            assert answer["box"] is None
        else:
            x, y, w, h = answer["box"]
            np.testing.assert_allclose([x, y, x + w, y + h], box)
        assert 0 <= answer["score"] <= 1
        assert answer["ms"] > 0
    assert files_below(sandbox) == []  # with --json files are written on request only


def test_json_with_out_writes_too(run: Run, photo: Path, sandbox: Path) -> None:
    result = run("predict", photo, "disc", "--json", "--out", "x/y")
    assert len(json.loads(result.stdout)) == 1
    assert "x/y/photo.overlay.png" in files_below(sandbox)


def test_an_expression_of_unknown_words_is_answered_with_a_warning(run: Run, photo: Path) -> None:
    result = run("predict", photo, "红色的球", "红色 disc", "disc", "--json")
    assert len(json.loads(result.stdout)) == 3
    assert result.stderr.count("no word of") == 1
    assert "红色的球" in result.stderr


def test_threshold_moves_the_mask(run: Run, photo: Path) -> None:
    areas = []
    for threshold in ("0", "0.5", "0.999"):
        answer = json.loads(
            run("predict", photo, "disc", "--json", "--threshold", threshold).stdout
        )
        areas.append(int(rle_decode(answer[0]["mask"]).sum()))
    assert areas[0] == 48 * 80
    assert areas[0] >= areas[1] >= areas[2]


def test_control_characters_become_spaces(run: Run, photo: Path) -> None:
    answers = json.loads(run("predict", photo, "left\x00\nred\tsquare\x1b[31m", "--json").stdout)
    assert answers[0]["expression"] == "left red square [31m"


def test_one_pixel_is_an_image(run: Run, sandbox: Path) -> None:
    Image.fromarray(noise((1, 1))).save(sandbox / "dot.png")
    answers = json.loads(run("predict", "dot.png", "red disc", "--json").stdout)
    assert rle_decode(answers[0]["mask"]).shape == (1, 1)
    assert run("predict", "dot.png", "red disc").exit_code == 0  # and its overlay is drawn


@pytest.mark.parametrize("words", ["", "   ", "\t\n", "?!", "\x00\x01"])
def test_no_words_are_refused(run: Run, photo: Path, sandbox: Path, words: str) -> None:
    refused(run("predict", photo, "red disc", words), "without words", "->")
    assert files_below(sandbox) == []


def test_ten_thousand_characters_are_refused(run: Run, photo: Path, sandbox: Path) -> None:
    refused(run("predict", photo, "red " * 2500), "10,000 characters", "at most 1,000")
    assert files_below(sandbox) == []


def test_what_is_no_image_is_refused(run: Run, sandbox: Path, photo: Path) -> None:
    (sandbox / "notes.png").write_text("not a picture")
    (sandbox / "cut.png").write_bytes(photo.read_bytes()[:200])
    (sandbox / "empty.jpg").touch()
    (sandbox / "folder").mkdir()
    before = files_below(sandbox)
    for name in ("notes.png", "cut.png", "empty.jpg", "folder", "absent.png"):
        refused(run("predict", name, "red disc"), name, "->")
    assert files_below(sandbox) == before


def test_a_bomb_is_refused_before_it_is_decoded(run: Run, sandbox: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(sandbox / "bomb.png")
    Image.new("1", (20_000, 2)).save(sandbox / "long.png")
    for name in ("bomb.png", "long.png"):
        refused(run("predict", name, "red disc"), name, "too large", "16384")


def test_unknown_names_offer_the_nearest(run: Run, photo: Path, sandbox: Path) -> None:
    refused(
        run("predict", photo, "disc", "--model", "vega-scene"),
        'unknown model "vega-scene"', 'did you mean "vega-scenes"',
    )  # fmt: skip
    refused(run("predict", photo, "disc", "--device", "gpuu"), "gpuu", "auto")
    refused(run("predict", photo, "disc", "--threshold", "1.5"), "1.5")
    assert files_below(sandbox) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_half_written_model_is_refused(
    run: Run, photo: Path, toy_folder: Path, sandbox: Path, name: str
) -> None:
    for kind in ("absent", "cut"):
        folder = sandbox / kind
        folder.mkdir()
        for path in toy_folder.iterdir():
            data = path.read_bytes()
            if path.name != name:
                (folder / path.name).write_bytes(data)
            elif kind == "cut":
                (folder / path.name).write_bytes(data[: len(data) // 2])
        before = files_below(sandbox)
        refused(run("predict", photo, "disc", "--model", folder), str(folder), name)
        assert files_below(sandbox) == before


def test_a_folder_that_cannot_be_written_is_told(run: Run, photo: Path, sandbox: Path) -> None:
    (sandbox / "taken").write_text("a file")
    refused(run("predict", photo, "disc", "--out", "taken"), "taken")
    assert files_below(sandbox) == ["taken"]
