from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import ImageError
from refseg.ops.images import (
    MAX_PIXELS,
    MAX_SIDE,
    PADDING_RGB,
    image_size,
    letterbox,
    load_image,
    resize_square,
)
from refseg.ops.masks import content_rectangle

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


class TestSources:
    def test_path_pil_and_array_agree(self, tmp_path):
        path = saved(tmp_path, Image.fromarray(RGB), "a.png")
        for source in (path, str(path), Image.fromarray(RGB), Image.open(path), RGB):
            image = load_image(source)
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert np.array_equal(image, RGB)
        assert image_size(path) == (6, 9)

    def test_the_result_is_a_copy(self):
        image = load_image(RGB)
        image[:] = 0
        assert RGB.any()

    def test_but_not_of_what_nobody_can_change(self):
        frozen = RGB.copy()
        frozen.setflags(write=False)
        assert load_image(frozen) is frozen
        for seen in (frozen[:], frozen[:, ::-1], RGB[:]):  # somebody may hold what they look at
            seen.setflags(write=False)
            image = load_image(seen)
            assert not np.shares_memory(image, seen)
            assert np.array_equal(image, seen)

    def test_grey_arrays_and_alpha_arrays(self):
        grey = RGB[..., 0]
        assert np.array_equal(load_image(grey), np.stack([grey] * 3, -1))
        assert np.array_equal(load_image(grey[..., None]), np.stack([grey] * 3, -1))
        clear = np.dstack([RGB, np.zeros((6, 9), np.uint8)])
        assert (load_image(clear) == 255).all()

    @pytest.mark.parametrize(
        "array",
        [RGB.astype(np.float32), np.zeros((2, 2, 5), np.uint8), np.zeros(4, np.uint8), RGB > 7],
    )
    def test_other_arrays_are_refused(self, array):
        with pytest.raises(ImageError, match="is no image"):
            load_image(array)


class TestModes:
    def test_grey_palette_and_bilevel(self, tmp_path):
        grey = Image.fromarray(RGB[..., 1])
        assert np.array_equal(load_image(saved(tmp_path, grey, "g.png")), load_image(RGB[..., 1]))
        flat = Image.new("RGB", (4, 3), (10, 200, 30)).quantize(4)
        assert flat.mode == "P"
        assert (load_image(saved(tmp_path, flat, "p.png")) == (10, 200, 30)).all()
        assert (load_image(saved(tmp_path, Image.new("1", (4, 3), 1), "b.png")) == 255).all()

    def test_cmyk_jpeg(self, tmp_path):
        cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
        image = load_image(saved(tmp_path, cyan, "c.jpg", quality=95))
        assert image.shape == (16, 16, 3)
        assert np.abs(image.astype(int) - (0, 255, 255)).max() < 8

    def test_sixteen_bits_keep_the_upper_byte(self, tmp_path):
        deep = np.array([[0, 255, 256, 65535]], np.uint16)
        image = load_image(saved(tmp_path, Image.fromarray(deep), "d.png"))
        assert image[0, :, 0].tolist() == [0, 0, 1, 255]

    def test_thirty_two_bit_integers_that_fit_a_byte_stay(self):
        values = np.array([[0, 7, 255]], np.int32)
        assert load_image(Image.fromarray(values))[0, :, 2].tolist() == [0, 7, 255]

    def test_floats_are_refused(self):
        with pytest.raises(ImageError, match="floating-point"):
            load_image(Image.fromarray(np.zeros((2, 2), np.float32)))

    def test_transparent_pixels_become_white(self, tmp_path):
        layer = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
        layer.putpixel((1, 0), (255, 0, 0, 0))
        image = load_image(saved(tmp_path, layer, "t.png"))
        assert image.tolist() == [[[255, 0, 0], [255, 255, 255]]]
        shade = Image.new("LA", (1, 1), (0, 0))
        assert load_image(saved(tmp_path, shade, "la.png")).tolist() == [[[255, 255, 255]]]

    def test_one_pixel(self, tmp_path):
        assert load_image(saved(tmp_path, Image.new("RGB", (1, 1)), "1.png")).shape == (1, 1, 3)


class TestOrientation:
    @pytest.mark.parametrize("value", range(1, 9))
    def test_exif_is_applied_or_not(self, tmp_path, value):
        exif = Image.Exif()
        exif[0x0112] = value
        path = saved(tmp_path, Image.fromarray(RGB), "e.png", exif=exif)
        by_hand = {
            1: RGB,
            2: RGB[:, ::-1],
            3: RGB[::-1, ::-1],
            4: RGB[::-1],
            5: RGB.swapaxes(0, 1),
            6: np.rot90(RGB, -1),
            7: RGB.swapaxes(0, 1)[::-1, ::-1],
            8: np.rot90(RGB),
        }[value]
        assert np.array_equal(load_image(path), by_hand)
        assert image_size(path) == by_hand.shape[:2]
        assert np.array_equal(load_image(path, exif=False), RGB)
        assert image_size(path, exif=False) == (6, 9)


