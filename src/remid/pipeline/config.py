"""The settings of a run: one frozen record that the command line, Python and the manifest share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from remid.errors import ConfigError

Overflow = Literal["refuse", "drop-oldest"]
TraceSource = Literal["auto", "none", "data", "model"]
TraceFormat = Literal["full", "compact"]
Components = Literal["none", "remove", "replace", "shapley"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


class RunConfig(BaseModel):
    """Everything that a run's numbers depend on, with its defaults.

    data: benchmark files. responses: JSONL files with policies' answers. mapping, taxonomy, group_by: see remid.data.
    policies: which of the policies to measure (None: all). limit: at most so many samples of each subset (None: all).
    model: estimator q(y|x,r): "builtin", a folder, or a hub id. max_tokens: context limit (None: the model's).
    estimator: folder of a trained estimator (remid train), "builtin" for the embedded one. Its q2 scores, and its q1
    writes traces, in the format and length that it was trained on; model, where it is not "builtin", must be the base
    that it stands on.
    score_server: address of an OpenAI-compatible server that scores; model is then its name for the model, and
    tokenizer the folder of that model's tokenizer.
    overflow: what to do with prompts that do not fit: leave the sample out, or drop the dialogue's oldest turns.
    traces: where reasoning traces come from; "auto" takes those in the data if every test sample has one, else none,
    and with an estimator what it was trained on: those of its q1, or none.
    trace_draws: traces that are drawn for each sample where a model writes them; a response's probability is then its
    mean over them (estimate/mixture.py). 1: a single one, greedy. trace_temperature: at which several are drawn.
    negatives: m of the balanced design. until_se: score in rounds until every R-EMID has this standard error in nats
    per response (None: all samples at once); negatives are then those of the first round.
    components: also score each response with one part of the input removed, or replaced by another sample's
    (docs/components.md); "shapley" adds to the latter shares that sum to the whole. component_partners: other samples
    whose parts stand in, per sample.
    cluster_by: metadata field (dotted path) whose equal values are not
    independent. permutations: label permutations behind each divergence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...] = Field(min_length=1)
    responses: tuple[Path, ...] = ()
    mapping: Path | None = None
    taxonomy: Path | None = None
    group_by: str | None = None
    policies: tuple[str, ...] | None = None
    limit: int | None = Field(default=None, ge=2)
    model: str = "builtin"
    device: str = "auto"
    dtype: DTypeName = "auto"
    trust_remote_code: bool = False
    estimator: Path | None = None
    score_server: str | None = None
    tokenizer: str | None = None
    max_tokens: int | None = Field(default=None, ge=64)
    overflow: Overflow = "refuse"
    traces: TraceSource = "auto"
    trace_draws: int = Field(default=1, ge=1, le=256)
    trace_temperature: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    trace_format: TraceFormat = "compact"
    trace_tokens: int = Field(default=96, ge=8)
    negatives: int = Field(default=4, ge=1)
    until_se: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    components: Components = "none"
    component_partners: int = Field(default=1, ge=1)
    embedder: str = "builtin"
    permutations: int = Field(default=200, ge=20)
    cluster_by: str | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _server_has_tokenizer(self) -> RunConfig:
        if (self.score_server is None) != (self.tokenizer is None):
            raise ValueError("score_server needs tokenizer, and tokenizer score_server: token ids are made here")
        return self


def make_config(**settings: Any) -> RunConfig:
    """A RunConfig, or ConfigError that names each setting that is wrong and why."""
    try:
        return RunConfig(**settings)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from error
