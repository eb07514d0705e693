"""The main job on the embedded world: expressions in, masks out, scored, as pictures and a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg import draw
from refseg.baselines import NAMES, make_baseline
from refseg.data.catalog import open_data, scenes_images
from refseg.data.dataset import ReferDataset
from refseg.data.scenes.build import ensure_scenes
from refseg.data.scenes.model import Scene, SceneObject
from refseg.data.scenes.oracle import referents
from refseg.data.scenes.serial import read_scenes
from refseg.data.store import cache_folder
from refseg.demo_photographs import PhotoShown, tell_photographs
from refseg.describe import MATCHED, describe
from refseg.evaluate import Answers, Options, Report, evaluate_all
from refseg.meaning import world_of
from refseg.metrics.iou import mask_counts
from refseg.models import PHOTOS, Model
from refseg.page import Page
from refseg.predict import Predictor, Segmenter
from refseg.types import Labels, Sample

STYLES = ("scenes", "scenes+", "scenesg")
WRITER = "mutual-scenes"
OBJECTS_WRITTEN = 2  # of each scene
SCENES_SHOWN = 6
ASKED = 3  # expressions about each of them
IMAGES_SCORED = 200
PROTOCOLS = ("original", "lavt-480")
LABELS = Labels(frozenset({"box", "mask"}))


@dataclass(frozen=True)
class Row:
    """One expression: what it means by the oracle, how well its mask fits, how long it took."""

    expression: str
    referent: str
    iou: float
    ms: float
    mask: NDArray[np.bool_]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the mask."""
        told = {"expression": self.expression, "referent": self.referent}
        return {**told, "iou": self.iou, "ms": round(self.ms, 2)}


@dataclass(frozen=True)
class WrittenRow:
    """An expression that the writer gave an object. iou: how well the proposal fits the object
    that it stood for. refers_back: whether its own selection head finds the object again, margin:
    by how much; means: by the oracle, one of `MEANINGS`.
    """

    picture: str
    described: str
    iou: float
    expression: str
    refers_back: bool
    margin: float
    means: str

    @property
    def fit(self) -> str:
        """The IoU in percent, marked where the sentence may be about something else."""
        return f"{100 * self.iou:.0f}{' (poor)' * (self.iou < MATCHED)}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "margin": round(self.margin, 4), "iou": round(self.iou, 4)}


@dataclass(frozen=True)
class Shown:
    """One scene and the expressions asked about it. name: of its picture file. image_row: of the
    data set's records.
    """

    name: str
    style: str
    image: NDArray[np.uint8]
    rows: tuple[Row, ...]
    image_row: int

    def picture(self) -> bytes:
        """The masks over the scene, as PNG."""
        texts = [f"{row.expression}  (IoU {100 * row.iou:.0f} %)" for row in self.rows]
        return draw.png(draw.overlay(self.image, [row.mask for row in self.rows], texts))


def demo_world(progress: Callable[[int, int], None] | None = None) -> Path:
    """The standard rendered world, or its val split alone where no world is there yet.

    Rendering 300 images instead of 4,000 keeps the first minute short.
    """
    return ensure_scenes(cache_folder(), images=scenes_images(), only="val", progress=progress)


def show_scenes(model: Segmenter, world: Path, count: int = SCENES_SHOWN) -> Iterator[Shown]:
    """`count` val scenes of `world` in turn of the three styles, each with a few expressions."""
    for turn in range(count):
        style = STYLES[turn % len(STYLES)]
        dataset = open_data(world / style, "val", LABELS)
        # Steps of seven: neighbouring styles should not show the same image.
        groups = dataset.groups_by_image()
        rows = groups[7 * turn % len(groups)]
        yield _shown(model, dataset, style, rows)


def _shown(model: Segmenter, dataset: ReferDataset, style: str, rows: Sequence[int]) -> Shown:
    samples = dataset.samples(rows)
    first_of = {sample.ref_id: sample for sample in reversed(samples)}
    asked = sorted(first_of.values(), key=lambda sample: sample.sent_id)[:ASKED]
    scene = scene_of(dataset.folder.parent, asked[0].image_id)
    predictor = Predictor(model).set_image(asked[0].image)
    told = tuple(_row(predictor, sample, scene) for sample in asked)
    image_row = dataset.entry(rows[0]).image_row
    return Shown(f"{style}_{asked[0].image_id}", style, asked[0].image, told, image_row)


