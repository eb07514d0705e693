"""The bilateral prompt: pixels hear the texts, and texts the pixels, before the two are compared.

    visual half   A = softmax over texts  (Qv Kt^T / sqrt C),   dV = IN(conv1x1(A Vt))
    text half     A = softmax over pixels (Qt Kv^T / sqrt C),   dL = linear(A Vv)

Qv, Kv, Vv: 1 x 1 convolution, instance norm, ReLU of the pixels; Qt, Kt, Vt: linear, ReLU of the
texts. Over the batch's texts the visual half is a trap: with one text, as in every answer, A is 1
everywhere, A Vt the same at each pixel, and its norm nothing but the norm's bias (`alone`). Over
the words of the text itself (`heard`) it means the same while learning and answering.

`heard_along` is the product of that dV with one vector per image and text, which is all that
learning asks of it, without dV of all pairs: shares over words let words be moved before they are
summed, and a mean and a variance over pixels are those of the shares.

Letters: I images, B texts, N pixels, T words, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpaceNorm(nn.Module):
    """Instance norm over the pixels of [..., N, C], affine; with one pixel it is the bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.mean(dim=-2, keepdim=True)
        spread = pixels.var(dim=-2, keepdim=True, unbiased=False)
        return (pixels - mean) * (spread + self.eps).rsqrt() * self.weight + self.bias


class _Pixels(nn.Module):
    """1 x 1 convolution, instance norm, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Linear(width, width), SpaceNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(pixels)))


class BilateralPrompt(nn.Module):
    """What is added to pixels [I, N, C] and texts [B, C], both of unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.pixel_query, self.pixel_key, self.pixel_value = (_Pixels(width) for _ in range(3))
        self.text_query, self.text_key, self.text_value = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.to_pixels, self.pixel_norm = nn.Linear(width, width), SpaceNorm(width)
        self.to_texts = nn.Linear(width, width)

    def together(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """dV [I, N, C] where every pixel attends to all texts of the batch."""
        keys, values = F.relu(self.text_key(texts)), F.relu(self.text_value(texts))
        weights = (self.pixel_query(pixels) @ keys.T * self.scale).softmax(dim=-1)
        added: Tensor = self.pixel_norm(self.to_pixels(weights @ values))
        return added

    def alone(self) -> Tensor:
        """dV [C], the same for every pixel, image and text: `together` with one text."""
        return self.pixel_norm.bias

    def heard(self, pixels: Tensor, words: Tensor, word_mask: Tensor, image_of: Tensor) -> Tensor:
        """dV [B, N, C], where the pixels [I, N, C] of each text's image attend to its words
        [B, T, C].
        """
        keys, values = F.relu(self.text_key(words)), F.relu(self.text_value(words))
        query = self.pixel_query(pixels)[image_of]
        scores = query @ keys.transpose(1, 2) * self.scale  # [B, N, T]
        weights = scores.masked_fill(~word_mask[:, None], float("-inf")).softmax(dim=-1)
        added: Tensor = self.pixel_norm(self.to_pixels(weights @ values))
        return added

    def heard_along(
        self, pixels: Tensor, words: Tensor, word_mask: Tensor, along: Tensor
    ) -> Tensor:
        """<dV, along> [I, N, B] of every text's words [B, T, C] at pixels [I, N, C] of every image.

        along: [I, B, C]. The same as `heard` of each pair, in T / N of its memory.
        """
        images, texts = along.shape[:2]
        keys = F.relu(self.text_key(words)).flatten(0, 1)  # [B T, C]
        scores = (self.pixel_query(pixels) @ keys.T * self.scale).unflatten(2, (texts, -1))
        shares = scores.masked_fill(~word_mask, float("-inf")).softmax(dim=-1)  # [I, N, B, T]
        shares = (shares - shares.mean(dim=1, keepdim=True)).permute(2, 0, 1, 3)  # [B, I, N, T]
        moved = self.to_pixels(F.relu(self.text_value(words)))  # [B, T, C]
        spread = shares.transpose(2, 3) @ shares / shares.shape[2]  # [B, I, T, T]
        spread = (spread.flatten(1, 2) @ moved).unflatten(1, (images, -1))  # [B, I, T, C]
        variance = (spread * moved[:, None]).sum(dim=2).clamp_min(0)  # [B, I, C]
        norm, along = self.pixel_norm, along.transpose(0, 1)
        weights = (variance + norm.eps).rsqrt() * norm.weight * along  # [B, I, C]
        said = shares @ (weights @ moved.transpose(1, 2))[..., None]  # [B, I, N, 1]
        pairs: Tensor = said[..., 0] + (along @ norm.bias)[..., None]  # [B, I, N]
        return pairs.permute(1, 2, 0)

    def to_all(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """dL [I, B, C]: every text attends to the pixels of every image."""
        query = F.relu(self.text_query(texts))
        weights = (query @ self.pixel_key(pixels).transpose(1, 2) * self.scale).softmax(dim=-1)
        added: Tensor = self.to_texts(weights @ self.pixel_value(pixels))
        return added

    def to_own(self, pixels: Tensor, texts: Tensor, image_of: Tensor) -> Tensor:
        """dL [B, C]: every text attends to the pixels of its own image, of [I, N, C]."""
        query = F.relu(self.text_query(texts))[:, None]  # [B, 1, C]
        keys, values = self.pixel_key(pixels)[image_of], self.pixel_value(pixels)[image_of]
        weights = (query @ keys.transpose(1, 2) * self.scale).softmax(dim=-1)
        added: Tensor = self.to_texts(weights @ values)
        return added[:, 0]
