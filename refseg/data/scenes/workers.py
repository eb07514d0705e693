"""Several processes that make pictures; their results arrive in order.

Workers are child interpreters (`refseg.ops.children`) that write one JSON line for each picture.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from refseg.data.scenes.picture import Order, make_picture
from refseg.errors import RunError
from refseg.ops.children import start_child

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


def _start(order: Order, indices: Sequence[int]) -> subprocess.Popen[str]:
    child = start_child(_COMMAND)
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_answer` tells of a child that died at once
        child.stdin.write(json.dumps({"order": asdict(order), "indices": list(indices)}))
        child.stdin.close()
    child.stdin = None  # `communicate` would write to it
    return child


def _answer(child: subprocess.Popen[str], index: int) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.endswith("\n"):
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
