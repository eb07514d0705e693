"""One file from one address: resumed where it broke off, checked, whole or absent.

While it comes it is NAME.part; it gets its name when its sha256 is right. Addresses are http,
https or file; proxies and certificates are those of the environment (http_proxy, SSL_CERT_FILE).
"""

from __future__ import annotations

import base64
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, Request, build_opener

from refseg import __version__
from refseg.errors import ModelError
from refseg.ops.files import sha256_file, write_errors
from refseg.pull.parts import File

#: Told (file name, bytes done, bytes in all) as a file comes.
Progress = Callable[[str, int, int], None]

BLOCK = 1 << 18
TRIES = 20  # connections for one file, each of which must bring something
EARLY = "the answer ended early"
SCHEMES = ("http", "https", "file")

AGAIN = "start again: what came so far is kept and goes on from there"
CHANGED = (
    "it was deleted; start again. If this stays, its publisher has changed the file, which refseg "
    "will not take: update refseg, or report it"
)


@dataclass(frozen=True)
class Link:
    """Where a file lies. login: "user:password" for this host alone. timeout_s: for each answer.

    cert: file or folder with the certificates to trust, instead of the environment's.
    """

    address: str
    login: str | None = None
    cert: str | None = None
    timeout_s: float = 30.0


class Reply(Protocol):
    """The part of urllib's answers that is used. status: None of a file:// address."""

    status: int | None
    url: str

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case of letters."""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, as soon as there are some; none at the end."""

    def close(self) -> None:
        """Give the connection back."""


class RefusedError(ModelError):
    """A server answered, with an error. code: HTTP's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, remedy=AGAIN)
        self.code = code


class _CutError(Exception):
    """A connection broke; the message says how."""


def open_link(link: Link, headers: Mapping[str, str]) -> Reply:
    """Ask for `link`; redirections are followed, without the login.

    Raises ModelError when there is no answer, RefusedError for one that is an error.
    """
    try:
        if urlsplit(link.address).scheme not in SCHEMES:
            raise ValueError("it is no http, https or file address")
        request = Request(link.address, headers={"User-Agent": f"refseg/{__version__}", **headers})
        if link.login:
            code = base64.b64encode(link.login.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {code}")
        opener = build_opener(HTTPSHandler(context=_trusted(link.cert)))
        return cast(Reply, opener.open(request, timeout=link.timeout_s))
    except HTTPError as error:
        with error:
            raise RefusedError(
                f"{shown(link.address)} answers {error.code} {error.reason}", error.code
            ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise ModelError(
            f"{shown(link.address)} cannot be reached: {_why(error)}", remedy=_remedy(error)
        ) from error


def shown(address: str) -> str:
    """An address as it may be told: without user, password and signed query."""
    return re.sub(r"^([\w+.-]+://)[^/]*@", r"\1", re.split(r"[?#]", address)[0])


def is_same(path: Path, wanted: File) -> bool:
    """Whether the file at `path` is `wanted`, by size and sha256."""
    return size_of(path) == wanted.bytes and sha256_file(path) == wanted.sha256


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def download(link: Link, wanted: File, folder: Path, progress: Progress) -> Path:
    """Fetch `wanted` into `folder`, going on with what an earlier start left there as NAME.part.

    A broken connection is taken up again as long as each try brings something. A file of another
    size or sha256 is deleted. Returns folder/NAME.
    Raises ModelError (no answer, broken off, another file), RunError (disk).
    """
    part, target = folder / f"{wanted.name}.part", folder / wanted.name
    if size_of(part) > wanted.bytes:
        part.unlink()
    tries = 0
    while (size := size_of(part)) < wanted.bytes:
        cut = _fetch(link, wanted, part, progress)
        tries += 1
        now = size_of(part)
        if now < wanted.bytes and (now <= size or tries == TRIES):
            raise ModelError(
                f"{shown(link.address)} broke off after {now:,} of {wanted.bytes:,} bytes: {cut}",
                remedy=AGAIN,
            )
    found = sha256_file(part)
    if found != wanted.sha256:
        part.unlink()
        raise ModelError(
            f"{wanted.name} from {shown(link.address)} is not the expected file: sha256 expected "
            f"{wanted.sha256}, found {found}",
            remedy=CHANGED,
        )
    with write_errors(target):
        part.replace(target)
    return target


def read_text(link: Link, headers: Mapping[str, str], limit: int) -> tuple[str, str]:
    """A page of at most `limit` bytes, and its address after redirections.

    Raises ModelError: no answer, broken off, too long.
    """
    with closing(open_link(link, headers)) as reply:
        data = b""
        try:
            for block in _blocks(reply):
                data += block
                if len(data) > limit:
                    raise _CutError("it is too long")
            if _total(reply) not in (None, len(data)):
                raise _CutError(EARLY)
        except _CutError as cut:
            raise ModelError(f"{shown(reply.url)} cannot be read: {cut}", remedy=AGAIN) from cut
        return data.decode("utf-8", errors="replace"), reply.url


def _fetch(link: Link, wanted: File, part: Path, progress: Progress) -> str:
    """Append one connection's worth to `part`; why no more came."""
    reply, done = _open_at(link, size_of(part))
    with closing(reply), write_errors(part), part.open("ab") as out:
        out.truncate(done)
        total = _total(reply)
        if total is not None and total != wanted.bytes:
            raise _other_size(link, wanted, f"{total:,}", part)
        try:
            for block in _blocks(reply):
                done += len(block)
                if done > wanted.bytes:
                    raise _other_size(link, wanted, "more", part)
                out.write(block)
                progress(wanted.name, done, wanted.bytes)
        except _CutError as cut:
            return str(cut)
    return EARLY


