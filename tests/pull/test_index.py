"""The index that pip uses, and where it has an archive."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import ModelError
from refseg.pull import index as index_module
from refseg.pull.fetch import Link, open_link
from refseg.pull.index import Index, Listed, ask_pip, find_archive, find_index, read_page
from tests.pull.conftest import SAM, SDIST
from tests.pull.shelf import JSON, Shelf, serving, sha256

OLD_HELP = """
Package Index Options:
  -i, --index-url <url>       Base URL of the index (default
                              https://index.example/simple). This should point
                              to a repository.
  --extra-index-url <url>     Extra URLs (default none).
"""
NEW_HELP = OLD_HELP.replace("(default\n", "\x1b[2m(default:\n").replace(
    "simple).", "simple)\x1b[0m"
)


def pip_says(**told: str) -> index_module.AskPip:
    def ask(words: Sequence[str]) -> str:
        return told.get(words[0], "")

    return ask


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)


# -- which index ------------------------------------------------------------------------------


def test_the_environment_goes_before_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(words: Sequence[str]) -> str:
        raise AssertionError("pip need not be there")

    monkeypatch.setenv("PIP_INDEX_URL", "https://me:p%40ss@index.example:8/simple")
    assert find_index(ask) == Index("https://index.example:8/simple/", login="me:p@ss")


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("global.index-url='https://a.example/simple/'", "https://a.example/simple/"),
        ("global.index-url='https://a.example'\ndownload.index-url='https://b.example/s'", "https://b.example/s/"),
        ("download.index-url='https://b.example/s'\nglobal.index-url='https://a.example'", "https://b.example/s/"),
        (":env:.timeout='9'\ninstall.index-url='https://c.example'", "https://index.example/simple/"),
        ("global.extra-index-url='https://x.example'", "https://index.example/simple/"),
        ("global.index-url=https://unquoted.example/simple", "https://unquoted.example/simple/"),
        ("", "https://index.example/simple/"),
    ],
)  # fmt: skip
def test_pips_configuration_goes_before_its_default(told: str, address: str) -> None:
    assert find_index(pip_says(config=told, download=OLD_HELP)) == Index(address)


@pytest.mark.parametrize("text", [OLD_HELP, NEW_HELP])
def test_pips_default_is_read_from_its_help(text: str) -> None:
    assert find_index(pip_says(download=text)) == Index("https://index.example/simple/")


def test_certificates_of_the_configuration_are_used() -> None:
    told = "global.cert='/some/ca.pem'\n"
    assert find_index(pip_says(config=told, download=OLD_HELP)).cert == "/some/ca.pem"


def test_a_help_without_an_address_is_told() -> None:
    with pytest.raises(ModelError, match="pip does not tell") as caught:
        find_index(pip_says(download="--index-url <url>"))
    assert "PIP_INDEX_URL" in caught.value.remedy


def test_a_folder_is_an_index_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", str(tmp_path))
    assert find_index() == Index(f"{tmp_path.as_uri()}/")


def test_a_broken_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://[host/simple")
    with pytest.raises(ModelError, match="is no address"):
        find_index()


def test_the_real_pip_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of its configuration, of a file with one; and no pip of the current folder is run."""
    (tmp_path / "pip").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "pip" / name).write_text("print('evil')")
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://set.example/simple\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    probe = subprocess.run([sys.executable, "-P", "-m", "pip", "--version"], capture_output=True)
    if probe.returncode:
        pytest.skip("no pip here")
    assert find_index().address == "https://set.example/simple/"
    # pip says its default in the help, of whatever version it is.
    default = find_index(lambda words: ask_pip(words) if words[0] == "download" else "")
    assert re.fullmatch(r"https?://\S+/", default.address)


def test_no_pip_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ModelError, match="no pip is installed") as caught:
        find_index()
    assert "PIP_INDEX_URL" in caught.value.remedy
    fake.write_text("#!/bin/sh\necho 'broken' >&2\nexit 3\n")
    with pytest.raises(ModelError, match=r"pip cannot be asked.*broken"):
        find_index()
    fake.unlink()
    with pytest.raises(ModelError, match="pip cannot be asked"):
        find_index()


# -- which file -------------------------------------------------------------------------------


@pytest.mark.parametrize("html_only", [False, True])
def test_an_archive_is_found(shelf: Shelf, index: Index, html_only: bool) -> None:
    shelf.html = html_only
    link = find_archive(index, SAM)
    assert link == Link(f"{shelf.address}/files/{SAM.file.name}")
    path, headers = shelf.asked[0]
    assert path == "/simple/fake-sam/"
    assert headers["Accept"].startswith(JSON)


def test_the_project_name_is_normalised(shelf: Shelf, index: Index) -> None:
    shelf.add("fake-detect-models", "x.whl", b"")
    other = SAM.__class__("Fake.Detect_models", "1", SAM.file, {})
    with pytest.raises(ModelError, match=r"lists 2 files of Fake\.Detect_models, but not fake_sam"):
        find_archive(index, other)


