"""What an expression means in a scene: the set of objects it can refer to.

Sets of objects are Python integers used as bit sets (bit i = i-th visible object), so a tree runs
in microseconds. All thresholds are fractions of the image's width or height, or ratios, so the
meaning does not change with the image size. docs/data/scenes-language.md lists them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

from refseg.data.scenes.grammar import Description, Relation, Selector, UnparsableExpression, parse
from refseg.data.scenes.model import Scene

__all__ = ["UnparsableExpression", "World", "referents"]

SIDE_MARGIN = 0.06  # of the width: two objects closer than this are at the same place
ROW_MARGIN = 0.06  # of the height
CORNER_MARGIN = 0.08  # of width plus height
MIDDLE_REACH = 0.16  # of the width, either side of the middle line
FAR_SHARE = 0.35  # of the width: "far left" ends here
DEPTH_RATIO = 1.08  # "front", "back"
AREA_RATIO = 1.25  # "biggest", "smallest"
RELATION_SIDE = 0.06  # of the width, between centres: "left of", "right of"
RELATION_DEPTH = 0.06  # natural log of the depth ratio: "behind", "in front of"
RELATION_ALIGNED = 0.22  # of the width, between centres: "behind", "in front of"
NEXT_GAP = 0.05  # of width and height, between boxes: "next to"
NEXT_DEPTH = 0.20  # natural log of the depth ratio: "next to"
BETWEEN_SIDE = 0.05  # of the width, to either landmark's centre: "between"
BETWEEN_OFF = 0.12  # of the height, off the line that joins the landmarks: "between"

# How hard it is for a relation to hold: a margin that must be passed is multiplied by it, a
# distance that must not be passed is divided. `describe` wants the object to pass STRICT and
# everything else to fail LOOSE, so that nothing it says is a close call to the eye.
LOOSE, PLAIN, STRICT = 0.6, 1.0, 1.3


def referents(text: str, scene: Scene) -> frozenset[int]:
    """Object ids that the expression can mean; empty when nothing fits.

    Raises UnparsableExpression when the text is not in the language.
    """
    tree = parse(text)
    world = World(scene)
    return world.ids(world.run(tree))


def bits(members: int) -> Iterator[int]:
    """Indices of the set bits, rising."""
    while members:
        low = members & -members
        yield low.bit_length() - 1
        members ^= low


class World:
    """A scene made ready for executing trees. Objects without visible pixels do not exist.

    x, y: centres as fractions of width and height. boxes: the same for x0, y0, x1, y1.
    """

    def __init__(self, scene: Scene) -> None:
        height, width = scene.size_hw
        self.objects = tuple(o for o in scene.objects if o.area > 0)
        self.everything = (1 << len(self.objects)) - 1
        self.x = [o.centre_xy[0] / width for o in self.objects]
        self.y = [o.centre_xy[1] / height for o in self.objects]
        self.log_depth = [math.log(max(o.depth, 1e-9)) for o in self.objects]
        self.log_area = [math.log(o.area) for o in self.objects]
        self.boxes = [
            (b[0] / width, b[1] / height, b[2] / width, b[3] / height)
            for b in (o.box_xyxy for o in self.objects)
        ]
        self._near: dict[tuple[str, int, float], int] = {}

    @cached_property
    def attributes(self) -> dict[tuple[str, str], int]:
        """(field, value) -> members, for kind, colour, size, material and pattern."""
        table: dict[tuple[str, str], int] = {}
        for i, o in enumerate(self.objects):
            pairs = (("kind", o.kind), ("colour", o.colour), ("size", o.size))
            for pair in (*pairs, ("material", o.material), ("pattern", o.pattern)):
                table[pair] = table.get(pair, 0) | 1 << i
        return table

    def index_of(self, object_id: int) -> int | None:
        """Index of a visible object, None when it is not to be seen."""
        return next((i for i, o in enumerate(self.objects) if o.object_id == object_id), None)

    def ids(self, members: int) -> frozenset[int]:
        """Object ids of a bit set."""
        return frozenset(self.objects[i].object_id for i in bits(members))

    def run(self, tree: Description, level: float = PLAIN) -> int:
        """Members of the tree's meaning, as a bit set. level: see STRICT and LOOSE."""
        members = self.candidates(tree, level)
        if tree.selector is None or not members:
            return members
        return self.select(tree.selector, members, max(level, PLAIN))

    def candidates(self, tree: Description, level: float = PLAIN) -> int:
        """Like `run`, before the selector picks."""
        members = self.everything
        if tree.kind is not None:
            members &= self.attributes.get(("kind", tree.kind), 0)
        for pair in tree.has:
            members &= self.attributes.get(pair, 0)
        for pair in tree.has_not:
            members &= ~self.attributes.get(pair, 0)
        for relation in tree.relations:
            if not members:
                break
            members &= self._related(relation, level)
        return members

    def _related(self, relation: Relation, level: float) -> int:
        """Objects that stand in the relation to some (pair of) landmark(s) other than themselves.

        Landmarks themselves are always read at the plain level.
        """
        places = [self.run(landmark) for landmark in relation.landmarks]
        found = 0
        if relation.name == "between":
            for a in bits(places[0]):
                for b in bits(places[1]):
                    found |= self._between(a, b, level)
            return found
        for landmark in bits(places[0]):
            found |= self.near(relation.name, landmark, level)
        return found

    def near(self, name: str, landmark: int, level: float = PLAIN) -> int:
        """Objects in the (two-place) relation `name` to one landmark, by index."""
        key = (name, landmark, level)
        if key not in self._near:
            holds = _RELATIONS[name]
            self._near[key] = sum(
                1 << i
                for i in range(len(self.objects))
                if i != landmark and holds(self, i, landmark, level)
            )
        return self._near[key]

    def _between(self, a: int, b: int, level: float) -> int:
        if a == b:
            return 0
        if self.x[a] > self.x[b]:
            a, b = b, a
        span, found, margin = self.x[b] - self.x[a], 0, BETWEEN_SIDE * level
        for i in range(len(self.objects)):
            inside = self.x[a] + margin <= self.x[i] <= self.x[b] - margin
            if i in (a, b) or not inside or span <= 0:
                continue
            share = (self.x[i] - self.x[a]) / span
            line = self.y[a] + share * (self.y[b] - self.y[a])
            if abs(self.y[i] - line) <= BETWEEN_OFF / level:
                found |= 1 << i
        return found

    def select(self, selector: Selector, members: int, level: float = PLAIN) -> int:
        """What the selector leaves of the (non-empty) members: one, several if close, or none."""
        order = list(bits(members))
        name = selector.name
        if name in ("rank_left", "rank_right"):
            return self._ranked(order, selector, SIDE_MARGIN * level)
        if name == "middle":
            return self._middle(order, level)
        keys, margin = self._scale(name)
        first = min(order, key=lambda i: keys[i])
        tied = sum(1 << i for i in order if keys[i] - keys[first] < margin * level)
        return tied if tied != 1 << first or self._allowed(name, first, order, level) else 0

    def _ranked(self, order: list[int], selector: Selector, margin: float) -> int:
        sign = 1 if selector.name == "rank_left" else -1
        order = sorted(order, key=lambda i: sign * self.x[i])
        if selector.rank > len(order):
            return 0
        place = self.x[order[selector.rank - 1]]
        return sum(1 << i for i in order if abs(self.x[i] - place) < margin)

    def _middle(self, order: list[int], level: float) -> int:
        off = {i: abs(self.x[i] - 0.5) for i in order}
        first = min(order, key=lambda i: off[i])
        tied = sum(1 << i for i in order if off[i] - off[first] < SIDE_MARGIN * level)
        inner = all(
            len(order) < 3 or any(sign * (self.x[i] - self.x[first]) > 0 for i in order)
            for sign in (1, -1)
        )
        return tied if off[first] <= MIDDLE_REACH / level and inner else 0

    def _scale(self, name: str) -> tuple[list[float], float]:
        """The number that the selector makes least, per object, and how close is a tie."""
        x, y = self.x, self.y
        if name in _CORNERS:
            sx, sy = _CORNERS[name]
            return [sx * a + sy * b for a, b in zip(x, y, strict=True)], CORNER_MARGIN
        if name in ("left", "leftmost", "far_left"):
            return x, SIDE_MARGIN
        if name in ("right", "rightmost", "far_right"):
            return [-v for v in x], SIDE_MARGIN
        if name in ("top", "bottom"):
            return (y if name == "top" else [-v for v in y]), ROW_MARGIN
        if name in ("front", "back"):
            depth = self.log_depth
            return (depth if name == "front" else [-v for v in depth]), math.log(DEPTH_RATIO)
        area = self.log_area
        return (area if name == "smallest" else [-v for v in area]), math.log(AREA_RATIO)

    def _allowed(self, name: str, i: int, order: list[int], level: float) -> bool:
        """Whether a place word may be said of i, the clear winner among `order`.

        With nothing to be compared with, "left ball" must be in the left half, "front ball" in
        the nearer half of the scene's depths. "far left" ends at FAR_SHARE. A corner must be on
        the corner's side of the average candidate in both directions.
        """
        slack = SIDE_MARGIN * (level - 1)
        if name in ("far_left", "far_right"):
            sign = 1 if name == "far_left" else -1
            return sign * (self.x[i] - 0.5) <= FAR_SHARE - 0.5 - slack
        alone = len(order) == 1
        if name in _CORNERS:
            sx, sy = _CORNERS[name]
            x0 = 0.5 if alone else sum(self.x[j] for j in order) / len(order)
            y0 = 0.5 if alone else sum(self.y[j] for j in order) / len(order)
            return sx * (self.x[i] - x0) < -slack and sy * (self.y[i] - y0) < -slack
        if not alone or name in ("leftmost", "rightmost", "biggest", "smallest"):
            return True
        keys, _ = self._scale(name)
        if name in ("front", "back"):
            return keys[i] <= (min(keys) + max(keys)) / 2 - slack
        return keys[i] <= (0.5 if name in ("left", "top") else -0.5) - slack


