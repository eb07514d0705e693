"""What the stages of TRIS are about: the pairs that step 1 learns from, and what is made of them.

`data.limit` is for all stages: what it leaves out gets no map, no seeds, no mask.
"""

from __future__ import annotations

from refseg.data.dataset import Entry, ReferDataset
from refseg.errors import ConfigError
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.batches import subset
from refseg.recipes.opening import open_split
from refseg.recipes.tris_select import Selected


def part_of(recipe: Recipe) -> TrisPart:
    """What the stages are told. Raises ConfigError for a recipe of another method."""
    if recipe.tris is None or recipe.method_name != "tris":
        raise ConfigError(
            f"recipe {recipe.name}: its stages are those of tris, its method is "
            f"{recipe.method_name}",
            remedy="start from a recipe of tris (tris_scenes)",
        )
    return recipe.tris


def response_recipe(recipe: Recipe) -> Recipe:
    """What the stage "respond" trains: the same data, and step 1's method."""
    part, weights = part_of(recipe), recipe.weights
    if weights.respond is not None:
        weights = weights.model_copy(update={"vision": weights.respond, "respond": None})
    return recipe.model_copy(
        update={
            "weights": weights,
            "method_name": "tris_response",
            "method": part.response,
            "train": part.train,
            "stages": ("train",),
            "tris": None,
        }
    )


def sentences(recipe: Recipe) -> tuple[ReferDataset, list[int]]:
    """The training split with its words alone, whatever else is granted to choose by, and its rows
    that step 1 learns from: in the view "ref" all sentences of its refs.
    """
    data = recipe.data.model_copy(update={"labels": "text", "objects": False})
    told = recipe.model_copy(update={"data": data})
    dataset, learned = open_split(told, data.train, view="sentence"), _learned(recipe)
    rows = range(len(dataset))
    if learned is None:
        return dataset, list(rows)
    return dataset, [row for row in rows if _id(recipe, dataset.entry(row)) in learned]


def refs(recipe: Recipe) -> ReferDataset:
    """The refs of the training split, one item each, with their words alone."""
    data = recipe.data.model_copy(update={"labels": "text", "objects": False, "view": "ref"})
    return open_split(recipe.model_copy(update={"data": data}), data.train)


def without_map(recipe: Recipe, selected: Selected) -> frozenset[int]:
    """The refs that `data.limit` left without a map, by id."""
    if recipe.data.limit is None:
        return frozenset()
    data = refs(recipe)
    ids = {data.entry(row).ref_id for row in range(len(data))}
    return frozenset(ids - selected.row_of.keys())


def taught(recipe: Recipe, made: ReferDataset) -> list[int] | None:
    """The rows of the pseudo masks that are about what step 1 learned from; None without a limit.

    A mask comes with all sentences of its ref, whose id is a new one there.
    """
    learned, rows = _learned(recipe), range(len(made))
    if learned is None:
        return None
    if recipe.data.view == "ref":
        return list(rows)
    return [row for row in rows if made.entry(row).sent_id in learned]


def _learned(recipe: Recipe) -> frozenset[int] | None:
    """The sentences or, in the view "ref", the refs, by id, that `data.limit` leaves for step 1, as
    `fit_stage` draws them; None without a limit.
    """
    if recipe.data.limit is None:
        return None
    first = response_recipe(recipe)
    data = open_split(first, first.data.train)
    rows = subset(len(data), first.data.limit, first.train.seed)
    return frozenset(_id(recipe, data.entry(row)) for row in rows)


def _id(recipe: Recipe, entry: Entry) -> int:
    return entry.ref_id if recipe.data.view == "ref" else entry.sent_id