class TestRefusals:
    @pytest.mark.parametrize(
        ("width", "height"),
        [
            (20_000, 20_000),
            (MAX_SIDE + 1, 1),
            (1, MAX_SIDE + 1),
            (12_000, 12_000),
            (12_000, 10_001),
        ],
    )
    def test_bombs_are_refused_before_decoding(self, tmp_path, monkeypatch, width, height):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header(width, height))

        def decode(*_):
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
        for read in (load_image, image_size):
            with pytest.raises(ImageError) as caught:
                read(path)
            text = str(caught.value)
            assert "bomb.png" in text
            assert str(MAX_SIDE) in text
            assert "120 megapixels" in text
            assert "scale it down" in text

    def test_the_limit_itself_is_accepted(self, tmp_path, recwarn):
        path = tmp_path / "large.png"
        path.write_bytes(png_header(10_000, MAX_PIXELS // 10_000))
        assert image_size(path) == (12_000, 10_000)
        assert not recwarn.list

    def test_large_arrays_are_refused_too(self):
        with pytest.raises(ImageError, match="too large"):
            load_image(np.zeros((1, MAX_SIDE + 1), np.uint8))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
    def test_a_truncated_file_is_refused(self, tmp_path, suffix):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = saved(tmp_path, Image.fromarray(noise), f"cut.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=r"cut\.|not an image"):
            load_image(path)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged TIFF
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_damaged_bytes_give_an_image_or_an_image_error(self, tmp_path_factory, data):
        buffer = io.BytesIO()
        kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "PPM"]))
        Image.fromarray(RGB).save(buffer, kind)
        raw = bytearray(buffer.getvalue())
        for _ in range(data.draw(st.integers(1, 6))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path_factory.mktemp("damaged") / "x"
        path.write_bytes(raw)
        with contextlib.suppress(ImageError):  # any other error fails the test
            image = load_image(path)
            assert image.dtype == np.uint8
            assert image.shape[2] == 3

    def test_what_is_no_image(self, tmp_path):
        for name, body in (("a.txt", b"hello"), ("b.jpg", b""), ("c.eps", b"%!PS-Adobe-3.0 EPSF")):
            path = tmp_path / name
            path.write_bytes(body)
            for read in (load_image, image_size):
                with pytest.raises(ImageError, match="not an image we can read"):
                    read(path)

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(ImageError, match="does not exist"):
            load_image(tmp_path / "none.png")
        with pytest.raises(ImageError, match="is a folder"):
            load_image(tmp_path)

    def test_no_pixels(self):
        with pytest.raises(ImageError, match="no pixels: 3 x 0"):
            load_image(np.zeros((0, 3, 3), np.uint8))


sizes = st.integers(1, 60)


class TestNetSizes:
    @given(sizes, sizes, sizes, sizes)
    def test_shapes_and_geometry(self, height, width, net_h, net_w):
        image = np.full((height, width, 3), 255, np.uint8)
        square, geometry = resize_square(image, (net_h, net_w))
        assert (square == 255).all()
        assert square.shape == (net_h, net_w, 3)
        assert content_rectangle(geometry) == (0, 0, net_w, net_h)
        boxed, geometry = letterbox(image, (net_h, net_w), fill=(0, 0, 0))
        assert boxed.shape == (net_h, net_w, 3)
        x0, y0, x1, y1 = content_rectangle(geometry)
        white = np.zeros((net_h, net_w), bool)
        white[y0:y1, x0:x1] = True
        assert np.array_equal((boxed == 255).all(-1), white)
        assert x1 - x0 == net_w or y1 - y0 == net_h
        assert abs(x0 - (net_w - x1)) <= 1
        assert abs(y0 - (net_h - y1)) <= 1
        scale = min(net_w / width, net_h / height)
        assert abs((x1 - x0) - max(1, width * scale)) <= 0.5 + 1e-9
        assert abs((y1 - y0) - max(1, height * scale)) <= 0.5 + 1e-9

    def test_shrinking_averages_pixel_areas(self):
        image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        by_hand = image.reshape(4, 2, 4, 3, 3).mean(axis=(1, 3))
        assert np.abs(resize_square(image, (4, 4))[0] - by_hand).max() <= 0.51

    def test_one_axis_may_shrink_while_the_other_grows(self):
        stripes = np.zeros((64, 2, 3), np.uint8)
        stripes[::2] = 200
        small = resize_square(stripes, (4, 8))[0]
        assert np.abs(small.astype(int) - 100).max() <= 1

    def test_padding_colour(self):
        boxed, _ = letterbox(np.zeros((4, 8, 3), np.uint8), (8, 8))
        assert tuple(boxed[0, 0]) == PADDING_RGB
        assert tuple(boxed[7, 7]) == PADDING_RGB

    def test_same_size_is_the_same_image(self):
        for into in (resize_square, letterbox):
            image, geometry = into(RGB, (6, 9))
            assert np.array_equal(image, RGB)
            assert image is not RGB
            assert geometry.scale_xy == (1, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_come_by_strips_as_they_are(mode, monkeypatch, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (37, 11, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    wanted = np.asarray(picture.convert("RGB"))
    for pixels in (1, 11, 100, 10**6):
        monkeypatch.setattr("refseg.ops.images.STRIP_PIXELS", pixels)
        found = load_image(picture)
        assert np.array_equal(found, wanted)
        assert found.flags["C_CONTIGUOUS"]
        found[0, 0] = 7  # a copy of its own
    assert np.array_equal(np.asarray(picture.convert("RGB")), wanted)
