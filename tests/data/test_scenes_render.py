"""The renderer against slow twins: scalar float64 loops that march through plain inside-tests."""

from __future__ import annotations

import collections
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.data.scenes import light, solids
from refseg.data.scenes.cast import cast, projected
from refseg.data.scenes.geometry import along, turn
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, Scene, SceneObject
from refseg.data.scenes.render import render
from refseg.data.scenes.sample import (
    MIN_AREA_SHARE,
    MIN_VISIBLE_SHARE,
    sample_scene,
    sample_stage,
)
from refseg.data.scenes.serial import (
    scene_from_json,
    scene_to_json,
    stage_from_json,
    stage_to_json,
)
from refseg.data.scenes.shade import COLOUR_RGB
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import GROUNDS, Camera, Stage, ground_point, rays, to_px
from refseg.errors import DataError

STEP, REACH = 0.002, 1.6  # local units; REACH holds every kind


def torus(x: float, y: float, z: float, major: float, minor: float) -> bool:
    return (math.hypot(x, y) - major) ** 2 + z * z <= minor * minor


def mug(x: float, y: float, z: float) -> bool:
    rho = math.hypot(x, z)
    if torus(x - 0.66, y, z, 0.4, 0.11) and rho >= (0.66 + 0.53) / 2:
        return True
    hollow = rho < 0.53 and y > 0.14 - 0.74
    return rho <= 0.66 and abs(y) <= 0.74 and not hollow


INSIDE = {
    "ball": lambda x, y, z: x * x + y * y + z * z <= 1,
    "cube": lambda x, y, z: max(abs(x), abs(y), abs(z)) <= 0.78,
    "cylinder": lambda x, y, z: math.hypot(x, z) <= 0.68 and abs(y) <= 0.9,
    "cone": lambda x, y, z: abs(y) <= 1 and math.hypot(x, z) <= 0.88 * (1 - y) / 2,
    "ring": lambda x, y, z: torus(x, y, z, 0.74, 0.24),
    "mug": mug,
    "pyramid": lambda x, y, z: abs(y) <= 0.8 and max(abs(x), abs(z)) <= 0.9 * (0.8 - y) / 1.6,
    "capsule": lambda x, y, z: math.hypot(max(abs(x) - 0.62, 0.0), math.hypot(y, z)) <= 0.5,
}


def standing(
    kind: str, x: float, z: float, *, radius: float = 1.0, **fields: object
) -> SceneObject:
    item = SceneObject(
        0, kind, "red", "large", "matte", "plain",
        (x, SOLIDS[kind].half[1] * radius, z), radius, 0.5,
    )  # fmt: skip
    return replace(item, **fields)


def small_stage(side: int = 24, ground: str = "noise") -> Stage:
    return Stage(
        size_hw=(side, side),
        camera=Camera(2.6, 0.42, 1.45 * side),
        light=(0.48, 0.8, -0.36),
        ground=ground,
        ground_colour=(150.0, 148.0, 142.0),
        second_colour=(172.0, 170.0, 164.0),
        sky_colour=(206.0, 214.0, 222.0),
        ground_scale=1.0,
        ground_turn=0.3,
        seed=5,
    )


