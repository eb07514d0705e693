"""The indicator: two learned vectors that tell the generator which proposal is meant.

Paper map (indicator module; Eq. 2 reads its result):
  I(k): row k is I_pos, all others I_neg; indicated objects O + I(k)  -> `Indicator.mark`
  ablations a to c, "only the target object features"                 -> `target_only`
We do not differ. The generator's fast path uses that a linear map W of the marked objects is
W(O + I_neg) everywhere, plus W(I_pos - I_neg) at k (generator.py); `mark` is what it must equal.
Letters: I images, E objects to describe, N proposals of an image, C width of a proposal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.mutual.config import IndicatorConfig


class Indicator(nn.Module):
    """I_pos and I_neg, [C] each (no parameters in target-only mode)."""

    def __init__(self, config: IndicatorConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        if not config.target_only:
            self.positive = nn.Parameter(config.init_std * torch.randn(channels))
            self.negative = nn.Parameter(config.init_std * torch.randn(channels))

    def mark(self, objects: Tensor, image_of: Tensor, target: Tensor) -> Tensor:
        """objects [I, N, C], image_of [E] int64, target k [E] int64 in 0..N-1 -> [E, N, C].

        Row k is to the bit O_k + I_pos, any other O_i + I_neg. Target-only: [E, 1, C], O_k.
        """
        if self.config.target_only:
            return objects[image_of, target][:, None]
        chosen = F.one_hot(target, objects.shape[1]).bool()  # [E, N]
        added = torch.where(chosen[..., None], self.positive, self.negative)
        return objects[image_of] + added

    def difference(self) -> Tensor:
        """I_pos - I_neg, [C]. Not in target-only mode."""
        return self.positive - self.negative
