"""What a study is given, what it hands back, and how that is written down with its provenance."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import refseg
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.models import Model, find_model
from refseg.ops.files import atomic_write_bytes, atomic_write_json, sha256_file
from refseg.types import Labels

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
FIGURES = ROOT / "docs" / "figures"
STYLES = ("scenes", "scenes+", "scenesg")
LABELS = Labels.parse("text+box+mask")
DIGITS = 6  # of every fraction in a file


@dataclass(frozen=True)
class Training:
    """What the studies that train are asked. variants: names in `studies.variants`; table: theirs.

    steps: of each run, None for the recipe's own. overrides: `--set` texts for every run.
    folder: where runs are kept, so that finished ones are not trained again.
    """

    table: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    steps: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a study is asked to do. model: None for studies that train their own.

    limit: the first so many expressions of each split. real: folder of the real photographs.
    """

    model: Model | None = None
    limit: int | None = None
    real: Path | None = None
    training: Training | None = None

    @property
    def loaded(self) -> Model:
        """The model, for studies that are always given one."""
        assert self.model is not None
        return self.model


@dataclass(frozen=True)
class Outcome:
    """What was found. numbers: JSON values, fractions in 0..1. pictures: name -> PNG.

    protocols, data, seeds, labels: what the numbers depend on; labels: what was learned from.
    """

    numbers: Mapping[str, Any]
    protocols: Sequence[str]
    data: Sequence[str]
    labels: str
    seeds: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def learned_from(model: Any) -> str:
    """The labels that a model's card says it has seen."""
    return str(model.card.get("labels used", "unknown"))


def open_scenes(style: str, split: str) -> ReferDataset:
    """A split of the standard rendered world, with everything needed to score."""
    return open_data(style, split, LABELS)


def slug(name: str) -> str:
    """A variant's name as a folder's: "unambiguity+CIDEr" -> "unambiguity-cider"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def shown(name: str) -> str:
    """What a name or folder is called where nothing may name a machine: its last part, or the run
    whose model it is ("runs/vit/model" -> "vit").
    """
    path = Path(name)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def write(
    study: str, outcome: Outcome, about: Mapping[str, Any], results: Path, figures: Path
) -> Path:
    """Write `<results>/<study>.json` and the pictures. about: command, minutes, model."""
    for name, png in outcome.pictures.items():
        atomic_write_bytes(figures / name, png)
    record = {
        "study": study,
        **about,
        "date": datetime.now(UTC).date().isoformat(),
        "labels": outcome.labels,
        "protocols": list(outcome.protocols),
        "data": list(outcome.data),
        "seeds": dict(outcome.seeds),
        "machine": machine(),
        "refseg": refseg.__version__,
        "pictures": sorted(outcome.pictures),
        "numbers": rounded(outcome.numbers),
    }
    path = results / f"{study}.json"
    atomic_write_json(path, record)
    return path


def model_identity(model: Model, name: str) -> dict[str, Any]:
    """Which weights were measured: the name alone could mean another file tomorrow.

    name: as given to `refseg.models.load`; only its last part is kept.
    """
    weights = find_model(name) / "model.safetensors"
    told: dict[str, Any] = {
        key: model.card[key] for key in ("recipe", "steps", "seed") if key in model.card
    }
    parameters = sum(p.numel() for p in model.method.parameters())
    return {
        "name": Path(name).name,
        "sha256": sha256_file(weights)[:16],
        "parameters": parameters,
        **told,
    }


def machine() -> dict[str, Any]:
    """The class of the machine; nothing that would name it."""
    return {
        "cpu": cpu_class(_cpu_name()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_class(name: str) -> str:
    """ "Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz" -> "Intel Xeon E5-2690 v4"."""
    plain = re.sub(r"\((?:R|TM)\)|@.*|\b(?:CPU|Processor|\d+-Core)\b", " ", name)
    return " ".join(plain.split()) or platform.machine()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine()).strip()


def rounded(value: Any) -> Any:
    """Floats cut to `DIGITS` digits, so that a file does not pretend to more."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value
