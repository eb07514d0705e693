"""The decoder layer against torch's own and against its parts put together."""

from __future__ import annotations

import torch
from torch import nn

from refseg.methods.mutual.layer import DecoderLayer, PreparedAttention
from refseg.nn.attention import Attention


def test_prepared_attention_is_attention() -> None:
    torch.manual_seed(0)
    plain, prepared = Attention(8, 2, 6).double(), PreparedAttention(8, 2, 6).double()
    prepared.load_state_dict(plain.state_dict())
    query, keys = torch.randn(2, 3, 8).double(), torch.randn(2, 5, 6).double()
    allowed = torch.tensor([[True, False, True, True, False], [False] * 5])
    for mask in (None, allowed):
        wide = None if mask is None else mask[:, None]
        torch.testing.assert_close(
            prepared.ask(query, prepared.prepare(keys), wide), plain(query, keys, mask)
        )
    assert not prepared.ask(query, prepared.prepare(keys), allowed[:, None])[1].any()


def test_layer_is_torchs_on_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = DecoderLayer(8, 2, 16, 0.0, 8).double()
    theirs = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True).double()
    with torch.no_grad():
        for mine, other in ((ours.own, theirs.self_attn), (ours.memory, theirs.multihead_attn)):
            other.in_proj_weight.copy_(torch.cat([mine.q.weight, mine.kv.weight]))
            other.in_proj_bias.copy_(torch.cat([mine.q.bias, mine.kv.bias]))
            other.out_proj.load_state_dict(mine.out.state_dict())
        theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
        theirs.linear2.load_state_dict(ours.mlp[3].state_dict())
        x, memory = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
        causal = torch.ones(4, 4, dtype=torch.bool).tril()
        known = torch.rand(3, 5) > 0.4
        known[:, 0] = True
        looked, _ = ours.look(x, allowed=causal[None])
        torch.testing.assert_close(
            ours.hear(looked, ours.memory.prepare(memory), known),
            theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=~known),
        )


def test_sequences_of_a_group_share_its_memory() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(8, 2, 16, 0.0, 6).double()
    x, memory = torch.randn(2 * 3, 4, 8).double(), torch.randn(2, 5, 6).double()
    ready = layer.memory.prepare(memory)
    copied = layer.memory.prepare(memory.repeat_interleave(3, dim=0))
    with torch.no_grad():
        torch.testing.assert_close(layer.hear(x, ready), layer.hear(x, copied))


def test_dropout_acts_while_training() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(8, 2, 16, 0.5, 8)
    x = torch.randn(1, 4, 8)
    with torch.no_grad():
        assert not torch.equal(layer.look(x)[0], layer.look(x)[0])
        layer.eval()
        assert torch.equal(layer.look(x)[0], layer.look(x)[0])
