"""Names of categories to numbers of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.errors import DataError
from refseg.methods.mutual.objects import missing
from refseg.types import NetObjects


def class_numbers(objects: NetObjects, classes: tuple[str, ...]) -> Tensor:
    """[I, K] int64, zeros on padding and where there is one class for everything.

    Raises DataError when the categories are not here, or one of them is none of `classes`.
    """
    found = torch.zeros(objects.known.shape, dtype=torch.int64)
    if len(classes) > 1:
        if objects.categories is None:
            raise missing("categories", "category")
        index = {name: number for number, name in enumerate(classes)}
        for row, names in enumerate(objects.categories):
            unknown = [name for name in names if name not in index]
            if unknown:
                raise DataError(
                    f'category "{unknown[0]}" is none of the {len(index)} that this model knows',
                    remedy="name all categories of the data in method.extractor.classes",
                )
            found[row, : len(names)] = torch.tensor([index[name] for name in names])
    return found.to(objects.known.device)
