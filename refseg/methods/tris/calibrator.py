"""The calibrator: a frozen image-text model that says whether what a map leaves of an image is
what the text means (L_cal), and which of several maps is (PRMS).

It is a judge, no part of the method: its weights are neither trained nor saved with it.
Letters: B texts, K texts asked at once, E width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.nn.clip import PIXEL_MEAN, PIXEL_STD
from refseg.nn.clip_pair import ClipPair

#: Texts whose embedding is kept: some 300 MB at most for the published calibrator.
KEPT = 150_000
#: Texts embedded together where they are kept: always so many of one width, filled up, since the
#: last bit of a product depends on its shape and a resumed run asks in other company.
TOGETHER = 32
Channels = tuple[float, float, float]


class Calibrator:
    """given: mean and std by which the pixels that come in were normalised, 0..1 per channel.

    own_pixels: show the pair pixels normalised as it knows them, not as they come. own: what it
    knows. cache: keep the embedding of each text, which no training changes.
    """

    def __init__(
        self,
        pair: ClipPair,
        given: tuple[Channels, Channels],
        *,
        own_pixels: bool = False,
        own: tuple[Channels, Channels] = (PIXEL_MEAN, PIXEL_STD),
        cache: bool = True,
    ) -> None:
        self.pair = pair.eval().requires_grad_(False)
        self.size = pair.config.vision.image_size
        self.given, self.own, self.own_pixels, self.cache = given, own, own_pixels, cache
        self._known: dict[bytes, Tensor] = {}

    def texts(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """[K, E] float32 unit vectors of texts [K, T]; one that was asked before is looked up."""
        self._to(words.device)
        if not self.cache:
            return self._embedded(words, word_mask)
        keys = _keys(words, word_mask)
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            if len(self._known) + len(new) > KEPT:
                self._known.clear()
                new = {key: row for row, key in enumerate(keys)}
            rows = list(new.values())
            self._known.update(zip(new, self._alike(words[rows], word_mask[rows]), strict=True))
        return torch.stack([self._known[key] for key in keys]).to(words.device)

    def seen(self, images: Tensor, masks: Tensor) -> Tensor:
        """[B, E] float32 unit vectors of images [B, 3, H, W] times masks [B, H, W].

        What a mask takes away becomes the normalised zero, the mean colour. Gradients reach the
        masks and images, never the weights.
        """
        self._to(images.device)
        size = (self.size, self.size)
        with torch.autocast(images.device.type, enabled=False):
            shown = _resized(self._normalised(images.float()), size)
            left = shown * _resized(masks.float()[:, None], size)
            return self.pair.embed_images(left).float()

    def _normalised(self, images: Tensor) -> Tensor:
        if not self.own_pixels or self.given == self.own:
            return images
        (mean, std), (own_mean, own_std) = self.given, self.own
        shift, scale, own_shift, own_scale = (
            images.new_tensor(part)[:, None, None] for part in (mean, std, own_mean, own_std)
        )
        return (images * scale + shift - own_shift) / own_scale

    @torch.no_grad()
    def _embedded(self, words: Tensor, word_mask: Tensor) -> Tensor:
        with torch.autocast(words.device.type, enabled=False):
            return self.pair.embed_texts(words, word_mask).float()

    def _alike(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """As `_embedded`, each text with the same bits whatever the others are."""
        more = self.pair.config.text.max_positions - words.shape[1]
        words = F.pad(words.masked_fill(~word_mask, 0), (0, more))
        word_mask = F.pad(word_mask, (0, more))
        found = []
        for start in range(0, len(words), TOGETHER):
            rows = torch.arange(start, start + TOGETHER, device=words.device)
            filled = rows.clamp(max=len(words) - 1)
            found.append(self._embedded(words[filled], word_mask[filled]))
        return torch.cat(found)[: len(words)]

    def _to(self, device: torch.device) -> None:
        if next(self.pair.parameters()).device != device:
            self.pair.to(device)
            self._known.clear()


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == size:
        return maps  # what interpolation to the same size gives, without its cost
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def _keys(words: Tensor, word_mask: Tensor) -> list[bytes]:
    """What tells texts apart: their real ids, however they are padded."""
    rows, lengths = words.cpu().numpy(), word_mask.sum(dim=1).tolist()
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def calibration(
    seen: Tensor, own: Tensor, others: Tensor | None, weights: Tensor, *, clamp: bool
) -> tuple[Tensor, Tensor]:
    """L_pos and L_neg of what maps leave [B, E], their texts [B, E] and others [B, n, E].

    L_pos = -ln cos(seen, own), the cosine clamped to 1e-4..0.9999; L_neg = -ln(1 - cos(seen,
    other)), clamped alike if asked. Means over n, and over B by the weights [B]. (After CLIMS,
    CVPR 2022, without its background texts and area term.)
    """
    total = weights.sum().clamp(min=1e-6)
    near = (seen * own).sum(dim=1).clamp(1e-4, 0.9999)
    attract = (-near.log() * weights).sum() / total
    if others is None:
        return attract, torch.zeros((), device=seen.device)
    far = 1 - torch.einsum("be,bne->bn", seen, others)
    far = far.clamp(1e-4, 0.9999) if clamp else far
    return attract, ((-far.log()).mean(dim=1) * weights).sum() / total


def weighted_map(logits: Tensor, how: Literal["relu", "sigmoid"]) -> Tensor:
    """What an image is multiplied by: the response itself where positive, or its probability."""
    return logits.relu() if how == "relu" else logits.sigmoid()


def choose(seen: Tensor, texts: Tensor) -> tuple[int, Tensor]:
    """PRMS: which of the maps of a ref's K sentences shows best what all of them mean.

    seen: [K, E], what each map leaves of the image (`Calibrator.seen`). texts: [K, E]. score of map
    k = sum over the K sentences of the cosine; the first best wins. Returns it and the scores [K].
    """
    scores = (seen @ texts.T).sum(dim=1)
    return first_best(scores.tolist()), scores


def first_best(scores: Sequence[float]) -> int:
    """The first index of the largest score."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))
