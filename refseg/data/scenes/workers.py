"""Several processes that make pictures; their results arrive in order.

Workers are plain child interpreters that write one JSON line for each picture. Unlike
multiprocessing this needs no `if __name__ == "__main__"` in a user's script, and unlike a fork
it is safe in a process whose threads hold locks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import refseg
from refseg.data.scenes.picture import Order, make_picture
from refseg.errors import RunError

_COMMAND = "from refseg.data.scenes.workers import work; work()"


def pictures(order: Order, workers: int) -> Iterator[dict[str, Any]]:
    """What `make_picture` returns for 0, 1, 2, ... Picture i is made by worker i % workers."""
    workers = min(workers, order.images)
    if workers == 1:
        for index in range(order.images):
            yield make_picture(order, index)
        return
    children = [_start(order, first, workers) for first in range(workers)]
    try:
        for index in range(order.images):
            yield _answer(children[index % workers], index)
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _start(order: Order, first: int, step: int) -> subprocess.Popen[bytes]:
    root = str(Path(refseg.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    job = json.dumps({"order": asdict(order), "first": first, "step": step})
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, job],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


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
    """A child's whole life: the job is its last argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    job = json.loads(sys.argv[-1])
    order = Order(**job["order"])
    try:
        for index in range(job["first"], order.images, job["step"]):
            _say(make_picture(order, index))
    except BrokenPipeError:  # the parent is gone
        os._exit(1)
    except OSError as error:
        _say({"errno": error.errno, "error": str(error)})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
