"""Muon where bfloat16 is slow, and for convolutions: the same rule, turned in float32.

torch's own turns matrices in bfloat16. Where torch has no kernels for that, as on processors with
AVX2 alone, it takes 26 times as long as in float32 (docs/decisions/0029): most of a small model's
step. It refuses weights of convolutions; here they are matrices of an output channel a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon`, its state the same, whose iteration does not leave float32.

    Raises ValueError for sizes of steps other than "match_rms_adamw", and for vectors.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        known = torch.optim.Muon([torch.zeros(1, 1)], **options).defaults
        torch.optim.Optimizer.__init__(self, params, known)
        for group in self.param_groups:
            if group["adjust_lr_fn"] != "match_rms_adamw":
                raise ValueError("this Muon knows only adjust_lr_fn='match_rms_adamw'")
            if any(param.ndim < 2 for param in group["params"]):
                raise ValueError("Muon turns matrices and kernels, no vectors")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step. Raises ValueError for a closure: no caller has one."""
        if closure is not None:
            raise ValueError("this optimiser takes no closure")
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param, param.grad, group)

    def _step(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum: Tensor = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        matrix = update.flatten(1)
        turned = orthogonal(matrix, group).view(param.shape)
        size = 0.2 * max(matrix.shape) ** 0.5
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(turned, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor, group: Mapping[str, Any]) -> Tensor:
    """[m, n] -> [m, n] with singular values near 1: Newton-Schulz (Jordan 2024), in its type.

    group: ns_coefficients, ns_steps and eps, as torch's Muon has them.
    """
    a, b, c = group["ns_coefficients"]
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
