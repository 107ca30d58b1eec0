"""docs/result.md as pydantic models: every key and no other, of its type, with every number finite or null."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Chance = Annotated[float, Field(ge=0, le=1)]
Unit = Literal["nats/response", "nats/token", "nats/byte"]
Component = Literal["user", "character", "dialogue"]


class Strict(BaseModel):
    """No key may be missing, none may be added, and 1 is not "1"."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Estimated(Strict):
    value: Number | None
    stderr: Number | None
    ci_low: Number | None
    ci_high: Number | None


class Tested(Estimated):
    p_value: Chance | None
    p_adjusted: Chance | None
    significant: bool


class Policy(Strict):
    policy: str
    kind: Literal["control", "model"]
    n_responses: Count
    n_missing: Count


class Subset(Strict):
    subset: str
    shift: str
    split: str
    n: Count
    n_unscorable: Count


class Ends(Strict):
    value: Number | None
    ci_low: Number | None
    ci_high: Number | None


class Compared(Ends):
    reference: Number | None
    over_reference: Ends
    unit: Unit


class GapRow(Estimated):
    policy: str
    subset: str | None
    shift: str
    n: Count
    n_missing: Count
    unit: Literal["nats/token"]
    missing: Ends
    excess: Ends
    earned: Compared
    repeated: Compared
    blind: Compared
    n_distinct: Count
    reading: Literal["like-reference", "misses", "repeats", "generic", "elsewhere"] | None


class GapChange(Tested):
    policy: str
    subset: str | None
    shift: str
    n_id: Count
    n_ood: Count
    n_missing: Count
    unit: Literal["nats/token"]
    t: Number | None
    bound: Number | None


class GapContrast(Tested):
    policy: str
    versus: str
    subset: None
    shift: str
    n: Count
    unit: Literal["nats/token"]


class Information(Estimated):
    policy: str
    subset: str
    shift: str
    n: Count
    n_missing: Count
    unit: Unit
    positive_mean: Number | None
    negative_mean: Number | None


class Remi(Estimated):
    policy: str
    subset: str | None
    shift: str
    n: Count
    n_missing: Count
    p_value: Chance | None
    unit: Unit


class Remid(Tested):
    policy: str
    subset: str | None
    shift: str
    n_id: Count
    n_ood: Count
    n_missing: Count
    unit: Unit


class Contrast(Tested):
    policy: str
    versus: str
    quantity: Literal["remi", "remid"]
    subset: None
    shift: str
    n: Count
    unit: Unit


EstimatorName = Literal["club", "l1out", "infonce", "infonce_tempered", "nwj", "interpolated", "smile", "retrieval"]


class Estimator(Estimated):
    estimator: EstimatorName
    quantity: Literal["information", "remi", "remid"]
    policy: str
    subset: str | None
    shift: str
    n: Count
    n_missing: Count
    unit: Literal["nats/response", "share"]
    saturation: Number | None
    doubtful: bool


class Agreement(Strict):
    estimator: EstimatorName
    about: Literal["sign", "order"]
    quantity: Literal["remi", "remid"]
    n_cells: Count
    n_point: Count
    n_interval: Count
    n_opposed: Count


class Disagreement(Strict):
    estimator: EstimatorName
    about: Literal["sign", "order"]
    quantity: Literal["remi", "remid"]
    policy: str
    versus: str | None
    subset: str | None
    shift: str
    level: Literal["interval", "opposed"]
    value: Number
    ci_low: Number
    ci_high: Number
    n: Count
    unit: Literal["nats/response", "share"]
    club_value: Number
    club_ci_low: Number | None
    club_ci_high: Number | None


class Parts(Strict):
    user: Number | None
    character: Number | None
    dialogue: Number | None


class PluginBound(Strict):
    value: Number | None
    ci_low: Number | None
    ci_high: Number | None
    information: Number | None
    slack: Number | None
    reason: str | None
    exceeded: bool


class Ingredients(Strict):
    t: Chance | None
    js: Number | None
    eps_id: Chance | None
    eps_ood: Chance | None


class Share(Strict):
    value: Chance
    ci_low: Chance | None
    ci_high: Chance | None


class Shares(Strict):
    paper: dict[Component, Share] | None
    shapley: dict[Component, Share] | None
    sparse: dict[Component, Share] | None
    v: dict[str, Number | None]
    leader: Component | None
    leads: Chance | None
    reason: str | None


class Bound(Strict):
    policy: str
    subset: str | None
    shift: str
    value: Number | None
    h_hat: Number | None
    delta: Number | None
    input_term: Number | None
    reference_term: Number | None
    js: Parts
    share: Parts | None
    remid: Number | None
    n_id: Count
    n_ood: Count
    n_missing: Count
    unit: Literal["nats/response"]
    bounds: dict[Literal["T0", "T1", "T1'", "T2", "T3", "T4", "T5"], PluginBound]
    least: Literal["T0", "T1", "T2", "T3", "T4"] | None
    ingredients: Ingredients
    shares: Shares


class Divergence(Strict):
    subset: str | None
    shift: str
    component: Component
    rjsd: Number | None
    rjsd_raw: Number | None
    null_mean: Number | None
    p_value: Chance | None
    ci_low: Number | None
    ci_high: Number | None
    classifier: Number | None
    n_id: Count
    n_ood: Count
    n_distinct_id: Count
    n_distinct_ood: Count
    unit: Literal["nats"]


