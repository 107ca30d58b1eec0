"""The command that says how large a measurement must be: remid plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from remid.estimate.planning import Components, Cost, Goal
    from remid.pipeline.measure import SubsetScores


def plan(
    pilot: Annotated[Path, typer.Argument(help="Folder of a finished run on a few samples (30 per subset will do).")],
    se: Annotated[float | None, typer.Option("--se", help="Wished standard error, nats per response.")] = None,
    half_width: Annotated[float | None, typer.Option(help="Wished half-width of 95% intervals, nats/response.")] = None,
    detect: Annotated[float | None, typer.Option(help="R-EMID to be found in 80% of cases, nats/response.")] = None,
    remi: Annotated[bool, typer.Option("--remi", help="Plan for R-EMI on ID and each shift, not for R-EMID.")] = False,
    policy: Annotated[list[str] | None, typer.Option(help="Plan for these policies only (repeatable).")] = None,
) -> None:
    """From a small pilot, say how many samples and negatives a wished precision takes, and what it costs.

    First `remid run DATA --limit 30 --out runs/pilot`, then for example
    `remid plan runs/pilot --detect 5`: how many samples per side show an R-EMID of 5 nats per response? Give one of
    --se, --half-width and --detect. Samples are per side: so many of ID and as many of the shift.
    """
    from rich.console import Console

    from remid.errors import ConfigError
    from remid.pipeline.run import load_run, scored_subsets

    goals: list[tuple[Goal, float | None]] = [("stderr", se), ("half-width", half_width), ("detect", detect)]
    given = [(goal, wish) for goal, wish in goals if wish is not None]
    if len(given) != 1:
        raise ConfigError("plan: give exactly one of --se, --half-width and --detect, such as --detect 5")
    goal, wish = given[0]
    if not 0 < wish < float("inf"):
        raise ConfigError(f"plan: a wished precision must be a positive number of nats, got {wish:g}")
    subsets = scored_subsets(pilot)
    policies = _policies(subsets, policy)
    found = load_run(pilot).result
    cost = _cost(found["scoring"], len(policies) + 1, found["traces"].get("draws", 1))
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name in policies:
        try:
            rows += _rows(subsets, name, goal, wish, cost, remi)
        except ConfigError as error:
            if policy:
                raise
            left_out.append(str(error).removeprefix("plan: "))  # one who hardly answered holds up nobody else
    if left_out and not rows:
        raise ConfigError(f"plan: {left_out[0]}")
    if not rows:
        raise ConfigError(f"plan: {pilot} holds no shift to compare ID with; --remi plans for R-EMI alone")
    console = Console()
    console.print(_table(rows, goal, wish, remi))
    console.print(_sentence(rows, goal, wish, remi, subsets), highlight=False, soft_wrap=True)
    for reason in left_out:
        typer.echo(f"left out: {reason}", err=True)


def _policies(subsets: Sequence[SubsetScores], wanted: list[str] | None) -> list[str]:
    """The wanted policies; without a wish all that are no controls, or the controls where there is nothing else."""
    from remid.data.text import shown
    from remid.errors import ConfigError
    from remid.pipeline.policies import CONTROLS, REFERENCE

    have = [name for name in subsets[0].scores if name != REFERENCE]
    unknown = [name for name in wanted or () if name not in have]
    if unknown:
        raise ConfigError(
            f"plan: the pilot has no policy {', '.join(map(shown, unknown))} (there are: {', '.join(map(shown, have))})"
        )
    return wanted or [name for name in have if name not in CONTROLS] or have


def _cost(scoring: dict[str, Any], answerers: int, draws: int) -> Cost:
    """Mean tokens as the pilot had them. draws: traces of a sample, under each of which a response is scored again."""
    from remid.estimate.planning import Cost

    return Cost(
        scoring["n_prompt_tokens"] / max(scoring["n_prompts"], 1),
        draws * scoring["n_continuation_tokens"] / max(scoring["n_continuations"], 1),
        answerers,
    )


def _rows(
    subsets: Sequence[SubsetScores], policy: str, goal: Goal, wish: float, cost: Cost, remi: bool
) -> list[dict[str, Any]]:
    """One row per shift (with --remi one for ID as well): pilot, precision now, what is needed."""
    from remid.errors import ConfigError
    from remid.estimate import planning
    from remid.types import ID

    laws: dict[str, Components] = {}
    for shift in dict.fromkeys(s.shift for s in subsets):
        laws[shift] = _components([s for s in subsets if s.shift == shift], policy)
    rows = []
    for shift, own in laws.items():
        if not remi and (shift == ID or ID not in laws):
            continue
        sides = [own] if remi else [laws[ID], own]
        try:
            needed = planning.plan(sides, goal, wish, cost)
        except ValueError as error:
            raise ConfigError(f"plan: {policy}, {shift}: {error}") from error
        now = sum(side.variance(side.m) / side.n for side in sides) ** 0.5
        rows.append(
            {"policy": policy, "shift": shift, "n": [s.n for s in sides], "m": own.m, "now": now, "plan": needed}
        )
    return rows


def _components(parts: Sequence[SubsetScores], policy: str) -> Components:
    from remid.data.text import shown
    from remid.errors import ConfigError
    from remid.estimate import planning
    from remid.pipeline.policies import REFERENCE

    made = []
    for part in parts:
        try:
            made.append(planning.components(part.scores[policy], part.scores[REFERENCE], clusters=part.clusters))
        except ValueError as error:
            raise ConfigError(f"plan: {shown(policy)} in subset {shown(part.subset)}: {error}") from error
    return planning.pooled_components(made)


def _table(rows: list[dict[str, Any]], goal: Goal, wish: float, remi: bool) -> Table:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    from remid.report.text import visible

    table = Table(
        box=SIMPLE, padding=(0, 1, 0, 0), title=f"{'R-EMI' if remi else 'R-EMID'}, nats per response: {goal} {wish:g}"
    )
    for name in ("policy", "shift", "pilot n", "m", "SE now", "n needed", "m", "SE then, 95%", "pairs", "tokens"):
        left = name in {"policy", "shift"}
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        it = row["plan"]
        table.add_row(
            escape(visible(row["policy"])),
            escape(visible(row["shift"])),
            "/".join(map(str, row["n"])),
            f"{row['m']:.0f}",
            f"{row['now']:.2f}",
            f"{it.n:,}",
            str(it.m),
            f"{it.stderr_low:.1f}-{it.stderr_high:.1f}",
            f"{it.pairs:,}",
            f"{it.tokens / 1000:,.0f}k",
        )
    return table


def _sentence(rows: list[dict[str, Any]], goal: Goal, wish: float, remi: bool, subsets: Sequence[SubsetScores]) -> str:
    """What the table comes to, and how far to trust it."""
    from rich.markup import escape

    from remid.report.text import visible

    worst = max(rows, key=lambda row: row["plan"].n)
    it = worst["plan"]
    what = {
        "stderr": f"a standard error of {wish:g} nats per response",
        "half-width": f"95% intervals of plus or minus {wish:g} nats per response",
        "detect": f"{wish:g} nats per response found in 80% of cases",
    }[goal]
    text = (
        f"{'R-EMI' if remi else 'R-EMID'}, {what}, in every row: {it.n:,} samples per side with --negatives {it.m} "
        f"(decided by {escape(visible(worst['policy']))}, {escape(visible(worst['shift']))}). "
        "From this pilot the standard error "
        f"at that size lies between {it.stderr_low:.2f} and {it.stderr_high:.2f} (95%). Tokens count each prompt "
        "once and all policies of the table. A shift of several subsets: the samples of all of them together."
    )
    if min(row["m"] for row in rows) < 3:
        text += " With fewer than 3 negatives the pilot cannot tell pair noise from items: these sizes are too large."
    if any(s.clusters is not None for s in subsets):
        text += " New samples are assumed to repeat characters or users as the pilot does."
    return text
