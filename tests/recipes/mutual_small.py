"""All stages of mutual supervision at a size for tests, and what their tests share."""

from __future__ import annotations

from pathlib import Path

from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides

ALL = ("train", "disambiguate", "label", "retrain", "disambiguate_again")
LIMIT = 20
SHORT = ("steps=2", "batch_size=2", "workers=0", "save_every=1", "warmup=0", "cpu=true")
HEAD = ("width=16", "heads=2", "layers=1", "mlp_width=32")
SMALL = {
    "method.extractor.backbone": (
        "image_size=64", "width=8", "depths=[1,1,1,1]", "heads=[1,2,2,2]", "window=4",
    ),
    "method.extractor": (
        "queries=10", "width=32", "heads=2", "mlp_width=32", "layers=1", "pixel_layers=1",
        "pixel_mlp_width=32", "points.points=40",
    ),
    "method.text": (*HEAD, "vocab_size=200", "max_positions=16"),
    "method.generator": (*HEAD, "vocab_size=200", "max_words=8"),
    "method.selection": (*HEAD, "score_width=16"),
    "weights": ("proposals=null", "text=null"),
    "tokens": ("source=data", "vocabulary=200", "max_words=8"),
    "data": ("evaluate=null", "per_image=3"),
    "train": SHORT,
    "disambiguation": ("policy.beams=2", *(f"train.{one}" for one in SHORT)),
    "pseudo": ("beams=2", "min_area=0", "split=train+pool"),
}  # fmt: skip


def settings(*without: str) -> list[str]:
    chosen = {group: ones for group, ones in SMALL.items() if group not in without}
    return [f"{group}.{one}" for group, ones in chosen.items() for one in ones]


def small_recipe(world: Path) -> Recipe:
    """`mutual_scenes` on the folder `world`, small."""
    more = [f"data.name={world}", f"data.limit={LIMIT}", "preprocess.size=64"]
    return apply_overrides(get_recipe("mutual_scenes"), [*settings(), *more])
