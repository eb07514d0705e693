"""The stages "edges" and "refine" of TRIS: IRNet learned from what response maps are sure of, and
the maps walked between the edges it finds, as an ordinary data set.

    RUN/edges/net.safetensors   the edge network    RUN/edges/log.jsonl, checkpoints/
    RUN/refine/data             what `open_data` opens: one mask for all sentences of a ref

What edges are learned from: `tris_seeds.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray

import refseg
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, PreprocessConfig
from refseg.errors import ConfigError, RunError
from refseg.label.job import Job as LabelJob
from refseg.label.job import is_finished, one_start, read_claim, settle
from refseg.label.options import LabelOptions
from refseg.label.output import merge
from refseg.label.refs import RefMaskTask
from refseg.label.workers import answer_here
from refseg.methods.tris.edges import EdgeNet
from refseg.methods.tris.refine import RefineSettings, refine
from refseg.models import find_encoder, read_model_file
from refseg.nn.clip import Pixels
from refseg.nn.clip_resnet import ClipResNet
from refseg.nn.clip_weights import load_clip_part, read_pixels
from refseg.nn.weights import load_hub_part, load_state, read_state
from refseg.ops.files import atomic_path, remove_folder, sha256_file
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.batches import subset
from refseg.recipes.provenance import digest, identity
from refseg.recipes.starts import CARD_ENTRY, NOT_STATED
from refseg.recipes.training import Job
from refseg.recipes.tris_seeds import EdgeBatches, KeptSeeds, hw_of, in_unit
from refseg.recipes.tris_select import Selected
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.progress import Counting
from refseg.types import Geometry

NET, SEEDS_KEPT = "net.safetensors", "seeds"
Cells = NDArray[np.float32]


def build_edges(recipe: Recipe, part: TrisPart) -> EdgeNet:
    """The network with the frozen encoder that `weights.edges` names.

    It sees pixels as its weights know them, whatever `preprocess` has: a CLIP's its own, a ResNet
    or Swin ImageNet's (as in the released code, whose encoder here is a ResNet).
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
    net, where = EdgeNet(part.edges), str(find_encoder(name))
    module, prefix = net.hub_part()
    if isinstance(module, ClipResNet):
        load_clip_part(module, where)
        net.set_pixels(read_pixels(where))
    else:
        load_hub_part(module, where, prefix=prefix)
        net.set_pixels(Pixels(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    return net


def learn_edges(
    job: Job, part: TrisPart, dataset: ReferDataset, selected: Selected, folder: Path
) -> list[Path]:
    """Train the edge network on seeds, set its mean displacement, keep its weights.

    Seeds are kept in `folder` until then; see `KeptSeeds`.
    """
    recipe = job.recipe
    net = build_edges(recipe, part)
    rows = _told(dataset, selected)
    rows = [rows[i] for i in subset(len(rows), part.edge_refs, recipe.train.seed)]
    kept = KeptSeeds(selected, recipe.preprocess, part.seeds, part.smooth, folder / SEEDS_KEPT)
    red, green, blue = (round(255 * value) for value in net.pixel_mean.tolist())
    batches = EdgeBatches(
        dataset, kept, rows, part.edge_crop, (red, green, blue), part.edges_train.seed
    )
    result = fit(
        net,
        TrainData(len(batches), batches),
        part.edges_train,
        folder,
        identity=identity(recipe),
        progress=job.progress,
    )
    job.barrier()  # nobody reads or writes seeds any more
    if job.main:
        load_state(net.cpu(), read_state(result.weights), source=str(result.weights))
        _centre(net.to(job.device), batches, part.edges_train.batch_size)
        _write(net, folder / NET)
        if kept.folder.is_dir():
            remove_folder(kept.folder)
    job.barrier()
    return [folder / NET]


def _told(dataset: ReferDataset, selected: Selected) -> list[int]:
    """Rows whose map says something of where things are: it is positive somewhere."""
    told = {ref_id for ref_id, row in selected.row_of.items() if (selected.maps[row] > 0).any()}
    rows = [row for row in range(len(dataset)) if dataset.entry(row).ref_id in told]
    if not rows:
        raise RunError(
            f"none of {len(dataset):,} refs has a map that is positive anywhere",
            remedy="train step 1 longer (tris.train.steps), in another --out",
        )
    return rows


def _centre(net: EdgeNet, batches: EdgeBatches, size: int) -> None:
    """Set the mean displacement, of all pictures in batches of that size."""
    plain, rows = replace(batches, plain=True), range(len(batches))
    net.set_mean(plain(list(rows[start : start + size]), 0) for start in rows[::size])


def _write(net: EdgeNet, path: Path) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, temporary)


@dataclass
class Refiner:
    """A `refseg.label.refs.Maker`: the pseudo masks of refs about a picture.

    preprocess: of the network that the maps are of. The edge network works where it lies.
    """

    net: EdgeNet
    selected: Selected
    preprocess: PreprocessConfig
    settings: RefineSettings

    def __call__(
        self, picture: NDArray[np.uint8], ref_ids: Sequence[int]
    ) -> list[tuple[NDArray[np.bool_], float]]:
        """In px, at the picture's own size; refs without a map get an empty mask."""
        edge, displacement = self.look(picture)
        geometry = self.preprocess.geometry(hw_of(picture))
        maps = [self._map(ref_id, geometry) for ref_id in ref_ids]
        found = refine(np.stack(maps), edge, displacement, self.settings, hw_of(picture))
        return [(one.mask, one.score) for one in found]

    @torch.inference_mode()
    def look(self, picture: NDArray[np.uint8]) -> tuple[Cells, Cells]:
        """Edges [h, w] and displacements [2, h, w] of a picture at its own scale; see `EdgeNet`."""
        edge, displacement = self.net.look(in_unit(picture[None]).to(self.net.pixel_mean.device))
        return edge[0].cpu().numpy(), displacement[0].cpu().numpy()

    def _map(self, ref_id: int, geometry: Geometry) -> NDArray[np.float32]:
        if ref_id not in self.selected.row_of:
            return np.zeros(geometry.original_hw, np.float32)
        return self.selected.in_px(ref_id, geometry)


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


def read_refiner(
    folder: Path, recipe: Recipe, part: TrisPart, selected: Selected, device: str = "cpu"
) -> Refiner:
    """The refiner of what the stage "edges" left in `folder`, on `device`."""
    net = EdgeNet(part.edges)
    load_state(net, read_state(folder / NET), source=str(folder / NET))
    return Refiner(net.eval().to(device), selected, recipe.preprocess, part.refine)


def edges_hash(folder: Path) -> str:
    """Of the edge network in `folder`; "not there" before it is."""
    return sha256_file(folder / NET) if (folder / NET).is_file() else "not there"


def _plain(config: RefineSettings) -> dict[str, Any]:
    return config.model_dump(mode="json")
