"""What a scene is: objects with exact attributes and exact visible pixels.

The renderer fills in the projected fields; the language part reads only this file, so every word
it writes can be executed. Frames: px (see `refseg.types`); world is right-handed with the ground
at y = 0, x to the right, z away from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("ball", "cube", "cylinder", "cone", "ring", "mug", "pyramid", "capsule")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "brown", "white", "black")
SIZES = ("small", "medium", "large")
MATERIALS = ("matte", "shiny")
PATTERNS = ("plain", "striped", "checkered", "dotted")


@dataclass(frozen=True)
class SceneObject:
    """One object. Attributes are what was asked for; projected fields are what is seen.

    object_id: unique in its scene. kind, colour, size, material, pattern: from the lists above.
    position_world: centre [x, y, z]. radius: half extent in world units. yaw: radians.
    area: visible pixels. box_xyxy: tight box of the visible pixels, px, exclusive far edges.
    centre_xy: centroid of the visible pixels, px. depth: distance along the camera axis, world.
    visible_share: visible pixels / pixels it would have with nothing in front of it.
    """

    object_id: int
    kind: str
    colour: str
    size: str
    material: str
    pattern: str
    position_world: tuple[float, float, float]
    radius: float
    yaw: float
    area: int = 0
    box_xyxy: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    centre_xy: tuple[float, float] = (0.0, 0.0)
    depth: float = 0.0
    visible_share: float = 1.0


@dataclass(frozen=True)
class Scene:
    """A scene as rendered. size_hw: rows, columns in px."""

    size_hw: tuple[int, int]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Rendered:
    """image: [H, W, 3] uint8 RGB. owner: [H, W] int16, object_id of the visible object or -1."""

    scene: Scene
    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
