"""Several processes that make pictures; their results arrive in order.

Workers are plain child interpreters that write one JSON line for each picture. Unlike
multiprocessing this needs no `if __name__ == "__main__"` in a user's script, and unlike a fork
it is safe in a process whose threads hold locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import refseg
from refseg.data.scenes.picture import Order, make_picture
from refseg.errors import RunError

_COMMAND = "from refseg.data.scenes.workers import work; work()"


def pictures(order: Order, indices: Sequence[int], workers: int) -> Iterator[dict[str, Any]]:
    """What `make_picture` returns for each index, in turn; the workers take turns too."""
    workers = min(workers, len(indices))
    if workers <= 1:
        for index in indices:
            yield make_picture(order, index)
        return
    children = [_start(order, indices[first::workers]) for first in range(workers)]
    try:
        for place, index in enumerate(indices):
            yield _answer(children[place % workers], index)
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _start(order: Order, indices: Sequence[int]) -> subprocess.Popen[bytes]:
    root = str(Path(refseg.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        [sys.executable, "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_answer` tells of a child that died at once
        child.stdin.write(json.dumps({"order": asdict(order), "indices": list(indices)}).encode())
        child.stdin.close()
    child.stdin = None  # `communicate` would write to it
    return child


def _answer(child: subprocess.Popen[bytes], index: int) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        raise RunError(
            f"the worker that renders picture {index} stopped with code {child.wait()}",
            remedy="its own error is printed above; is the disk full, or memory short?",
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise OSError(answer["errno"], answer["error"])
    return answer


def work() -> None:
    """A child's whole life: the job comes through standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    job = json.loads(sys.stdin.read())
    order = Order(**job["order"])
    try:
        for index in job["indices"]:
            _say(make_picture(order, index))
    except BrokenPipeError:  # the parent is gone
        os._exit(1)
    except OSError as error:
        _say({"errno": error.errno, "error": str(error)})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
