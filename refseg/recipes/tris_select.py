"""The stage "select" of TRIS: step 1 answers every sentence, PRMS keeps one map for each ref.

RUN/select/maps.npy    [R, h, w] float32: response logits on the network's grid
RUN/select/refs.json   the R ref ids, which of its sentences each has its map from, and scores
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refseg.data.dataset import ReferDataset
from refseg.errors import RunError
from refseg.methods.tris.calibrator import Calibrator, choose, weighted_map
from refseg.methods.tris.response import TrisResponse, in_net
from refseg.models import Model
from refseg.ops.files import atomic_path, atomic_write_json
from refseg.ops.masks import response_in_px
from refseg.types import Batch, Geometry

MAPS, REFS = "maps.npy", "refs.json"
#: Added to the maximum that a map is divided by, as released.
EPSILON = 1e-5
#: Sentences that are answered together, of whole images.
TOGETHER = 32
#: Ref id, which of its sentences was chosen, its score, its logits [h, w].
_Found = tuple[int, int, float, NDArray[np.float32]]


@dataclass(frozen=True)
class Selected:
    """One map for each ref. maps: [R, h, w] float32 logits; ref_ids: [R]; sentence: [R], which of
    the ref's sentences it is of; scores: [R], what PRMS gave it.
    """

    maps: NDArray[np.float32]
    ref_ids: Sequence[int]
    sentence: Sequence[int]
    scores: Sequence[float]

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Ref id -> row."""
        return {ref_id: row for row, ref_id in enumerate(self.ref_ids)}

    def in_px(self, ref_id: int, geometry: Geometry) -> NDArray[np.float32]:
        """The ref's map [H, W] float32 in px: positive responses, divided by their maximum (0
        everywhere where none is positive). Raises KeyError for a ref that has none.
        """
        return normalised(self.maps[self.row_of[ref_id]], geometry)

    def write(self, folder: Path) -> list[Path]:
        """Both files, each whole or absent."""
        with atomic_path(folder / MAPS) as temporary, temporary.open("wb") as stream:
            np.save(stream, self.maps)
        told = {
            "refs": list(self.ref_ids), "sentence": list(self.sentence), "score": list(self.scores)
        }  # fmt: skip
        atomic_write_json(folder / REFS, told)
        return [folder / MAPS, folder / REFS]

    @classmethod
    def read(cls, folder: Path) -> Selected:
        """Raises RunError where the files are absent or broken."""
        try:
            told: dict[str, Any] = json.loads((folder / REFS).read_text(encoding="utf-8"))
            maps = np.load(folder / MAPS, mmap_mode="r", allow_pickle=False)
            found = cls(maps, told["refs"], told["sentence"], told["score"])
            if len(maps) != len(found.ref_ids):
                raise ValueError(f"{len(maps)} maps of {len(found.ref_ids)} refs")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"broken maps in {folder}: {error}", remedy=f"delete {folder} to select again"
            ) from error
        return found


def normalised(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Logits on the grid [h, w] -> [H, W] px in 0..1: brought to the net's size, cut at zero,
    brought to the image's (corners aligned), divided by their maximum.
    """
    grid = torch.from_numpy(np.array(logits, np.float32))[None]
    positive = in_net(grid, geometry.net_hw)[0].relu().numpy()
    in_px = response_in_px(positive, geometry, "bilinear-corners")
    return np.asarray(in_px / (in_px.max() + EPSILON), np.float32)


@torch.inference_mode()
def select_maps(
    model: Model,
    calibrator: Calibrator | None,
    dataset: ReferDataset,
    progress: Callable[[int, int], None],
    rows: Iterable[int] | None = None,
) -> Selected:
    """PRMS over a split. dataset: opened in the view "sentence". calibrator: None keeps the map of
    each ref's first sentence instead.

    progress(images done, images). rows: of the dataset, to choose among; others are not there, and
    a ref without any has no map.
    """
    model.method.eval()
    wanted = set(range(len(dataset)) if rows is None else rows)
    groups = [group for group in dataset.groups_by_image() if not wanted.isdisjoint(group)]
    asked = [[one for one in _numbered(dataset, rows) if one.row in wanted] for rows in groups]
    found: list[_Found] = []
    done = 0
    for images in _together(asked):
        found += _of_images(model, calibrator, dataset, [one for rows in images for one in rows])
        done += len(images)
        progress(done, len(groups))
    ref_ids, sentence, scores, maps = zip(*found, strict=True)
    return Selected(np.stack(maps), ref_ids, sentence, scores)


@dataclass(frozen=True)
class _Sentence:
    """A row of the dataset. number: which of the ref's sentences it is."""

    row: int
    ref_id: int
    number: int


def _numbered(dataset: ReferDataset, rows: Iterable[int]) -> list[_Sentence]:
    """All sentences about an image."""
    found, counts = list[_Sentence](), Counter[int]()
    for row in rows:
        ref_id = dataset.entry(row).ref_id
        found.append(_Sentence(row, ref_id, counts[ref_id]))
        counts[ref_id] += 1
    return found


def _together(images: list[list[_Sentence]]) -> Iterator[list[list[_Sentence]]]:
    """Images in order, as many at a time as have `TOGETHER` sentences at most, one at least."""
    taken: list[list[_Sentence]] = []
    for rows in images:
        if taken and sum(map(len, taken)) + len(rows) > TOGETHER:
            yield taken
            taken = []
        taken.append(rows)
    if taken:
        yield taken


def _of_images(
    model: Model, calibrator: Calibrator | None, dataset: ReferDataset, asked: list[_Sentence]
) -> list[_Found]:
    """What is found for the refs that sentences are about, images encoded and judged together."""
    method = model.method
    assert isinstance(method, TrisResponse)
    samples = dataset.samples([one.row for one in asked])
    batch = model.batch(samples, share_images=True).to(model.device)
    logits = method.own(method(batch))
    refs: dict[int, list[int]] = {}
    for place, one in enumerate(asked):
        refs.setdefault(one.ref_id, []).append(place)
    best, scores = dict.fromkeys(refs, 0), dict.fromkeys(refs, 0.0)
    if calibrator is not None:
        seen, texts = _judged(method, calibrator, logits, batch)
        for ref_id, places in refs.items():
            best[ref_id], of_maps = choose(seen[places], texts[places])
            scores[ref_id] = float(of_maps[best[ref_id]])
    kept = logits.cpu().numpy()
    chosen = {ref_id: places[best[ref_id]] for ref_id, places in refs.items()}
    return [
        (ref_id, asked[place].number, scores[ref_id], kept[place])
        for ref_id, place in chosen.items()
    ]


def _judged(
    method: TrisResponse, calibrator: Calibrator, logits: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """What each map [h, w] leaves of its image, and each text, as the judge knows them: [B, E]."""
    size = (batch.images.shape[2], batch.images.shape[3])
    shown = weighted_map(in_net(logits, size), method.config.select_map)
    seen = calibrator.seen(batch.images[batch.image_of], shown)
    return seen, calibrator.texts(*method.text.cut_for_judge(batch.words, batch.word_mask))
