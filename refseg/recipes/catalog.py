"""The recipes by name. `RECIPES` is the only table of them there is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from refseg.errors import UnknownName
from refseg.recipes.base import Recipe

# name -> module:function
RECIPES = {
    "vega_refcoco": "refseg.recipes.vega:vega_refcoco",
    "vega_refcoco_plus": "refseg.recipes.vega:vega_refcoco_plus",
    "vega_refcocog": "refseg.recipes.vega:vega_refcocog",
    "vega_scenes": "refseg.recipes.vega:vega_scenes",
}


def recipe_function(name: str) -> Callable[[], Recipe]:
    """The function that makes a recipe; its docstring is the promise. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    module, function = RECIPES[name].split(":")
    found: Callable[[], Recipe] = getattr(import_module(module), function)
    return found


def get_recipe(name: str) -> Recipe:
    """The recipe `name`, with its function's docstring as its promise. Raises UnknownName."""
    function = recipe_function(name)
    recipe = function()
    return recipe.model_copy(update={"promise": recipe.promise or (function.__doc__ or "").strip()})