def _open_at(link: Link, have: int) -> tuple[Reply, int]:
    """The answer, and which byte of the file it begins with: `have` where the server can, or 0."""
    if have:
        try:
            reply = open_link(link, {"Range": f"bytes={have}-"})
        except RefusedError as refused:
            if refused.code != 416:  # there is nothing after `have`: begin anew
                raise
        else:
            if reply.status != 206:
                return reply, 0
            if reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                return reply, have
            reply.close()
    return open_link(link, {}), 0


def _total(reply: Reply) -> int | None:
    """The size of the whole file, where the server tells."""
    if reply.status == 206:
        told = re.search(r"/(\d+)$", reply.headers.get("Content-Range", ""))
    else:
        told = re.fullmatch(r"(\d+)", reply.headers.get("Content-Length", ""))
    return int(told[1]) if told else None


def _blocks(reply: Reply) -> Iterator[bytes]:
    while True:
        try:
            block = reply.read1(BLOCK)
        except (OSError, HTTPException) as error:
            raise _CutError(_why(error)) from error
        if not block:
            return
        yield block


def _other_size(link: Link, wanted: File, told: str, part: Path) -> ModelError:
    part.unlink(missing_ok=True)
    return ModelError(
        f"{wanted.name} from {shown(link.address)} is not the expected file: {wanted.bytes:,} "
        f"bytes expected, found {told}",
        remedy=CHANGED,
    )


def _trusted(cert: str | None) -> ssl.SSLContext:
    """Certificates to trust: $PIP_CERT's, else `cert`, else $SSL_CERT_FILE's or the system's."""
    named = os.environ.get("PIP_CERT") or cert
    if not named:
        return ssl.create_default_context()
    path = Path(named).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there are no certificates at {path}")
    if path.is_dir():
        return ssl.create_default_context(capath=str(path))
    return ssl.create_default_context(cafile=str(path))


def _why(error: BaseException) -> str:
    """The reason in few words, without a type's brackets."""
    reason = error.reason if isinstance(error, URLError) else error
    told = getattr(reason, "strerror", None) or str(reason)
    return " ".join(str(told).split())[:200] or type(error).__name__


def _remedy(error: BaseException) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "name your network's certificates in PIP_CERT or SSL_CERT_FILE and start again"
    return "check the network and the proxy (https_proxy), then start again"