def local(item: SceneObject, point: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (a - b for a, b in zip(point, item.position_world, strict=True))
    cosine, sine = math.cos(item.yaw), math.sin(item.yaw)
    r = item.radius
    return (x * cosine + z * sine) / r, y / r, (z * cosine - x * sine) / r


def marched(item: SceneObject, origin, direction, until: float) -> float:
    """First t at which the point lies inside, by small steps; inf if none up to `until`."""
    o = local(item, origin)
    far = local(item, tuple(a + b for a, b in zip(origin, direction, strict=True)))
    d = tuple(a - b for a, b in zip(far, o, strict=True))
    speed = math.hypot(*d)
    centre = -sum(a * b for a, b in zip(o, d, strict=True)) / (speed * speed)
    nearest = math.hypot(*(a + centre * b for a, b in zip(o, d, strict=True)))
    if nearest > REACH:
        return math.inf
    t = max(centre - REACH / speed, 0.0)
    while t < min(until, centre + REACH / speed):
        if INSIDE[item.kind](*(a + t * b for a, b in zip(o, d, strict=True))):
            return t
        t += STEP / speed
    return math.inf


def grown(item: SceneObject) -> SceneObject:
    """A hair larger, so that the march does not step over a corner that a ray just clips."""
    return replace(item, radius=item.radius * 1.01)


def pixel_ray(stage: Stage, row: int, column: int) -> tuple[float, float, float]:
    height, width = stage.size_hw
    right = (column + 0.5 - width / 2) / stage.camera.focal
    up = (height / 2 - row - 0.5) / stage.camera.focal
    sine, cosine = math.sin(stage.camera.pitch), math.cos(stage.camera.pitch)
    return right, up * cosine - sine, up * sine + cosine


@pytest.mark.parametrize("kind", KINDS)
def test_mask_and_depth_equal_a_scalar_march(kind):
    stage = small_stage()
    item = standing(kind, 0.15, 5.2)
    _, owner, depth = projected([cast(item, stage)], stage)
    eye = (0.0, stage.camera.height, 0.0)
    slow = np.array(
        [[marched(item, eye, pixel_ray(stage, r, c), 99.0) for c in range(24)] for r in range(24)]
    )
    assert (owner == 0).sum() > 30
    seen = owner == 0
    assert seen[np.isfinite(slow)].all()
    for r, c in np.argwhere(seen & ~np.isfinite(slow)):
        assert math.isfinite(marched(grown(item), eye, pixel_ray(stage, r, c), 99.0))
    assert (seen & ~np.isfinite(slow)).sum() <= 2
    seen &= np.isfinite(slow)
    assert np.abs(depth[seen] - slow[seen]).max() < 0.004


@pytest.mark.parametrize("kind", KINDS)
def test_normals_point_out_of_the_surface(kind):
    stage = small_stage(64)
    item = standing(kind, 0.0, 5.0)
    patch = cast(item, stage)
    row, column = np.nonzero(np.isfinite(patch.depth))
    dx, dy, dz = rays(stage, (0, 64), (0, 64))
    row, column = row + patch.rows.start, column + patch.columns.start
    t = patch.depth[np.isfinite(patch.depth)]
    points = zip(dx[0, column] * t, stage.camera.height + dy[row, 0] * t, dz[row, 0] * t,
                 strict=True)  # fmt: skip
    p = np.array([local(item, point) for point in points], np.float32)
    normal = np.stack(SOLIDS[kind].normal((p[:, 0], p[:, 1], p[:, 2])), axis=-1)
    assert np.abs((normal**2).sum(-1) - 1).max() < 1e-4
    out = [not INSIDE[kind](*q) for q in p + 0.01 * normal]
    inn = [INSIDE[kind](*q) for q in p - 0.02 * normal]
    assert np.mean(out) > 0.98
    assert np.mean(inn) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_solids_fit_their_boxes_and_stand_on_the_ground(kind):
    half = SOLIDS[kind].half
    rng = np.random.default_rng(0)
    points = rng.uniform(-1.3, 1.3, (20000, 3))
    inside = np.array([INSIDE[kind](*p) for p in points])
    low, high = points[inside].min(0), points[inside].max(0)
    assert (np.maximum(-low, high) <= np.array(half) + 1e-9).all()
    assert -low[1] > half[1] - 0.12


def test_shadow_equals_a_scalar_march():
    stage = small_stage()
    items = [
        standing("ring", -0.6, 5.6, radius=0.9),
        standing("cube", 0.9, 4.6, radius=0.6, object_id=1),
        standing("mug", 0.5, 6.4, radius=0.8, object_id=2),
    ]
    scene, owner, depth = projected([cast(item, stage) for item in items], stage)
    dx, dy, dz = (
        np.broadcast_to(part, owner.shape).ravel() for part in rays(stage, (0, 24), (0, 24))
    )
    ground = np.where(dy < -1e-3, stage.camera.height / np.maximum(-dy, 1e-3), 0.0)
    t = np.where(owner.ravel() < 0, ground, depth.ravel()).astype(np.float32)
    zero = np.zeros(1, np.float32)
    points = along((zero, zero + np.float32(stage.camera.height), zero), (dx, dy, dz), t)
    dark = light.shadowed(scene.objects, points, owner.ravel(), stage)
    slow = np.zeros(dark.shape, bool)
    for i, who in enumerate(owner.ravel()):
        start = tuple(float(points[a][i]) + 0.012 * stage.light[a] for a in range(3))
        slow[i] = any(
            math.isfinite(marched(item, start, stage.light, 99.0))
            for item in items
            if item.object_id != who or SOLIDS[item.kind].concave
        )
    on_ground = owner.ravel() < 0
    assert (dark & on_ground).sum() > 15
    assert dark[on_ground & slow].all()
    assert (dark & ~slow & on_ground).sum() <= 2
    assert np.mean(dark != slow) < 0.01


def test_projected_fields_equal_loops_over_the_owner_map():
    staged = sample_scene(np.random.default_rng(3), size_hw=(128, 160))
    rendered = render(staged.scene, staged.stage)
    assert rendered.image.shape == (128, 160, 3)
    assert rendered.image.dtype == np.uint8
    assert rendered.scene == staged.scene
    assert set(np.unique(rendered.owner)) == {-1, *(o.object_id for o in staged.scene.objects)}
    for item in rendered.scene.objects:
        pixels = [
            (r, c) for r in range(128) for c in range(160) if rendered.owner[r, c] == item.object_id
        ]
        rows, columns = [r for r, _ in pixels], [c for _, c in pixels]
        assert item.area == len(pixels)
        assert item.box_xyxy == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        assert item.centre_xy[0] == pytest.approx(sum(c + 0.5 for c in columns) / len(pixels))
        assert item.centre_xy[1] == pytest.approx(sum(r + 0.5 for r in rows) / len(pixels))
        alone, _, _ = projected([cast(item, staged.stage)], staged.stage)
        assert item.visible_share == item.area / alone.objects[0].area


def test_the_nearer_object_hides_the_farther_one():
    stage = small_stage(48)
    near, far = standing("ball", 0.0, 4.5), standing("ball", 0.0, 7.0, object_id=1)
    scene, owner, _ = projected([cast(far, stage), cast(near, stage)], stage)
    hidden, front = scene.objects
    assert front.visible_share == 1.0
    assert 0.0 < hidden.visible_share < 1.0
    assert hidden.depth > front.depth
    assert front.area == (owner == 0).sum()


def test_an_object_that_is_wholly_hidden_has_no_area():
    stage = small_stage(48)
    near, far = standing("cube", 0.0, 4.0), standing("ball", 0.0, 9.0, radius=0.2, object_id=1)
    scene, _, _ = projected([cast(near, stage), cast(far, stage)], stage)
    assert scene.objects[1].area == 0
    assert scene.objects[1].visible_share == 0.0


def test_sampled_scenes_keep_their_promises():
    parts, shares, twins, kinds = 0, [], 0, collections.Counter()
    for seed in range(40):
        staged = sample_scene(np.random.default_rng(seed), size_hw=(128, 128))
        objects = staged.scene.objects
        assert 3 <= len(objects) <= 7
        assert [o.object_id for o in objects] == list(range(len(objects)))
        for item in objects:
            assert item.area >= MIN_AREA_SHARE * 128 * 128
            assert item.visible_share >= MIN_VISIBLE_SHARE
            shares.append(item.visible_share)
        count = collections.Counter(o.kind for o in objects)
        kinds.update(count)
        twins += max(count.values()) > 1
        owner = projected([cast(o, staged.stage) for o in objects], staged.stage)[1]
        parts += any(_pieces(owner == o.object_id) > 1 for o in objects)
    assert set(kinds) == set(KINDS)
    assert twins >= 30
    assert parts >= 3
    assert 0.15 < np.mean(np.array(shares) < 0.95) < 0.7


def _pieces(mask: np.ndarray) -> int:
    """Connected parts of at least four pixels, by flood fill."""
    left, count = {tuple(p) for p in np.argwhere(mask)}, 0
    while left:
        todo, size = [left.pop()], 0
        while todo:
            r, c = todo.pop()
            size += 1
            for q in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if q in left:
                    left.remove(q)
                    todo.append(q)
        count += size >= 4
    return count


def test_the_same_generator_gives_the_same_bytes():
    first, second = (sample_scene(np.random.default_rng(8)) for _ in range(2))
    assert first == second
    a, b = render(first.scene, first.stage), render(second.scene, second.stage)
    np.testing.assert_array_equal(a.image, b.image)
    other = sample_scene(np.random.default_rng(9))
    assert other.scene != first.scene


def test_scenes_and_stages_survive_json():
    import json

    staged = sample_scene(np.random.default_rng(4))
    scene = scene_from_json(json.loads(json.dumps(scene_to_json(staged.scene))))
    stage = stage_from_json(json.loads(json.dumps(stage_to_json(staged.stage))))
    assert (scene, stage) == (staged.scene, staged.stage)
    with pytest.raises(DataError, match="not a scene"):
        scene_from_json({"objects": [{"shape": "ball"}], "size_hw": [1, 1]})
    with pytest.raises(DataError, match="not a stage"):
        stage_from_json({"camera": {}})


@pytest.mark.parametrize("kind", KINDS)
def test_material_and_pattern_change_the_picture_but_not_the_mask(kind):
    stage = small_stage(64)
    pictures = {}
    for material in MATERIALS:
        for pattern in PATTERNS:
            item = standing(kind, 0.0, 5.0, material=material, pattern=pattern)
            pictures[material, pattern] = render(Scene((64, 64), (item,)), stage)
    base = pictures["matte", "plain"]
    seen = base.owner == 0
    for key, rendered in pictures.items():
        np.testing.assert_array_equal(rendered.owner, base.owner)
        if key != ("matte", "plain"):
            change = np.abs(rendered.image.astype(int) - base.image).max(-1)[seen]
            assert (change > 30).mean() > (0.02 if key[1] == "plain" else 0.15), key


def test_named_colours_are_far_apart_in_the_picture():
    stage, means = small_stage(48), {}
    for colour in COLOURS:
        item = standing("ball", 0.0, 5.0, colour=colour)
        rendered = render(Scene((48, 48), (item,)), stage)
        means[colour] = rendered.image[rendered.owner == 0].mean(0)
    for first in COLOURS:
        for second in COLOURS:
            if first < second:
                assert np.linalg.norm(means[first] - means[second]) > 55, (first, second)
    assert set(COLOUR_RGB) == set(COLOURS)


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_are_muted_and_textured(ground):
    rendered = render(Scene((64, 64), ()), small_stage(64, ground))
    pixels = rendered.image[20:].reshape(-1, 3).astype(int)
    assert pixels.std(0).min() > 1.5
    assert (pixels.max(1) - pixels.min(1)).max() < 60
    assert (rendered.owner == -1).all()


def test_outlines_are_smoothed_and_nothing_else():
    stage = small_stage(64)
    item = standing("ball", 0.0, 5.0, colour="white")
    image = render(Scene((64, 64), (item,)), stage).image.astype(int)
    flipped = render(Scene((64, 64), (replace(item, colour="black"),)), stage).image.astype(int)
    owner = projected([cast(item, stage)], stage)[1] == 0
    changed = np.abs(image - flipped).max(-1) > 0
    inner = owner.copy()
    for axis in (0, 1):
        for shift in (1, -1):
            inner &= np.roll(owner, shift, axis)
    assert changed[inner].all()
    assert (changed & ~owner).sum() > 10
    grown = owner.copy()
    for axis in (0, 1):
        for shift in (1, -1):
            grown |= np.roll(owner, shift, axis)
    assert not (changed & ~grown).any()


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_turn_is_the_angle_in_turns(x, z):
    if math.hypot(x, z) < 1e-3:
        return
    found = float(turn(np.float32([x]), np.float32([z]))[0])
    off = abs(found - math.atan2(z, x) / (2 * math.pi)) % 1
    assert min(off, 1 - off) < 1e-4


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.5, 0.98))
def test_ground_points_project_back_to_their_pixel(seed, across, down):
    stage = sample_stage(np.random.default_rng(seed))
    height, width = stage.size_hw
    point = ground_point(stage, across * width, down * height)
    assert point is not None
    column, row, depth = to_px(stage, point[0], 0.0, point[1])
    assert (column, row) == pytest.approx((across * width, down * height), abs=1e-4)
    assert depth > 0
    assert math.hypot(*stage.light) == pytest.approx(1, abs=1e-3)


def test_the_mug_is_hollow_and_the_ring_has_a_hole():
    down = tuple(np.float32([v]) for v in (0.0, -1.0, 0.0))
    above = tuple(np.float32([v]) for v in (0.1, 5.0, 0.1))
    assert SOLIDS["mug"].entry(above, down)[0] == pytest.approx(5 + 0.74 - 0.14, abs=1e-4)
    front = tuple(np.float32([v]) for v in (0.0, 0.0, -5.0))
    ahead = tuple(np.float32([v]) for v in (0.0, 0.0, 1.0))
    assert np.isinf(SOLIDS["ring"].entry(front, ahead)[0])
    assert solids.SOLIDS["ball"].entry(front, ahead)[0] == pytest.approx(4.0)
