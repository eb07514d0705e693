"""A client of package indexes: where does the archive of an exact version lie, and what is it?

It speaks the Simple API, as JSON (PEP 691) and as HTML (PEP 503). The index is the one that pip
uses here, asked of pip itself; pip is not used to download, because `pip download` runs code of
source packages. No package is installed, built or executed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from refseg.errors import ModelError
from refseg.pull.fetch import CHANGED, Link, RefusedError, read_text, shown
from refseg.pull.parts import Archive

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
PAGE_LIMIT = 32 << 20  # the largest page that is read; the longest real ones have a few MB
ASK_TIMEOUT_S = 60.0
NAME_IT = "set PIP_INDEX_URL to the address of a package index and start again"

#: Runs pip with these words and returns what it prints; raises ModelError without pip.
AskPip = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Index:
    """A package index. address: ends with "/". login and cert: see `Link`."""

    address: str
    login: str | None = None
    cert: str | None = None


@dataclass(frozen=True)
class Listed:
    """A line of a package's page: file name, absolute address, sha256 where it is told."""

    name: str
    address: str
    sha256: str | None


def ask_pip(words: Sequence[str]) -> str:
    """What `pip WORDS` prints. Raises ModelError when there is no pip or it fails."""
    command = [sys.executable, "-P", "-m", "pip", *words]  # -P: no pip of the current folder
    # Wide, so that an address is on one line.
    environment = {**os.environ, "COLUMNS": "2000", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ModelError(f"pip cannot be asked: {error}", remedy=NAME_IT) from error
    if done.returncode and "No module named pip" in done.stderr:
        raise ModelError("no pip is installed that knows the package index", remedy=NAME_IT)
    if done.returncode:
        why = " ".join(done.stderr.split())[-200:]
        raise ModelError(f"pip cannot be asked for the package index: {why}", remedy=NAME_IT)
    return done.stdout


def find_index(ask: AskPip = ask_pip) -> Index:
    """The index that pip uses: $PIP_INDEX_URL, its configuration's, or its own default.

    Raises ModelError when neither tells one.
    """
    named = os.environ.get("PIP_INDEX_URL")
    if named:
        return _index(named)
    settings = _settings(ask(["config", "list"]))
    address = settings.get("index-url") or _default(ask(["download", "--help"]))
    return _index(address, settings.get("cert"))


def find_archive(index: Index, archive: Archive) -> Link:
    """Where the archive lies. Raises ModelError: no answer, not listed, or of another sha256."""
    name = re.sub(r"[-_.]+", "-", archive.package).lower()
    page = Link(urljoin(index.address, f"{name}/"), index.login, index.cert)
    if urlsplit(page.address).scheme == "file":  # a folder laid out like an index
        page = Link(urljoin(page.address, "index.html"))
    try:
        files = read_page(*read_text(page, {"Accept": ACCEPT}, PAGE_LIMIT))
    except RefusedError as refused:
        if refused.code != 404:
            raise
        raise ModelError(
            f"the index at {shown(index.address)} has no package {archive.package}", remedy=NAME_IT
        ) from refused
    found = next((one for one in files if one.name == archive.file.name), None)
    if found is None:
        raise ModelError(
            f"the index at {shown(index.address)} lists {len(files)} files of {archive.package}, "
            f"but not {archive.file.name}",
            remedy=NAME_IT,
        )
    if found.sha256 not in (None, archive.file.sha256):
        raise ModelError(
            f"{archive.file.name} of the index at {shown(index.address)} is not the expected file: "
            f"sha256 expected {archive.file.sha256}, found {found.sha256}",
            remedy=CHANGED,
        )
    return _link(index, found.address)


def read_page(page: str, address: str) -> list[Listed]:
    """The files of a package's page, JSON or HTML. address: the page's own, for relative links.

    Raises ModelError for what is no such page.
    """
    try:
        if not page.lstrip().startswith("{"):
            anchors = _Anchors(address)
            anchors.feed(page)
            return [_listed(link) for link in anchors.links]
        return [
            Listed(
                str(one["filename"]),
                urljoin(address, str(one["url"])),
                one.get("hashes", {}).get("sha256"),
            )
            for one in json.loads(page)["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{shown(address)} is no page of a package index: {type(error).__name__}",
            remedy=NAME_IT,
        ) from error


class _Anchors(HTMLParser):
    """The links of a page, made absolute; the fragment, which holds the hash, stays."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.base, self.links = address, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if target and tag == "base":
            self.base = urljoin(self.base, target)
        elif target and tag == "a":
            self.links.append(urljoin(self.base, target))


def _listed(link: str) -> Listed:
    address, fragment = urldefrag(link)
    told = re.search(r"(?:^|&)sha256=([0-9a-f]{64})(?:&|$)", fragment)
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    return Listed(name, address, told[1] if told else None)


def _link(index: Index, address: str) -> Link:
    """A link of the index's page. The login goes to the index's own host, to no other."""
    address, login = _split_login(address)
    here, there = urlsplit(index.address), urlsplit(address)
    if there.scheme == "file" and here.scheme != "file":
        raise ModelError(
            f"the index at {shown(index.address)} names a file of this machine", remedy=NAME_IT
        )
    if (here.scheme, here.netloc) == (there.scheme, there.netloc):
        login = login or index.login
    return Link(address, login, index.cert)


def _index(address: str, cert: str | None = None) -> Index:
    if "://" not in address:  # pip takes a folder's path too
        address = Path(address).expanduser().absolute().as_uri()
    try:
        address, login = _split_login(address.strip())
    except ValueError as error:
        raise ModelError(f"{shown(address)} is no address: {error}", remedy=NAME_IT) from error
    return Index(address.rstrip("/") + "/", login, cert)


def _split_login(address: str) -> tuple[str, str | None]:
    """https://user:password@host/ -> https://host/ and "user:password"."""
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), unquote(login) or None


def _settings(told: str) -> dict[str, str]:
    """key -> value of `pip config list`; the section of the command goes before the global one."""
    found: dict[str, str] = {}
    for section in ("global", "download"):
        for key, value in re.findall(rf"^{section}\.([\w-]+)=(.+)$", told, re.M):
            found[key] = _unquoted(value)
    return found


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


def _default(told: str) -> str:
    """The index that `pip download --help` gives as the default of --index-url."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    found = re.search(r"--index-url\b.*?\(default:?\s+([^\s)]+)\s*\)", plain, re.S)
    if found is None:
        raise ModelError("pip does not tell its package index", remedy=NAME_IT)
    return found[1]
