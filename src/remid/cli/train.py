"""The commands that train an estimator: remid train sft, remid train corl, remid train status.

sft is corl without rounds, so both are one function with one list of options; sft refuses those of the rounds.
"""

# A command's options are its parameters, however many they are.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remid.cli.engine_options import (
    Concurrency,
    Engine,
    KeyEnv,
    MaxCost,
    MaxServerTokens,
    Omit,
    PriceCompletion,
    PricePrompt,
    RequestsPerMinute,
    TokensPerMinute,
    Yes,
    engine_config,
    server_settings,
)
from remid.cli.options import Mapping, Quiet, Taxonomy, TraceFormat
from remid.cli.train_status import train_status, write_training_page

if TYPE_CHECKING:
    from remid.pipeline.engines import EngineConfig
    from remid.train.config import TrainConfig

app = typer.Typer(
    help="Train an estimator on your training split, and use it: remid run --estimator OUT/estimator.",
    no_args_is_help=True,
)
_ROUNDS = "Rounds of CoRL (remid train corl)"


def _of_rounds(help: str) -> Any:
    """An option that sft refuses."""
    return typer.Option(help=help, rich_help_panel=_ROUNDS)


@app.command("sft", help="Cold start only: fine-tune the trace generator q1 and the estimator q2 on traces.")
@app.command("corl", help="Cold start, then rounds of CoRL: q1 and q2 improve each other, watched for collapse.")
def train(
    command: typer.Context,
    data: Annotated[
        list[Path] | None, typer.Argument(help="Benchmarks with a training split (IDTrain); or give them in --config.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The run's folder; the same command resumes it. Default: runs/sft, runs/corl."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="TOML or JSON with any setting (docs/training.md); options here win over it."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base: builtin, a local folder, or a hub id. Default: builtin.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1. Default: auto.")] = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    traces: Annotated[
        str | None,
        typer.Option(
            help="First traces: auto, data, extractive (a rule, no LLM), input (the same without references), model. "
            "Default: auto."
        ),
    ] = None,
    trace_format: Annotated[TraceFormat | None, typer.Option(help="Of traces. Default: compact.")] = None,
    trace_model: Annotated[
        str | None, typer.Option(help="With --traces model: the model that writes them. Default: the base.")
    ] = None,
    trace_server: Annotated[
        str | None,
        typer.Option(help="With --traces model: OpenAI-compatible server (http://.../v1) of --trace-model."),
    ] = None,
    reasoning: Annotated[
        bool | None, typer.Option(help="Train with traces (default), or q2 alone without any (sft).")
    ] = None,
    drop_leaks: Annotated[
        bool | None, typer.Option("--drop-leaks", help="Leave out training samples that are test samples too.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many training samples.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Of a prompt and its completion; longer ones are left out.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Of supervised stages. Default: 3.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate of supervised stages. Default: 2e-4.")] = None,
    lora_r: Annotated[int | None, typer.Option(help="LoRA's r. Default: 16.")] = None,
    lora_layers: Annotated[
        int | None, typer.Option(help="LoRA on the last so many layers only, which is faster. Default: on all.")
    ] = None,
    adapter_dtype: Annotated[
        str | None, typer.Option(help="Of the estimator's file: float32 (default), bfloat16 or float16, half as large.")
    ] = None,
    trace_tokens: Annotated[int | None, typer.Option(help="Limit of a trace that q1 writes. Default: 160.")] = None,
    rounds: Annotated[int | None, _of_rounds("Of CoRL at most. Default: 1.")] = None,
    patience: Annotated[int | None, _of_rounds("Rounds without gain before it stops. Default: 1.")] = None,
    samples: Annotated[int | None, _of_rounds("Prompts of a GRPO stage. Default: 64.")] = None,
    generations: Annotated[int | None, _of_rounds("Completions per prompt. Default: 4.")] = None,
    prompts_per_step: Annotated[int | None, _of_rounds("Prompts per optimizer step. Default: 4.")] = None,
    grpo_rate: Annotated[float | None, _of_rounds("Learning rate of GRPO. Default: 1e-5.")] = None,
    response_tokens: Annotated[int | None, _of_rounds("Limit of a sampled response. Default: 96.")] = None,
    reward: Annotated[str | None, _of_rounds("exp, mean, sum or advantage. Default: exp.")] = None,
    beta: Annotated[float | None, _of_rounds("Weight of the KL term in RL of q1. Default: 0.")] = None,
    stop_on_collapse: Annotated[
        bool | None,
        typer.Option("--stop-on-collapse", help="Stop when a failure is named.", rich_help_panel=_ROUNDS),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, sampling and the held-out part.")] = None,
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
    from remid.pipeline.progress import Progress
    from remid.train.config import make_train_config, read_settings
    from remid.train.processes import is_first
    from remid.train.watched import train_watched

    of_rounds = {"rounds": rounds, "patience": patience, "stop_on_collapse": stop_on_collapse}
    of_grpo = {
        "samples": samples,
        "generations": generations,
        "prompts_per_step": prompts_per_step,
        "rate": grpo_rate,
        "response_tokens": response_tokens,
        "reward": reward,
        "beta": beta,
    }
    if command.info_name == "sft":
        _refuse({**of_rounds, **of_grpo})
        of_rounds["rounds"] = 0
    given = {
        "data": data,
        "model": model,
        "device": device,
        "mapping": mapping,
        "taxonomy": taxonomy,
        "traces": traces,
        "trace_format": None if trace_format is None else trace_format.value,
        "reasoning": reasoning,
        "drop_leaks": drop_leaks,
        "limit": limit,
        "max_tokens": max_tokens,
        "adapter_dtype": adapter_dtype,
        "seed": seed,
        **of_rounds,
        "author": {"model": trace_model, "server": trace_server},
        "sft": {"epochs": epochs, "rate": rate},
        "lora": {"r": lora_r, "layers": lora_layers},
        "grpo": {"trace_tokens": trace_tokens, **of_grpo},
    }
    settings = make_train_config(**_over(read_settings(config) if config is not None else {}, given))
    spending = {
        "api_key_env": key_env,
        "concurrency": concurrency,
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "price_prompt": price_prompt,
        "price_completion": price_completion,
        "max_cost": max_cost,
        "max_total_tokens": max_server_tokens,
        "omit": omit,
    }
    folder = out if out is not None else Path("runs") / str(command.info_name)
    progress = Progress(not quiet and is_first())
    estimator = train_watched(settings, folder, progress, _author_engine(settings, spending, yes))
    if is_first():
        page = write_training_page(folder)
        print(f"estimator: {estimator}\npage:      {page}\nuse it:    remid run DATA --estimator {estimator}")


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, finished or not.")],
) -> None:
    """Where a training run stands, what its signals say, and its page."""
    train_status(run)


def _refuse(options: dict[str, Any]) -> None:
    """Raise ConfigError where one of these options was given."""
    from remid.errors import ConfigError

    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]:
        raise ConfigError(f"sft: has no rounds of CoRL, which {', '.join(given)} is for; use remid train corl")


def _over(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file with a command's options over them; None is not given."""
    merged = dict(settings)
    for name, value in given.items():
        if isinstance(value, dict):
            table = settings.get(name, {})
            if isinstance(table, dict) and (chosen := _over(table, value)):
                merged[name] = chosen
        elif value is not None:
            merged[name] = value
    return merged


def _author_engine(settings: TrainConfig, spending: dict[str, Any], yes: bool) -> EngineConfig | None:
    """How the server that writes traces is reached; None where none does."""
    author = settings.author
    server = server_settings(author.server, str(author.model), "--trace-server", **spending)
    return None if server is None else engine_config(Engine.local, None, 1, None, server, yes)
