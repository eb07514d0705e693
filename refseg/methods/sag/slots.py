"""Where slots begin, and the noise they are drawn with.

Letters: I images, S draws, K slots (K_g groups of K_s), D width.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.methods.sag.config import SlotsConfig

#: Steps that a normalised pixel is rounded to before images are told apart.
ROUNDED = 64


class FirstSlots(nn.Module):
    """noise [I, S, K, D] -> S^0 [I, S, K, D]; the slots of a group lie together.

    entity: mu_g + exp(s_g / 2) eps, s a log-variance that starts near ln(1 / D), so that a slot's
    noise starts with length 1 and slots of a group are as far from each other as from others.
    `config.apart` draws their means wider. random: mu + exp(s) eps of one Gaussian, its deviation
    near 1. query: K vectors, no noise.
    """

    def __init__(self, config: SlotsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.kind == "query":
            self.query = nn.Parameter(torch.randn(config.count, width))
            return
        gaussians = config.groups if config.kind == "entity" else 1
        # Xavier's bound for a [1, gaussians, D] tensor.
        bound = math.sqrt(6 / (gaussians * width + width))
        self.mean = nn.Parameter(torch.empty(gaussians, width).uniform_(-bound, bound))
        self.spread = nn.Parameter(torch.empty(gaussians, width).uniform_(-bound, bound))
        if config.kind == "entity":
            with torch.no_grad():
                self.spread.add_(math.log(1 / width))
                if config.apart is not None:
                    self.mean.normal_(std=config.apart)

    def forward(self, noise: Tensor) -> Tensor:
        """Raises ConfigError for noise of another number of slots."""
        count = noise.shape[2]
        check_count(count, self.config)
        if self.config.kind == "query":
            return self.query.expand(*noise.shape[:2], -1, -1)
        each = count // len(self.mean)
        deviation = (self.spread / 2 if self.config.kind == "entity" else self.spread).exp()
        mean, deviation = (part.repeat_interleave(each, 0) for part in (self.mean, deviation))
        return mean + deviation * noise


def check_count(count: int, config: SlotsConfig) -> None:
    """Raise ConfigError for slots that are not K_g x K_s."""
    if count != config.count:
        raise ConfigError(
            f"{count} slots, but {config.groups} groups of {config.per_group} are {config.count}",
            remedy="change slots.groups or slots.per_group, whose product they are",
        )


def group_of(config: SlotsConfig) -> Tensor:
    """The group of each slot, [K] int64."""
    return torch.arange(config.count) // config.group_size


def keyed_noise(images: Tensor, draws: int, shape: tuple[int, int], seed: int) -> Tensor:
    """[I, S, K, D] float32 standard normal, on the images' device.

    images: [I, 3, H, W]. A draw depends on the seed, its number, and the image's own pixels: not on
    the batch, its order or the device, nor on how many draws there are. (Noise of zero would be
    steady too, but makes the slots of a group one.)
    """
    rows = [
        np.random.default_rng([seed, key, draw]).standard_normal(shape, np.float32)
        for key in pixel_keys(images)
        for draw in range(draws)
    ]
    noise = torch.from_numpy(np.stack(rows)).view(len(images), draws, *shape)
    return noise.to(images.device)


def pixel_keys(images: Tensor) -> list[int]:
    """A number per image [I, 3, H, W] that follows from its pixels."""
    rounded = (images.detach().float() * ROUNDED).round().clamp(-(2**15), 2**15 - 1)
    pixels = rounded.to(torch.int16).cpu().contiguous().numpy()
    return [zlib.crc32(image.tobytes()) for image in pixels]
