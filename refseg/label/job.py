"""A labelling job and its files, so that any start goes on exactly where another stopped.

    OUT/job.json             what was asked of which model about which data; made first
    OUT/plan.jsonl           an image a line, in order of the ids: its file and what is asked of it
    OUT/shards/00012.jsonl   the answers about so many images; its last line proves it whole
    OUT/images               a link to the folder of the source's images

`refseg.label.output` makes a data set of them. Every file is whole or absent; a shard is computed
from its lines of the plan alone, so it has the same bytes whoever makes it, and when.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from refseg.errors import RunError
from refseg.ops.files import (
    atomic_write_json,
    atomic_write_text,
    clean_leftovers,
    write_errors,
)
from refseg.recipes.provenance import digest
from refseg.train.checkpoint import flatten
from refseg.train.lock import run_lock

JOB, PLAN, SHARDS, IMAGES = "job.json", "plan.jsonl", "shards", "images"
#: Entries of job.json that may differ between two starts of one job.
TOLD_ONLY = frozenset({"about", "plan"})

Line = dict[str, Any]


@dataclass(frozen=True)
class PlannedImage:
    """file: below the link `images`, empty where no image is read. asked: ids, by the task."""

    image_id: int
    file: str
    asked: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """All that is asked, images in order of their ids. left_out: why -> how many are not asked."""

    images: tuple[PlannedImage, ...]
    left_out: Mapping[str, int]

    @property
    def asked(self) -> int:
        """How many answers there will be."""
        return sum(len(image.asked) for image in self.images)

    def to_text(self) -> str:
        """The content of plan.jsonl."""
        lines = ([image.image_id, image.file, list(image.asked)] for image in self.images)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


@dataclass(frozen=True)
class Job:
    """identity: all that the answers depend on. about: names for people, not compared."""

    out: Path
    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    plan: Plan
    shard_images: int

    @cached_property
    def plan_sha256(self) -> str:
        """Of plan.jsonl."""
        return _sha256(self.plan.to_text())

    @cached_property
    def digest(self) -> str:
        """What its shards are marked with."""
        return digest({"identity": dict(self.identity), "plan": self.plan_sha256})[:16]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self.plan.images) // self.shard_images)

    def shard(self, number: int) -> Sequence[PlannedImage]:
        """The images of one shard."""
        return self.plan.images[number * self.shard_images : (number + 1) * self.shard_images]

    def path(self, number: int) -> Path:
        """The file of one shard."""
        return self.out / SHARDS / f"{number:05d}.jsonl"


def read_claim(out: Path, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The job.json in `out`, or None for a folder that is absent or empty.

    Raises RunError for one that holds anything else: another job (naming what differs), a broken
    one, other files.
    """
    path = out / JOB
    if not path.exists():
        if out.exists() and not out.is_dir():
            raise RunError(f"{out} is a file", remedy="give another --out")
        if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise RunError(f"{out} is not empty and no labelling job", remedy="give another --out")
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        _ = held["plan"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"broken {path}: {error}", remedy="give another --out") from error
    before = flatten({key: value for key, value in held.items() if key not in TOLD_ONLY})
    now, absent = flatten(identity), "(absent)"
    changed = [
        f"{key}: {before.get(key, absent)!r} there, {now.get(key, absent)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
    ]
    if changed:
        raise RunError(
            f"{out} holds another job:\n  " + "\n  ".join(changed),
            remedy="ask for the same to go on with it, or give another --out",
        )
    return dict(held)


def read_plan(out: Path, held: Mapping[str, Any]) -> Plan | None:
    """The plan of a claimed folder; None if it is not there as job.json says."""
    try:
        text = (out / PLAN).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if _sha256(text) != held["plan"]["sha256"]:
        return None
    lines = map(json.loads, text.split("\n")[:-1])
    images = (PlannedImage(image_id, file, tuple(asked)) for image_id, file, asked in lines)
    return Plan(tuple(images), held["plan"]["left_out"])


