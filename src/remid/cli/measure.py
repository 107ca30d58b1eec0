"""The commands that measure: demo, run, respond, report, tokens."""

# A command's options are its parameters, however many they are.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remid.cli.engine_options import (
    Concurrency,
    Engine,
    EngineOption,
    KeyEnv,
    MaxCost,
    MaxServerTokens,
    Omit,
    PriceCompletion,
    PricePrompt,
    RayAddress,
    RequestsPerMinute,
    ScoreServer,
    Server,
    Tokenizer,
    TokensPerMinute,
    Workers,
    WorkerThreads,
    Yes,
    engine_config,
    server_settings,
)
from remid.cli.options import (
    ClusterBy,
    Components,
    Confidence,
    Data,
    Device,
    DType,
    DTypeOption,
    Estimator,
    GroupBy,
    Limit,
    Mapping,
    Model,
    Overflow,
    Policies,
    Quiet,
    Responses,
    Taxonomy,
    TraceFormat,
    Traces,
    TrustCode,
)

if TYPE_CHECKING:
    from remid.pipeline.engines import EngineConfig
    from remid.pipeline.run import Run


def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """Run the whole measurement on the built-in estimator and benchmark, and leave a page to read."""
    from remid.data import mini_benchmark_paths
    from remid.lm.chain import BUILTIN

    benchmark, responses = mini_benchmark_paths()
    # The benchmark's own traces: written from the input alone, and worth more to q2 than the small q1's.
    _run_and_show([benchmark], out, quiet, responses=tuple(responses), estimator=BUILTIN, traces="data")


def run(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; the same command resumes it.")] = Path(
        "runs/latest"
    ),
    responses: Responses = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    group_by: GroupBy = None,
    policy: Policies = None,
    limit: Limit = None,
    model: Model = "builtin",
    estimator: Estimator = None,
    device: Device = "auto",
    dtype: DTypeOption = DType.auto,
    trust_remote_code: TrustCode = False,
    max_tokens: Annotated[int | None, typer.Option(help="Context limit in tokens; default: the model's own.")] = None,
    overflow: Annotated[
        Overflow, typer.Option(help="Prompts that do not fit: leave the sample out, or drop the oldest turns.")
    ] = Overflow.refuse,
    traces: Annotated[
        Traces,
        typer.Option(
            help="auto: those in the data if every test sample has one; with --estimator, those of its q1, or none if "
            "it was trained without."
        ),
    ] = Traces.auto,
    trace_format: Annotated[
        TraceFormat, typer.Option(help="With --traces model, without --estimator.")
    ] = TraceFormat.compact,
    trace_draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Where a model writes traces: draw so many for each sample, and take a response's mean probability "
            "over them, instead of its probability under a single greedy one. Traces and responses cost so many times "
            "as much, prompts little more (on a server everything).",
        ),
    ] = 1,
    trace_temperature: Annotated[
        float,
        typer.Option(help="With --trace-draws: 1 is the model's own law; the lower, the nearer to its greedy trace."),
    ] = 0.5,
    negatives: Annotated[
        int, typer.Option(help="Negatives per sample: more cost, shorter intervals. Below 4 they are needlessly wide.")
    ] = 4,
    until_se: Annotated[
        float | None,
        typer.Option(
            "--until-se",
            help="Score in rounds until R-EMID of every policy under every shift has this standard error, "
            "nats per response.",
        ),
    ] = None,
    components: Annotated[
        Components,
        typer.Option(
            help="Which part of the input a policy uses, and which it ignores. remove scores every response again "
            "without user, without character, without dialogue: 3 more prompts per sample (and one without trace, "
            "where traces are used). replace does so with another sample's: 3 per partner. shapley also shares out "
            "the whole: 6 to 9 more."
        ),
    ] = Components.none,
    component_partners: Annotated[
        int,
        typer.Option(min=1, help="With replace and shapley: other samples whose parts stand in. 2 cost twice as much."),
    ] = 1,
    embedder: Annotated[str, typer.Option(help="builtin, or a sentence-transformers model.")] = "builtin",
    cluster_by: ClusterBy = None,
    confidence: Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Of negatives, permutations and folds.")] = 0,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    worker_threads: WorkerThreads = 1,
    ray_address: RayAddress = None,
    score_server: ScoreServer = None,
    tokenizer: Tokenizer = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 8,
    rpm: RequestsPerMinute = None,
    tpm: TokensPerMinute = None,
    price_prompt: PricePrompt = None,
    price_completion: PriceCompletion = None,
    max_cost: MaxCost = None,
    max_server_tokens: MaxServerTokens = None,
    yes: Yes = False,
    quiet: Quiet = False,
) -> None:
    """Measure R-EMI, R-EMID and the bound for every policy and every shift in DATA."""
    settings: dict[str, Any] = {
        "responses": tuple(responses or ()),
        "mapping": mapping,
        "taxonomy": taxonomy,
        "group_by": group_by,
        "policies": tuple(policy) if policy else None,
        "limit": limit,
        "model": model,
        "estimator": estimator,
        "device": device,
        "dtype": dtype.value,
        "trust_remote_code": trust_remote_code,
        "max_tokens": max_tokens,
        "overflow": overflow.value,
        "traces": traces.value,
        "trace_format": trace_format.value,
        "trace_draws": trace_draws,
        "trace_temperature": trace_temperature,
        "negatives": negatives,
        "components": components.value,
        "component_partners": component_partners,
        "embedder": embedder,
        "cluster_by": cluster_by,
        "confidence": confidence,
        "seed": seed,
        "until_se": until_se,
        "score_server": score_server,
        "tokenizer": tokenizer,
    }
    server = server_settings(
        score_server,
        model,
        "--score-server",
        api_key_env=key_env,
        concurrency=concurrency,
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        price_prompt=price_prompt,
        price_completion=price_completion,
        max_cost=max_cost,
        max_total_tokens=max_server_tokens,
    )
    where = engine_config(engine, workers, worker_threads, ray_address, server, yes)
    _run_and_show(data, out, quiet, where, **settings)


