"""The settings of a training run: one frozen record that the command line, Python and every saved stage share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from remid.errors import ConfigError
from remid.lm.chain import AdapterDType
from remid.pipeline.prompts import PROMPT_VERSION

TraceOrigin = Literal["auto", "data", "extractive", "input", "model"]
#: How the likelihood of the reference becomes a reward: exp of its mean per token (the paper's), the mean, the sum, or
#: the mean minus that without a trace.
Transform = Literal["exp", "mean", "sum", "advantage"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuthorSettings(_Settings):
    """Who writes the first traces with `traces = "model"`. model: a server's, or a local folder, hub id or "builtin"
    (None: the base itself). server: address of an OpenAI-compatible one. tokens: limit of a trace, in the author's own
    (None: grpo.trace_tokens); a model that thinks first needs more."""

    model: str | None = None
    server: str | None = None
    tokens: int | None = Field(default=None, ge=8)


class LoraSettings(_Settings):
    """LoRA on every linear layer of the base but the last (the paper's sizes).

    layers: of the last so many decoder layers only (None: of all). Gradients then stop there, and a step costs less.
    """

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    layers: int | None = Field(default=None, ge=1)


class SftSettings(_Settings):
    """Supervised stages. rate: the highest learning rate. batch: sequences per optimizer step, `micro` at a time."""

    epochs: float = Field(default=3.0, gt=0)
    rate: float = Field(default=2e-4, gt=0)
    batch: int = Field(default=8, ge=1)
    micro: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _whole_parts(self) -> SftSettings:
        if self.batch > self.micro and self.batch % self.micro:
            raise ValueError(f"batch: {self.batch} sequences cannot run {self.micro} at a time (micro)")
        return self


class GrpoSettings(_Settings):
    """GRPO stages. samples: prompts drawn from the training data in a stage. generations: completions per prompt.

    prompts_per_step: prompts whose completions make one optimizer step; what `samples` leaves over is not used.
    trace_tokens, response_tokens: limits of what is sampled. reward: see Transform. ratio: whether q2's reward compares
    a response with the reference per token ("mean") or as a whole ("sum"). likelihood, format, length: weights of q1's
    rewards; typical, shape: of q2's.
    length_target: tokens of core features at which the length reward is full. scale: what advantages are divided by.
    beta, response_beta: of the KL term that holds q1, q2 to what it was before the stage, 0 for none. q2's reward asks
    for likely responses, and without a strong hold makes it sharper than what it is to estimate (docs/training.md).
    """

    samples: int = Field(default=64, ge=1)
    generations: int = Field(default=4, ge=2)
    prompts_per_step: int = Field(default=4, ge=1)
    rate: float = Field(default=1e-5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    trace_tokens: int = Field(default=160, ge=8)
    response_tokens: int = Field(default=96, ge=4)
    reward: Transform = "exp"
    ratio: Literal["mean", "sum"] = "mean"
    likelihood: float = 1.0
    format: float = 1.0
    length: float = 0.0
    typical: float = 1.0
    shape: float = 1.0
    length_target: int = Field(default=600, ge=1)
    scale: Literal["group", "batch", "none"] = "group"
    beta: float = Field(default=0.0, ge=0)
    response_beta: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _a_step_at_least(self) -> GrpoSettings:
        if self.samples < self.prompts_per_step:
            raise ValueError(
                f"samples: {self.samples} prompts make no step of {self.prompts_per_step} (prompts_per_step)"
            )
        return self


class TrainConfig(_Settings):
    """Everything that a trained estimator depends on, with its defaults.

    data: benchmark files with a training split (IDTrain). traces: where the first traces come from; "auto" takes those
    in the data if every training sample has one that parses, else extractive ones. trace_share: of each field's words
    that the first traces keep. prompts: where q2 is shown core features, 1 in the system message, 2 behind the last
    turn (docs/training.md says when which is better); the estimator is asked in the same way. drop_leaks: leave out
    training samples that are test samples too, instead of refusing to begin. limit: at most so many training samples.
    holdout: share of them that is never trained on and by which stages are compared. max_tokens: of a prompt and its
    completion together; what is longer is left out and counted.
    sft: of the cold start; sft_again: of q2 on the new traces of a round (None: as the cold start). It has seen these
    references before, so a few hundred samples want fewer epochs and a lower rate here (docs/training.md).
    rounds: of CoRL at most; patience: rounds without a better held-out likelihood before it stops.
    reasoning: False trains q2 alone, without traces. adapter_dtype: of the weights in the estimator; stages keep
    float32, since they are trained on. author: of traces from a model.
    """

    data: tuple[Path, ...] = Field(min_length=1)
    mapping: Path | None = None
    taxonomy: Path | None = None
    model: str = "builtin"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    traces: TraceOrigin = "auto"
    trace_format: Literal["compact", "full"] = "compact"
    trace_share: float = Field(default=1.0, gt=0, le=1)
    prompts: Literal[1, 2] = PROMPT_VERSION
    reasoning: bool = True
    drop_leaks: bool = False
    limit: int | None = Field(default=None, ge=4)
    holdout: float = Field(default=0.15, gt=0, lt=0.9)
    max_tokens: int = Field(default=2048, ge=32)
    adapter_dtype: AdapterDType = "float32"
    author: AuthorSettings = AuthorSettings()
    lora: LoraSettings = LoraSettings()
    sft: SftSettings = SftSettings()
    sft_again: SftSettings | None = None
    grpo: GrpoSettings = GrpoSettings()
    rounds: int = Field(default=1, ge=0)
    patience: int = Field(default=1, ge=1)
    stop_on_collapse: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_way(self) -> TrainConfig:
        if not self.reasoning and self.rounds:
            raise ValueError("reasoning=False trains q2 without traces: CoRL has nothing to do, so rounds must be 0")
        if self.author != AuthorSettings() and self.traces != "model":
            raise ValueError(f'author: writes traces = "model" only, and traces is "{self.traces}"')
        if self.author.server is not None and self.author.model is None:
            raise ValueError("author: name the model that the server shall use")
        return self


def make_train_config(**settings: Any) -> TrainConfig:
    """A TrainConfig, or ConfigError that names each setting that is wrong and why."""
    try:
        return TrainConfig(**settings)
    except ValidationError as error:
        raise ConfigError("\n".join(map(_told, error.errors()))) from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML or JSON file. Raises ConfigError where it cannot be read, or a setting cannot be one.

    What settings together cannot be is left to make_train_config: the command line may change some of them.
    """
    import json
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read as {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must hold settings by name")
    try:
        TrainConfig(**{"data": (path,), **found})
    except ValidationError as error:
        alone = [e for e in error.errors() if e["type"] != "value_error"]
        if alone:
            raise ConfigError("\n".join(f"{path}: {_told(e)}" for e in alone)) from error
    return dict(found)


def _told(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors: which setting, and why."""
    return f"{'.'.join(map(str, error['loc'])) or 'settings'}: {error['msg']}"
