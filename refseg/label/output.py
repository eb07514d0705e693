"""Finished shards become a data set in the layout of REFER.

    OUT/instances.json  OUT/refs(refseg).p     written in this order, each whole or absent
    OUT/labels.json                            who made it, from what, and the files' hashes; last

Everything is streamed, shard by shard: a million sentences need no more memory than one shard.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TextIO
from typing import Protocol as Shape

from refseg.data.refer import INSTANCES
from refseg.errors import RunError
from refseg.label.job import Job, Line, Plan, read_shard
from refseg.ops.files import atomic_path, atomic_write_json, sha256_file

REFS = "refs(refseg).p"
LABELS = "labels.json"
_PICKLE_PROTOCOL = 2  # what REFER's own code, which is for Python 2, can read


class Content(Shape):
    """What a task makes of its lines, each entry as it stands in the files."""

    def info(self) -> dict[str, Any]:
        """What `info` in instances.json says beside the description."""

    def categories(self) -> list[dict[str, Any]]:
        """All categories: id, name, supercategory."""

    def images(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """Each picture once, in order of the ids: id, file_name (below images/), height, width."""

    def annotations(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The objects in COCO's form, each id once."""

    def refs(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The refs in REFER's form. A line for which nothing was written may have none."""

    def counts(self, line: Line) -> Mapping[str, int]:
        """What one line adds to the summary: "refs", "expressions" and what went wrong."""

    def summary(self, counts: Mapping[str, int], asked: int) -> dict[str, float]:
        """What follows from all counts, if anything."""

    def nothing_written(self, counts: Mapping[str, int], asked: int) -> RunError:
        """The error of a job whose result has no ref."""


def merge(job: Job, content: Content) -> dict[str, int]:
    """Write the data set, unless it is there already; what was counted in the answers.

    Raises RunError for a shard that is absent or torn, and where nothing at all was written.
    """
    counted = _merged(job)
    if counted is not None:
        return counted
    total: Counter[str] = Counter()
    for line in _lines(job):
        total.update(content.counts(line))
    if total["refs"] == 0:
        raise content.nothing_written(total, job.plan.asked)
    with atomic_path(job.out / INSTANCES) as temp, temp.open("w", encoding="utf-8") as stream:
        _write_instances(stream, job, content)
    with atomic_path(job.out / REFS) as temp, temp.open("wb") as binary:
        write_pickled_list(binary, content.refs(_lines(job)))
    told = dict(sorted(total.items()))
    atomic_write_json(
        job.out / LABELS,
        {
            **job.about,
            **job.identity,
            "job": job.digest,
            "images": len(job.plan.images),
            "asked": job.plan.asked,
            "left_out": dict(job.plan.left_out),
            "counts": told,
            **content.summary(told, job.plan.asked),
            "files": {name: sha256_file(job.out / name) for name in (INSTANCES, REFS)},
        },
    )
    return told


def write_pickled_list(stream: BinaryIO, values: Iterable[Any]) -> None:
    """A pickle of the list of all `values`, one in memory at a time.

    A pickled value is a program that leaves it on the stack, so the list is: an empty list, then
    each value's own program without its head and end, each followed by "append". The values go
    through JSON first, so that the bytes depend on nothing but what they say.
    """
    stream.write(pickle.PROTO + bytes([_PICKLE_PROTOCOL]) + pickle.EMPTY_LIST)
    for value in values:
        program = pickle.dumps(json.loads(json.dumps(value)), protocol=_PICKLE_PROTOCOL)
        stream.write(program[2:-1] + pickle.APPEND)
    stream.write(pickle.STOP)


def _write_instances(stream: TextIO, job: Job, content: Content) -> None:
    stream.write(f'{{"info": {_json({"description": "labelled by refseg", **content.info()})}')
    for name, values in (
        ("images", content.images(job.plan, _lines(job))),
        ("annotations", content.annotations(job.plan, _lines(job))),
        ("categories", iter(content.categories())),
    ):
        stream.write(f',\n"{name}": [')
        for number, value in enumerate(values):
            stream.write((",\n" if number else "\n") + _json(value))
        stream.write("]")
    stream.write("}\n")


def _lines(job: Job) -> Iterator[Line]:
    for number in range(job.shards):
        yield from read_shard(job, number)


def _merged(job: Job) -> dict[str, int] | None:
    """The counts of a data set that this job has finished and nobody has changed since."""
    try:
        told = json.loads((job.out / LABELS).read_text(encoding="utf-8"))
        whole = told["job"] == job.digest and all(
            sha256_file(job.out / name) == value for name, value in told["files"].items()
        )
        return dict(told["counts"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
