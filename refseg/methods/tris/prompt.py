"""The bilateral prompt: pixels hear the texts, and texts the pixels, before the two are compared.

    visual half   A = softmax over texts  (Qv Kt^T / sqrt C),   dV = IN(conv1x1(A Vt))
    text half     A = softmax over pixels (Qt Kv^T / sqrt C),   dL = linear(A Vv)

Qv, Kv, Vv: 1 x 1 convolution, instance norm, ReLU of the pixels; Qt, Kt, Vt: linear, ReLU of the
texts. Over the batch's texts the visual half is a trap: with one text, as in every answer, A is 1
everywhere, A Vt the same at each pixel, and its norm nothing but the norm's bias (`alone`). Over
the words of the text itself (`heard`) it means the same while learning and answering.

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

    def heard(self, pixels: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """dV [R, N, C] of R pairs, where pixels [R, N, C] attend to words [R, T, C]."""
        keys, values = F.relu(self.text_key(words)), F.relu(self.text_value(words))
        scores = self.pixel_query(pixels) @ keys.transpose(1, 2) * self.scale  # [R, N, T]
        weights = scores.masked_fill(~word_mask[:, None], float("-inf")).softmax(dim=-1)
        added: Tensor = self.pixel_norm(self.to_pixels(weights @ values))
        return added

    def to_all(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """dL [I, B, C]: every text attends to the pixels of every image."""
        query = F.relu(self.text_query(texts))
        weights = (query @ self.pixel_key(pixels).transpose(1, 2) * self.scale).softmax(dim=-1)
        added: Tensor = self.to_texts(weights @ self.pixel_value(pixels))
        return added

    def to_own(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """dL [B, C]: every text attends to the pixels [B, N, C] of its own image."""
        query = F.relu(self.text_query(texts))[:, None]  # [B, 1, C]
        weights = (query @ self.pixel_key(pixels).transpose(1, 2) * self.scale).softmax(dim=-1)
        added: Tensor = self.to_texts(weights @ self.pixel_value(pixels))
        return added[:, 0]