def read_job(out: Path) -> Job:
    """The job that was settled in `out`. Raises RunError."""
    try:
        held = json.loads((out / JOB).read_text(encoding="utf-8"))
        identity = {key: value for key, value in held.items() if key not in TOLD_ONLY}
        shard_images, plan = int(identity["options"]["shard_images"]), read_plan(out, held)
        if plan is None:
            raise ValueError(f"{PLAN} is not the one that was made")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"broken job in {out}: {error}", remedy="start it again") from error
    return Job(out, identity, held.get("about", {}), plan, shard_images)


def settle(job: Job, root: Path | None) -> None:
    """Make job.out this job's: job.json, the plan, the link to the images in `root`.

    A first start that cannot write leaves nothing behind.
    """
    first = not (job.out / JOB).exists()
    try:
        atomic_write_json(job.out / JOB, {**job.identity, "about": job.about, "plan": _told(job)})
        if not _holds(job.out / PLAN, job.plan.to_text()):
            atomic_write_text(job.out / PLAN, job.plan.to_text())
        if root is not None:
            _link(job.out / IMAGES, root)
    except BaseException:
        for name in (JOB, PLAN) if first else ():
            (job.out / name).unlink(missing_ok=True)
        raise


@contextmanager
def one_start(out: Path) -> Iterator[None]:
    """Hold `out`, made if need be, for this process; clear away what killed ones left half-written.

    Raises RunError if another process holds it. Where no job was settled inside, `out` goes again.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(out, "another process is labelling in"):
            for folder in (out, out / SHARDS):
                clean_leftovers(folder)
            yield
    finally:
        if missing and not (out / JOB).exists():
            (out / ".lock").unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()


# -- shards -------------------------------------------------------------------------------------


def write_shard(job: Job, number: int, lines: Iterable[Line]) -> None:
    """Write the answers of one shard, whole or not at all. Raises RunError (disk)."""
    rows = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines]
    body = "".join(rows)
    end = {"shard": number, "job": job.digest, "lines": len(rows), "sha256": _sha256(body)}
    atomic_write_text(job.path(number), body + json.dumps({"end": end}) + "\n")


def read_shard(job: Job, number: int) -> list[Line]:
    """The answers of a finished shard: each thing asked exactly once, in the order of the plan.

    Raises RunError for a shard that is absent, torn, changed, or not about what was asked.
    """
    path = job.path(number)
    try:
        text = path.read_text(encoding="utf-8")
        body, _, last = text.removesuffix("\n").rpartition("\n")
        body += "\n" if body else ""
        lines = [json.loads(row) for row in body.split("\n")[:-1]]
        end = {"shard": number, "job": job.digest, "lines": len(lines), "sha256": _sha256(body)}
        if json.loads(last) != {"end": end}:
            raise ValueError("its last line does not fit what stands before it")
        told = [(line["image_id"], line["asked"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_shard(path, str(error)) from error
    wanted = [(image.image_id, one) for image in job.shard(number) for one in image.asked]
    if told != wanted:
        raise _bad_shard(path, f"{len(told)} answers that are not the {len(wanted)} asked for")
    return lines


def is_finished(job: Job, number: int) -> bool:
    """Whether a shard is there and whole; a torn one is made again."""
    try:
        read_shard(job, number)
    except RunError:
        return False
    return True


def _bad_shard(path: Path, why: str) -> RunError:
    return RunError(f"{path} is no whole shard of this job: {why}", remedy="start the job again")


def _told(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "sha256": job.plan_sha256,
        "images": len(plan.images),
        "asked": plan.asked,
        "shards": job.shards,
        "left_out": dict(plan.left_out),
    }


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _link(link: Path, root: Path) -> None:
    """Make `link` lead to the folder `root`, by a relative path, so that both can move together."""
    wanted = os.path.relpath(root.resolve(), link.parent.resolve())
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    with write_errors(link):
        if link.is_symlink():  # the images have moved since
            link.unlink()
        try:
            link.symlink_to(wanted, target_is_directory=True)
        except (OSError, NotImplementedError) as error:
            raise RunError(
                f"cannot make {link}, a link to the images in {root}: {error}",
                remedy="give an --out on a disk that can hold symbolic links",
            ) from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
