"""SAM's mask decoder for many boxes on one image, with the image's share of the work done once.

The same function as transformers' `SamMaskDecoder`, whose modules and weights it uses, in another
order of arithmetic. There each box gets a copy of the image's 4,096 places, which four linear maps
of every attention then go through. Here

- the first layer reads the image before any box has changed it: its keys and values are shared;
- elsewhere the maps are moved from the places to the few tokens of a box: in a score
  q (W_k x)ᵀ = (q W_k) xᵀ the map of the places x becomes one of the tokens q, likewise in sums of
  values, W_v (Σ a x), and in what is written back, a (v W_o);
- the last attention serves the two tokens that are read: the quality's and the single mask's;
- transposed convolutions of stride 2 and kernel 2 are linear maps of each place, left in the
  order of places until the logits are small.

A box takes about half the time and half the memory.

Letters: n boxes, T tokens (the quality's, the masks', two corners), P = G x G places, C channels,
h heads of d channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def decode_single(
    decoder: Any, image: Tensor, places: Tensor, corners: Tensor
) -> tuple[Tensor, Tensor]:
    """The single mask of each box: logits [n, 4G, 4G] and predicted IoU [n].

    decoder: a SamMaskDecoder in evaluation mode. image: [C, G, G], embedding with the "no mask"
    code added. places: [C, G, G], position codes. corners: [n, 2, C], codes of the boxes.
    Equal to the decoder's own answer with `multimask_output=False`.
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    codes = torch.cat([own.expand(len(corners), -1, -1), corners], dim=1)  # [n, T, C]
    code = places.flatten(1).T  # [P, C]
    tokens, seen = codes, image.flatten(1).T.contiguous()
    for layer in decoder.transformer.layers:
        tokens, seen = _layer(layer, (tokens, codes), (seen, code))
    tokens, codes = tokens[:, :2], codes[:, :2]
    last = decoder.transformer
    read = _read(last.final_attn_token_to_image, tokens + codes, (seen, code))
    tokens = last.layer_norm_final_attn(tokens + read)
    direction = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    iou: Tensor = decoder.iou_prediction_head(tokens[:, 0])
    return _upscaled(decoder, seen, direction), iou[:, 0]


def _layer(
    layer: Any, of_box: tuple[Tensor, Tensor], of_image: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """One two-way block: tokens [n, T, C] and places [n, P, C] after it.

    of_box: tokens and their codes, [n, T, C]. of_image: places, [P, C] as long as they are the
    same for all boxes, then [n, P, C], and their codes, [P, C].
    """
    tokens, codes = of_box
    if layer.skip_first_layer_pe:
        tokens = _attend(layer.self_attn, tokens, tokens, tokens)
    else:
        coded = tokens + codes
        tokens = tokens + _attend(layer.self_attn, coded, coded, tokens)
    tokens = layer.layer_norm1(tokens)
    tokens = tokens + _read(layer.cross_attn_token_to_image, tokens + codes, of_image)
    tokens = layer.layer_norm2(tokens)
    tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
    attention = layer.cross_attn_image_to_token
    written = _written(attention, of_image, tokens + codes, tokens)
    return tokens, layer.layer_norm4(written.add_(of_image[0]))


def _attend(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Plain attention, [n, T, C]; keys and values may be [P, C], the same for all boxes."""
    q = _heads(attention, attention.q_proj(queries))
    k, v = (_heads(attention, x) for x in (attention.k_proj(keys), attention.v_proj(values)))
    if keys.ndim == 2:
        k, v = k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1)
    mixed = F.scaled_dot_product_attention(q, k, v)
    attended: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return attended


def _read(attention: Any, queries: Tensor, of_image: tuple[Tensor, Tensor]) -> Tensor:
    """What the tokens, [n, T, C], take from the places: [n, T, C]."""
    places, code = of_image
    if places.ndim == 2:
        return _attend(attention, queries, places + code, places)
    q = _heads(attention, attention.q_proj(queries)) * attention.scaling  # [n, h, T, d]
    # A key's bias adds the same to all scores of a token and goes in the softmax.
    q = q @ _by_head(attention, attention.k_proj)  # [n, h, T, C]
    shares = _products(q.flatten(1, 2), of_image).softmax(dim=-1)  # [n, hT, P]
    sums = (shares @ places).view(q.shape)  # [n, h, T, C]
    values = sums @ _by_head(attention, attention.v_proj).mT  # [n, h, T, d]
    taken: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2) + attention.v_proj.bias)
    return taken


def _written(
    attention: Any, of_image: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
) -> Tensor:
    """What the places take from the tokens, [n, T, C]: [n, P, C]."""
    k = _heads(attention, attention.k_proj(keys)) * attention.scaling  # [n, h, T, d]
    offset = k @ attention.q_proj.bias.view(k.shape[1], -1, 1)  # [n, h, T, 1]
    k = k @ _by_head(attention, attention.q_proj)  # [n, h, T, C]
    scores = _products(k.flatten(1, 2), of_image).view(*k.shape[:3], -1)  # [n, h, T, P]
    shares = (scores + offset).softmax(dim=2).flatten(1, 2)  # [n, hT, P]
    v = _heads(attention, attention.v_proj(values))
    out = attention.out_proj
    v = (v @ out.weight.T.reshape(v.shape[1], -1, len(out.bias))).flatten(1, 2)  # [n, hT, C]
    return torch.baddbmm(out.bias, shares.mT, v)


def _products(vectors: Tensor, of_image: tuple[Tensor, Tensor]) -> Tensor:
    """Products of vectors [n, V, C] with places that have their codes added: [n, V, P]."""
    places, code = of_image
    if places.ndim == 2:
        return vectors @ (places + code).T
    # Cheaper than one more copy of the places of every box.
    return (vectors @ code.T).baddbmm_(vectors, places.mT)


def _heads(attention: Any, x: Tensor) -> Tensor:
    """[..., T, hd] -> [..., h, T, d]."""
    return x.view(*x.shape[:-1], attention.num_attention_heads, -1).transpose(-3, -2)


def _by_head(attention: Any, linear: nn.Linear) -> Tensor:
    """The weight of a map to all heads, [h, d, C]."""
    return linear.weight.view(attention.num_attention_heads, -1, linear.in_features)


def _upscaled(decoder: Any, places: Tensor, direction: Tensor) -> Tensor:
    """Logits [n, 4G, 4G]: places [n, P, C] made 4 x 4 cells each, along `direction` [n, C / 8]."""
    norm = decoder.upscale_layer_norm
    x = _doubled(decoder.upscale_conv1, places)  # [n, P, 4, C / 4]
    x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = F.gelu(_doubled(decoder.upscale_conv2, x))  # [n, P, 4, 4, C / 8]
    cells = x.flatten(1, 3) @ direction[:, :, None]
    side = round(places.shape[1] ** 0.5)
    grid = cells.view(-1, side, side, 2, 2, 2, 2)  # box, rows, columns, then twice row and column
    return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * side, 4 * side)


def _doubled(deconv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution 2 x 2 of stride 2 on [..., C]: [..., 4, C'], upper row first."""
    weight = deconv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [4C', C]
    assert deconv.bias is not None
    return F.linear(x, weight, deconv.bias.repeat(4)).view(*x.shape[:-1], 4, -1)