_CORNERS = {
    "top_left": (1, 1), "top_right": (-1, 1), "bottom_left": (1, -1), "bottom_right": (-1, -1),
}  # fmt: skip


def _left_of(w: World, a: int, b: int, level: float) -> bool:
    return w.x[b] - w.x[a] >= RELATION_SIDE * level


def _right_of(w: World, a: int, b: int, level: float) -> bool:
    return w.x[a] - w.x[b] >= RELATION_SIDE * level


def _behind(w: World, a: int, b: int, level: float) -> bool:
    aligned = abs(w.x[a] - w.x[b]) <= RELATION_ALIGNED / level
    return aligned and w.log_depth[a] - w.log_depth[b] >= RELATION_DEPTH * level


def _in_front(w: World, a: int, b: int, level: float) -> bool:
    return _behind(w, b, a, level)


def _next_to(w: World, a: int, b: int, level: float) -> bool:
    p, q = w.boxes[a], w.boxes[b]
    dx = max(0.0, max(p[0], q[0]) - min(p[2], q[2]))
    dy = max(0.0, max(p[1], q[1]) - min(p[3], q[3]))
    gap = math.hypot(dx, dy)
    level_depth = abs(w.log_depth[a] - w.log_depth[b]) <= NEXT_DEPTH / level
    return gap <= NEXT_GAP / level and level_depth


_RELATIONS: dict[str, Callable[[World, int, int, float], bool]] = {
    "behind": _behind,
    "in_front": _in_front,
    "left_of": _left_of,
    "right_of": _right_of,
    "next_to": _next_to,
}
