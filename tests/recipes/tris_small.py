"""All stages of TRIS at a size for tests, from a pair that a run of two steps has left."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from refseg.data.transforms import PreprocessConfig
from refseg.nn.clip import ClipTextConfig
from refseg.nn.clip_pair import PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.recipes.base import Recipe, TokenConfig
from refseg.recipes.catalog import get_recipe
from refseg.recipes.encoders import EncoderData, EncoderRecipe
from refseg.recipes.overrides import apply_overrides
from refseg.train.config import TrainConfig

VISION = ClipResNetConfig(
    layers=(1, 1, 1, 1), width=8, strides=(1, 2, 2, 1), pool=True, pool_heads=2, embed=16,
    image_size=64,
)  # fmt: skip
TEXT = ClipTextConfig(
    vocab_size=300, width=16, layers=1, heads=2, mlp_width=32, max_positions=48, embed=16
)
SHORT = (
    "steps=2", "batch_size=2", "workers=0", "save_every=1", "warmup=0", "cpu=true", "ema=null",
    "evaluate_every=2",
)  # fmt: skip


def small_pair(world: Path, **changes: object) -> EncoderRecipe:
    """`clip_scenes` on the folder `world`, small."""
    return EncoderRecipe(
        name="clip_small",
        kind="pairs",
        pair=PairConfig(vision=VISION, text=TEXT),
        data=EncoderData(name=str(world), evaluate_limit=6),
        preprocess=PreprocessConfig(size=64),
        tokens=TokenConfig(vocabulary=300, max_words=48),
        train=TrainConfig(steps=2, batch_size=4, evaluate_every=2, save_every=1, cpu=True),
    ).model_copy(update=changes)


def small_tris(world: Path, pair: Path, *more: str, name: str = "tris_scenes") -> Recipe:
    """`tris_scenes` on the folder `world`, small, from the pair in the folder `pair`."""
    vision = VISION.model_copy(update={"pool": False})
    groups = ("method", "tris.response", "tris.edges")
    sizes = [one for group in groups for one in _settings(f"{group}.vision", vision)]
    sizes += [one for group in groups[:2] for one in _settings(f"{group}.text", TEXT)]
    sizes += [f"{group}.cut.length=12" for group in ("method", "tris.response")]
    sizes += ["tris.response.width=16", "tris.edges.radius=3", "tris.edges.edge_width=8"]
    sizes += ["tris.edges.widths=[8,8,8,8,8]", "tris.edges.groups=[2,2,2,2,2]"]
    sizes += ["tris.edges.joined_width=8", "tris.edges.joined_groups=2", "tris.edge_refs=4"]
    sizes += ["tris.refine.steps=8", "tris.refine.follow=5"]
    trained = [
        f"{group}.{one}" for group in ("train", "tris.train", "tris.edges_train") for one in SHORT
    ]
    weights = [f"weights.{part}={pair}" for part in ("vision", "text", "calibrator", "edges")]
    data = [f"data.name={world}", "data.per_image=2", "data.evaluate_limit=4"]
    tokens = [f"tokens.source={pair}", "tokens.max_words=12"]
    net = ["preprocess.size=64"]
    settings = [*sizes, *trained, *weights, *data, *tokens, *net, *more]
    return apply_overrides(get_recipe(name), settings)


def _settings(group: str, part: BaseModel) -> list[str]:
    told = part.model_dump(mode="json")
    return [f"{group}.{key}={json.dumps(value)}" for key, value in told.items()]
