"""Shatter and Gather written the slow, plain way: one image, one sentence, one slot at a time.

Keys and values are projected anew in every iteration, each slot is laid on each patch and goes
through the whole decoder, each pair of sentence and image through its own cross-attention. Only
weights are shared with the fast code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def heads_of(module: Any) -> list[slice]:
    """The part of h d channels that belongs to each head."""
    count, width = module.shape
    return [slice(h * width, (h + 1) * width) for h in range(count)]


def sines(hw: tuple[int, int], width: int) -> Tensor:
    """[h w, width]: the row in the first half of the channels, the column in the second."""
    half = width // 2
    found = []
    for row in range(hw[0]):
        for column in range(hw[1]):
            one = []
            for place, count in ((row, hw[0]), (column, hw[1])):
                angle = (place + 1) / count * 2 * math.pi
                for channel in range(half):
                    wave = angle / 10_000 ** (2 * (channel // 2) / half)
                    one.append(math.sin(wave) if channel % 2 == 0 else math.cos(wave))
            found.append(one)
    return torch.tensor(found)


def first_slots(first: Any, noise: Tensor) -> Tensor:
    """[K, D] of noise [K, D]."""
    rows = []
    for k, drawn in enumerate(noise):
        if first.config.kind == "query":
            rows.append(first.query[k])
        elif first.config.kind == "random":
            rows.append(first.mean[0] + torch.exp(first.spread[0]) * drawn)
        else:
            gaussian = k // first.config.per_group
            variance = torch.exp(first.spread[gaussian])
            rows.append(first.mean[gaussian] + torch.sqrt(variance) * drawn)
    return torch.stack(rows)


def aggregate(block: Any, slots: Tensor, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Slots [K, D] after one aggregation, and A [K, N] of each head."""
    maps = block.heads
    query = maps.query(block.norm_slots(slots))
    keys, values = maps.key(block.norm_patches(patches)), maps.value(block.norm_patches(patches))
    told: list[list[Tensor]] = [[] for _ in slots]
    shares = []
    for part in heads_of(maps):
        scores = torch.stack([keys[:, part] @ q / math.sqrt(len(q)) for q in query[:, part]])
        if block.over == "slots":
            columns = [scores[:, n].exp() / scores[:, n].exp().sum() for n in range(len(patches))]
            share = torch.stack(columns, dim=1)
        else:
            share = torch.stack([row.exp() / row.exp().sum() for row in scores])
        for k, row in enumerate(share):
            weights = row / (row.sum() + 1e-7)
            told[k].append(sum(w * v for w, v in zip(weights, values[:, part], strict=True)))
        shares.append(share)
    slots = torch.stack(
        [slot + maps.out(torch.cat(heard)) for slot, heard in zip(slots, told, strict=True)]
    )
    return slots + block.mlp(slots), shares


def interact(block: Any, slots: Tensor) -> Tensor:
    """Slots [K, D] after each attended to those of its own group."""
    maps, normed = block.heads, block.norm(slots)
    query, keys, values = maps.query(normed), maps.key(normed), maps.value(normed)
    rows = []
    for k, slot in enumerate(slots):
        start = k // block.size * block.size
        mates = range(start, start + block.size)
        heard = []
        for part in heads_of(maps):
            d = part.stop - part.start
            scores = torch.stack([query[k, part] @ keys[m, part] / math.sqrt(d) for m in mates])
            weights = scores.softmax(dim=0)
            heard.append(sum(w * values[m, part] for w, m in zip(weights, mates, strict=True)))
        row = slot + maps.out(torch.cat(heard))
        rows.append(row + block.mlp(row))
    return torch.stack(rows)


