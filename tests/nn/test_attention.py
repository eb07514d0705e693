"""Attention against loops and against torch's own module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.nn.attention import Attention, AttentionBlock, channels_last_tokens, tokens_to_map


def looped(module: Attention, query: Tensor, keys: Tensor, allowed: Tensor | None) -> Tensor:
    """One query, one head, one key at a time."""
    batch, queries, width = query.shape
    size = width // module.heads
    q = module.q(query)
    k, v = module.kv(keys)[..., :width], module.kv(keys)[..., width:]
    answers = torch.zeros_like(query)
    for b in range(batch):
        for i in range(queries):
            row = range(keys.shape[1])
            if allowed is not None:
                may = allowed[b] if allowed.ndim == 2 else allowed[b, i]
                row = [j for j in row if may[j]]
            if not row:
                continue
            heard = torch.zeros(width, dtype=query.dtype)
            for h in range(module.heads):
                part = slice(h * size, (h + 1) * size)
                scores = torch.stack([q[b, i, part] @ k[b, j, part] for j in row]) / size**0.5
                for j, share in zip(row, scores.softmax(0), strict=True):
                    heard[part] += share * v[b, j, part]
            answers[b, i] = module.out(heard)
    return answers


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    heads=st.sampled_from([1, 2, 4]),
    mask=st.sampled_from(["none", "keys", "pairs"]),
)
def test_attention_is_its_loop(seed: int, heads: int, mask: str) -> None:
    torch.manual_seed(seed)
    module = Attention(8, heads, key_width=6).double()
    query, keys = torch.randn(2, 3, 8).double(), torch.randn(2, 5, 6).double()
    shape = {"none": None, "keys": (2, 5), "pairs": (2, 3, 5)}[mask]
    allowed = None if shape is None else torch.rand(shape) > 0.6
    with torch.no_grad():
        torch.testing.assert_close(
            module(query, keys, allowed), looped(module, query, keys, allowed)
        )


def test_attention_is_torchs_on_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = Attention(8, 2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        query, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
        allowed = torch.tensor([[True, True, False, True, False], [True] * 5])
        expected, _ = theirs(query, keys, keys, key_padding_mask=~allowed)
        torch.testing.assert_close(ours(query, keys, allowed), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_who_may_look_at_nothing_hears_nothing(pairs: bool) -> None:
    """Exactly zero, biases included, and with finite gradients."""
    torch.manual_seed(0)
    block = AttentionBlock(8, 2)
    query = torch.randn(2, 3, 8, requires_grad=True)
    keys = torch.randn(2, 5, 8, requires_grad=True)
    allowed = torch.ones((2, 3, 5) if pairs else (2, 5), dtype=torch.bool)
    allowed[1] = False
    answer = block(query, keys, allowed)
    assert torch.equal(answer[1], query[1])
    assert not torch.allclose(answer[0], query[0])
    answer.square().sum().backward()
    assert keys.grad is not None
    assert torch.isfinite(keys.grad).all()
    assert not keys.grad[1].any()


def test_forbidden_keys_may_be_anything() -> None:
    torch.manual_seed(0)
    module = Attention(8, 2)
    query, keys = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    allowed = torch.tensor([[True, False, True, False, True]])
    junk = torch.where(allowed[..., None], keys, 1e4)
    with torch.no_grad():
        torch.testing.assert_close(module(query, keys, allowed), module(query, junk, allowed))


def test_block_is_residual_and_normalises_first() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 2, key_width=6, mlp_ratio=2, norm_keys=True)
    query, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    with torch.no_grad():
        seen = query + block.attention(block.norm(query), block.norm_keys(keys))
        assert block.mlp is not None
        torch.testing.assert_close(block(query, keys), seen + block.mlp(seen))
        torch.testing.assert_close(
            block(query, keys), block(query, keys * 40 + 3), atol=1e-4, rtol=0
        )


def test_block_without_keys_looks_at_itself() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 2)
    query = torch.randn(2, 3, 8)
    with torch.no_grad():
        normed = block.norm(query)
        torch.testing.assert_close(block(query), query + block.attention(normed, normed))
    assert block.mlp is None


def test_a_small_eps_tells_small_queries_apart() -> None:
    block = AttentionBlock(8, 2, norm_eps=1e-12)
    tiny = torch.randn(1, 3, 8) * 1e-4
    with torch.no_grad():
        torch.testing.assert_close(block.norm(tiny), block.norm(tiny * 1e4), atol=1e-3, rtol=0)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 10 is not a multiple of 4 heads"):
        Attention(10, 4)


@given(b=st.integers(1, 3), c=st.integers(1, 4), h=st.integers(1, 5), w=st.integers(1, 5))
def test_tokens_and_maps_are_inverse(b: int, c: int, h: int, w: int) -> None:
    feature = torch.arange(b * c * h * w, dtype=torch.float32).view(b, c, h, w)
    tokens = channels_last_tokens(feature)
    assert tokens.shape == (b, h * w, c)
    assert torch.equal(tokens[:, (h - 1) * w + w - 1], feature[:, :, h - 1, w - 1])
    back = tokens_to_map(tokens, (h, w))
    assert torch.equal(back, feature)
    assert back.is_contiguous()