def write_about(writer: Model, world: Path, shown: Sequence[Shown]) -> list[WrittenRow]:
    """Expressions for the largest objects of each scene, each referred back."""
    rows = []
    for one in shown:
        dataset = open_data(world / one.style, "val", LABELS, objects=True)
        picture = dataset.picture(one.image_row)
        rendered, _ = world_of(dataset, {picture.image_id})
        assert rendered is not None  # `world` is one
        assert picture.objects is not None
        scene = rendered.scenes[picture.image_id]
        ids = picture.objects.ann_ids.tolist()
        sizes = [0 if mask is None else int(mask.sum()) for mask in picture.objects.masks or ()]
        largest = sorted(range(len(ids)), key=lambda row: -sizes[row])[:OBJECTS_WRITTEN]
        found = describe(writer, [picture], [(0, row) for row in largest], beams=5, verify=True)
        for row, described in zip(largest, found, strict=True):
            # Annotations are numbered as the scene lists its objects.
            item = scene.objects[sorted(ids).index(ids[row])]
            assert described.iou is not None  # the writer's proposals are predicted
            for best in described.expressions:
                means = rendered.meaning(best.text, one.image_row, ids[row])
                assert best.refers_back is not None
                assert best.margin is not None
                back, margin = best.refers_back, best.margin
                rows.append(
                    WrittenRow(one.name, named(item), described.iou, best.text, back, margin, means)
                )
    return rows


def _row(predictor: Predictor, sample: Sample, scene: Scene) -> Row:
    start = time.perf_counter()
    prediction = predictor.segment(sample.text)
    spent = 1000 * (time.perf_counter() - start)
    assert sample.mask is not None
    intersection, union = mask_counts(prediction.mask, sample.mask)
    iou = intersection / union if union else 1.0
    return Row(sample.text, meaning(sample.text, scene), iou, spent, prediction.mask)


def scene_of(world: Path, image_id: int) -> Scene:
    """The exact scene behind an image of the rendered world in `world`."""
    return next(scene for number, scene in read_scenes(world) if number == image_id)


def meaning(text: str, scene: Scene) -> str:
    """What the oracle says the expression means: "small red shiny ball"."""
    meant = referents(text, scene)
    return ", ".join(named(item) for item in scene.objects if item.object_id in meant)


def named(item: SceneObject) -> str:
    """An object by its attributes: "small red shiny ball"."""
    words = (item.size, item.colour, item.material, item.pattern, item.kind)
    return " ".join(word for word in words if word != "plain")


def scored_split(world: Path, images: int = IMAGES_SCORED) -> tuple[ReferDataset, int]:
    """The val split of `scenes`, and how many expressions its first `images` images have."""
    dataset = open_data(world / "scenes", "val", LABELS)
    return dataset, sum(len(group) for group in islice(dataset.groups_by_image(), images))


def score(
    model: Answers, dataset: ReferDataset, limit: int, progress: Callable[[int], None]
) -> list[Report]:
    """The model under each of `PROTOCOLS`, then the trivial baselines under the first."""
    options = Options(limit=limit, progress=progress)
    reports = evaluate_all(model, dataset, PROTOCOLS, options=options)
    for name in NAMES:
        baseline = make_baseline(name, dataset)
        reports += evaluate_all(baseline, dataset, PROTOCOLS[:1], options=Options(limit=limit))
    return reports


def demo_page(
    model: str,
    shown: Sequence[Shown],
    reports: Sequence[Report],
    written: Sequence[WrittenRow],
    photographs: Sequence[PhotoShown] = (),
) -> str:
    """The demonstration as one HTML page."""
    page = Page("refseg demo")
    if photographs:
        tell_photographs(page, photographs, PHOTOS)
    page.heading(f"Rendered scenes: {model}")
    page.text(
        "Each expression below was given to the model together with its picture, and nothing "
        "else. The referent is what the oracle of the rendered world says that the expression "
        "means."
    )
    page.gallery((one.picture(), f"{one.name}.png") for one in shown)
    page.heading("Expressions")
    page.table(
        ("picture", "expression", "referent", "IoU %", "ms"),
        (
            (one.name, row.expression, row.referent, f"{100 * row.iou:.1f}", f"{row.ms:.0f}")
            for one in shown
            for row in one.rows
        ),
    )
    if written:
        _tell_written(page, written)
    first = reports[0]
    page.heading(f"Scores on {first.data} {first.split}, {first.n:,} expressions, %")
    names = list(dict.fromkeys(name for report in reports for name in report.metrics))
    page.table(
        ("metric", *(f"{report.model} ({report.protocol})" for report in reports)),
        ((name, *(_percent(report, name) for report in reports)) for name in names),
    )
    page.text(f"The model learned from: {first.labels}. The baselines read no words.")
    return page.html()


def _percent(report: Report, metric: str) -> str:
    value = report.metrics.get(metric)
    return "-" if value is None else f"{100 * value:.1f}"


def _tell_written(page: Page, written: Sequence[WrittenRow]) -> None:
    page.heading("Written expressions")
    page.text(
        f"{WRITER} was given the region of an object and wrote what would mean it; fit is the IoU, "
        "in percent, of the region and the proposal that stood for it. Its selection head, given "
        "the expression alone, then chose a region: back says whether it was the same one, margin "
        "by how much. The last column is what the expression means by the oracle."
    )
    page.table(
        ("picture", "object", "fit", "expression", "back", "margin", "by the oracle"),
        (
            (
                row.picture,
                row.described,
                row.fit,
                row.expression,
                "yes" if row.refers_back else "no",
                f"{row.margin:.2f}",
                row.means,
            )
            for row in written
        ),
    )
