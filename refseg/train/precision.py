"""Whether bfloat16 is worth its roundings: which processors multiply in it.

Without instructions for it torch multiplies bfloat16 matrices one number at a time: 50 times slower
than float32 (docs/decisions/0029).
"""

from __future__ import annotations

import torch

from refseg.train.config import TrainConfig


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions that multiply matrices of bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # What torch's own compiler asks before it trusts its CPU kernels with the type.
        mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def runs_in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether forward and loss of a training run under autocast on `device`."""
    if config.precision == "auto":
        return multiplies_bfloat16(device)
    return config.precision == "bf16"
