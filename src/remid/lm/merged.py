"""An adapter merged into its base for a while, so that writing token by token does one product a layer and not three.

Nothing of the model changes: the merged weights are copies, in the order in which oneDNN reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from remid.lm.cpu import PACKED_BYTES, has_onednn, packed_weight, product


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """A PeftModel as if its active adapter were merged, for inference; a model without adapters as it is.

    On a CPU in float32, and if all merged weights together are not larger than PACKED_BYTES; otherwise nothing changes.
    Weights must not change meanwhile.
    """
    layers = [layer for layer in model.modules() if _is_plain(layer)]
    if not has_onednn() or sum(layer.get_base_layer().weight.nbytes for layer in layers) > PACKED_BYTES:
        layers = []
    try:
        with torch.no_grad():
            for layer in layers:
                base = layer.get_base_layer()
                layer.forward = partial(_forward, packed_weight(_weight(layer)), base.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Whether it is a linear layer under LoRA of which one adapter is active."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or layer.disable_adapters or layer.merged or "forward" in vars(layer):
        return False
    base, names = layer.get_base_layer(), [name for name in layer.active_adapters if name in layer.lora_A]
    on_cpu = base.weight.device.type == "cpu" and base.weight.dtype == torch.float32
    plain = not any(layer.use_dora.get(name) or layer.lora_bias.get(name) for name in names)
    return type(base) is nn.Linear and on_cpu and len(names) == 1 and plain and not layer.fan_in_fan_out


def _weight(layer: Any) -> Tensor:
    (name,) = (name for name in layer.active_adapters if name in layer.lora_A)
    delta = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
    weight: Tensor = layer.get_base_layer().weight + delta * layer.scaling[name]
    return weight


def _forward(weight: Tensor, bias: Tensor | None, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return product(x, weight, bias)
