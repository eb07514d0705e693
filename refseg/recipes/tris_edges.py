"""The stages "edges" and "refine" of TRIS: IRNet learned from what response maps are sure of, and
the maps walked between the edges it finds, as an ordinary data set.

    RUN/edges/net.safetensors   the edge network    RUN/edges/log.jsonl, checkpoints/
    RUN/refine/data             what `open_data` opens: one mask for all sentences of a ref
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor

import refseg
from refseg.data.collate import normalise
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError, RunError
from refseg.label.job import Job as LabelJob
from refseg.label.job import is_finished, one_start, read_claim, settle
from refseg.label.options import LabelOptions
from refseg.label.output import merge
from refseg.label.refs import RefMaskTask
from refseg.label.workers import answer_here
from refseg.methods.tris.edges import EdgeBatch, EdgeNet
from refseg.methods.tris.refine import RefineSettings, refine
from refseg.methods.tris.seeds import IGNORE, SeedConfig, Smooth, on_grid, seeds, unsmoothed
from refseg.models import find_encoder, read_model_file
from refseg.nn.clip_resnet import ClipResNet
from refseg.nn.clip_weights import load_clip_part
from refseg.nn.weights import load_hub_part, load_state, read_state
from refseg.ops.crf import SEEDS, How, label_probability
from refseg.ops.crf import refine as kept_to_outlines
from refseg.ops.files import atomic_path, sha256_file
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.batches import subset
from refseg.recipes.provenance import digest, identity
from refseg.recipes.starts import CARD_ENTRY, NOT_STATED
from refseg.recipes.training import Job
from refseg.recipes.tris_select import Selected
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.progress import Counting
from refseg.types import Geometry

NET = "net.safetensors"
#: Factors that pictures are resized by while edges are learned.
SCALES = (0.5, 1.5)


def smoother(how: How) -> Smooth:
    """How seeds keep to outlines; see `refseg.ops.crf.refine`."""
    return unsmoothed if how == "none" else partial(_smoothed, how=how)


def _smoothed(
    image: NDArray[np.uint8], labels: NDArray[np.bool_], *, how: How
) -> NDArray[np.bool_]:
    return kept_to_outlines(image, label_probability(labels), how, SEEDS) > 0.5


@dataclass
class EdgeBatches:
    """make_batch(indices, epoch) for the loop: pictures at the net's size with the seeds of one of
    their refs, resized by 0.5 to 1.5, mirrored and cut at random by (seed, epoch, index), as IRNet.

    Seeds are made at the picture's own size, for which the CRF's sigmas are meant, and when asked
    for; a few epochs do not pay for a store of them. `plain`: nothing is drawn, and no seeds made.
    """

    dataset: ReferDataset
    selected: Selected
    rows: Sequence[int]
    preprocess: PreprocessConfig
    config: SeedConfig
    smooth: How
    seed: int = 0
    plain: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, indices: list[int], epoch: int) -> EdgeBatch:
        images, labels = [], []
        for index in indices:
            entry = self.dataset.entry(self.rows[index])
            picture = self.dataset.image(entry.image_row)
            found = self._seeds(entry.ref_id, picture)
            rng = np.random.default_rng([self.seed, epoch, index])
            placed = self._place(_hw(picture), None if self.plain else rng)
            side = self.preprocess.size
            images.append(cv2.warpAffine(picture, placed, (side, side)))
            nearest = {"flags": cv2.INTER_NEAREST, "borderMode": cv2.BORDER_CONSTANT}
            moved = cv2.warpAffine(found, placed, (side, side), **nearest, borderValue=IGNORE)
            labels.append(on_grid(np.asarray(moved, np.uint8)))
        return EdgeBatch(
            normalise(np.stack(images), self.preprocess),
            torch.from_numpy(np.stack(labels)).long(),
        )

    def _seeds(self, ref_id: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.plain:  # for the mean displacement, which reads no seeds
            return np.full(_hw(picture), IGNORE, np.uint8)
        response = self.selected.in_px(ref_id, self.preprocess.geometry(_hw(picture)))
        return seeds(response, picture, self.config, smoother(self.smooth))

    def _place(self, hw: tuple[int, int], rng: np.random.Generator | None) -> NDArray[np.float64]:
        """[2, 3] from px to net, pixel centres at whole numbers. rng: of what is drawn, if any."""
        geometry = self.preprocess.geometry(hw)
        scale, offset = np.array(geometry.scale_xy), np.array(geometry.offset_xy)
        side = self.preprocess.size
        if rng is not None:
            factor = rng.uniform(*SCALES)
            # Where a larger picture is cut, or a smaller one lies.
            offset = factor * offset + rng.random(2) * side * (1 - factor)
            scale = factor * scale
            if rng.random() < 0.5:
                scale, offset = scale * (-1, 1), np.array([side - offset[0], offset[1]])
        centre = scale * 0.5 + offset - 0.5
        return np.array([[scale[0], 0, centre[0]], [0, scale[1], centre[1]]])


def build_edges(recipe: Recipe, part: TrisPart) -> EdgeNet:
    """The network with the frozen encoder that `weights.edges` names.

    Raises ConfigError where it names none: edges are found in what an encoder sees, and a random
    one sees nothing.
    """
    name = recipe.weights.edges
    if name is None:
        raise ConfigError(
            'the stage "edges" looks through a frozen encoder, and weights.edges names none',
            remedy="name a folder or hub id, such as microsoft/resnet-50 or clip-scenes",
        )
    set_seed(part.edges_train.seed)
    net = EdgeNet(part.edges)
    module, prefix = net.hub_part()
    if isinstance(module, ClipResNet):
        load_clip_part(module, str(find_encoder(name)))
    else:
        load_hub_part(module, str(find_encoder(name)), prefix=prefix)
    return net


def learn_edges(
    job: Job, part: TrisPart, dataset: ReferDataset, selected: Selected, folder: Path
) -> list[Path]:
    """Train the edge network on seeds, set its mean displacement, keep its weights."""
    recipe = job.recipe
    net = build_edges(recipe, part)
    # A map that is nowhere positive says nothing of where things are.
    told = {ref_id for ref_id, row in selected.row_of.items() if (selected.maps[row] > 0).any()}
    known = [row for row in range(len(dataset)) if dataset.entry(row).ref_id in told]
    if not known:
        raise RunError(
            f"none of {len(dataset):,} refs has a map that is positive anywhere",
            remedy="train step 1 longer (tris.train.steps), in another --out",
        )
    rows = [known[i] for i in subset(len(known), part.edge_refs, recipe.train.seed)]
    prepare = recipe.preprocess
    batches = EdgeBatches(
        dataset, selected, rows, prepare, part.seeds, part.smooth, part.edges_train.seed
    )
    result = fit(
        net,
        TrainData(len(batches), batches),
        part.edges_train,
        folder,
        identity=identity(recipe),
        progress=job.progress,
    )
    if job.main:
        from safetensors.torch import save_file

        load_state(net.cpu(), read_state(result.weights), source=str(result.weights))
        size, plain = part.edges_train.batch_size, replace(batches, plain=True)
        starts = range(0, len(batches), size)
        net.set_mean(
            plain(list(range(start, min(start + size, len(batches)))), 0) for start in starts
        )
        with atomic_path(folder / NET) as temporary:
            save_file({k: v.contiguous() for k, v in net.state_dict().items()}, temporary)
    job.barrier()
    return [folder / NET]


@dataclass
class Refiner:
    """A `refseg.label.refs.Maker`: the pseudo masks of refs about a picture."""

    net: EdgeNet
    selected: Selected
    preprocess: PreprocessConfig
    settings: RefineSettings

    def __call__(
        self, picture: NDArray[np.uint8], ref_ids: Sequence[int]
    ) -> list[tuple[NDArray[np.bool_], float]]:
        """In px, at the picture's own size; refs without a map get an empty mask."""
        edge, displacement = self._looked(picture)
        geometry = self.preprocess.geometry(_hw(picture))
        maps = [self._map(ref_id, geometry) for ref_id in ref_ids]
        found = refine(np.stack(maps), edge, displacement, self.settings, _hw(picture))
        return [(one.mask, one.score) for one in found]

    def _map(self, ref_id: int, geometry: Geometry) -> NDArray[np.float32]:
        if ref_id not in self.selected.row_of:
            return np.zeros(geometry.original_hw, np.float32)
        return self.selected.in_px(ref_id, geometry)

    @torch.inference_mode()
    def _looked(self, picture: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        shown = normalise(picture[None], self.preprocess)
        edge, displacement = self.net.look(shown)
        parts: list[Tensor] = [edge[0], displacement[0]]
        return parts[0].cpu().numpy(), parts[1].cpu().numpy()


def write_masks(
    job: Job, part: TrisPart, options: LabelOptions, inputs: dict[str, str], refiner: Refiner
) -> list[Path]:
    """The data set of all refs' pseudo masks; an interrupted start is gone on with."""
    task = RefMaskTask(options)
    plan = task.plan()
    card = read_model_file(Path(options.model)).card
    about = {
        "model": options.model, "method": "tris_response",
        "labels used": str(card.get("labels used", NOT_STATED)),
        CARD_ENTRY: card.get(CARD_ENTRY, {}),
        "labels seen here": "text", "data": task.about,
    }  # fmt: skip
    asked = {"refseg": refseg.__version__, "task": "refs", "source": task.data_hash, **inputs}
    told = {**asked, "options": {**options.identity(), "refine": digest(_plain(part.refine))}}
    out = options.out
    writing = LabelJob(out, told, about, plan, options.shard_images)
    progress = Counting(job.progress, "refining, image by image")
    try:
        with one_start(out):
            read_claim(out, told)
            settle(writing, task.image_root(plan))
            todo = [number for number in range(writing.shards) if not is_finished(writing, number)]
            done = len(plan.images) - sum(len(writing.shard(number)) for number in todo)

            def tell(images: int) -> None:
                nonlocal done
                done += images
                progress(done, len(plan.images))

            answer_here(refiner, task, writing, todo, tell)  # type: ignore[arg-type]
            merge(writing, task)
    finally:
        progress.close()
    return [path for path in sorted(out.iterdir()) if path.suffix in (".p", ".json")]


def read_refiner(folder: Path, recipe: Recipe, part: TrisPart, selected: Selected) -> Refiner:
    """The refiner of what the stage "edges" left in `folder`."""
    net = EdgeNet(part.edges)
    load_state(net, read_state(folder / NET), source=str(folder / NET))
    return Refiner(net.eval(), selected, recipe.preprocess, part.refine)


def edges_hash(folder: Path) -> str:
    """Of the edge network in `folder`; "not there" before it is."""
    return sha256_file(folder / NET) if (folder / NET).is_file() else "not there"


def _plain(config: RefineSettings) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _hw(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
