"""What makes float32 on a CPU fast: matrix products through oneDNN.

PyTorch sends float32 `linear` to MKL, which on AMD processors leaves the wide vector units idle: measured here, oneDNN
is 2.2 times faster on the shapes of a 135M-parameter model (docs/results/scoring.md). oneDNN is part of every x86 build
of PyTorch; where it is not, nothing changes.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn

#: Weights up to this size are also kept in the order in which oneDNN reads them: 5% faster, for twice the memory.
PACKED_BYTES = 2 << 30
#: Rows for which the order is chosen. It serves any number.
_PACKED_ROWS = 1024


def has_onednn() -> bool:
    """Whether float32 products can go through oneDNN here."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def use_onednn(model: Any) -> bool:
    """Route the model's plain linear layers through oneDNN, in place. Returns whether that was possible.

    Gradients flow through them, also by oneDNN; a layer whose own weights learn goes the usual way meanwhile.
    """
    if not has_onednn():
        return False
    modules: list[Any] = list(model.modules())
    linear: list[Any] = [m for m in modules if type(m) is nn.Linear and m.weight.dtype == torch.float32]
    pack = sum(module.weight.nbytes for module in linear) <= PACKED_BYTES
    for module in linear:
        module.remid_packed = (module.weight._version, packed_weight(module.weight) if pack else None)
        module.forward = types.MethodType(_linear, module)
    return True


def _linear(self: Any, x: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and self.weight.requires_grad:
        return nn.functional.linear(x, self.weight, self.bias)
    version, packed = self.remid_packed
    if packed is None or self.weight._version != version:  # trained since
        packed = self.weight
    if torch.is_grad_enabled() and x.requires_grad:
        result: torch.Tensor = _Frozen.apply(x, self.weight, packed, self.bias)  # type: ignore[no-untyped-call]
        return result
    return product(x, packed, self.bias)


def packed_weight(weight: torch.Tensor) -> torch.Tensor:
    """A copy of a weight (out, in) in the order in which oneDNN reads it."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _PACKED_ROWS)
    return packed


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x (..., in) times a weight (out, in), packed or not, through oneDNN. No gradient."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Frozen(torch.autograd.Function):
    """A linear layer whose own weights do not learn, as below every LoRA adapter: the gradient is one product more."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(x, packed, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return product(grad, weight.t(), None), None, None, None