def shatter(discovery: Any, patches: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Phi [K, D] and A^slot [K, N] of patches [N, D]."""
    slots = first_slots(discovery.first, noise)
    shares: list[Tensor] = []
    for _ in range(discovery.config.iterations):
        slots, shares = aggregate(discovery.aggregate, slots, patches)
        if discovery.interact is not None:
            slots = interact(discovery.interact, slots)
    linear, norm = discovery.out
    return norm(linear(slots)), sum(shares) / len(shares)  # type: ignore[return-value]


def fuse(fusion: Any, sentence: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """psi [D] and A^fuse [K] of one sentence [D] and one image's slots [K, D]."""
    maps = fusion.heads
    query = maps.query(fusion.norm_sentences(sentence))
    keys, values = maps.key(fusion.norm_slots(slots)), maps.value(fusion.norm_slots(slots))
    heard, shares = [], []
    for part in heads_of(maps):
        scores = keys[:, part] @ query[part] / math.sqrt(part.stop - part.start)
        weights = scores.exp() / scores.exp().sum()
        shares.append(weights)
        heard.append(weights @ values[:, part])
    y = sentence + maps.out(torch.cat(heard))
    z = y + fusion.mlp(y)
    return z / z.norm(), sum(shares) / len(shares)  # type: ignore[return-value]


def rebuild(decoder: Any, slots: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, F] and alpha [K, N]: every slot through the whole MLP at every place."""
    features, logits = [], []
    for slot in slots:
        x = F.relu(decoder.first(slot + places))
        for layer in decoder.inner:
            x = F.relu(layer(x))
        x = decoder.last(x)
        features.append(x[:, :-1])
        logits.append(x[:, -1])
    alpha = torch.stack(logits).softmax(dim=0)
    return sum(a[:, None] * f for a, f in zip(alpha, features, strict=True)), alpha


def learned_places(decoder: Any, hw: tuple[int, int]) -> Tensor:
    """[h w, D]: a row's vector beside a column's."""
    cells = [(row, column) for row in range(hw[0]) for column in range(hw[1])]
    return torch.stack(
        [torch.cat([decoder.rows.weight[r], decoder.columns.weight[c]]) for r, c in cells]
    )


def look(method: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """V [N, F] of an image [3, H, W], and its patches [N, D] with their positions."""
    features = method.vision(image[None])[0]
    side = method.config.vision.patch
    hw = image.shape[1] // side, image.shape[2] // side
    return features, method.project_patches(features) + sines(hw, method.config.width)


def read(method: Any, words: Tensor) -> Tensor:
    """x^T [D] of ids [T] without padding."""
    state = method.text.bert(input_ids=words[None]).last_hidden_state[0, 0]
    sentence: Tensor = method.project_sentences(state)
    return sentence


def respond(method: Any, image: Tensor, words: Tensor, noises: list[Tensor]) -> Tensor:
    """M [N] of one pair: the weighted sum of the slots' maps, a mean over draws of noise."""
    _, patches = look(method, image)
    maps = []
    for noise in noises:
        slots, attention = shatter(method.discover, patches, noise)
        _, weights = fuse(method.fusion, read(method, words), slots)
        maps.append(sum(w * row for w, row in zip(weights, attention, strict=True)))
    return torch.stack(maps).mean(dim=0)


def losses(
    method: Any, images: Tensor, words: list[Tensor], image_of: list[int], noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """L_C3 with every image a rival, and L_rec, pair by pair."""
    seen = [look(method, image) for image in images]
    slots = [
        shatter(method.discover, patches, noise)[0]
        for (_, patches), noise in zip(seen, noises, strict=True)
    ]
    tau = method.config.loss.temperature
    contrast = []
    for ids, own in zip(words, image_of, strict=True):
        x = read(method, ids)
        logits = torch.stack([x.detach() @ fuse(method.fusion, x, one)[0] / tau for one in slots])
        contrast.append(logits.exp().sum().log() - logits[own])
    side = method.config.vision.patch
    hw = images.shape[2] // side, images.shape[3] // side
    decoder = method.decoder
    places = sines(hw, method.config.width) if decoder.rows is None else learned_places(decoder, hw)
    errors = [
        ((rebuild(decoder, one, places)[0] - features.detach()) ** 2).mean()
        for one, (features, _) in zip(slots, seen, strict=True)
    ]
    return torch.stack(contrast).mean(), torch.stack(errors).mean()
