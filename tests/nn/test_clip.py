"""CLIP's transformer towers: the definition written out, transformers' own, padding, the end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.nn.clip import ClipTextConfig, ClipVision, ClipVisionConfig, ClipWords
from refseg.nn.clip_pair import ClipPair, PairConfig

TEXT = {
    "vocab_size": 50,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "mlp_width": 32,
    "max_positions": 12,
    "embed": 6,
}
VISION = {
    "image_size": 16,
    "patch": 8,
    "width": 12,
    "layers": 2,
    "heads": 3,
    "mlp_width": 20,
    "embed": 6,
}
START, END = 48, 49


def shaken(module: nn.Module) -> Any:
    """With parameters of which none is a 0 or 1 of the beginning."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def words_tower(seed: int = 0, **changes: Any) -> ClipWords:
    torch.manual_seed(seed)
    made: ClipWords = shaken(ClipWords(ClipTextConfig.model_validate({**TEXT, **changes})))
    return made


def vision_tower(seed: int = 0, **changes: Any) -> ClipVision:
    torch.manual_seed(seed)
    made: ClipVision = shaken(ClipVision(ClipVisionConfig.model_validate({**VISION, **changes})))
    return made


def sentences() -> tuple[Tensor, Tensor]:
    """Three of 5, 7 and 2 tokens, start and end among them, in 7 places."""
    words = torch.zeros(3, 7, dtype=torch.int64)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for row, inner in enumerate([[7, 3, 9], [1, 2, 3, 4, 5], []]):
        ids = [START, *inner, END]
        words[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = True
    return words, mask


# -- written out -------------------------------------------------------------------------------


def literal_layer(layer: Any, x: Tensor, heads: int, causal: bool) -> Tensor:
    """x [T, C] of one sentence or image."""
    normed = F.layer_norm(x, x.shape[-1:], layer.layer_norm1.weight, layer.layer_norm1.bias)
    attention = layer.self_attn
    parts = []
    a_head = x.shape[1] // heads
    for head in range(heads):
        own = slice(head * a_head, (head + 1) * a_head)
        query, key, value = (
            F.linear(normed, proj.weight[own], proj.bias[own])
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = query @ key.T / a_head**0.5
        if causal:
            for token in range(len(x)):
                scores[token, token + 1 :] = -torch.inf
        parts.append(scores.softmax(dim=-1) @ value)
    x = x + F.linear(torch.cat(parts, 1), attention.out_proj.weight, attention.out_proj.bias)
    normed = F.layer_norm(x, x.shape[-1:], layer.layer_norm2.weight, layer.layer_norm2.bias)
    inner = F.linear(normed, layer.mlp.fc1.weight, layer.mlp.fc1.bias)
    inner = inner * torch.sigmoid(1.702 * inner)
    return x + F.linear(inner, layer.mlp.fc2.weight, layer.mlp.fc2.bias)


def literal_text(tower: ClipWords, ids: list[int]) -> tuple[Tensor, Tensor]:
    state = tower.clip
    x = state.embeddings.token_embedding.weight[ids]
    x = x + state.embeddings.position_embedding.weight[: len(ids)]
    for layer in state.encoder.layers:
        x = literal_layer(layer, x, tower.config.heads, causal=True)
    norm = state.final_layer_norm
    x = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    return x, x[-1] @ tower.projection.weight.T


def literal_image(tower: ClipVision, image: Tensor) -> Tensor:
    state, patch = tower.clip, tower.config.patch
    tokens = [state.embeddings.class_embedding]
    for y in range(0, image.shape[1], patch):
        for x in range(0, image.shape[2], patch):
            cut = image[:, y : y + patch, x : x + patch]
            tokens.append((state.embeddings.patch_embedding.weight * cut).sum(dim=(1, 2, 3)))
    rows = torch.stack(tokens) + state.embeddings.position_embedding.weight
    norm = state.pre_layrnorm
    rows = F.layer_norm(rows, rows.shape[-1:], norm.weight, norm.bias)
    for layer in state.encoder.layers:
        rows = literal_layer(layer, rows, tower.config.heads, causal=False)
    norm = state.post_layernorm
    first = F.layer_norm(rows[0], rows.shape[-1:], norm.weight, norm.bias)
    return first @ tower.projection.weight.T


def test_the_text_tower_is_the_definition() -> None:
    tower = words_tower()
    words, mask = sentences()
    with torch.no_grad():
        states, sentence = tower(words, mask)
        assert states.shape == (3, 7, 16)
        assert sentence.shape == (3, 6)
        for row in range(3):
            ids = words[row][mask[row]].tolist()
            expected, own = literal_text(tower, ids)
            torch.testing.assert_close(states[row, : len(ids)], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(sentence[row], own, rtol=1e-4, atol=1e-5)


def test_the_vision_tower_is_the_definition() -> None:
    tower = vision_tower()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = tower(images)
        assert found.shape == (2, 6)
        for image, vector in zip(images, found, strict=True):
            torch.testing.assert_close(vector, literal_image(tower, image), rtol=1e-4, atol=1e-5)


def test_published_sizes() -> None:
    """tris.md, fact 17, without the scale; ViT-B/32 as published has 151,277,313 in all."""
    with torch.device("meta"):
        beside_rn50 = ClipWords(ClipTextConfig())
        vit = ClipPair(PairConfig(vision=ClipVisionConfig(), text=ClipTextConfig(embed=512)))
    assert sum(p.numel() for p in beside_rn50.parameters()) == 63_690_240
    assert sum(p.numel() for p in vit.parameters()) == 151_277_313


# -- texts -------------------------------------------------------------------------------------


def test_padding_changes_no_word() -> None:
    tower = words_tower()
    words, mask = sentences()
    longer = torch.cat([words, torch.full((3, 4), END)], dim=1)  # what Hugging Face pads with
    longer[:, :7][~mask] = END
    with torch.no_grad():
        states, sentence = tower(words, mask)
        more, same = tower(longer, F.pad(mask, (0, 4)))
        alone = [tower(w[m][None], m[m][None]) for w, m in zip(words, mask, strict=True)]
    torch.testing.assert_close(states[mask], more[:, :7][mask])
    torch.testing.assert_close(sentence, same)
    for row, (own, vector) in enumerate(alone):
        torch.testing.assert_close(own[0], states[row][mask[row]])
        torch.testing.assert_close(vector[0], sentence[row])


def test_no_word_knows_those_after_it() -> None:
    tower = words_tower()
    words, mask = sentences()
    changed = words.clone()
    changed[1, 4] = 33
    with torch.no_grad():
        before, after = tower(words, mask)[0], tower(changed, mask)[0]
    torch.testing.assert_close(before[1, :4], after[1, :4])
    assert (before[1, 4:] - after[1, 4:]).abs().amax(dim=1).min() > 1e-3


def test_texts_that_lost_their_end_still_differ() -> None:
    """The largest id would be the start's, whose state is the same for all (tris.md, fact 16)."""
    tower = words_tower()
    words = torch.tensor([[START, 7, 3, 9], [START, 1, 2, 3]])
    mask = torch.ones_like(words, dtype=torch.bool)
    with torch.no_grad():
        states, sentence = tower(words, mask)
    torch.testing.assert_close(states[0, 0], states[1, 0])
    assert not torch.allclose(sentence[0], sentence[1], atol=1e-2)
    torch.testing.assert_close(sentence, states[:, -1] @ tower.projection.weight.T)


def test_places_behind_the_longest_text_are_not_learned() -> None:
    """tris.md, fact 9."""
    tower = words_tower()
    words, mask = sentences()
    tower(words, mask)[1].square().sum().backward()
    table = tower.clip.embeddings.position_embedding.weight.grad
    assert table[:7].abs().sum(dim=1).min() > 0
    assert not table[7:].any()
