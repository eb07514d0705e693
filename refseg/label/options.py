"""What a labelling job is asked to do."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from refseg.data.selection import TextField
from refseg.errors import ConfigError, UnknownName

#: Told (done, of how many).
Progress = Callable[[int, int], None]

TASKS = ("expressions", "masks")
FILTERS = ("area", "none", "random:N")
#: Share of a human expression that a written one counts, where nothing else is asked (Table 7).
WRITTEN_WEIGHT = 0.1

#: Options that the answers of a task depend on, beside model, data and device.
_SHARED = ("split", "split_by", "exclude_images", "limit", "shard_images")
_OF_TASK = {
    "masks": (*_SHARED, "text_field", "batch_size"),
    "expressions": (
        *_SHARED, "beams", "per_object", "filter", "min_area", "seed", "known_refs", "verify",
        "pixels", "masks", "pictures_at_once",
    ),
}  # fmt: skip
#: Options of masks that are told only where they are used, so that jobs without are what they were.
_WHERE_USED = ("agree", "per_ref", "polygons", "skip_refs")


@dataclass(frozen=True)
class LabelOptions:
    """model: a bundled name, folder or hub id. data: a name, folder or, for expressions, a file.

    split: whose expressions get masks ("train"), or whose pictures' objects get expressions;
    "pool" is then all pictures that nobody described, "train+pool" both and the default where
    there is a split train. images, split_by, text_field: see `open_data`. exclude_images: image
    ids to leave out. limit: the first so many pictures, by id.
    Expressions: refs: the data set (a name or folder) whose expressions, and whose splits, count
    in place of the data's own: RefCOCO's, where the data are COCO's. split_by is then its.
    beams searched; per_object: how many of them are kept. filter: "area" drops objects of fewer
    than min_area px, "random:N" keeps N drawn by the seed, "none" keeps all.
    known_refs: ref ids whose expressions count as known (None: all), so that the objects of others
    are described. verify: refer every sentence back. pixels: read the pictures;
    None: if the model looks at them. masks: whether those of the objects may be seen; without, an
    object's area is its box's, and the result has none either.
    Masks: agree: keep a mask only where its `projection_score` against the known box of its ref is
    below this (Partial-RES: 0.1); None asks for no box and keeps all. per_ref: one sentence of each
    ref, drawn by the seed, as in the view "ref". skip_refs: ref ids that are not asked about, as
    they have true masks. polygons: write the outlines that the model predicts, not its masks.
    weight: importance that the data set states for each sentence; None: 0.1 for expressions, and
    for masks what the source states.
    shard_images, batch_size, pictures_at_once: what is computed together; in masks and expressions
    they change rounding at most, but bytes are only equal where they are.
    """

    model: str
    task: Literal["masks", "expressions"]
    data: str
    out: Path
    split: str | None = None
    split_by: str | None = None
    images: Path | None = None
    exclude_images: frozenset[int] = frozenset()
    limit: int | None = None
    text_field: TextField = "raw"
    refs: str | None = None
    beams: int = 3
    per_object: int = 3
    filter: str = "area"
    min_area: int = 1024
    known_refs: frozenset[int] | None = None
    verify: bool = False
    pixels: bool | None = None
    masks: bool = True
    weight: float | None = None
    seed: int = 0
    agree: float | None = None
    per_ref: bool = False
    skip_refs: frozenset[int] = frozenset()
    polygons: bool = False
    shard_images: int = 64
    batch_size: int = 32
    pictures_at_once: int = 16

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownName("task", self.task, TASKS)
        for name in ("beams", "per_object", "shard_images", "batch_size", "pictures_at_once"):
            _at_least(name, getattr(self, name), 1)
        _at_least("limit", 1 if self.limit is None else self.limit, 1)
        _at_least("min_area", self.min_area, 0)
        if self.per_object > self.beams:
            raise ConfigError(
                f"per_object is {self.per_object}, but only {self.beams} beams are searched",
                remedy=f"search more (--beams {self.per_object}) or keep fewer (--per-object)",
            )
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"weight is {self.weight}", remedy="give 0 or more")
        if self.agree is not None and not (math.isfinite(self.agree) and self.agree > 0):
            raise ConfigError(
                f"agree is {self.agree}",
                remedy="give a number above 0, such as 0.1; every mask scores 2 at most",
            )
        _ = self.random_count

    @property
    def random_count(self) -> int | None:
        """The N of the filter "random:N"; None for the others. Raises UnknownName."""
        kind, colon, count = self.filter.partition(":")
        if kind == "random" and colon and count.isdecimal() and int(count) > 0:
            return int(count)
        if self.filter not in ("area", "none"):
            raise UnknownName("filter", self.filter, FILTERS)
        return None

    @property
    def sentence_weight(self) -> float:
        """The weight written beside each sentence; of masks: what the source's is multiplied by."""
        if self.weight is not None:
            return self.weight
        return WRITTEN_WEIGHT if self.task == "expressions" else 1.0

    def identity(self) -> dict[str, Any]:
        """Those that the result depends on, as plain values; long lists of ids by their hash."""
        names = list(_OF_TASK[self.task])
        if self.task == "masks":
            names += [name for name in _WHERE_USED if getattr(self, name)]
            names += ["seed"] if self.per_ref else []
        told = {name: getattr(self, name) for name in names}
        for name in ("exclude_images", "known_refs", "skip_refs"):
            if name in told:
                told[name] = _ids(told[name])
        return {**told, "weight": self.sentence_weight}

    def to_json(self) -> dict[str, Any]:
        """All a worker needs; which images and refs are left out is settled in the plan."""
        told = asdict(self)
        told["images"] = None if self.images is None else str(self.images)
        settled = dict.fromkeys(("refs", "exclude_images", "known_refs", "skip_refs"))
        return {**told, "out": str(self.out), **settled}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> LabelOptions:
        """The options that `to_json` told."""
        images = None if told["images"] is None else Path(told["images"])
        changed: dict[str, Any] = {
            "images": images,
            "out": Path(told["out"]),
            "exclude_images": frozenset(),
            "skip_refs": frozenset(),
        }
        return cls(**{**told, **changed})


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}", remedy=f"give {least} or more")


def _ids(ids: frozenset[int] | None) -> str | None:
    """ "12 ids, a1b2c3": enough to see that two lists differ."""
    if not ids:
        return None if ids is None else "none"
    text = ",".join(map(str, sorted(ids)))
    return f"{len(ids)} ids, {hashlib.sha256(text.encode()).hexdigest()[:12]}"
