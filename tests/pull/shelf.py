"""A package index and a hub on this machine, which serve tiny archives, well or badly."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = "application/vnd.pypi.simple.v1+json"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(members: Mapping[str, bytes]) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def sdist(members: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar.gz archive; a TarInfo is put in as it is, without content (links)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Shelf:
    """What is served, how, and what was asked.

    files: path -> bytes, beside the index's own pages. packages: project -> its file names, which
    lie under /files/. hashes: file name -> the sha256 that the pages tell (its own by default,
    "" for none). html: no JSON. ranges: whether a request can begin in the middle. cuts: for the
    next downloads, after how many bytes the connection breaks. lie: no Content-Length.
    early: what is asked for from the middle is sent from byte 1 on. moved: path -> address.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    packages: dict[str, list[str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    html: bool = False
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    lie: bool = False
    early: bool = False
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    address: str = ""

    @property
    def index(self) -> str:
        return f"{self.address}/simple"

    def add(self, package: str, name: str, data: bytes) -> None:
        self.packages.setdefault(package, []).append(name)
        self.files[f"/files/{name}"] = data

    def told(self, name: str) -> str:
        return self.hashes.get(name, sha256(self.files[f"/files/{name}"]))

    def page(self, package: str, as_json: bool) -> tuple[str, bytes]:
        names = self.packages[package]
        if as_json and not self.html:
            files = [
                {
                    "filename": name,
                    "url": f"../../files/{name}",
                    "hashes": {"sha256": self.told(name)} if self.told(name) else {},
                }
                for name in names
            ]
            return JSON, json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()
        links = [
            f'<a href="../../files/{n}{"#sha256=" + self.told(n) if self.told(n) else ""}">{n}</a>'
            for n in names
        ]
        return (
            "text/html",
            f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>".encode(),
        )

    def downloads(self) -> list[str]:
        """Paths asked for that are no pages, in order."""
        return [path for path, _ in self.asked if path in self.files]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        shelf: Shelf = self.server.shelf  # type: ignore[attr-defined]
        shelf.asked.append((self.path, dict(self.headers)))
        if self.path in shelf.moved:
            self.send_response(302)
            self.send_header("Location", shelf.moved[self.path])
            self.end_headers()
            return
        page = re.fullmatch(r"/simple/([^/]+)/", self.path)
        if page and page[1] in shelf.packages:
            kind, body = shelf.page(page[1], JSON in self.headers.get("Accept", ""))
            self._send(200, {"Content-Type": kind, "Content-Length": len(body)}, body)
        elif self.path in shelf.files:
            self._download(shelf, shelf.files[self.path])
        else:
            self.send_error(404)

    def _download(self, shelf: Shelf, body: bytes) -> None:
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(begin[1]) if begin and shelf.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        if start and shelf.early:  # a server that keeps to its own blocks
            start = 1
        rest = body[start:]
        headers: dict[str, Any] = {} if shelf.lie else {"Content-Length": len(rest)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        cut = shelf.cuts.pop(0) if shelf.cuts else len(rest)
        shelf.sent += len(rest[:cut])
        self._send(206 if start else 200, headers, rest[:cut])

    def _send(self, code: int, headers: Mapping[str, Any], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Shelf]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    shelf = Shelf(address=f"http://127.0.0.1:{server.server_address[1]}")
    server.shelf = shelf  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
