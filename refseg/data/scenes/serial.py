"""Scenes and stages as JSON values and back, without loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refseg.data.scenes.model import Scene, SceneObject
from refseg.data.scenes.stage import Camera, Stage
from refseg.errors import DataError


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """The scene as plain lists, dicts and numbers; floats survive exactly."""
    return asdict(scene)


def scene_from_json(value: dict[str, Any]) -> Scene:
    """The scene that `scene_to_json` was given. Raises DataError if fields are missing or new."""
    try:
        objects = tuple(SceneObject(**_with_tuples(item)) for item in value["objects"])
        height, width = value["size_hw"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"not a scene: {str(value)[:80]} ({error})",
            remedy="was scenes.jsonl written by another version? make the data set again",
        ) from error
    return Scene((height, width), objects)


def stage_to_json(stage: Stage) -> dict[str, Any]:
    """The stage as plain values; floats survive exactly."""
    return asdict(stage)


def stage_from_json(value: dict[str, Any]) -> Stage:
    """The stage that `stage_to_json` was given. Raises DataError if fields are missing or new."""
    try:
        return Stage(**{**_with_tuples(value), "camera": Camera(**value["camera"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not a stage: {str(value)[:80]} ({error})",
            remedy="was scenes.jsonl written by another version? make the data set again",
        ) from error


def _with_tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}


def read_scenes(folder: Path) -> Iterator[tuple[int, Scene]]:
    """(image_id, scene) of each image of a built data set, from its scenes.jsonl."""
    path = folder / "scenes.jsonl"
    if not path.is_file():
        raise DataError(f"{path} is missing", remedy="make the data set again")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield int(row["image_id"]), scene_from_json(row["scene"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number} is broken: {error}") from error
