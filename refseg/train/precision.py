"""Whether bfloat16 is worth its roundings: where torch has kernels that multiply in it.

Elsewhere, as on processors with AVX2 alone, it multiplies bfloat16 matrices one number at a time:
50 times slower than float32 (docs/decisions/0029).
"""

from __future__ import annotations

import torch

from refseg.train.config import TrainConfig


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether torch has kernels for products of bfloat16 matrices on `device`.

    On x86 it has them from AVX-512 on; how much they gain there depends on the processor.
    """
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
