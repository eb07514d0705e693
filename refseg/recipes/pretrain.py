"""From an encoder's recipe to a folder in the hub's format.

RUN/recipe.json   RUN/train/...   RUN/model/{config.json, model.safetensors, README.md[, tokenizer]}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

import refseg
from refseg.data.catalog import find_folder, open_data
from refseg.data.collate import normalise
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, SIZES, SceneObject
from refseg.data.scenes.serial import read_scenes
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.data.transforms import PreprocessConfig
from refseg.methods.encoders.objects import ObjectBatch, ObjectNamer, ObjectNamerConfig
from refseg.methods.encoders.words import WordBatch, WordGuesser, WordGuesserConfig
from refseg.nn.weights import load_state, read_state
from refseg.ops.files import atomic_path, atomic_write_text
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.provenance import claim, identity, record_start
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.parallel import make_accelerator
from refseg.train.progress import ProgressMode
from refseg.train.results import Evaluation, FitResult
from refseg.types import Labels

#: Attribute -> its values, in the order of `ObjectNamerConfig.classes`.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "size": SIZES,
    "material": MATERIALS,
    "pattern": PATTERNS,
}
#: An object narrower than this (px of the net image) has nothing to show.
NARROWEST = 3.0


def run_encoder(
    recipe: EncoderRecipe,
    run_dir: Path,
    *,
    progress: ProgressMode = "auto",
    command: str | None = None,
) -> Path:
    """Train the encoder, going on where an earlier start was interrupted; the exported folder.

    Raises RunError (folder in use by another recipe, broken, unwritable), DataError, UnknownName.
    """
    accelerator = make_accelerator(recipe.train)
    claim(recipe, run_dir)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        atomic_write_text(run_dir / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
        record_start(run_dir / "provenance.json", processes=accelerator.num_processes)
    set_seed(recipe.train.seed)
    job = _objects(recipe) if recipe.kind == "objects" else _words(recipe)
    result = fit(
        job.learner,
        job.data,
        recipe.train,
        run_dir / "train",
        evaluation=job.evaluation,
        identity=identity(recipe),
        progress=progress,
    )
    model = run_dir / "model"
    if accelerator.is_main_process:
        load_state(job.learner.cpu(), read_state(result.weights), source=str(result.weights))
        _export(model, job, _card(recipe, job, result, command))
    accelerator.wait_for_everyone()
    return model


@dataclass(frozen=True)
class _Job:
    """learner: trained. encoder: its transformers model, exported. labels: what it looks at."""

    learner: nn.Module
    encoder: Any
    data: TrainData
    labels: str
    evaluation: Evaluation | None = None
    tokenizer: WordTokenizer | None = None


def _export(folder: Path, job: _Job, card: dict[str, Any]) -> None:
    """The encoder as a folder of the hub's format, whole or not at all."""
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in job.encoder.state_dict().items()}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(state, temporary / "model.safetensors")
        (temporary / "model.safetensors").chmod(0o644)
        config = job.encoder.config.to_dict()
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        lines = [f"# {card['recipe']}", "", *(f"- **{k}**: {v}" for k, v in card.items())]
        (temporary / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if job.tokenizer is not None:
            job.tokenizer.save(temporary / "tokenizer.json")


def _card(
    recipe: EncoderRecipe, job: _Job, result: FitResult, command: str | None
) -> dict[str, Any]:
    scores = {f"{k} named rightly": f"{v:.1%}" for k, v in result.metrics.items()}
    return {
        "recipe": recipe.name,
        **({"command": command} if command else {}),
        "data": f"{recipe.data.name}, split {recipe.data.train}, {job.data.size} items",
        "labels used": job.labels,
        "steps": result.steps,
        "batch size": recipe.train.batch_size,
        "seed": recipe.train.seed,
        **scores,
        "refseg": refseg.__version__,
        "licence": "Apache-2.0",
    }


# -- objects -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Every picture of a split at net size, in memory (49 kB each at 128 px).

    images: [N, h, w, 3] uint8. boxes: [N, O, 4] float32 net. classes: [N, O, A] int64.
    known: [N, O] bool.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    known: NDArray[np.bool_]


def read_pictures(
    name: str, split: str, preprocess: PreprocessConfig, limit: int | None
) -> Pictures:
    """The pictures of a rendered world's split with their objects' boxes and attributes."""
    dataset = open_data(name, split, Labels.parse("text+box"))
    groups = dataset.groups_by_image()[:limit]
    wanted = [dataset.entry(group[0]) for group in groups]
    scenes = dict(read_scenes(find_folder(name).parent))
    most = max(len(scenes[entry.image_id].objects) for entry in wanted)
    shape = (len(wanted), most)
    images = []
    boxes = np.zeros((*shape, 4), np.float32)
    classes = np.zeros((*shape, len(ATTRIBUTES)), np.int64)
    known = np.zeros(shape, np.bool_)
    for row, entry in enumerate(wanted):
        net, placed = preprocess.apply(dataset.image(entry.image_row))
        images.append(net)
        for column, one in enumerate(scenes[entry.image_id].objects):
            box = np.asarray(one.box_xyxy) * np.tile(placed.scale_xy, 2)
            boxes[row, column] = box + np.tile(placed.offset_xy, 2)
            classes[row, column] = attribute_classes(one)
            known[row, column] = boxes[row, column, 2] - boxes[row, column, 0] > NARROWEST
    return Pictures(np.stack(images), boxes, classes, known)


def attribute_classes(one: SceneObject) -> list[int]:
    """The index of each attribute's value."""
    return [values.index(getattr(one, name)) for name, values in ATTRIBUTES.items()]


@dataclass(frozen=True)
class ObjectBatches:
    """make_batch(indices, epoch) for the loop. zoom, most: see `EncoderRecipe`."""

    pictures: Pictures
    preprocess: PreprocessConfig
    zoom: float
    most: float
    seed: int

    def __call__(self, indices: list[int], epoch: int) -> ObjectBatch:
        """The pictures of these indices, each enlarged or not by a draw of its own."""
        pictures = self.pictures
        batch = ObjectBatch(
            normalise(pictures.images[indices], self.preprocess),
            torch.from_numpy(pictures.boxes[indices]),
            torch.from_numpy(pictures.classes[indices]),
            torch.from_numpy(pictures.known[indices]),
        )
        if not self.zoom:
            return batch
        draws = np.stack([np.random.default_rng([self.seed, epoch, i]).random(4) for i in indices])
        return enlarge(batch, torch.from_numpy(draws).float(), self.zoom, self.most)


def enlarge(batch: ObjectBatch, draws: Tensor, chance: float, most: float) -> ObjectBatch:
    """Pictures enlarged around one of their objects, and mirrored.

    draws: [I, 4] in 0..1: whether to enlarge, how much (1 to `most`), around which object,
    whether to mirror. Objects whose centre leaves the picture are no longer known.
    """
    images, known = batch.images, batch.known
    count, (height, width) = len(images), (images.shape[2], images.shape[3])
    size = torch.tensor([width, height], dtype=torch.float32)
    corners = batch.boxes.view(count, -1, 2, 2) / size * 2 - 1  # [I, O, 2, xy] in -1..1
    scale = torch.where(draws[:, 0] < chance, 1 + draws[:, 1] * (most - 1), torch.ones(count))
    chosen = _nth_known(known, draws[:, 2])
    room = (1 - 1 / scale)[:, None]
    centre = corners[torch.arange(count), chosen].mean(dim=1)
    centre = torch.maximum(torch.minimum(centre, room), -room)
    sign = torch.where(draws[:, 3] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = sign / scale, 1 / scale, centre
    grid = F.affine_grid(theta, [count, 3, height, width], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    corners = (corners - centre[:, None, None]) * scale[:, None, None, None]
    corners[..., 0] *= sign[:, None, None]
    known = known & (corners.mean(dim=2).abs() < 0.95).all(dim=-1)
    corners = corners.clamp(-1, 1)
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    return ObjectBatch(images, (boxes + 1) / 2 * size.repeat(2), batch.classes, known)


def _nth_known(known: Tensor, draw: Tensor) -> Tensor:
    """Index of a known object a picture, drawn evenly; 0 where there is none. [I, O], [I] -> [I]"""
    nth = (draw * known.sum(dim=1)).long()
    return ((known.cumsum(dim=1) > nth[:, None]) & known).int().argmax(dim=1)


def _objects(recipe: EncoderRecipe) -> _Job:
    data, seed = recipe.data, recipe.train.seed
    pictures = read_pictures(data.name, data.train, recipe.preprocess, None)
    batches = ObjectBatches(pictures, recipe.preprocess, recipe.zoom, recipe.most, seed)
    classes = tuple(len(values) for values in ATTRIBUTES.values())
    learner = ObjectNamer(ObjectNamerConfig(vision=recipe.vision, classes=classes))
    held_out = read_pictures(data.name, data.evaluate, recipe.preprocess, data.evaluate_limit)
    judge = ObjectBatches(held_out, recipe.preprocess, 0.0, recipe.most, seed)
    return _Job(
        learner,
        learner.pyramid.swin,
        TrainData(len(pictures.images), batches),
        "box+attributes",
        Evaluation(_Accuracy(judge), None, "box+attributes"),
    )


@dataclass(frozen=True)
class _Accuracy:
    """Share of held-out objects whose attribute is named rightly."""

    batches: ObjectBatches

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        assert isinstance(learner, ObjectNamer)
        count = len(self.batches.pictures.images)
        device = next(learner.parameters()).device
        rows = [list(range(start, min(start + 50, count))) for start in range(0, count, 50)]
        right = torch.cat([learner.right(self.batches(part, 0).to(device)) for part in rows])
        means = right.float().mean(dim=0).tolist()
        return dict(zip(ATTRIBUTES, means, strict=True))


# -- words -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordBatches:
    """make_batch(indices, epoch) for the loop: BERT's rule, of hidden words 80 % become [MASK],
    10 % another piece, 10 % stay.
    """

    texts: list[str]
    tokenizer: WordTokenizer
    hide: float
    seed: int

    def __call__(self, indices: list[int], epoch: int) -> WordBatch:
        """The expressions of these indices with words hidden by a draw of their own."""
        encoded = self.tokenizer.encode([self.texts[index] for index in indices])
        targets, real = encoded.words, encoded.mask
        words, hidden = targets.copy(), np.zeros_like(real)
        cover = int(self.tokenizer.tokenizer.token_to_id("[MASK]") or 0)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, index])
            inner = np.arange(1, int(real[row].sum()) - 1)  # not [CLS], not [SEP]
            chosen = inner[rng.random(len(inner)) < self.hide]
            chosen = np.union1d(chosen, rng.choice(inner, 1)).astype(int)
            fate = rng.random(len(chosen))
            other = rng.integers(0, self.tokenizer.vocab_size, len(chosen))
            hidden[row, chosen] = True
            words[row, chosen[fate < 0.8]] = cover
            words[row, chosen[fate > 0.9]] = other[fate > 0.9]
        tensors = (torch.from_numpy(array) for array in (words, real, hidden, targets))
        return WordBatch(*tensors)


def _words(recipe: EncoderRecipe) -> _Job:
    # Word pieces are cut in loader workers; threads of a forked tokenizer would only warn.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    dataset = open_data(recipe.data.name, recipe.data.train, Labels())
    texts = [dataset.entry(row).text for row in range(len(dataset))]
    tokens = recipe.tokens
    tokenizer = train_wordpiece(texts, size=tokens.vocabulary, max_words=tokens.max_words)
    learner = WordGuesser(WordGuesserConfig(text=recipe.text))
    batches = WordBatches(texts, tokenizer, recipe.hide, recipe.train.seed)
    return _Job(
        learner,
        learner.text.bert,
        TrainData(len(texts), batches),
        "text",
        tokenizer=tokenizer,
    )
