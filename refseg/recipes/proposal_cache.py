"""What a frozen extractor sees in each image, kept: step 2 then needs no pixels.

    FOLDER/features.npy   [images, N, C] float16       FOLDER/index.npz   where each object is

O of 17,000 images at paper size is 0.81 GiB. It holds only where images are not augmented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.data.collate import collate_pictures
from refseg.data.dataset import ReferDataset
from refseg.errors import DataError, RunError
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import Matching, Proposals
from refseg.models import Model
from refseg.ops.files import atomic_path
from refseg.types import Batch

AT_ONCE = 16


@dataclass(frozen=True)
class CachedProposals:
    """features: [images, N, C] float16, mapped from disk. ann_ids: [A] ascending; image, proposal,
    iou: [A], the row of the object's image and what stands for it there.
    """

    features: NDArray[np.float16]
    ann_ids: NDArray[np.int64]
    image: NDArray[np.int64]
    proposal: NDArray[np.int64]
    iou: NDArray[np.float32]

    def __call__(self, batch: Batch) -> tuple[Proposals, Matching]:
        """As the extractor, for a batch with objects and without pixels. Raises DataError."""
        objects = objects_of(batch)
        ids, known = objects.ann_ids.cpu().numpy(), objects.known.cpu().numpy()
        rows = np.searchsorted(self.ann_ids, ids).clip(max=len(self.ann_ids) - 1)
        if (self.ann_ids[rows] != ids)[known].any():
            raise DataError(
                "an image of the batch has no kept proposals",
                remedy="the data have changed: start the stage again in an empty folder",
            )
        device = objects.known.device
        # Of an image without objects nothing is asked, so that any image's proposals will do.
        images = self.image[rows[np.arange(len(rows)), known.argmax(axis=1)]]
        features = torch.from_numpy(self.features[images].astype(np.float32)).to(device)
        proposal = np.where(known, self.proposal[rows], -1)
        iou = np.where(known, self.iou[rows], np.nan).astype(np.float32)
        matching = Matching(torch.from_numpy(proposal).to(device), torch.from_numpy(iou).to(device))
        return Proposals(features), matching


def keep_proposals(
    model: Model,
    dataset: ReferDataset,
    rows: Sequence[int],
    folder: Path,
    progress: Callable[[int, int], None],
    made_from: str = "",
) -> CachedProposals:
    """Look at the images `rows` (of the records), or open what an earlier start kept in `folder`.

    progress(images done, images). The dataset must be open with pixels and objects. made_from:
    names what the proposals depend on. Raises RunError as `open_proposals`.
    """
    if not (folder / "index.npz").is_file():
        with atomic_path(folder) as temporary:
            temporary.mkdir(parents=True)
            _look(model, dataset, rows, temporary, progress)
            (temporary / "made_from.txt").write_text(made_from, encoding="utf-8")
    return open_proposals(folder, made_from)


def open_proposals(folder: Path, made_from: str = "") -> CachedProposals:
    """What `keep_proposals` kept. Raises RunError where it was made from something else."""
    told = folder / "made_from.txt"
    if told.is_file() and told.read_text(encoding="utf-8") != made_from:
        raise RunError(
            f"{folder} was kept for another model or other data",
            remedy=f"delete {folder.parent} to do the stage again",
        )
    index = np.load(folder / "index.npz")
    features = np.load(folder / "features.npy", mmap_mode="r")
    names = ("ann_ids", "image", "proposal", "iou")
    return CachedProposals(features, *(index[name] for name in names))


@torch.inference_mode()
def _look(
    model: Model,
    dataset: ReferDataset,
    rows: Sequence[int],
    folder: Path,
    progress: Callable[[int, int], None],
) -> None:
    features: NDArray[np.float16] | None = None
    found: list[tuple[NDArray[np.int64], ...]] = []
    fits: list[NDArray[np.float32]] = []
    model.method.eval()
    for start in range(0, len(rows), AT_ONCE):
        pictures = [dataset.picture(row) for row in rows[start : start + AT_ONCE]]
        batch = collate_pictures(pictures, model.preprocess).to(model.device)
        proposals = model.method.propose(batch)
        matching = model.method.match(proposals, batch)
        seen = proposals.features.half().cpu().numpy()
        if features is None:
            shape = (len(rows), *seen.shape[1:])
            path = folder / "features.npy"
            features = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        features[start : start + len(seen)] = seen
        known = objects_of(batch).known.cpu().numpy()
        image = start + np.nonzero(known)[0]
        ids = objects_of(batch).ann_ids.cpu().numpy()[known]
        found.append((ids, image, matching.proposal.cpu().numpy()[known]))
        fits.append(matching.iou.cpu().numpy()[known])
        progress(start + len(seen), len(rows))
    assert features is not None
    features.flush()  # type: ignore[attr-defined]
    ann_ids, image, proposal = (np.concatenate(part) for part in zip(*found, strict=True))
    order = ann_ids.argsort(kind="stable")
    np.savez(
        folder / "index.npz",
        ann_ids=ann_ids[order],
        image=image[order],
        proposal=proposal[order],
        iou=np.concatenate(fits)[order],
    )
