"""LoRA adapters on a model: merged into it for inference, trained, saved and loaded with what they stand on.

What is peculiar to PEFT stays here: switching adapters also switches what is trainable, missing weights are only warned
about, a saved configuration names a path of this machine and lists its targets in another order in every process.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from remid.errors import ModelError
from remid.lm.chain import (
    CHAIN,
    CONFIG,
    WEIGHTS,
    Base,
    Chain,
    Estimator,
    digest_of,
    dump,
    next_key,
    read_chain,
    read_estimator,
    read_json,
    replacing,
    stack,
    verified,
    write_estimator,
)
from remid.lm.models import ModelSource

__all__ = [
    "Chain",
    "Estimator",
    "activate",
    "attach",
    "frozen_copy",
    "load_weights",
    "new_adapters",
    "read_chain",
    "read_estimator",
    "stack",
    "trainable_names",
    "write_adapter",
    "write_estimator",
]

#: What an adapter's settings may choose; everything else has PEFT's default.
_CHOSEN = ("r", "lora_alpha", "lora_dropout", "target_modules", "layers_to_transform", "fan_in_fan_out")
#: What has no influence on weights that are loaded.
_IDLE = ("peft_version", "inference_mode", "base_model_name_or_path", "revision", "task_type")


def attach(model: Any, folders: Sequence[Path], base_fingerprint: str) -> Any:
    """The model with adapters merged into its weights, lowest first, for inference. The model itself is changed.

    Sums are made in float32 and rounded once, whatever the type of the weights: several small changes in bfloat16 would
    be lost one by one. Raises ModelError as `stack` does, and where an adapter does not fit the model.
    """
    import torch
    from peft.tuners.lora.layer import LoraLayer

    key, peft_model = base_fingerprint, None
    # No digits: PEFT tells adapters by ".NAME." in parameter names, where layers have numbers.
    names = [f"stacked{'i' * k}" for k in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        key = next_key(key, verified(folder, key).digest)
        peft_model = _add(model if peft_model is None else peft_model, name, _lora_config(folder), folder)
        _fill(peft_model, name, _tensors(folder), folder)
    if peft_model is None:
        return model
    with torch.no_grad():
        for layer in peft_model.modules():
            if isinstance(layer, LoraLayer):
                weight = layer.get_base_layer().weight
                kind = weight.dtype
                if kind.itemsize < 4:
                    weight.data = weight.data.float()
                layer.merge(adapter_names=[name for name in names if name in layer.lora_A])
                weight.data = weight.data.to(kind)
    return peft_model.unload()


def write_adapter(
    peft_model: Any,
    adapter: str,
    folder: Path,
    *,
    base: ModelSource,
    stage: str,
    parents: Sequence[str],
    data: str,
    config: Mapping[str, Any],
) -> Chain:
    """Save one adapter of a PeftModel with its chain, whole or not at all; what was in `folder` is replaced.

    base: what the adapter was trained on, itself perhaps with adapters merged into it. parents: digests of the earlier
    stages of this adapter. data: digest of the training data. Raises StoreError where it cannot be written.
    """
    from safetensors.torch import save_file

    settings = copy.copy(peft_model.peft_config[adapter])
    settings.inference_mode = True
    settings.base_model_name_or_path = None  # a path of this machine, as PEFT has it; the chain names the base
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(peft_model, adapter).items()}
    with replacing(folder) as made:
        settings.save_pretrained(made)
        content = read_json(made / CONFIG)
        content["target_modules"] = sorted(content["target_modules"])  # a set, in another order in every process
        (made / CONFIG).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        chain = Chain(
            schema=1,
            name=adapter,
            base=Base(name=base.root.name, fingerprint=base.root.fingerprint),
            stands_on=base.fingerprint,
            digest=digest_of(made),
            stage=stage,
            parents=tuple(parents),
            data=data,
            config=dict(config),
            versions={name: version(name) for name in ("remid", "torch", "transformers", "peft", "trl")},
        )
        (made / CHAIN).write_text(dump(chain), encoding="utf-8")
    return chain


class LoraSizes(Protocol):
    """Rank, scale (alpha / r) and dropout of fresh adapters, and on how many of the last decoder layers (None: all)."""

    @property
    def r(self) -> int: ...
    @property
    def alpha(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def layers(self) -> int | None: ...


def new_adapters(model: Any, lora: LoraSizes, names: Sequence[str], seed: int) -> Any:
    """A PeftModel with fresh adapters on every linear layer but the last; the first is active. Changes the model.

    Fresh adapters change nothing that the model computes: one of their two factors is zero. Raises ModelError where
    the model has fewer decoder layers than asked for.
    """
    import torch
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        task_type="CAUSAL_LM",
        **_targets(model, lora.layers),
    )
    peft_model = model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in names:
            peft_model = _add(peft_model, name, copy.deepcopy(config), "new adapters")
    activate(peft_model, names[0])
    return peft_model


def _targets(model: Any, layers: int | None) -> dict[str, Any]:
    """Which modules get an adapter. PEFT takes its word for all of them only without a choice of layers."""
    import torch

    if layers is None:
        return {"target_modules": "all-linear"}
    count = model.config.get_text_config().num_hidden_layers
    if layers > count:
        raise ModelError(f"lora.layers: {layers} asked for, the model has {count}")
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }
    return {"target_modules": sorted(linear), "layers_to_transform": list(range(count - layers, count))}


def activate(peft_model: Any, name: str) -> None:
    """Switch to an adapter, and let its weights alone be trained."""
    peft_model.set_adapter(name)
    for parameter_name, parameter in peft_model.named_parameters():
        parameter.requires_grad_("lora_" in parameter_name and f".{name}." in parameter_name)


def trainable_names(peft_model: Any) -> tuple[str, ...]:
    """Names of the parameters that an optimizer would change, sorted."""
    return tuple(sorted(name for name, parameter in peft_model.named_parameters() if parameter.requires_grad))


def frozen_copy(peft_model: Any, name: str, to: str) -> None:
    """Make the adapter `to` equal to `name` as it is now. What is active and what is trainable stay as they were."""
    with _as_it_was(peft_model):
        if to not in peft_model.peft_config:
            _add(peft_model, to, copy.deepcopy(peft_model.peft_config[name]), f"a copy of {name}")
        _fill(peft_model, to, _state(peft_model, name), f"a copy of {name}")
    for parameter_name, parameter in peft_model.named_parameters():
        if f".{to}." in parameter_name:
            parameter.requires_grad_(False)


def load_weights(peft_model: Any, adapter: str, folder: Path, base_fingerprint: str) -> Chain:
    """Give an adapter of the PeftModel the weights in a folder. What is active and trainable stays as it was.

    Raises ModelError for weights that stand on another base, have changed, or have other sizes.
    """
    chain = verified(folder, base_fingerprint)
    with _as_it_was(peft_model):
        _fill(peft_model, adapter, _tensors(folder), folder)
    return chain


@contextmanager
def _as_it_was(peft_model: Any) -> Iterator[None]:
    active = peft_model.active_adapter
    trainable = set(trainable_names(peft_model))
    yield
    if peft_model.active_adapter != active:
        peft_model.set_adapter(active)
    for name, parameter in peft_model.named_parameters():
        parameter.requires_grad_(name in trainable)


def _lora_config(folder: Path) -> Any:
    """Settings of a plain LoRA. Raises ModelError for its variants: some of them read further files when loaded."""
    from peft import LoraConfig

    found = read_json(folder / CONFIG)
    chosen = {name: found[name] for name in _CHOSEN if name in found}
    try:
        config = LoraConfig(**chosen, task_type="CAUSAL_LM")
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error
    plain = json.loads(json.dumps(config.to_dict(), default=str))
    unknown = [
        name
        for name, value in found.items()
        if name not in (*_CHOSEN, *_IDLE) and value != plain.get(name) and (value or name in plain)
    ]
    if unknown:
        raise ModelError(f"{folder / CONFIG}: {', '.join(sorted(unknown))}: only plain LoRA is supported")
    return config


def _add(model: Any, name: str, config: Any, what: object) -> Any:
    """The model with one more adapter, as a PeftModel."""
    from peft import PeftModel, get_peft_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers; users can do nothing
            if not isinstance(model, PeftModel):
                return get_peft_model(model, config, adapter_name=name)
            model.add_adapter(name, config)
    except ValueError as error:
        raise ModelError(f"{what}: does not fit the model: {error}") from error
    return model


def _state(peft_model: Any, adapter: str) -> dict[str, Any]:
    """The adapter's own tensors, not copies, by the names they have in a file."""
    from peft import get_peft_model_state_dict

    # "auto" would ask the hub whether the vocabulary has changed.
    found: dict[str, Any] = get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    return found


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        found: dict[str, Any] = load_file(folder / WEIGHTS)
    except Exception as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read: {error}") from error
    return found


def _fill(peft_model: Any, adapter: str, tensors: Mapping[str, Any], what: object) -> None:
    """Give an adapter these weights, all of them and no other. PEFT alone would only warn of some that are missing."""
    import torch

    own = _state(peft_model, adapter)
    wrong = sorted(set(own) ^ set(tensors)) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ModelError(f"{what}: does not fit the model: {len(wrong)} weights differ in name or size ({wrong[0]})")
    with torch.no_grad():
        for key, tensor in tensors.items():
            own[key].copy_(tensor)