def test_an_unknown_package_is_told(shelf: Shelf, index: Index) -> None:
    other = SAM.__class__("nothing", "1", SAM.file, {})
    with pytest.raises(ModelError, match=r"has no package nothing"):
        find_archive(index, other)


@pytest.mark.parametrize("html_only", [False, True])
def test_a_hash_that_changed_is_told(shelf: Shelf, index: Index, html_only: bool) -> None:
    shelf.html = html_only
    shelf.hashes[SAM.file.name] = "0" * 64
    with pytest.raises(ModelError) as caught:
        find_archive(index, SAM)
    assert f"sha256 expected {sha256(SDIST)}, found {'0' * 64}" in str(caught.value)
    assert shelf.downloads() == []


@pytest.mark.parametrize("html_only", [False, True])
def test_an_index_may_tell_no_hash(shelf: Shelf, index: Index, html_only: bool) -> None:
    shelf.html, shelf.hashes[SAM.file.name] = html_only, ""
    assert find_archive(index, SAM).address.endswith(SAM.file.name)


def test_a_folder_with_pages(tmp_path: Path) -> None:
    (tmp_path / "fake-sam").mkdir()
    (tmp_path / SAM.file.name).write_bytes(SDIST)
    (tmp_path / "fake-sam" / "index.html").write_text(f'<a href="../{SAM.file.name}">x</a>')
    link = find_archive(Index(f"{tmp_path.as_uri()}/"), SAM)
    assert open_link(link, {}).read1(len(SDIST)) == SDIST


def test_a_server_cannot_name_files_of_this_machine(shelf: Shelf, index: Index) -> None:
    page = f'<a href="file:///etc/{SAM.file.name}">x</a>'
    shelf.files["/simple/fake-sam/"] = page.encode()
    del shelf.packages["fake-sam"]
    with pytest.raises(ModelError, match="names a file of this machine"):
        find_archive(index, SAM)


def test_a_login_is_for_the_index_alone(shelf: Shelf) -> None:
    index = Index(f"{shelf.index}/", login="me:secret")
    assert find_archive(index, SAM).login == "me:secret"
    assert shelf.asked[0][1]["Authorization"].startswith("Basic ")
    with serving() as other:
        shelf.files["/simple/fake-sam/"] = (
            f'<a href="{other.address}/{SAM.file.name}">x</a>'.encode()
        )
        del shelf.packages["fake-sam"]
        assert find_archive(index, SAM).login is None


def test_a_redirected_page_is_the_base_of_its_links(shelf: Shelf, index: Index) -> None:
    with serving() as other:
        other.add("fake-sam", SAM.file.name, SDIST)
        shelf.moved["/simple/fake-sam/"] = f"{other.index}/fake-sam/"
        assert find_archive(index, SAM).address == f"{other.address}/files/{SAM.file.name}"


@pytest.mark.parametrize("page", ['{"files": 3}', '{"files": [{}]}', "{", '<a href="http://[x">'])
def test_a_broken_page_is_told(page: str) -> None:
    with pytest.raises(ModelError, match="is no page of a package index"):
        read_page(page, "https://index.example/simple/x/")


def test_a_page_that_never_ends_is_told(
    shelf: Shelf, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "PAGE_LIMIT", 100)
    with pytest.raises(ModelError, match="too long"):
        find_archive(index, SAM)


def test_a_page_that_breaks_off_is_told(shelf: Shelf, index: Index) -> None:
    shelf.files["/simple/fake-sam/"] = b"<html>" + b"x" * 1000
    del shelf.packages["fake-sam"]
    shelf.cuts = [50]
    with pytest.raises(ModelError, match="ended early"):
        find_archive(index, SAM)


def test_a_base_tag_is_honoured() -> None:
    page = '<head><base href="https://cdn.example/x/"></head><a href="a.whl">a.whl</a><a>no</a>'
    told = read_page(page, "https://index.example/simple/a/")
    assert told == [Listed("a.whl", "https://cdn.example/x/a.whl", None)]


FILES = st.lists(
    st.tuples(
        st.text("abc-_.1+ é&", min_size=1, max_size=8).filter(lambda n: n.strip(" .") == n),
        st.none() | st.binary(max_size=3).map(sha256),
    ),
    max_size=5,
)


@settings(max_examples=80)
@given(files=FILES)
def test_both_forms_say_the_same(files: list[tuple[str, str | None]]) -> None:
    """The JSON page and the HTML page of one list, with relative addresses."""
    from urllib.parse import quote

    address = "https://index.example/simple/a/"
    lines = [
        {"filename": n, "url": f"../f/{quote(n)}", "hashes": {"sha256": h} if h else {}}
        for n, h in files
    ]
    links = "".join(
        f'<a href="{html.escape(f"../f/{quote(n)}" + (f"#sha256={h}" if h else ""))}">n</a>'
        for n, h in files
    )
    from_json = read_page(json.dumps({"files": lines}), address)
    assert from_json == read_page(f"<html>{links}</html>", address)
    assert [(one.name, one.sha256) for one in from_json] == files
