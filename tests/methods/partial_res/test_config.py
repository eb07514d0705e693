"""What a configuration refuses, keeps through JSON and tells of itself; the papers' sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from refseg.errors import ConfigError
from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import (
    FusionConfig,
    PmcaConfig,
    SequenceConfig,
    TransformerConfig,
    strides_of,
)
from refseg.nn.darknet import DarkNetVisionConfig
from refseg.nn.gru import GruTextConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.recipes.partial_res import partial_res_scenes

SWIN = SwinVisionConfig(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
SWIN_FUSION = FusionConfig(strides=(4, 8, 16, 32), grid=16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "multi"}, 'task "multi" with task_token "learnable"'),
        ({"task": "multi", "task_token": "zero"}, 'task "multi" with task_token "zero"'),
        ({"task_token": "task-wise"}, 'task "res" with task_token "task-wise"'),
        ({"task": "rec", "task_token": "task-wise"}, 'task "rec" with task_token "task-wise"'),
        ({"fusion": {"strides": (8, 16)}}, r"fusion.grid is 32, which is not in .* \(8, 16\)"),
        ({"fusion": {"strides": ()}}, "fusion.grid is 32"),
        ({"fusion": {"strides": (4, 8, 32)}}, r"levels at strides \(8, 16, 32\)"),
        ({"fusion": {"strides": (32, 16)}}, "finest first"),
        ({"fusion": {"strides": (16, 16, 32)}}, "finest first"),
        ({"vision": SWIN, "fusion": {"strides": (2, 32)}}, r"strides \(4, 8, 16, 32\)"),
        ({"transformer": {"width": 36, "heads": 4}}, "36 does not fall into 32 groups"),
        ({"transformer": {"width": 64, "heads": 5}}, "transformer.heads: 5 heads"),
        (
            {"vision": SWIN.model_copy(update={"heads": (3, 6, 12, 25)})},
            r"vision.heads \(stage 4\): 25 heads",
        ),
        ({"text": BertTextConfig(width=64, heads=5)}, "text.heads: 5 heads"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        PartialResConfig.model_validate(changes)
    assert caught.value.remedy or "finest first" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": {"points": 2}},
        {"sequence": {"bins": 1}},
        {"sequence": {"shuffle": 1.1}},
        {"sequence": {"contour": "spline"}},
        {"pmca": {"scale": 0}},
        {"pmca": {"noise": -0.1}},
        {"loss": {"smoothing": 1.0}},
        {"transformer": {"width": 30}},
        {"transformer": {"dropout": 1.0}},
        {"task": "seg"},
        {"cctf": "on"},
        {"vision_lr_scale": 0},
        {"vision": {"kind": "darknet", "neck": False}},
        {"points": 12},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PartialResConfig.model_validate(changes)


@pytest.mark.parametrize("text", [GruTextConfig(vocab_size=99), BertTextConfig(vocab_size=99)])
@pytest.mark.parametrize(
    ("vision", "fusion"),
    [
        (DarkNetVisionConfig(width=8), FusionConfig()),
        (DarkNetVisionConfig(neck=False, frozen="none"), FusionConfig(strides=(16, 32))),
        (SWIN, SWIN_FUSION),
        (SwinVisionConfig(), FusionConfig(strides=(8, 16, 32), grid=8)),
    ],
)
def test_json_gives_the_same_back(vision: Any, fusion: FusionConfig, text: Any) -> None:
    config = PartialResConfig(
        vision=vision,
        text=text,
        fusion=fusion,
        task="multi",
        task_token="task-wise",
        sequence=SequenceConfig(points=18, contour="stride", bin_centre=False),
        pmca=PmcaConfig(scale=1.0),
        cctf="swapped",
    )
    again = PartialResConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert type(again.vision) is type(vision)
    assert type(again.text) is type(text)
    told = json.loads(json.dumps(config.model_dump(mode="json")))
    assert PartialResConfig.model_validate(told) == config


@pytest.mark.parametrize("points", [3, 12, 18])
def test_the_length_is_that_of_the_position_table(points: int) -> None:
    sequence = SequenceConfig(points=points)
    config = PartialResConfig(sequence=sequence)
    assert config.length == 2 * points + 1
    assert config.seqtr("rec").length == 5
    both = PartialResConfig(sequence=sequence, task="multi", task_token="task-wise")
    assert both.length == 2 * points + 6


def test_seqtr_is_without_what_partial_res_adds() -> None:
    config = PartialResConfig(
        pmca=PmcaConfig(scale=1.0), cctf="swapped", sequence=SequenceConfig(points=18)
    )
    for task in ("rec", "res"):
        plain = config.seqtr(task)
        assert plain.task == task
        assert (plain.task_token, plain.cctf, plain.language_token) == ("zero", "off", False)
        assert not plain.pmca.on
        assert plain.pmca.scale == 1.0
        changed = {"task", "task_token", "cctf", "pmca", "language_token"}
        assert plain.model_dump(exclude=changed) == config.model_dump(exclude=changed)
        assert PartialResConfig.model_validate(plain.model_dump()) == plain
    both = PartialResConfig(task="multi", task_token="task-wise")
    assert PartialResConfig.model_validate(both.seqtr("res").model_dump()).task == "res"


def test_strides_are_the_backbones() -> None:
    assert strides_of(DarkNetVisionConfig()) == (8, 16, 32)
    assert strides_of(SwinVisionConfig(patch=2)) == (2, 4, 8, 16)


# -- the papers' sizes -----------------------------------------------------------------------


def counted(config: PartialResConfig) -> dict[str, tuple[int, int]]:
    """Parameters and trained ones, by part; no memory is taken."""
    with torch.device("meta"):
        model = PartialRes(config)
    parts = {
        "all": model,
        "vision": model.levels,
        "fusion": model.fuse,
        "words": model.text.words,
        "gru": model.text.gru,
        "sentence": model.sentence,
        "project": model.project,
        "group": model.group,
        "encoder": model.encoder,
        "decoder": model.decoder,
        "layers": model.decoder.layers,
        "norm": model.decoder.norm,
        "predictor": model.decoder.predictor,
    }
    found = {}
    for name, part in parts.items():
        every = list(part.parameters())
        found[name] = (
            sum(p.numel() for p in every),
            sum(p.numel() for p in every if p.requires_grad),
        )
    modulated = [p.numel() for n, p in model.named_parameters() if ".modulation." in n]
    found["pmca"] = (sum(modulated), sum(modulated))
    return found


#: The notes' predictor is an MLP 256-256-256-1001: three layers.
PAPER = PartialResConfig()


def test_the_papers_sizes() -> None:
    """The notes count 104.4 M parameters for 12 points, 53.3 M of them trained: so do we.

    Every part agrees to the digits that the notes give, and nothing but the word table is left
    out: theirs is frozen and counted apart, ours is learned and as long as the vocabulary.
    """
    found = counted(PAPER)
    words = found["words"][0]
    assert words == 30522 * 300
    every, trained = found["all"]
    assert every - words == 104_408_425
    assert trained - words == 53_331_593
    million = {name: tuple(round(count / 1e6, 2) for count in two) for name, two in found.items()}
    assert million["vision"] == (56.32, 5.25)  # notes: 56.3, 5.2
    assert million["fusion"] == (36.64, 36.64)  # 36.6
    assert million["gru"] == (2.5, 2.5)  # 2.5
    assert million["encoder"] == (4.74, 4.74)  # 4.74
    assert million["pmca"] == (0.13, 0.13)  # 0.13
    layers = found["layers"][0] - found["pmca"][0]
    assert round(layers / 1e6, 2) == 3.16  # the decoder's: 3.16
    # The rest of the decoder: [TASK], tables of coordinates and positions, norm, predictor.
    rest = 256 + 1001 * 256 + 25 * 256 + found["norm"][0] + found["predictor"][0]
    assert found["decoder"][0] == found["layers"][0] + rest
    assert found["predictor"][0] == 2 * (256 * 256 + 256) + 256 * 1001 + 1001
    assert found["sentence"] == (0, 0)  # the GRU's two directions are as wide as the fusion


def test_what_partial_res_adds_is_little() -> None:
    """PMCA and [TASK]; CCTF and the sentence's token have no weights."""
    config = PartialResConfig()
    added = counted(config)["all"][0] - counted(config.seqtr("res"))["all"][0]
    assert added == counted(config)["pmca"][0] + 256
    seqtr = counted(config.seqtr("rec"))["all"][0]
    assert counted(config.seqtr("res"))["all"][0] - seqtr == (25 - 5) * 256  # positions


def test_the_scenes_preset_is_small() -> None:
    config = partial_res_scenes().method
    assert isinstance(config, PartialResConfig)
    found = counted(config)
    assert found["all"][0] < 15e6
    assert found["vision"][1] == 0  # it rests


def test_a_transformer_may_have_another_depth() -> None:
    base = counted(PartialResConfig())
    deep = PartialResConfig(transformer=TransformerConfig(encoder_layers=7, decoder_layers=4))
    one = base["encoder"][0] // 6
    assert counted(deep)["encoder"][0] == 7 * one
    assert counted(deep)["layers"][0] * 3 == base["layers"][0] * 4
