"""The arms of the ablation: what each changes in the settings of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from remid.errors import ConfigError
from remid.train.config import TrainConfig, make_train_config

#: Room for a full trace, which the default of compact ones does not give (docs/training-data.md has lengths).
_FULL_TOKENS = 640


@dataclass(frozen=True, slots=True)
class Arm:
    """words: what it is, in tables. changed: settings other than those of the whole training.

    epochs: times as many in supervised stages: an arm without CoRL trains q2 once, a round of CoRL trains it again, so
    longer arms ask whether the second pass alone is what helps. trace_tokens: at least so many. shared: q1 and q2 are
    one adapter.
    """

    words: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 1
    trace_tokens: int = 0
    shared: bool = False


_SFT: dict[str, Any] = {"rounds": 0}
_NONE: dict[str, Any] = {"rounds": 0, "reasoning": False}
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "full": Arm("full: cold start and CoRL"),
        "sft": Arm("without CoRL", _SFT),
        "sft-longer": Arm("without CoRL, twice the epochs", _SFT, epochs=2),
        "none": Arm("without reasoning", _NONE),
        "none-longer": Arm("without reasoning, twice the epochs", _NONE, epochs=2),
        "extractive": Arm("full, from extractive traces", {"traces": "extractive"}),
        "extractive-sft": Arm("without CoRL, extractive traces", _SFT | {"traces": "extractive"}),
        "input": Arm("full, from traces by the rule without the reference", {"traces": "input"}),
        "input-sft": Arm("without CoRL, traces by the rule without the reference", _SFT | {"traces": "input"}),
        "model": Arm("full, from traces by a model", {"traces": "model"}),
        "model-sft": Arm("without CoRL, traces by a model", _SFT | {"traces": "model"}),
        "shared-sft": Arm("without CoRL, one adapter for both", _SFT, shared=True),
        "quarter-sft": Arm("without CoRL, a quarter of each trace", _SFT | {"trace_share": 0.25}),
        "half-sft": Arm("without CoRL, half of each trace", _SFT | {"trace_share": 0.5}),
        "long-sft": Arm(
            "without CoRL, traces in the full format", _SFT | {"trace_format": "full"}, trace_tokens=_FULL_TOKENS
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Draws:
    """Traces that q1 draws of each test sample besides the greedy one, 1: none, and at which temperature."""

    count: int = 1
    temperature: float = 0.5


GREEDY = Draws()

#: Behind an arm's name: the same estimator, scored by the mean over several traces that its q1 draws.
MIXED = "-mixed"


def arm_words(name: str) -> str:
    """What an arm is, in tables."""
    arm = name.removesuffix(MIXED)
    return ARMS[arm].words if arm == name else f"{arm}, mean over draws"


def chosen_arms(names: Sequence[str]) -> tuple[str, ...]:
    """The arms in our order. Raises ConfigError for an unknown one, or for fewer than two."""
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ConfigError(f"arms: no {', '.join(unknown)}; there are {', '.join(ARMS)}")
    if len(set(names)) < 2:
        raise ConfigError("arms: give at least two, such as full,sft,none; one cannot be compared")
    return tuple(name for name in ARMS if name in names)


def arm_settings(config: TrainConfig, name: str) -> TrainConfig:
    """The settings of a whole training as an arm has them."""
    arm = ARMS[name]
    changed = config.model_dump() | dict(arm.changed)
    if changed["traces"] != "model":
        changed["author"] = {}  # writes for others alone
    changed["sft"]["epochs"] = config.sft.epochs * arm.epochs
    changed["grpo"]["trace_tokens"] = max(config.grpo.trace_tokens, arm.trace_tokens)
    return make_train_config(**changed)
