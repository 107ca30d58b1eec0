"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Overflow(StrEnum):
    """What to do with prompts that do not fit into the model's context."""

    refuse = "refuse"
    drop_oldest = "drop-oldest"


class Traces(StrEnum):
    """Where reasoning traces come from."""

    auto = "auto"
    none = "none"
    data = "data"
    model = "model"


class TraceFormat(StrEnum):
    """How long a trace the model is asked for."""

    compact = "compact"
    full = "full"


class Components(StrEnum):
    """What is learnt about single parts of the input."""

    none = "none"
    remove = "remove"
    one = "replace"  # `replace` would hide the method of str
    shapley = "shapley"


class DType(StrEnum):
    """Floating type of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Data = Annotated[list[Path], typer.Argument(help="RPGBench JSON, JSONL, Parquet, or a saved datasets folder.")]
Responses = Annotated[
    list[Path] | None, typer.Option("--responses", "-r", help="JSONL with policy, sample_ID, response (repeatable).")
]
Mapping = Annotated[Path | None, typer.Option(help="JSON that maps your column names onto ours (docs/data.md).")]
Taxonomy = Annotated[Path | None, typer.Option(help="JSON that says which splits and subsets are which shift.")]
GroupBy = Annotated[str | None, typer.Option(help="Field that replaces the subset, such as agent_character.script.")]
Model = Annotated[str, typer.Option(help="Model: builtin, a local folder, or a hub id.")]
Estimator = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a trained estimator, or builtin for the embedded one: scores with its q2, and where it was "
        "trained with traces writes them with its q1. It names its base; --model says where that is."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DTypeOption = Annotated[DType, typer.Option(help="auto: float32 on a CPU, bfloat16 on an accelerator.")]
TrustCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Off.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Policies = Annotated[list[str] | None, typer.Option("--policy", help="Measure only these policies (repeatable).")]
Limit = Annotated[int | None, typer.Option(help="At most this many samples per subset, for a first look.")]
ClusterBy = Annotated[str | None, typer.Option(help="Samples with equal values here are not independent.")]
Confidence = Annotated[float, typer.Option(help="Of the intervals.")]