def respond(
    data: Data,
    policy: Annotated[str, typer.Option(help="Name under which the answers are recorded.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file to append to; the same command resumes it.")],
    model: Model = "builtin",
    device: Device = "auto",
    dtype: DTypeOption = DType.auto,
    without: Annotated[
        list[str] | None, typer.Option(help="Hide a part of the input from the policy: character or user.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 keeps small models from looping; 1 leaves the model as it is.")
    ] = 1.0,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many samples per subset.")] = None,
    seed: int = 0,
    trust_remote_code: TrustCode = False,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    worker_threads: WorkerThreads = 1,
    ray_address: RayAddress = None,
    server: Server = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 8,
    rpm: RequestsPerMinute = None,
    tpm: TokensPerMinute = None,
    price_prompt: PricePrompt = None,
    price_completion: PriceCompletion = None,
    max_cost: MaxCost = None,
    max_server_tokens: MaxServerTokens = None,
    omit: Omit = None,
    yes: Yes = False,
    quiet: Quiet = False,
) -> None:
    """Let a model answer every test sample of DATA, for `remid run DATA --responses OUT`."""
    from remid.data import read_benchmark
    from remid.pipeline.plan import limited
    from remid.pipeline.progress import Progress
    from remid.pipeline.respond import RespondConfig
    from remid.pipeline.respond import respond as write_responses

    benchmark = read_benchmark(data, mapping=mapping, taxonomy=taxonomy)
    config = RespondConfig(
        policy=policy,
        model=model,
        device=device,
        dtype=dtype.value,
        without=tuple(without or ()),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    chosen = server_settings(
        server,
        model,
        "--server",
        api_key_env=key_env,
        concurrency=concurrency,
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        price_prompt=price_prompt,
        price_completion=price_completion,
        max_cost=max_cost,
        max_total_tokens=max_server_tokens,
        omit=omit,
    )
    where = engine_config(engine, workers, worker_threads, ray_address, chosen, yes)
    made = write_responses(limited(benchmark, limit), out, config, Progress(not quiet), where)
    typer.echo(f"{out}: {made.written} responses written" + (f", {made.empty} of them empty" if made.empty else ""))
    if silent := made.unanswered:
        more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        typer.echo(f"{len(silent)} unanswered: {'; '.join(silent[:5])}{more}", err=True)


def report(folder: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write a finished run's page and tables again."""
    from remid.api import load, write_report

    finished = load(folder)
    page = write_report(finished)
    _show(finished, page)


def tokens(
    data: Data,
    sample: Annotated[str, typer.Option(help="sample_ID of the sample to look at.")],
    policy: Annotated[str, typer.Option(help="Whose response: reference, or a policy in the data.")] = "reference",
    responses: Responses = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    model: Model = "builtin",
    device: Device = "auto",
    dtype: DTypeOption = DType.auto,
    prompt: Annotated[bool, typer.Option("--prompt", help="Also print the prompt as the model sees it.")] = False,
    trust_remote_code: TrustCode = False,
) -> None:
    """Show the scored tokens of one sample's response with their log-probabilities."""
    from remid.data import read_benchmark
    from remid.pipeline.inspect import token_table

    benchmark = read_benchmark(data, mapping=mapping, taxonomy=taxonomy, responses=responses or ())
    options = {"device": device, "dtype": dtype.value, "trust_remote_code": trust_remote_code}
    typer.echo(token_table(benchmark, sample, policy, model, show_prompt=prompt, **options))


def _run_and_show(
    data: list[Path], out: Path, quiet: bool, engine: EngineConfig | None = None, **settings: Any
) -> None:
    from remid.api import evaluate

    finished = evaluate(data, out=out, progress=not quiet, engine=engine, **settings)
    _show(finished, out / "report.html")


def _show(finished: Run, page: Path) -> None:
    from rich.console import Console

    from remid.report import console_summary

    Console().print(console_summary(finished.result))
    typer.echo(f"\nresult: {finished.folder / 'result.json'}\npage:   {page}")
