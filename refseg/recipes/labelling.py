"""What a stage asks for that has masks written for the refs of a recipe's training split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refseg.label.options import LabelOptions
from refseg.recipes.base import Recipe


def ref_masks(recipe: Recipe, model: Path, out: Path, **more: Any) -> LabelOptions:
    """One mask a ref of `data.train`, in the folder `out`. model: who makes them. more: other
    fields of `LabelOptions`.
    """
    data = recipe.data
    asked: dict[str, Any] = {
        "model": str(model),
        "task": "masks",
        "data": data.name,
        "out": out,
        "split": data.train,
        "split_by": data.split_by,
        "images": Path(data.images) if data.images else None,
        "exclude_images": frozenset(data.exclude_images),
        "text_field": data.text_field,
        "per_ref": True,
        "seed": recipe.train.seed,
    }
    return LabelOptions(**asked | more)
