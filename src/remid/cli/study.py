"""The commands that study the measurement itself: remid study sample-size, remid study traces, remid study ablation."""

# A command's options are its parameters, however many they are.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remid.cli.options import (
    ClusterBy,
    Confidence,
    Device,
    DType,
    DTypeOption,
    Limit,
    Mapping,
    Model,
    Policies,
    Quiet,
    Responses,
    Taxonomy,
    Traces,
    TrustCode,
)

if TYPE_CHECKING:
    from remid.report.sheet import Section

app = typer.Typer(
    help="Study the measurement itself: how it moves with sample size, with the trace, and with its training.",
    no_args_is_help=True,
)
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for result.json and study.html.")]


@app.command("sample-size")
def sample_size(
    run: Annotated[
        Path | None, typer.Argument(help="A finished run's folder. Without it only the exact worlds are studied.")
    ] = None,
    out: Out = Path("runs/sample-size"),
    size: Annotated[
        list[int] | None, typer.Option(help="Items per subset (repeatable). Default: 10, 20, 40, 80.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Subsamples per size.")] = 5,
    permutations: Annotated[int, typer.Option(help="Label permutations behind each divergence.")] = 50,
    confidence: Confidence = 0.95,
    seed: int = 0,
    quiet: Quiet = False,
) -> None:
    """Ask whether the bound follows R-EMID more closely as the sample grows. Needs no model."""
    from remid.pipeline.progress import Progress
    from remid.pipeline.run import make_folder
    from remid.study.exact_sizes import bound_against_n_exact, command_worlds
    from remid.study.sample_size import SIZES, sample_size_study
    from remid.study.show_sample_size import LEDE, TITLE, sample_size_sections

    make_folder(out)
    progress = Progress(not quiet)
    of_run = None
    if run is not None:
        options: dict[str, Any] = {"draws": draws, "permutations": permutations, "confidence": confidence, "seed": seed}
        of_run = sample_size_study(run, progress, sizes=tuple(size or SIZES), **options)
    result = {"study": "sample-size", "run": of_run, "worlds": bound_against_n_exact(command_worlds(seed), seed=seed)}
    manifest = {"seed": seed} if of_run is None else {"settings": of_run["settings"], "run": of_run["run"]}
    _leave(out, TITLE, LEDE, sample_size_sections(result), result, manifest)


@app.command("traces")
def traces(
    data: Annotated[
        list[Path] | None, typer.Argument(help="A benchmark with traces; default: the built-in one.")
    ] = None,
    out: Out = Path("runs/traces"),
    responses: Responses = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            help="Beside `full`: length-0, length-25, length-50, length-75, same-subset, other-shift, masked."
        ),
    ] = None,
    policy: Policies = None,
    limit: Limit = None,
    model: Model = "builtin",
    device: Device = "auto",
    dtype: DTypeOption = DType.auto,
    trust_remote_code: TrustCode = False,
    traces: Annotated[Traces, typer.Option(help="data, or model: then the model writes them first.")] = Traces.data,
    negatives: Annotated[int, typer.Option(help="Negatives per sample.")] = 4,
    cluster_by: ClusterBy = None,
    confidence: Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Of negatives and lent traces.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Ask whether R-EMID moves with the length and the domain of the trace. The same command resumes."""
    from remid.data import mini_benchmark_paths
    from remid.pipeline.config import make_config
    from remid.pipeline.progress import Progress
    from remid.study.show_traces import LEDE, TITLE, traces_sections
    from remid.study.traces import traces_study

    files, answers = list(data or ()), list(responses or ())
    if not files:
        benchmark, recorded = mini_benchmark_paths()
        files, answers = [benchmark], [*recorded, *answers]
    config = make_config(
        data=tuple(files),
        responses=tuple(answers),
        mapping=mapping,
        taxonomy=taxonomy,
        policies=tuple(policy) if policy else None,
        limit=limit,
        model=model,
        device=device,
        dtype=dtype.value,
        trust_remote_code=trust_remote_code,
        traces=traces.value,
        negatives=negatives,
        cluster_by=cluster_by,
        confidence=confidence,
        seed=seed,
    )
    result = traces_study(config, out, Progress(not quiet), settings=settings)
    manifest = {key: result[key] for key in ("config", "benchmark", "model", "traces")}
    _leave(out, TITLE, LEDE, traces_sections(result), result, manifest)


@app.command("ablation")
def ablation(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Benchmarks with a training split; or give them in --config, or --world."),
    ] = None,
    out: Out = Path("runs/ablation"),
    world: Annotated[
        str | None, typer.Option(help="hops: a world of text with known answers, its own model and settings.")
    ] = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Comma-separated: full, sft, none, and sft-longer, none-longer, extractive, extractive-sft, input, "
            "input-sft, model, model-sft, shared-sft, quarter-sft, half-sft, long-sft (docs/ablation.md)."
        ),
    ] = "full,sft,none",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per arm.")] = 3,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="TOML or JSON with settings of the training (docs/training.md)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Test samples per shift at most, drawn evenly over its subsets.")
    ] = None,
    trace_draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Above 1: also score arms with reasoning by q2's mean over so many traces that their q1 draws "
            "(docs/ablation.md).",
        ),
    ] = 1,
    trace_temperature: Annotated[float, typer.Option(help="With --trace-draws: 1 is q1's own law.")] = 0.5,
    confidence: Confidence = 0.95,
    quiet: Quiet = False,
) -> None:
    """Train with and without reasoning and CoRL, and compare perplexities. The same command resumes."""
    from remid.errors import ConfigError
    from remid.pipeline.progress import Progress
    from remid.pipeline.run import make_folder
    from remid.study.ablation import ablation_study, given_material
    from remid.study.ablation_world import hops_material
    from remid.study.arms import Draws
    from remid.study.show_ablation import LEDE, TITLE, ablation_sections
    from remid.train.config import read_settings

    if world not in {None, "hops"}:
        raise ConfigError(f"world: no {world}; there is hops")
    if world is not None and data:
        raise ConfigError("world: brings its own data; leave DATA out, or --world")
    make_folder(out)
    progress, settings = Progress(not quiet), read_settings(config) if config is not None else {}
    if data:
        settings["data"] = data
    material = given_material(settings) if world is None else hops_material(out / "world", settings, progress)
    names = [name.strip() for name in arms.split(",") if name.strip()]
    draws = Draws(trace_draws, trace_temperature)
    result = ablation_study(material, names, seeds, out, progress, limit=limit, draws=draws, confidence=confidence)
    manifest = {key: result[key] for key in ("config", "n_seeds", "confidence")}
    _leave(out, TITLE, LEDE, ablation_sections(result), result, manifest)


def _leave(
    out: Path, title: str, lede: str, sections: list[Section], result: dict[str, Any], manifest: dict[str, Any]
) -> None:
    """Write result.json and study.html, print the tables."""
    from rich.console import Console

    from remid.pipeline.run import write_json
    from remid.report.sheet import console_tables, render_sheet

    write_json(out / "result.json", result)
    page = out / "study.html"
    page.write_text(render_sheet(title, lede, sections, manifest), encoding="utf-8")
    Console().print(console_tables(sections))
    typer.echo(f"\nresult: {out / 'result.json'}\npage:   {page}")
