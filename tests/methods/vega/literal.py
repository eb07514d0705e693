"""VEGA written the slow, plain way: the twins that the fast code is held against.

`LiteralSelection` follows the appendix's pseudocode with its [B, T, N, D] tensor; the benchmark
uses it too. `PixelWordAttention` is LAVT's module in its own form (channels first, 1 x 1
convolutions, InstanceNorm1d, zeroed keys and a -1e4 mask). `whole_model` is the method for one
image and one expression, stage after stage, with a loop wherever the fast code has a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.vega.fusion import PixelWordFusion
from refseg.methods.vega.selection import VisualSelection
from refseg.nn.attention import Attention, AttentionBlock

FAR = -1e4  # the pseudocode's "minus infinity"


def attention(module: Attention, query: Tensor, keys: Tensor, added: Tensor | None) -> Tensor:
    """Softmax attention with every product written out.

    query: [..., Q, D], keys: [..., K, D'], added: [..., Q, K] or None, with the same leading
    dimensions everywhere.
    """
    width = query.shape[-1]
    q = module.q(query)
    k, v = module.kv(keys)[..., :width], module.kv(keys)[..., width:]
    answers = []
    for head in range(module.heads):
        part = slice(head * width // module.heads, (head + 1) * width // module.heads)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(width / module.heads)
        if added is not None:
            scores = scores + added
        answers.append(scores.softmax(dim=-1) @ v[..., part])
    out: Tensor = module.out(torch.cat(answers, dim=-1))
    return out


def block(module: AttentionBlock, query: Tensor, keys: Tensor, added: Tensor | None) -> Tensor:
    """Pre-norm residual attention; keys must already be normalised where they are."""
    heard = attention(module.attention, module.norm(query), keys, added)
    return query + heard if module.residual else heard


class LiteralSelection(nn.Module):
    """The pseudocode's selection module on the weights of a `VisualSelection`.

    forward(tokens [B, T, D], token_mask [B, T], features [B, N, C]) -> (Q_v [B, T, D], s [B, N]).
    """

    def __init__(self, weights: VisualSelection) -> None:
        super().__init__()
        self.weights = weights

    def forward(
        self, tokens: Tensor, token_mask: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        w = self.weights
        assert w.attend is not None
        assert w.relate is not None
        pixels = w.pixels(features)
        batch, length = token_mask.shape
        count = pixels.shape[1]
        k = max(1, int(round(count * w.config.ratio, 6)))
        x = w.project_pixels(pixels)
        y = w.project_tokens(tokens)
        x = x / x.norm(dim=-1, keepdim=True)
        y = y / y.norm(dim=-1, keepdim=True)
        score = y @ x.transpose(1, 2)  # [B, T, N]
        top = score.topk(k, dim=-1).indices
        chosen = F.one_hot(top, count).sum(dim=2).to(score)  # M [B, T, N]
        added = chosen * 1e4 - 1e4
        share = (score + added).softmax(dim=-1)
        # The tensor that the fast code never builds.
        spread = pixels[:, None].repeat(1, length, 1, 1)  # [B, T, N, D]
        extracted = ((chosen * share)[..., None] * spread).sum(dim=2)
        if w.config.divide_by_k:
            extracted = extracted / k
        seen = block(w.attend, extracted[:, :, None], spread, added[:, :, None])[:, :, 0]
        padded = torch.where(token_mask, 0.0, FAR)[:, None].expand(batch, length, length)
        related = block(w.relate, seen, w.relate.norm(seen), padded)
        return related, score[:, 0]


def gathered_selection(w: VisualSelection, tokens: Tensor, token_mask: Tensor, f: Tensor) -> Tensor:
    """The equations' form: each token of each item gathers its own K pixels. Returns Q_v."""
    assert w.attend is not None
    assert w.relate is not None
    rows = []
    for item in range(tokens.shape[0]):
        pixels = w.pixels(f[item])
        keys = F.normalize(w.project_pixels(pixels), dim=-1)
        k = max(1, int(round(len(pixels) * w.config.ratio, 6)))
        seen = []
        for token in tokens[item]:
            score = keys @ F.normalize(w.project_tokens(token), dim=-1)
            best = score.sort(descending=True).indices[:k]
            mine = pixels[best]  # [K, D]
            extracted = score[best].softmax(dim=0) @ mine
            if w.config.divide_by_k:
                extracted = extracted / k
            seen.append(block(w.attend, extracted[None], mine, None)[0])
        words = torch.stack(seen)
        real = words[token_mask[item]]
        rows.append(block(w.relate, words, w.relate.norm(real), None))
    return torch.stack(rows)


class PixelWordAttention(nn.Module):
    """LAVT's pixel-word attention with one head, channels first: x [B, C, N], l [B, D, T]."""

    def __init__(self, weights: PixelWordFusion) -> None:
        super().__init__()
        self.visual = _conv(weights.visual[0])
        self.query, self.key = _conv(weights.query), _conv(weights.key)
        self.value, self.spread = _conv(weights.value), _conv(weights.spread)
        self.mix = _conv(weights.mix[0])
        channels = self.query.out_channels
        self.norm_query = nn.InstanceNorm1d(channels)
        self.norm_words = nn.InstanceNorm1d(channels)
        self.channels = channels

    def forward(self, x: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        mask = word_mask[:, None].to(x)  # [B, 1, T]
        q = self.norm_query(self.query(x)).transpose(1, 2)  # [B, N, C]
        k = self.key(words) * mask
        v = self.value(words) * mask
        scores = q @ k / self.channels**0.5 + (1e4 * mask - 1e4)
        heard = scores.softmax(dim=-1) @ v.transpose(1, 2)
        said = self.norm_words(self.spread(heard.transpose(1, 2)))
        return F.gelu(self.mix(F.gelu(self.visual(x)) * said))


def _conv(linear: nn.Linear) -> nn.Conv1d:
    conv = nn.Conv1d(linear.in_features, linear.out_features, 1)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None])
        conv.bias.copy_(linear.bias)
    return conv


