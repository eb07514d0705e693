"""Overlays, curves and the HTML page."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg import draw
from refseg.page import Page
from tests.cli.conftest import noise


def disc(hw: tuple[int, int], radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: hw[0], : hw[1]]
    return (rows - hw[0] / 2) ** 2 + (columns - hw[1] / 2) ** 2 <= radius**2


def test_tint_blends_inside_and_leaves_the_outside() -> None:
    image, mask = np.full((40, 60, 3), 100, np.uint8), disc((40, 60), 12)
    out = draw.tint(image, mask, (200, 0, 50), alpha=0.5, width=1)
    np.testing.assert_array_equal(out[20, 30], [150, 50, 75])
    far = ~disc((40, 60), 16)  # beyond the contour
    np.testing.assert_array_equal(out[far], image[far])
    assert image.max() == image.min() == 100  # the input is not changed
    assert (out == (200, 0, 50)).all(axis=2).any()  # the contour


@pytest.mark.parametrize("hw", [(1, 1), (3, 500), (128, 128), (128, 256), (900, 1200)])
def test_overlays_are_large_enough_to_read(hw: tuple[int, int]) -> None:
    picture = draw.overlay(noise(hw), [np.ones(hw, bool)], ["the cup"])
    factor = picture.shape[1] // hw[1]
    assert picture.shape[1] == factor * hw[1]
    assert picture.shape[0] > factor * hw[0]  # the strip with the words
    if max(hw) <= 2 * min(hw):
        assert factor * min(hw) >= draw.MIN_SIDE
    assert max(factor * side for side in hw) <= 1600


@pytest.mark.parametrize("hw", [(1000, 6000), (6001, 40)])
def test_large_pictures_are_shrunk(hw: tuple[int, int]) -> None:
    image, mask = np.full((*hw, 3), 90, np.uint8), np.zeros(hw, bool)
    mask[: hw[0] // 2] = True
    factor = draw.MAX_SIDE / max(hw)
    height, width = round(hw[0] * factor), round(hw[1] * factor)
    plain = draw.overlay(image, [], [])
    assert plain.shape == (height, width, 3)
    assert (plain == 90).all()
    tinted = (draw.overlay(image, [mask], ["top"])[:height] != 90).any(axis=2)
    assert tinted[: height // 2 - 3].all()
    assert not tinted[height // 2 + 3 :].any()
    assert draw.compare(image, mask, mask).shape == (height, width, 3)
    assert draw.numbered(image, [mask], [1]).shape == (height, width, 3)
    response = mask.astype(np.float32)
    assert draw.heated(image, response).shape == (height, width, 3)


def test_every_expression_has_its_colour_in_the_strip() -> None:
    hw = (128, 160)
    texts = [f"object number {i}" for i in range(5)]
    picture = draw.overlay(noise(hw), [np.zeros(hw, bool)] * 5, texts)
    strip = picture[4 * hw[0] :].reshape(-1, 3).tolist()
    for index in range(5):
        assert list(draw.colour_of(index)) in strip
    assert draw.colour_of(len(draw.PALETTE)) == draw.colour_of(0)


def test_without_expressions_there_is_no_strip() -> None:
    assert draw.overlay(noise((500, 500)), [], []).shape == (500, 500, 3)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_drawn(text: str) -> None:
    hw = (64, 64)
    picture = draw.overlay(noise(hw), [np.zeros(hw, bool)], [text])
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 64 * 7


def test_compare_shows_both_masks() -> None:
    image = np.full((480, 500, 3), 100, np.uint8)
    out = draw.compare(image, disc((480, 500), 50), disc((480, 500), 150))
    assert not (out[240, 250] == 100).all()
    assert (out == draw.PAPER).all(axis=2).any()  # the truth's line
    np.testing.assert_array_equal(out[240, 350], [100, 100, 100])  # truth is not tinted


def test_png_round_trips() -> None:
    image = noise((9, 7))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(draw.png(image)))), image)
    mask = disc((9, 7), 3)
    read = np.asarray(Image.open(io.BytesIO(draw.mask_png(mask))))
    np.testing.assert_array_equal(read, mask * 255)


@pytest.mark.parametrize("hw", [(64, 90), (900, 1200), (1, 3000)])
def test_small_pictures_stay_small(hw: tuple[int, int]) -> None:
    """However much is in them: noise cannot be packed."""
    data = draw.small_png(noise(hw), 200)
    picture = Image.open(io.BytesIO(data))
    assert max(picture.size) == min(max(hw), 200)
    assert len(data) < picture.width * picture.height + 2000
    near = np.asarray(picture.convert("RGB"), float).mean(axis=(0, 1))
    np.testing.assert_allclose(near, noise(hw).mean(axis=(0, 1)), atol=6)


def test_thin_lines_nearly_keep_their_colour() -> None:
    """In a picture of many more colours than are kept."""
    rows, columns = np.mgrid[:300, :300]
    image = np.stack([rows * 0.8, columns * 0.8, (rows + columns) * 0.4], axis=2).astype(np.uint8)
    for column, colour in enumerate([draw.PAPER, *draw.PALETTE], 1):
        image[30:60, 30 * column] = colour
    drawn = np.asarray(Image.open(io.BytesIO(draw.small_png(image, 300))).convert("RGB"))
    for column, colour in enumerate([draw.PAPER, *draw.PALETTE], 1):
        assert abs(drawn[30:60, 30 * column].astype(int) - colour).max() <= 40  # median cut: 124


def test_what_is_inside_is_below_its_picture() -> None:
    page = Page("x")
    more = [[(b"a", "one"), (b"b", "two")], []]
    page.gallery([(b"png", "first"), (b"png", "second")], more, "inside")
    _, first, second = re.split("(?:first|second)</figcaption></figure>", page.html())
    assert first.startswith("<details><summary>inside</summary>")
    assert re.findall("<figcaption>(.*?)</figcaption>", first) == ["one", "two"]
    assert second.startswith("</div></div>")  # nothing to open
    with pytest.raises(ValueError, match="shorter"):
        page.gallery([(b"png", "first"), (b"png", "second")], more[:1], "inside")


def test_heat_is_brighter_where_the_response_is_higher() -> None:
    response = np.tile(np.linspace(0, 1, 50, dtype=np.float32), (20, 1))
    shown = draw.heat(np.full((20, 50, 3), 128, np.uint8), response)
    assert shown.shape == (20, 50, 3)
    assert shown[:, -1].mean() > shown[:, 0].mean()


@pytest.mark.parametrize("log_y", [False, True])
def test_curves_are_pictures(log_y: bool) -> None:
    series = {"run $a$ <b>": (range(1, 5), [0.5, 0.4, 0.3, 0.2]), "_b": ([1], [0.1])}
    data = draw.curves(series, title="loss_$", x="step", y="loss", log_y=log_y)
    assert Image.open(io.BytesIO(data)).size[0] > 400
    assert Image.open(io.BytesIO(draw.curves({}, title="", x="", y=""))).size[0] > 400


def everything(text: str) -> str:
    page = Page(text)
    page.heading(text)
    page.text(text)
    page.code(text)
    page.table((text, "n"), [(text, 1.23456789), ("-", "1,234")])
    page.gallery([(b"png", text)])
    page.gallery([(b"png", text), (b"png", text)], [[], [(b"png", text)]], text)
    page.row([(b"png", text)])
    page.picture(b"png", text)
    return page.html()


def skeleton(html: str) -> list[str]:
    """The tags, without the alternative text of pictures and the side that cells stand on."""
    tags = re.findall(r"<[a-zA-Z/!][^<>]*>", html)
    return [re.sub(r'alt="[^"]*"|class="n"| ', "", tag) for tag in tags]


@given(st.text())
def test_no_text_becomes_markup(text: str) -> None:
    plain, given = everything("x"), everything(text)
    assert skeleton(given) == skeleton(plain)


def test_numbers_stand_to_the_right_and_pictures_are_inside() -> None:
    html = everything("x")
    assert '<td class="n">1.235</td>' in html
    assert '<td class="n">1,234</td>' in html
    assert '<td class="n">-</td>' in html
    assert "<td>x</td>" in html
    assert html.count(f"data:image/png;base64,{base64.b64encode(b'png').decode()}") == 6
