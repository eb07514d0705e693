"""Is it there, and whole?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from refseg.errors import ModelError, UnknownName
from refseg.pull import parts
from refseg.pull.kept import is_pulled, pulled_folder
from refseg.pull.run import pull
from tests.pull.conftest import DETECTOR, KEPT, MASKS
from tests.pull.shelf import Shelf


@pytest.fixture
def cache(shelf: Shelf, tmp_path: Path) -> Path:
    pull("photos", cache=tmp_path)
    return tmp_path


def refusal(cache: Path, hashes: bool = False) -> str:
    """What `pulled_folder` says, remedy and all."""
    assert not is_pulled("photos", hashes=hashes, cache=cache)
    with pytest.raises(ModelError) as caught:
        pulled_folder("photos", hashes=hashes, cache=cache)
    assert caught.value.remedy == "refseg models pull photos"
    return caught.value.message


@pytest.mark.parametrize("hashes", [False, True])
def test_a_whole_pull(cache: Path, hashes: bool) -> None:
    assert is_pulled("photos", hashes=hashes, cache=cache)
    assert pulled_folder("photos", hashes=hashes, cache=cache) == cache / "photos"


def test_the_cache_is_the_environments(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    assert pulled_folder("photos") == cache / "photos"
    monkeypatch.setenv("REFSEG_CACHE", str(cache / "other"))
    assert not is_pulled("photos")


def test_nothing_pulled(tmp_path: Path) -> None:
    assert "photos has not been pulled" in refusal(tmp_path)


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="photos"):
        is_pulled("photo")


@pytest.mark.parametrize("name", KEPT)
def test_a_lost_file_is_named(cache: Path, name: str) -> None:
    (cache / "photos" / name).unlink()
    assert f"{name} is gone" in refusal(cache)


@pytest.mark.parametrize("name", KEPT)
def test_a_short_file_is_named(cache: Path, name: str) -> None:
    path = cache / "photos" / name
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{name} is broken" in refusal(cache)


@pytest.mark.parametrize("name", KEPT)
def test_a_changed_file_is_named_where_hashes_are_asked_for(cache: Path, name: str) -> None:
    path = cache / "photos" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert is_pulled("photos", cache=cache)
    told = refusal(cache, hashes=True)
    assert f"{name} is broken: sha256 expected" in told


def test_half_a_pull(cache: Path) -> None:
    (cache / "photos" / "provenance.json").unlink()
    assert "only half pulled: there is no provenance.json" in refusal(cache)


@pytest.mark.parametrize("harm", ["{", "[]", "{}", '{"name": 1}', "\xff"])
def test_a_broken_manifest(cache: Path, harm: str) -> None:
    (cache / "photos" / "provenance.json").write_bytes(harm.encode("latin-1"))
    assert "broken" in refusal(cache)


def test_another_table_wants_other_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version of refseg asks for another file, or converts in another way."""
    assert MASKS.conversion is not None
    graph, text = DETECTOR.files
    newer = replace(DETECTOR, files=(graph, replace(text, sha256="1" * 64)))
    monkeypatch.setitem(parts.PARTS, "photos", (newer, MASKS))
    assert "graph.txt is another" in refusal(cache)
    newer = replace(MASKS, conversion=replace(MASKS.conversion, version=2))
    monkeypatch.setitem(parts.PARTS, "photos", (DETECTOR, newer))
    assert "sam.safetensors is another" in refusal(cache)
    monkeypatch.setitem(parts.PARTS, "photos", (MASKS,))
    assert is_pulled("photos", cache=cache)


def test_the_manifest_tells_all(cache: Path) -> None:
    told = json.loads((cache / "photos" / "provenance.json").read_text())
    assert told["name"] == "photos"
    assert [one["name"] for one in told["files"]] == KEPT
    for one in told["files"]:
        assert one["licence"] == "Apache-2.0"
        assert one["origin"].startswith("made up")
        assert one["source"].startswith("package ")
        assert one["fetched"].endswith("+00:00")
    assert told["files"][2]["made_from"]["name"] == "sam.pt"


def test_the_licences_are_for_people(cache: Path) -> None:
    text = (cache / "photos" / "LICENCES.md").read_text()
    for words in (
        "## detector",
        "## masks",
        "Apache-2.0",
        "made up there",
        "made into safe",
        *KEPT,
    ):
        assert words in text


def test_the_real_table_is_sound() -> None:
    """Every file of the table can be had from every source that it names."""
    for all_parts in parts.PARTS.values():
        kept = [name for part in all_parts for name in part.kept]
        assert len(kept) == len(set(kept))
        for part in all_parts:
            assert part.licence == "Apache-2.0"
            assert part.conversion is None or len(part.files) == 1
            for file in part.files:
                assert len(file.sha256) == 64
                assert all(source.told(file.name) for source in part.sources)
