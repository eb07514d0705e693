"""Names of CLIP's weights: each of OpenAI's and Hugging Face's is used once, none is left."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_names import from_hugging_face, from_openai, pair_sizes
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from tests.nn.clip_toys import Shapes, openai_shapes

RN50 = PairConfig(vision=ClipResNetConfig(pool=True), text=ClipTextConfig())
RN101 = PairConfig(
    vision=ClipResNetConfig(layers=(3, 4, 23, 3), embed=512, pool=True),
    text=ClipTextConfig(embed=512),
)
VIT_B_32 = PairConfig(vision=ClipVisionConfig(), text=ClipTextConfig(embed=512))
PUBLISHED = {"RN50": (RN50, 102_007_137), "RN101": (RN101, None), "B32": (VIT_B_32, 151_277_313)}


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_name_of_openai_is_used_once(name: str) -> None:
    wanted, parameters = PUBLISHED[name]
    shapes = openai_shapes(wanted)
    if parameters is not None:
        buffers = re.compile(r"running_(mean|var)$|num_batches_tracked$")
        counted = [s for key, s in shapes.items() if not buffers.search(key)]
        assert sum(torch.Size(shape).numel() for shape in counted) == parameters
    found = from_openai(on_meta(shapes))
    assert pair_sizes(found, None, "a test") == wanted
    with torch.device("meta"):
        own = ClipPair(wanted).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}
    # Queries, keys and values are one tensor there, three here; nothing is lost or told twice.
    together = sum("in_proj" in key for key in shapes)
    assert len(found) == len(shapes) + 2 * together


def test_every_name_of_hugging_faces_vit_b_32_is_used_once() -> None:
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        theirs = CLIPModel(CLIPConfig()).state_dict()
        own = ClipPair(VIT_B_32).state_dict()
    found = from_hugging_face(theirs)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}
    assert len(found) == len(theirs)
    assert pair_sizes(found, {"text": 8, "vision": 12}, "a test") == VIT_B_32
