"""The recipes by name: methods in `RECIPES`, the encoders they start from in `ENCODERS`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from refseg.errors import UnknownName
from refseg.recipes.base import Recipe
from refseg.recipes.encoders import EncoderRecipe

# name -> module:function
RECIPES = {
    "groupvit_refcoco": "refseg.recipes.zero_shot:groupvit_refcoco",
    "groupvit_refcoco_plus": "refseg.recipes.zero_shot:groupvit_refcoco_plus",
    "groupvit_gref": "refseg.recipes.zero_shot:groupvit_gref",
    "groupvit_phrasecut": "refseg.recipes.zero_shot:groupvit_phrasecut",
    "maskclip_refcoco": "refseg.recipes.zero_shot:maskclip_refcoco",
    "maskclip_refcoco_plus": "refseg.recipes.zero_shot:maskclip_refcoco_plus",
    "maskclip_gref": "refseg.recipes.zero_shot:maskclip_gref",
    "maskclip_phrasecut": "refseg.recipes.zero_shot:maskclip_phrasecut",
    "maskclip_scenes": "refseg.recipes.zero_shot:maskclip_scenes",
    "mutual_refcoco": "refseg.recipes.mutual:mutual_refcoco",
    "mutual_refcoco_swin": "refseg.recipes.mutual:mutual_refcoco_swin",
    "mutual_refcoco_plus": "refseg.recipes.mutual:mutual_refcoco_plus",
    "mutual_refcocog": "refseg.recipes.mutual:mutual_refcocog",
    "mutual_refcoco_boxes": "refseg.recipes.mutual:mutual_refcoco_boxes",
    "photos": "refseg.recipes.mutual:photos",
    "mutual_scenes": "refseg.recipes.mutual:mutual_scenes",
    "partial_res_scenes": "refseg.recipes.partial_res:partial_res_scenes",
    "partial_res_refcoco": "refseg.recipes.partial_res:partial_res_refcoco",
    "partial_res_refcoco_5": "refseg.recipes.partial_res:partial_res_refcoco_5",
    "partial_res_refcoco_10": "refseg.recipes.partial_res:partial_res_refcoco_10",
    "partial_res_refcoco_100": "refseg.recipes.partial_res:partial_res_refcoco_100",
    "partial_res_refcoco_plus": "refseg.recipes.partial_res:partial_res_refcoco_plus",
    "partial_res_refcoco_plus_5": "refseg.recipes.partial_res:partial_res_refcoco_plus_5",
    "partial_res_refcoco_plus_10": "refseg.recipes.partial_res:partial_res_refcoco_plus_10",
    "partial_res_refcoco_plus_100": "refseg.recipes.partial_res:partial_res_refcoco_plus_100",
    "partial_res_refcocog": "refseg.recipes.partial_res:partial_res_refcocog",
    "partial_res_refcocog_5": "refseg.recipes.partial_res:partial_res_refcocog_5",
    "partial_res_refcocog_10": "refseg.recipes.partial_res:partial_res_refcocog_10",
    "partial_res_refcocog_100": "refseg.recipes.partial_res:partial_res_refcocog_100",
    "sag_refcoco": "refseg.recipes.sag:sag_refcoco",
    "sag_refcoco_plus": "refseg.recipes.sag:sag_refcoco_plus",
    "sag_gref": "refseg.recipes.sag:sag_gref",
    "sag_phrasecut": "refseg.recipes.sag:sag_phrasecut",
    "sag_refcoco_released": "refseg.recipes.sag:sag_refcoco_released",
    "sag_scenes": "refseg.recipes.sag:sag_scenes",
    "seqtr_refcoco": "refseg.recipes.partial_res:seqtr_refcoco",
    "seqtr_refcoco_plus": "refseg.recipes.partial_res:seqtr_refcoco_plus",
    "seqtr_refcocog": "refseg.recipes.partial_res:seqtr_refcocog",
    "seqtr_rec_refcoco": "refseg.recipes.partial_res:seqtr_rec_refcoco",
    "seqtr_rec_refcoco_plus": "refseg.recipes.partial_res:seqtr_rec_refcoco_plus",
    "seqtr_rec_refcocog": "refseg.recipes.partial_res:seqtr_rec_refcocog",
    "tris_refcoco": "refseg.recipes.tris:tris_refcoco",
    "tris_refcoco_plus": "refseg.recipes.tris:tris_refcoco_plus",
    "tris_refcocog_google": "refseg.recipes.tris:tris_refcocog_google",
    "tris_refcocog_umd": "refseg.recipes.tris:tris_refcocog_umd",
    "tris_refcocog_umd_imagenet_rn50": "refseg.recipes.tris_encoders:"
    "tris_refcocog_umd_imagenet_rn50",
    "tris_refcocog_umd_rn101": "refseg.recipes.tris_encoders:tris_refcocog_umd_rn101",
    "tris_refcocog_umd_step2_swinb": "refseg.recipes.tris_encoders:tris_refcocog_umd_step2_swinb",
    "tris_refcocog_umd_swinb": "refseg.recipes.tris_encoders:tris_refcocog_umd_swinb",
    "tris_referit": "refseg.recipes.tris:tris_referit",
    "tris_refcoco_repaired": "refseg.recipes.tris:tris_refcoco_repaired",
    "tris_scenes": "refseg.recipes.tris:tris_scenes",
    "tris_scenes_paper": "refseg.recipes.tris:tris_scenes_paper",
    "vega_refcoco": "refseg.recipes.vega:vega_refcoco",
    "vega_refcoco_plus": "refseg.recipes.vega:vega_refcoco_plus",
    "vega_refcocog": "refseg.recipes.vega:vega_refcocog",
    "vega_scenes": "refseg.recipes.vega:vega_scenes",
}

# Encoders that the scenes presets start from; `refseg train` takes them too.
ENCODERS = {
    "swin_scenes": "refseg.recipes.encoders:swin_scenes",
    "bert_scenes": "refseg.recipes.encoders:bert_scenes",
    "clip_scenes": "refseg.recipes.encoders:clip_scenes",
    "vit_scenes": "refseg.recipes.encoders:vit_scenes",
    "proposals_coco": "refseg.recipes.encoders:proposals_coco",
    "proposals_scenes": "refseg.recipes.encoders:proposals_scenes",
}


def recipe_function(name: str) -> Callable[[], Recipe]:
    """The function that makes a recipe; its docstring is the promise. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, {**RECIPES, **ENCODERS})
    module, function = RECIPES[name].split(":")
    found: Callable[[], Recipe] = getattr(import_module(module), function)
    return found


def get_recipe(name: str) -> Recipe:
    """The recipe `name`, with its function's docstring as its promise. Raises UnknownName."""
    function = recipe_function(name)
    recipe = function()
    return recipe.model_copy(update={"promise": recipe.promise or (function.__doc__ or "").strip()})


def get_encoder(name: str) -> EncoderRecipe:
    """The encoder recipe `name`, with its function's docstring as its promise."""
    module, function = ENCODERS[name].split(":")
    made: Callable[[], EncoderRecipe] = getattr(import_module(module), function)
    return made().model_copy(update={"promise": (made.__doc__ or "").strip()})
