"""What a sentence means in a rendered world, by the world's own oracle.

A judge that has learned is sometimes wrong; the oracle reads the sentence as the language was
defined and knows every object of the scene. Only rendered worlds have one: it needs scenes.jsonl
beside the data set. It serves evaluation alone; no method sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from refseg.data.dataset import ReferDataset
from refseg.data.records import Records
from refseg.data.scenes.model import Scene
from refseg.data.scenes.oracle import UnparsableExpression, referents
from refseg.data.scenes.serial import read_scenes

UNAMBIGUOUS = "unambiguous"
MEANINGS = (UNAMBIGUOUS, "means several", "means another", "means none", "not understood")


def meaning(text: str, scene: Scene, object_id: int) -> str:
    """One of MEANINGS: whether `text` means exactly the object, several, another one, or none.

    "not understood": the sentence is outside the world's language, such as "cube red the".
    """
    try:
        meant = referents(text, scene)
    except UnparsableExpression:
        return "not understood"
    if len(meant) > 1:
        return "means several"
    if not meant:
        return "means none"
    return UNAMBIGUOUS if object_id in meant else "means another"


@dataclass(frozen=True)
class RenderedWorld:
    """The scenes of a data set's images, image_id -> scene."""

    records: Records
    scenes: Mapping[int, Scene]

    def meaning(self, text: str, image_row: int, ann_id: int) -> str:
        """`meaning` of the text for the annotated object `ann_id` of the image in a row."""
        scene = self.scenes[self.records.image(image_row).image_id]
        # Annotations are numbered as the scene lists its objects.
        place = sorted(_ann_ids(self.records, image_row)).index(ann_id)
        return meaning(text, scene, scene.objects[place].object_id)


def world_of(dataset: ReferDataset, images: Set[int]) -> tuple[RenderedWorld | None, str]:
    """The world that the data set shows, with the scenes of the image ids, and a note.

    None for data that is not rendered; the note says so only if a scenes.jsonl lies there that
    is another world's.
    """
    folder = dataset.folder.parent
    if not (folder / "scenes.jsonl").is_file():
        return None, ""
    scenes = {number: scene for number, scene in read_scenes(folder) if number in images}
    records = dataset.records
    row_of = {int(n): row for row, n in enumerate(records.column("images", "image_id"))}
    same = all(
        number in scenes and len(scenes[number].objects) == len(_ann_ids(records, row_of[number]))
        for number in images
    )
    if not same:
        path = folder / "scenes.jsonl"
        return None, f"{path} lists other objects than the data set: no oracle was asked"
    return RenderedWorld(records, scenes), ""


def _ann_ids(records: Records, image_row: int) -> list[int]:
    rows = records.annotation_rows(image_row)
    return [int(n) for n in records.column("annotations", "ann_id")[rows.start : rows.stop]]
