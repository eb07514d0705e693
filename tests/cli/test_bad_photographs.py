"""Pictures that people really have, through the model for photographs.

Its nets are small and drawn by chance, so that answers mean nothing; what counts is that there is
one, of the right size, or a message, and that nothing is left half-written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg import models, predict
from refseg.ops.masks import rle_decode
from tests.cli.conftest import Run, files_below, noise, refused
from tests.cli.photos import open_eyes, shelve_photos
from tests.nn.test_eyes import small_eyes

Save = Callable[[Path], None]


@pytest.fixture(autouse=True)
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is the default one, and its weights are there."""
    shelf = tmp_path / "shelf"
    shelve_photos(shelf, least=0.01)
    monkeypatch.setattr(models, "BUNDLED", shelf)
    open_eyes(tmp_path, monkeypatch, small_eyes())
    monkeypatch.setattr(predict, "default_model", lambda: "photos")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown, it stands upright
    Image.fromarray(noise((40, 60))).save(path, exif=exif)


def deep(path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 2**16, (40, 60), dtype=np.uint16)
    Image.fromarray(grey).save(path)


def moving(path: Path) -> None:
    frames = [Image.fromarray(noise((40, 60))), Image.fromarray(noise((40, 60))[::-1].copy())]
    frames[0].save(path, save_all=True, append_images=frames[1:])


#: File -> how it is made, and its size as people see it.
PICTURES: dict[str, tuple[Save, tuple[int, int]]] = {
    "dot.png": (lambda path: Image.fromarray(noise((1, 1))).save(path), (1, 1)),
    "line.png": (lambda path: Image.fromarray(noise((2, 900))).save(path), (2, 900)),
    "turned.jpg": (turned, (60, 40)),
    "print.jpg": (lambda path: Image.new("CMYK", (60, 40), (9, 99, 0, 0)).save(path), (40, 60)),
    "deep.png": (deep, (40, 60)),
    "moving.gif": (moving, (40, 60)),
    "moving.webp": (moving, (40, 60)),
    "clear.png": (lambda path: Image.new("RGBA", (60, 40), (9, 9, 9, 0)).save(path), (40, 60)),
    "palette.png": (lambda path: Image.new("P", (60, 40), 3).save(path), (40, 60)),
}


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_kind_of_picture_is_answered(run: Run, sandbox: Path, name: str) -> None:
    save, hw = PICTURES[name]
    save(sandbox / name)
    result = run("predict", name, "left red disc", "--json", "--top", "3")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert rle_decode(answer["mask"]).shape == hw
    assert answer["answers"]
    for other in answer["answers"]:
        assert rle_decode(other["mask"]).shape == hw
    assert files_below(sandbox) == [name]
    assert run("predict", name, "left red disc", "--explain").exit_code == 0
    seen = json.loads(run("propose", name, "--min-score", "0", "--json").stdout)
    assert 0 < len(seen) <= 5  # the model's `most`


def test_a_picture_of_108_million_pixels(run: Run, sandbox: Path) -> None:
    Image.new("L", (12_000, 9_000), 90).save("large.png", compress_level=1)
    result = run("predict", "large.png", "left red disc", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["mask"]["size"] == [9_000, 12_000]


def test_nothing_detected_is_nothing_there(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = models.load("photos", eyes=False)
    surer = model.method.config.extractor.model_copy(update={"least": 0.999})
    config = model.method.config.model_copy(update={"extractor": surer})
    model.method = models.build_method("mutual", config)
    models.save(models.BUNDLED / "photos", model)
    (answer,) = json.loads(run("predict", photo, "disc", "--json", "--top", "2").stdout)
    assert answer["empty"]
    assert answer["answers"] == []
    assert rle_decode(answer["mask"]).sum() == 0
    assert "nothing there" in run("predict", photo, "disc", "--top", "2", "--explain").stdout
    assert json.loads(run("propose", photo, "--json").stdout) == []
    told = "found no object", "80 kinds"
    refused(run("describe", photo, "--box", "5,5,20,20"), *told)


def test_what_is_no_picture_is_refused(run: Run, sandbox: Path, photo: Path) -> None:
    (sandbox / "notes.jpg").write_text("not a picture")
    (sandbox / "cut.png").write_bytes(photo.read_bytes()[:200])
    before = files_below(sandbox)
    for name in ("notes.jpg", "cut.png"):
        for words in (("predict", name, "disc"), ("propose", name)):
            refused(run(*words), name, "->")
        refused(run("describe", name, "--box", "5,5,20,20"), name, "->")
    assert files_below(sandbox) == before
