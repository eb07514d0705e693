"""Every switch changes something: no field of the configuration is idle.

What the reward's switches do is in test_policy.py; what a Swin's do, in the ablations of vega.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from refseg.methods.mutual import MutualConfig
from refseg.methods.mutual.config import (
    AnnotatedExtractorConfig,
    Mask2FormerExtractorConfig,
    ResNetVisionConfig,
)
from refseg.models import build_method
from refseg.types import Batch
from tests.methods.ablating import same_weights
from tests.methods.mutual.toy import RESNET
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config
from tests.methods.vega.test_ablations import text_of

ONE_WORD = tuple(i for i in range(118) if i != 3)  # its sentences differ in length alone
# A second value for every field, by path.
HEADS: dict[str, Any] = {
    "text.vocab_size": 200,
    "text.width": 64,
    "text.layers": 1,
    "text.heads": 4,
    "text.mlp_width": 32,
    "text.max_positions": 40,
    "text.drop": 0.3,
    "text.frozen": "all",
    "generator.width": 16,
    "generator.heads": 2,
    "generator.layers": 1,
    "generator.mlp_width": 32,
    "generator.dropout": 0.3,
    "generator.vocab_size": 200,
    "generator.max_words": 9,
    "generator.start": 9,
    "generator.end": 9,
    "generator.pad": 9,
    "generator.never": ONE_WORD,
    "generator.tied": False,
    "generator.rank": "mean",
    "generator.indicator.target_only": True,
    "generator.indicator.init_std": 0.5,
    "selection.width": 16,
    "selection.heads": 2,
    "selection.layers": 1,
    "selection.mlp_width": 32,
    "selection.dropout": 0.3,
    "selection.score_width": 16,
    "select": False,
    "absent": 0.5,
    "generate": False,
    "end_to_end": False,
    "selection_weight": 2.0,
    "generation_weight": 2.0,
    "pseudo_generates": True,
    "text_lr_scale": 0.1,
    "extractor_lr_scale": 0.1,
    "extractor.classes": ("square", "disc", "ring"),
    "extractor.width": 64,
    "extractor.frequencies": 3,
    "extractor.mlp_width": 16,
}
PIXELS: dict[str, Any] = {
    "extractor.backbone": RESNET,
    "extractor.classes": ("square", "disc", "ring"),
    "extractor.queries": 6,
    "extractor.width": 64,
    "extractor.heads": 2,
    "extractor.mlp_width": 32,
    "extractor.layers": 1,
    "extractor.pixel_layers": 2,
    "extractor.pixel_mlp_width": 32,
    "extractor.points.points": 64,
    "extractor.points.oversample": 2.0,
    "extractor.points.importance": 0.5,
    "extractor.matching.mask_cost": 1e3,
    "extractor.matching.dice_cost": 1e3,
    "extractor.matching.class_cost": 1e3,
    "extractor.no_object": 1.0,
    "extractor.class_weight": 1.0,
    "extractor.mask_weight": 1.0,
    "extractor.dice_weight": 1.0,
    "extractor.backbone_lr_scale": 0.1,
    "extractor.region": "box",
    "appearance": True,
}
BACKBONE: dict[str, Any] = {
    "extractor.backbone.stem": 16,
    "extractor.backbone.channels": (8, 8, 16, 32),
    "extractor.backbone.depths": (1, 1, 2, 1),
    "extractor.backbone.block": "bottleneck",
}
# Fields that act only together with others.
WITH: dict[str, dict[str, Any]] = {
    "text.vocab_size": {"generator.vocab_size": 200},
    "generator.vocab_size": {"text.vocab_size": 200},
    "generator.pad": {"generator.never": ONE_WORD},  # it fills the shorter ones up
}
CASES = [
    *(("annotated", path) for path in HEADS),
    *(("mask2former", path) for path in PIXELS),
    *(("resnet", path) for path in BACKBONE),
]
VALUES = {"annotated": HEADS, "mask2former": PIXELS, "resnet": BACKBONE}
EXTRACTORS = {
    "annotated": annotated_config,
    "mask2former": mask2former_config,
    "resnet": lambda: mask2former_config(backbone=RESNET),
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        elif name not in ("kind", "extractor"):  # of which kind is what the groups are about
            yield prefix + name


def test_every_field_is_flipped() -> None:
    extractors = set(leaves(Mask2FormerExtractorConfig, "extractor."))
    assert set(HEADS) | {"appearance"} == {
        *leaves(MutualConfig),
        *leaves(AnnotatedExtractorConfig, "extractor."),
    }
    assert set(PIXELS) == extractors | {"appearance"}
    assert set(BACKBONE) == set(leaves(ResNetVisionConfig, "extractor.backbone."))


def changed(config: BaseModel, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    inner = changed(getattr(config, name), rest, value) if rest else value
    return config.model_copy(update={name: inner})


@cache
def batch() -> Batch:
    """One of the four expressions is a model's."""
    made = toy_batch(toy_samples(2), share_images=True)
    return replace(made, pseudo=torch.tensor([False, False, False, True]))