class ByRemid(Strict):
    subset: str
    value: Number
    ci_low: Number | None
    ci_high: Number | None
    p_adjusted: Chance | None


class ByBound(Strict):
    subset: str
    value: Number


class WorstCase(Strict):
    policy: str
    by_remid: ByRemid | None
    by_bound: ByBound | None
    unit: Literal["nats/response"]


class Warning(Strict):
    code: str
    policy: str | None
    subset: str | None
    text: Annotated[str, Field(min_length=20)]


class Missing(Strict):
    what: Literal["response", "trace", "prompt", "pair", "subset"]
    reason: Annotated[str, Field(min_length=5)]
    policy: str | None
    subset: str | None
    n: Annotated[int, Field(ge=1)]
    examples: Annotated[list[str], Field(min_length=1, max_length=5)]


class Traces(Strict):
    source: Literal["none", "data", "model"]
    format: Literal["compact", "full"] | None
    draws: Annotated[int, Field(ge=1)]
    n: Count
    n_parsed: Count
    n_failed: Count
    failure_rate: Chance | None
    n_without: Count
    failures: dict[str, Count]


class Scoring(Strict):
    n_prompts: Count
    n_continuations: Count
    n_prompt_tokens: Count
    n_continuation_tokens: Count
    n_dropped_turns: Count


class BenchmarkIdentity(Strict):
    source: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    n: Count


class ModelIdentity(Strict):
    name: str
    fingerprint: str
    dtype: str
    device: str


class Stage(Strict):
    stage: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    parents: list[str]


class EstimatorIdentity(Strict):
    digest: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    base: str
    trace_format: Literal["compact", "full"] | None
    q1: list[Stage] | None
    q2: list[Stage]
    n_seen: Count | None


class EmbedderIdentity(Strict):
    name: str
    fingerprint: str


class Manifest(Strict):
    remid: str
    python: str
    torch: str
    transformers: str
    numpy: str
    config: dict[str, Any]
    benchmark: BenchmarkIdentity
    model: ModelIdentity
    estimator: EstimatorIdentity | None
    embedder: EmbedderIdentity
    seed: int
    groupings: dict[str, str | None]


class Ask(Strict):
    policy: str
    quantity: Literal["remi", "remid"]
    shift: str
    verdict: str
    stderr: Number | None
    stderr_all: Number | None
    n: list[Count]
    n_all: list[Count]
    n_needed: list[Count] | None


class Extent(Strict):
    subset: str
    n: Count
    n_all: Count
    negatives: Count


class Stopping(Strict):
    until_se: Number
    looks: Count
    unit: Unit
    asks: list[Ask]
    subsets: list[Extent]


class OverReference(Strict):
    value: Number | None
    ci_low: Number | None
    ci_high: Number | None
    p_value: Chance | None
    n: Count


class Surface(Strict):
    policy: str
    subset: str | None
    shift: str
    measure: Literal["words", "brief", "repeated", "language", "copied", "run"]
    source: Literal["last turn", "earlier turns", "character", "user", "input"] | None
    value: Annotated[float, Field(ge=0)] | None
    stderr: Number | None
    ci_low: Number | None
    ci_high: Number | None
    n: Count
    n_missing: Count
    unit: Literal["words", "share"]
    over_reference: OverReference | None


class Kept(Strict):
    value: Number | None
    ci_low: Number | None
    ci_high: Number | None


class ComponentRow(Estimated):
    policy: str
    subset: str | None
    shift: str
    component: Component | Literal["all"]
    quantity: Literal["remove", "replace", "shapley"]
    p_value: Chance | None
    n: Count
    n_missing: Count
    n_alike: Count
    unit: Literal["nats/response"]
    over_reference: OverReference | None
    kept: Kept | None
    p_adjusted: Chance | None
    ignored: bool | None


class Result(Strict):
    """result.json."""

    schema_version: Literal[1]
    policies: list[Policy]
    subsets: list[Subset]
    gap: list[GapRow]
    gap_change: list[GapChange]
    gap_contrasts: list[GapContrast]
    information: list[Information]
    remi: list[Remi]
    remid: list[Remid]
    contrasts: list[Contrast]
    estimators: list[Estimator]
    agreement: list[Agreement]
    disagreements: list[Disagreement]
    surface: list[Surface]
    components: list[ComponentRow]
    bound: list[Bound]
    divergence: list[Divergence]
    worst_case: list[WorstCase]
    warnings: list[Warning]
    missing: list[Missing]
    traces: Traces
    scoring: Scoring
    stopping: Stopping | None
    manifest: Manifest


class Turn(Strict):
    role: Literal["user", "agent"]
    text: str


class Pair(Strict):
    sample_id: str
    logp: Annotated[float, Field(le=0)]


class Response(Strict):
    policy: str
    text: str | None
    missing: str | None
    logp: Annotated[float, Field(le=0)] | None
    n_tokens: Count | None
    negative_mean: Annotated[float, Field(le=0)] | None
    density: Number | None
    contribution: Number | None
    pairs: Annotated[list[Pair], Field(max_length=3)]


class Detail(Strict):
    sample_id: str
    subset: str
    shift: str
    user: str
    character: str
    dialogue: list[Turn]
    reference: str
    trace: str | None
    prompt_tokens: Count | None
    dropped_turns: Count | None
    responses: list[Response]


class Details(RootModel[list[Detail]]):
    """details.json."""
