"""A recipe's data, under the labels that it grants."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from refseg.data.catalog import converted_store, data_info, find_folder, open_data
from refseg.data.dataset import ReferDataset
from refseg.data.joined import Items, JoinedDataset
from refseg.data.leakage import leaked_train_images
from refseg.data.store import read_store
from refseg.data.subset import MaskSubset, check_subset, draw_subset, read_subset
from refseg.recipes.base import Recipe
from refseg.types import Labels


def open_training(recipe: Recipe) -> Items:
    """What step 1 learns from: the training splits of `data.name` and of all `data.also`."""
    data = recipe.data
    parts = [
        open_split(_of(recipe, name), data.train) for name in dict.fromkeys((data.name, *data.also))
    ]
    return JoinedDataset(parts) if len(parts) > 1 else parts[0]


def _of(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another of its data sets in the place of `data.name`."""
    names = (recipe.data.name, *recipe.data.also)
    also = tuple(other for other in names if other != name)
    data = recipe.data.model_copy(update={"name": name, "also": also})
    return recipe.model_copy(update={"data": data})


def excluded_images(recipe: Recipe, split: str) -> frozenset[int]:
    """Image ids of `data.name` that are kept out of `split`: those that the recipe names, and of
    the training split those that one of `data.also` evaluates on.
    """
    data, excluded = recipe.data, frozenset(recipe.data.exclude_images)
    if split != data.train or not data.also:
        return excluded
    return excluded | leaked_train_images(data.name, data.also, split_by=data.split_by)


def open_split(
    recipe: Recipe, split: str, *, view: str | None = None, objects: bool | None = None
) -> ReferDataset:
    """A split under the recipe's labels and options, but for those that are given."""
    data = recipe.data
    learned = split == data.train
    return open_data(
        data.name,
        split,
        training_labels(recipe) if learned else recipe.evaluation_labels(),
        images=Path(data.images) if data.images else None,
        split_by=data.split_by,
        text_field=data.text_field,
        view="sentence" if view == "sentence" else data.view,
        mask_rule=data.mask_rule,
        seed=recipe.train.seed,
        exclude_images=excluded_images(recipe, split),
        objects=data.objects if objects is None else objects,
        pixels=data.pixels,
        masked_only=learned and data.few_masks and recipe.labels().allows("mask"),
    )


def open_to_show(recipe: Recipe, split: str, *, view: str | None = None) -> ReferDataset:
    """A split with its boxes and masks, as far as there are any, whatever the recipe grants: for
    scores and pictures of what has been learned. Nothing that learns or chooses may open data so.
    """
    data = recipe.data
    there = set(data_info(data.name, split_by=data.split_by)["labels"]) & {"box", "mask"}
    labels = str(Labels(recipe.labels().granted | there))
    all_of_it = {"labels": labels, "mask_share": None, "mask_refs": None}
    shown = recipe.model_copy(update={"data": data.model_copy(update=all_of_it)})
    return open_split(shown, split, view=view)


def training_labels(recipe: Recipe) -> Labels:
    """What of the training split may be seen, the refs with masks by name where these are few."""
    granted = recipe.labels()
    if not (recipe.data.few_masks and "mask" in granted.granted):
        return granted
    return Labels(granted.granted, masked_refs(recipe).ref_ids)


def masked_refs(recipe: Recipe) -> MaskSubset:
    """The training refs whose masks may be seen: drawn, or read from `data.mask_refs`.

    Raises DataError: the file is broken, or names refs that are not there.
    """
    data = recipe.data
    store = converted_store(find_folder(data.name), split_by=data.split_by)
    if data.mask_refs is None:
        assert data.mask_share is not None
        return _drawn(store, data.train, data.mask_share, data.mask_seed)
    subset = read_subset(Path(data.mask_refs).expanduser())
    check_subset(subset.ref_ids, read_store(store), data.train)
    return subset


@cache
def _drawn(store: Path, split: str, share: float, seed: int) -> MaskSubset:
    """Every stage asks for it several times; a store's name changes with its annotations."""
    return draw_subset(read_store(store), split, share, seed)
