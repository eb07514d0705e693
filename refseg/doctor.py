"""Is this machine ready? Checks that each name what is wrong and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refseg.errors import RefsegError
from refseg.ops.files import atomic_write_text, sha256_file

Status = Literal["ok", "warn", "fail"]
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "opencv-python-headless")
SUMS = "SHA256SUMS"
FREE_GIB = 2.0  # the scenes of the default data set and a few checkpoints fit into this


@dataclass(frozen=True)
class Check:
    """One finding. remedy: empty unless something should be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def run(cache: Path, bundled: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Every check in turn; none of them raises.

    cache: the folder that data and models are kept in. bundled: checks of the models that come
    with the package, made by the caller, who knows where they are.
    """
    checks = (python, packages, torchvision, machine, lambda: [folder(cache)], java, bundled)
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a check that breaks is a finding, not a crash
            name = getattr(check, "__name__", "check")
            yield Check(name, "fail", f"{type(error).__name__}: {error}", "install refseg again")


def python() -> Iterator[Check]:
    """The interpreter and refseg itself."""
    from refseg import __version__

    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("refseg", "ok", __version__)
    yield Check(
        "python", "ok" if good else "fail", found, "" if good else "use Python 3.11 or later"
    )


def packages() -> Iterator[Check]:
    """Versions of the packages that matter most."""
    for name in PACKAGES:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            remedy = "pip install -c constraints.txt -e ."
            yield Check(name, "fail", "not installed", remedy)


def torchvision() -> Iterator[Check]:
    """A torchvision that does not match torch would break transformers; is it kept out?"""
    from refseg.nn.guard import guard_torchvision

    state = guard_torchvision()
    if state == "hidden":
        yield Check("torchvision", "warn", "installed but broken; refseg hides it and works")
    else:
        yield Check("torchvision", "ok", f"{state} (not needed)")


def machine() -> Iterator[Check]:
    """Cores, memory, accelerator, and whether bfloat16 is fast on it."""
    import psutil
    import torch

    from refseg.train.precision import multiplies_bfloat16

    memory = psutil.virtual_memory()
    free = memory.available / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cores", "ok", f"{cores}, torch uses {torch.get_num_threads()}")
    yield Check(
        "memory",
        "ok" if free >= 2 else "warn",
        f"{free:.1f} of {memory.total / 2**30:.1f} GiB free",
        "" if free >= 2 else "close other programs, or lower --batch-size",
    )
    found = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, the CPU is used"
    yield Check("accelerator", "ok", found)
    half = multiplies_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    told = "has kernels here" if half else "has no kernels here: small models train in float32"
    yield Check("bfloat16", "ok", told)


def folder(path: Path) -> Check:
    """Whether the cache folder can be written and has room."""
    name, remedy = "cache folder", "set REFSEG_CACHE to a folder you may write"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"refseg")
    except OSError as error:
        return Check(name, "fail", f"{path}: {error.strerror}", remedy)
    free = shutil.disk_usage(path).free / 2**30
    if free < FREE_GIB:
        return Check(name, "warn", f"{path}: only {free:.1f} GiB free", f"free some, or {remedy}")
    return Check(name, "ok", f"{path} ({free:.0f} GiB free)")


def java() -> Iterator[Check]:
    """METEOR (scores of written expressions) runs on Java; nothing else does."""
    found = shutil.which("java")
    if found:
        yield Check("java", "ok", found)
    else:
        yield Check("java", "ok", "absent; only METEOR would need it")


def shipped(folder: Path) -> Check:
    """Whether a bundled model's files are those that were shipped (`SHA256SUMS` beside them)."""
    name, remedy = f"model {folder.name}", "install refseg again"
    listed = folder / SUMS
    if not listed.is_file():
        return Check(name, "warn", f"no {SUMS} to compare with")
    for line in listed.read_text(encoding="utf-8").splitlines():
        digest, _, file = line.partition("  ")
        if not (folder / file).is_file():
            return Check(name, "fail", f"{file} is missing", remedy)
        if sha256_file(folder / file) != digest:
            return Check(name, "fail", f"{file} is not the file that was shipped", remedy)
    return Check(name, "ok", "as shipped")


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of a model folder's files, in the form of the tool sha256sum."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != SUMS)
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    atomic_write_text(folder / SUMS, "".join(lines))


def one_image(segment: Callable[[NDArray[np.uint8], str], object]) -> Check:
    """Segment one grey picture from end to end."""
    image = np.full((96, 128, 3), 127, np.uint8)
    start = time.perf_counter()
    try:
        segment(image, "the ball on the left")
    except RefsegError as error:
        return Check("self test", "fail", error.message, error.remedy)
    spent = 1000 * (time.perf_counter() - start)
    return Check("self test", "ok", f"loading, one image, one expression: {spent / 1000:.1f} s")
