"""The commands that train an estimator: remid train sft, remid train corl, remid train status."""

# A command's options are its parameters, however many they are.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from remid.cli.options import Mapping, Quiet, Taxonomy, TraceFormat
from remid.cli.train_status import train_status, write_training_page

app = typer.Typer(
    help="Train an estimator on your training split, and use it: remid run --estimator OUT/estimator.",
    no_args_is_help=True,
)

Data = Annotated[
    list[Path] | None, typer.Argument(help="Benchmarks with a training split (IDTrain); or give them in --config.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder; the same command resumes it.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML or JSON with any setting (docs/training.md); options here win over it."),
]
Model = Annotated[str | None, typer.Option(help="Base: builtin, a local folder, or a hub id. Default: builtin.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1. Default: auto.")]
Traces = Annotated[
    str | None,
    typer.Option(help="First traces: auto, data, extractive (no LLM), model. Default: auto."),
]
Format = Annotated[TraceFormat | None, typer.Option(help="Of traces. Default: compact.")]
DropLeaks = Annotated[
    bool, typer.Option("--drop-leaks", help="Leave out training samples that are test samples too; default: refuse.")
]
LimitTrain = Annotated[int | None, typer.Option(help="At most so many training samples.")]
MaxTokens = Annotated[int | None, typer.Option(help="Of a prompt and its completion; longer ones are left out.")]
Epochs = Annotated[float | None, typer.Option(help="Of supervised stages. Default: 3.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate of supervised stages. Default: 2e-4.")]
Rank = Annotated[int | None, typer.Option(help="LoRA's r. Default: 16.")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order, sampling and the held-out part.")]


@app.command()
def sft(
    data: Data = None,
    out: Out = Path("runs/sft"),
    config: Config = None,
    model: Model = None,
    device: Device = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    traces: Traces = None,
    trace_format: Format = None,
    reasoning: Annotated[bool, typer.Option(help="Train with traces, or q2 alone without any.")] = True,
    drop_leaks: DropLeaks = False,
    limit: LimitTrain = None,
    max_tokens: MaxTokens = None,
    epochs: Epochs = None,
    rate: Rate = None,
    lora_r: Rank = None,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Cold start only: fine-tune the trace generator q1 and the estimator q2 on traces and references."""
    given = _given(locals()) | {"rounds": 0}
    if not reasoning:
        given["reasoning"] = False
    _train(given, {"epochs": epochs, "rate": rate}, {}, lora_r, config, out, quiet)


@app.command()
def corl(
    data: Data = None,
    out: Out = Path("runs/corl"),
    config: Config = None,
    model: Model = None,
    device: Device = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    traces: Traces = None,
    trace_format: Format = None,
    drop_leaks: DropLeaks = False,
    limit: LimitTrain = None,
    max_tokens: MaxTokens = None,
    epochs: Epochs = None,
    rate: Rate = None,
    lora_r: Rank = None,
    rounds: Annotated[int | None, typer.Option(help="Of CoRL at most. Default: 1.")] = None,
    patience: Annotated[int | None, typer.Option(help="Rounds without gain before it stops. Default: 1.")] = None,
    samples: Annotated[int | None, typer.Option(help="Prompts of a GRPO stage. Default: 64.")] = None,
    generations: Annotated[int | None, typer.Option(help="Completions per prompt. Default: 4.")] = None,
    prompts_per_step: Annotated[int | None, typer.Option(help="Prompts per optimizer step. Default: 4.")] = None,
    grpo_rate: Annotated[float | None, typer.Option(help="Learning rate of GRPO. Default: 1e-5.")] = None,
    trace_tokens: Annotated[int | None, typer.Option(help="Limit of a sampled trace. Default: 160.")] = None,
    response_tokens: Annotated[int | None, typer.Option(help="Limit of a sampled response. Default: 96.")] = None,
    reward: Annotated[str | None, typer.Option(help="exp, mean, sum or advantage. Default: exp.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the KL term. Default: 0.")] = None,
    stop_on_collapse: Annotated[bool, typer.Option(help="Stop when a failure is named.")] = False,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Cold start, then rounds of CoRL: q1 and q2 improve each other by GRPO, watched for collapse."""
    given = _given(locals()) | {"rounds": rounds, "patience": patience}
    if stop_on_collapse:
        given["stop_on_collapse"] = True
    grpo = {
        "samples": samples,
        "generations": generations,
        "prompts_per_step": prompts_per_step,
        "rate": grpo_rate,
        "trace_tokens": trace_tokens,
        "response_tokens": response_tokens,
        "reward": reward,
        "beta": beta,
    }
    _train(given, {"epochs": epochs, "rate": rate}, grpo, lora_r, config, out, quiet)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, finished or not.")],
) -> None:
    """Where a training run stands, what its signals say, and its page."""
    train_status(run)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among a command's options that are settings of the run as they stand."""
    names = ("data", "model", "device", "mapping", "taxonomy", "traces", "limit", "max_tokens", "seed")
    given = {name: options[name] for name in names}
    given["drop_leaks"] = options["drop_leaks"] or None
    form = options["trace_format"]
    return given | {"trace_format": None if form is None else form.value}


def _train(
    given: dict[str, Any],
    sft_options: dict[str, Any],
    grpo_options: dict[str, Any],
    rank: int | None,
    config: Path | None,
    out: Path,
    quiet: bool,
) -> None:
    from remid.pipeline.progress import Progress
    from remid.train.config import make_train_config, read_settings
    from remid.train.watched import train_watched

    settings = read_settings(config) if config is not None else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    for part, options in (("sft", sft_options), ("grpo", grpo_options), ("lora", {"r": rank})):
        chosen = {name: value for name, value in options.items() if value is not None}
        if chosen:
            settings[part] = {**settings.get(part, {}), **chosen}
    estimator = train_watched(make_train_config(**settings), out, Progress(not quiet))
    page = write_training_page(out)
    print(f"estimator: {estimator}\npage:      {page}\nuse it:    remid run DATA --estimator {estimator}")
