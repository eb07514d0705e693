"""Random scenes as plain values, without rendering, for the language tests."""

from dataclasses import replace

import numpy as np

from refseg.data.scenes.model import (
    COLOURS,
    KINDS,
    MATERIALS,
    PATTERNS,
    SIZES,
    Scene,
    SceneObject,
)


def random_scene(rng: np.random.Generator, *, count: int | None = None) -> Scene:
    """3 to 7 objects, several of one kind; the projection is only roughly that of a camera."""
    height, width = (int(v) for v in rng.choice([128, 160, 192, 256], size=2))
    count = int(rng.integers(3, 8)) if count is None else count
    main = KINDS[int(rng.integers(len(KINDS)))]
    palette = [COLOURS[int(i)] for i in rng.permutation(len(COLOURS))[:4]]
    objects = []
    for index in range(count):
        size = int(rng.integers(3))
        depth = float(rng.uniform(4.5, 12.0))
        half = 1.1 * (0.44, 0.7, 1.08)[size] / depth * width
        x = float(rng.uniform(0.08, 0.92)) * width
        y = float(np.clip(1.25 - 0.085 * depth + rng.normal(0, 0.02), 0.1, 0.95)) * height
        objects.append(
            SceneObject(
                object_id=10 + 3 * index,
                kind=main if rng.random() < 0.55 else KINDS[int(rng.integers(len(KINDS)))],
                colour=palette[int(rng.integers(4))],
                size=SIZES[size],
                material=MATERIALS[int(rng.integers(2))],
                pattern=PATTERNS[int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))],
                position_world=(0.0, 0.0, depth),
                radius=1.0,
                yaw=0.0,
                area=max(1, int(3 * half * half * rng.uniform(0.5, 1.0))),
                box_xyxy=(max(0.0, x - half), max(0.0, y - half), x + half, y + half),
                centre_xy=(x, y),
                depth=depth,
            )
        )
    return Scene((height, width), tuple(objects))


def mirrored(scene: Scene) -> Scene:
    """The scene as in a mirror: left becomes right."""
    width = scene.size_hw[1]
    objects = []
    for o in scene.objects:
        x0, y0, x1, y1 = o.box_xyxy
        objects.append(
            replace(
                o,
                centre_xy=(width - o.centre_xy[0], o.centre_xy[1]),
                box_xyxy=(width - x1, y0, width - x0, y1),
            )
        )
    return Scene(scene.size_hw, tuple(objects))


def scaled(scene: Scene, factor: int) -> Scene:
    """The same scene seen `factor` times as large."""
    objects = tuple(
        replace(
            o,
            area=o.area * factor * factor,
            centre_xy=(o.centre_xy[0] * factor, o.centre_xy[1] * factor),
            box_xyxy=tuple(factor * v for v in o.box_xyxy),  # type: ignore[arg-type]
        )
        for o in scene.objects
    )
    return Scene((scene.size_hw[0] * factor, scene.size_hw[1] * factor), objects)