def effects(kind: str, changes: dict[str, Any]) -> tuple[str, ...]:
    """All that a configuration can act on, as text: weights at the start, optimiser, training,
    answers, loss, gradients, sentences.
    """
    config = mutual_config(EXTRACTORS[kind]())  # type: ignore[operator]
    for path, value in changes.items():
        config = changed(config, path, value)
    torch.manual_seed(0)
    method = build_method("mutual", MutualConfig.model_validate(config.model_dump()))
    start = text_of(p for _, p in method.named_parameters())
    groups = str([(g.name, g.lr_scale, g.decay_scale) for g in method.parameter_groups()])
    torch.manual_seed(1)
    with torch.no_grad():
        noisy = text_of(method.loss(method.train()(batch()), batch()).values())
    same_weights(method, 0.1).eval()
    outputs = method(batch())
    torch.manual_seed(1)
    terms = method.loss(outputs, batch())
    terms["total"].backward()
    learned = text_of(p.grad for p in method.parameters() if p.grad is not None)
    found = [outputs.proposals.features] + ([outputs.scores] if config.select else [])
    said = ""
    if config.generate:
        with torch.no_grad():
            k = torch.zeros(4, dtype=torch.int64)
            written = method.write(outputs.proposals, batch().image_of, k, beams=3, keep=3)
        said = str(written.words.tolist())
    return start, groups, noisy, text_of(found), text_of(terms.values()), learned, said


@cache
def base_effects(kind: str, together: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    return effects(kind, dict(together))


@pytest.mark.parametrize(("kind", "path"), CASES, ids=[f"{k}-{p}" for k, p in CASES])
def test_a_switch_changes_something(kind: str, path: str) -> None:
    value, together = VALUES[kind][path], WITH.get(path, {})
    # What must change together is changed in both, but for the field itself.
    alone = {} if "vocab_size" in path else together
    assert effects(kind, {**together, path: value}) != base_effects(kind, tuple(alone.items()))


def test_the_measure_of_effects_is_steady() -> None:
    """Guards the test above: without a change nothing differs."""
    for kind in EXTRACTORS:
        assert effects(kind, {}) == base_effects(kind, ())


def terms_of(**changes: Any) -> dict[str, float]:
    """Loss terms of equal weights and equal random draws."""
    torch.manual_seed(0)
    method = same_weights(build_method("mutual", mutual_config(mask2former_config(**changes))), 0.1)
    method.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return {n: float(v) for n, v in method.loss(method(batch()), batch()).items()}


def test_no_object_weighs_in_the_class_term_alone() -> None:
    one, other = terms_of(), terms_of(no_object=1.0)
    assert {name for name in one if one[name] != other[name]} == {"class", "total"}


def test_oversampling_moves_the_points_of_the_mask_terms_alone() -> None:
    points = mask2former_config().points
    other = terms_of(points=points.model_copy(update={"oversample": 8.0}))
    one = terms_of()
    assert {name for name in one if one[name] != other[name]} == {"mask", "dice", "total"}
    # The least sure of more points are less sure, and there the loss is near that of a coin.
    few = terms_of(points=points.model_copy(update={"oversample": 1.0}))
    assert len({one["mask"], other["mask"], few["mask"]}) == 3


def rates(**changes: Any) -> dict[str, float]:
    config = mutual_config(**changes)
    method = build_method("mutual", config)
    return {group.name.split(".")[0]: group.lr_scale for group in method.parameter_groups()}


def test_rates_of_the_parts() -> None:
    """extractor_lr_scale is of the whole extractor, on top of its backbone's own factor."""
    assert rates() == {"backbone": 1.0, "extractor": 1.0, "text": 1.0, "heads": 1.0}
    slow = rates(
        extractor=mask2former_config(backbone_lr_scale=0.5),
        extractor_lr_scale=0.2,
        text_lr_scale=0.3,
    )
    assert slow == {"backbone": 0.1, "extractor": 0.2, "text": 0.3, "heads": 1.0}
    annotated = rates(extractor=annotated_config(), extractor_lr_scale=0.2)
    assert annotated == {"extractor": 0.2, "text": 1.0, "heads": 1.0}
    assert MutualConfig().text_lr_scale == 0.1