def whole_model(vega: Any, image: Tensor, ids: Tensor) -> Tensor:
    """Logits [1, 1, h, w] of a default-configured Vega for one image [3, H, W] and one text [T].

    No padding, no sharing, no batch: what the paper says, in its order.
    """
    words = vega.text.bert(input_ids=ids[None]).last_hidden_state  # [1, T, D]
    everyone = torch.ones(1, len(ids), dtype=torch.bool)
    pyramid, encoder = vega.encoder.pyramid, vega.encoder
    x, hw = pyramid.stem(image[None])
    maps = []
    for stage in range(4):
        x = pyramid.blocks(stage, x, hw)
        fuse = PixelWordAttention(encoder.fusion[str(stage)])
        r = fuse(x.transpose(1, 2), words.transpose(1, 2), everyone).transpose(1, 2)
        maps.append(encoder.norms[stage](r).transpose(1, 2).unflatten(2, hw))
        if stage < 3:
            gate = encoder.gates[str(stage)]
            x = x + torch.tanh(gate.second(F.relu(gate.first(r)))) * r
            x, hw = pyramid.merge(stage, x, hw)
    coarse = maps[3].flatten(2).transpose(1, 2)
    pixels = vega.enhance_pixels(coarse)
    enhanced = block(vega.enhance, words, vega.enhance.norm_keys(pixels), None)
    visual, _ = LiteralSelection(vega.select)(words, everyone, coarse)
    guidance = torch.cat([enhanced, visual], dim=1)  # [1, 2T, D]
    return _decode(vega.decoder, maps, guidance)


def _decode(decoder: Any, maps: list[Tensor], guidance: Tensor) -> Tensor:
    x = _listen(decoder.listen[0], decoder.reduce(maps[3]), guidance)
    for step in (1, 2, 3):
        finer = maps[3 - step]
        x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
        x = _listen(
            decoder.listen[step], decoder.refine[step - 1](torch.cat([x, finer], 1)), guidance
        )
    logits: Tensor = decoder.head(x)
    return logits


def _listen(module: AttentionBlock, x: Tensor, guidance: Tensor) -> Tensor:
    """Every pixel asks on its own, one row of pixels at a time."""
    rows = [block(module, row.T[None], guidance, None)[0].T for row in x[0].unbind(1)]
    return torch.stack(rows, dim=1)[None]
