"""Both towers of CLIP: transformers' own numbers, unit vectors, a judge that learns nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from refseg.errors import ConfigError
from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from tests.nn.test_clip import END, START, TEXT, VISION, sentences, shaken


def pair(seed: int = 0, resnet: bool = False) -> ClipPair:
    torch.manual_seed(seed)
    vision: Any = {**VISION, "kind": "clip-vit"}
    if resnet:
        sizes = {"layers": (1, 1, 1, 1), "width": 4, "pool_heads": 4, "image_size": 64}
        vision = {"kind": "clip-resnet", **sizes, "embed": 6, "pool": True}
    made: ClipPair = shaken(ClipPair(PairConfig.model_validate({"vision": vision, "text": TEXT})))
    return made


def test_a_gradient_reaches_everything() -> None:
    made = pair()
    words, mask = sentences()
    images = torch.randn(2, 3, 16, 16)
    made.similarity(
        made.embed_images(images), made.embed_texts(words, mask)
    ).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # the same for all keys: the softmax cancels it
            assert parameter.grad.abs().sum() > 0, name


# -- transformers' own ---------------------------------------------------------------------------


def theirs(made: ClipPair) -> Any:
    """transformers' CLIPModel with the same weights."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 12,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": 1,
    }
    vision = {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).eval()
    names = {"text.clip.": "text_model.", "vision.clip.": "vision_model."}
    names |= {"text.projection.": "text_projection.", "vision.projection.": "visual_projection."}
    state = {}
    for key, value in made.state_dict().items():
        for ours, other in names.items():
            key = key.replace(ours, other)
        state[key] = value
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("padded", [True, False])
def test_it_is_transformers_clip(padded: bool) -> None:
    made = pair()
    model = theirs(made)
    words, mask = sentences()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        out = model(
            input_ids=words, pixel_values=images, attention_mask=mask.long() if padded else None
        )
        seen, read = made.embed_images(images), made.embed_texts(words, mask)
        states, _ = made.text(words, mask)
        similar = made.similarity(seen, read)
    torch.testing.assert_close(seen, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read, out.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(similar, out.logits_per_image, rtol=1e-4, atol=1e-4)
    expected = out.text_model_output.last_hidden_state
    torch.testing.assert_close(states[mask], expected[mask], rtol=1e-4, atol=1e-5)


# -- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resnet", [True, False])
def test_a_pair_gives_unit_vectors_of_one_space(resnet: bool) -> None:
    made = pair(resnet=resnet)
    size = 64 if resnet else 16
    words, mask = sentences()
    with torch.no_grad():
        seen, read = made.embed_images(torch.randn(2, 3, size, size)), made.embed_texts(words, mask)
        found = made.similarity(seen, read)
    for vectors, rows in ((seen, 2), (read, 3)):
        assert vectors.shape == (rows, 6)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(rows))
    torch.testing.assert_close(found, made.logit_scale.exp() * (seen @ read.T))
    scale = ClipPair(made.config).logit_scale
    assert scale.item() == pytest.approx(2.65926, abs=1e-5)  # tris.md, fact 5


@pytest.mark.parametrize("resnet", [True, False])
def test_a_frozen_pair_judges_and_learns_nothing(resnet: bool) -> None:
    """The calibrator: a gradient goes through it to the image, and leaves no trace in it."""
    made = pair(resnet=resnet).requires_grad_(False)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    images = torch.randn(2, 3, 64 if resnet else 16, 64 if resnet else 16, requires_grad=True)
    optimiser = torch.optim.AdamW([images, *made.parameters()], lr=0.1, weight_decay=0.1)
    words, mask = sentences()
    for _ in range(3):
        optimiser.zero_grad()
        start = images.detach().clone()
        (
            1 - (made.embed_images(images) * made.embed_texts(words, mask)[:2]).sum(1)
        ).sum().backward()
        optimiser.step()
        assert not torch.equal(images.detach(), start)
    assert all(parameter.grad is None for parameter in made.parameters())
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())


def test_a_config_survives_json() -> None:
    for config in (pair().config, pair(resnet=True).config):
        assert PairConfig.model_validate_json(config.model_dump_json()) == config


def test_pairs_that_do_not_fit_are_refused() -> None:
    text = ClipTextConfig.model_validate(TEXT)
    vision = ClipVisionConfig.model_validate(VISION)
    with pytest.raises(ValidationError, match="pool must be true"):
        PairConfig(vision=ClipResNetConfig(embed=6), text=text)
    with pytest.raises(ValidationError, match=r"vision\.embed is 8 and text\.embed 6"):
        PairConfig(vision=vision.model_copy(update={"embed": 8}), text=text)
    with pytest.raises(ConfigError, match=r"text\.heads: 3 heads"):
        PairConfig(vision=vision, text=text.model_copy(update={"heads": 3}))
    with pytest.raises(ConfigError, match=r"vision\.heads: 5 heads"):
        PairConfig(vision=vision.model_copy(update={"heads": 5}), text=text)
    with pytest.raises(ConfigError, match=r"vision\.pool_heads: 3 heads"):
        PairConfig(vision=ClipResNetConfig(embed=6, pool=True, pool_heads=3), text=text)
    with pytest.raises(ValidationError, match="kind"):
        PairConfig.model_validate({"vision": {"kind": "resnet"}, "text": TEXT})
