"""Processes that answer shards; which of them takes which shard changes nothing.

Workers are child interpreters (`refseg.ops.children`): they are handed
one shard's number after the other on standard input, write the shard, and tell on standard output
how far they are. A worker whose parent was killed stops after its shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TextIO

import torch

from refseg import models
from refseg.errors import RefsegError, RunError
from refseg.label.expressions import ExpressionTask
from refseg.label.job import Job, Line, read_job, write_shard
from refseg.label.masks import MaskTask
from refseg.label.options import LabelOptions
from refseg.models import Model
from refseg.ops.children import start_child

Tell = Callable[[int], None]
Task = MaskTask | ExpressionTask

_COMMAND = "from refseg.label.workers import work; work()"


def make_task(options: LabelOptions) -> Task:
    """The task that the options name."""
    return MaskTask(options) if options.task == "masks" else ExpressionTask(options)


def answer_shard(model: Model, task: Task, job: Job, number: int, tell: Tell) -> None:
    """Compute and write one shard; tell(images) after each batch."""
    lines: list[Line] = []
    for images, found in task.answer(model, job.shard(number)):
        lines += found
        tell(images)
    write_shard(job, number, lines)


def answer_here(model: Model, task: Task, job: Job, shards: Sequence[int], tell: Tell) -> None:
    """Answer the shards one after the other in this process."""
    with one_thread():
        for number in shards:
            answer_shard(model, task, job, number, tell)


def answer_in_processes(
    options: LabelOptions, job: Job, shards: Sequence[int], devices: Sequence[str], tell: Tell
) -> None:
    """Answer the shards by a worker on each of `devices`. tell: may come from any thread.

    Raises what a worker told of, or RunError for one that died.
    """
    waiting, lock = deque(shards), threading.Lock()

    def told(images: int) -> None:
        with lock:
            tell(images)

    children = [_start(options, device) for device in devices]
    try:
        with ThreadPoolExecutor(len(children)) as pool:
            try:
                drives = [pool.submit(_drive, child, waiting, told) for child in children]
                for drive in as_completed(drives):
                    drive.result()
            finally:  # before the pool waits for its threads
                waiting.clear()
                for child in children:
                    child.kill()
    finally:
        for child in children:
            child.communicate()


def _start(options: LabelOptions, device: str) -> subprocess.Popen[str]:
    child = start_child(_COMMAND)
    _hand(child, json.dumps({"options": options.to_json(), "device": device}))
    return child


def _hand(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_drive` tells of a child that has died
        child.stdin.write(line + "\n")
        child.stdin.flush()


def _drive(child: subprocess.Popen[str], waiting: deque[int], tell: Tell) -> None:
    """Hand the waiting shards to a child, one after the other."""
    assert child.stdout is not None
    while True:
        try:
            number = waiting.popleft()
        except IndexError:
            return
        _hand(child, str(number))
        for line in child.stdout:
            told = json.loads(line)
            if "error" in told:
                raise RunError(told["error"], remedy=told["remedy"])
            if "done" in told:
                break
            tell(told["images"])
        else:
            raise RunError(
                f"the worker that answers shard {number} stopped with code {child.wait()}",
                remedy="its own error is printed above; is memory short? Finished shards are kept",
            )


def work() -> None:
    """A child's whole life."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    try:
        _serve(answers)
    except RefsegError as error:
        _say(answers, {"error": error.message, "remedy": error.remedy})
    except BrokenPipeError:  # the parent is gone
        os._exit(1)


def _serve(answers: TextIO) -> None:
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    options = LabelOptions.from_json(given["options"])
    model = models.load(options.model, given["device"])
    task = make_task(options)
    job = read_job(options.out)
    with one_thread():
        for line in sys.stdin:
            answer_shard(
                model, task, job, int(line), lambda images: _say(answers, {"images": images})
            )
            _say(answers, {"done": int(line)})


def _say(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch on the CPU: more of them would sum in another order, so that answers
    would depend on how many workers share the processor.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
