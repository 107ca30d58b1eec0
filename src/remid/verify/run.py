"""`remid verify`: every check against known truth, one after the other, into one record that says what passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remid.pipeline.measure import number
from remid.pipeline.progress import Progress
from remid.verify.bounds import (
    PAPER,
    attack_all,
    large_alphabet_case,
    latin_case,
    pairing_case,
    random_search,
    tightness_by_inputs,
    witnesses,
)  # fmt: skip

if TYPE_CHECKING:
    from remid.verify.text import TextSummary

Row = dict[str, Any]

#: The default of a run.
NEGATIVES = 4


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and what was measured. passed: None where nothing is claimed, only shown."""

    name: str
    claim: str
    measured: str
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: `quick` takes about two minutes, `full` what the documented results rest on."""

    worlds: int
    chains: int
    steps: int
    share_worlds: int
    side_draws: int
    side_worlds: int
    replications: int
    coverage_sizes: tuple[int, ...]
    stopping: int
    null_splits: int
    quick_text: bool
    meaning_worlds: int


QUICK = Sizes(20_000, 30, 60, 1_000, 120, 4, 250, (25, 100), 60, 200, True, 1_000)
FULL = Sizes(100_000, 120, 300, 4_000, 1_000, 12, 2_000, (25, 100, 400), 400, 200, False, 10_000)


def run_verify(*, full: bool, seed: int, progress: Progress) -> Row:
    """Run every check. Returns the content of verify.json: checks, and the rows behind them."""
    sizes = FULL if full else QUICK
    stages: Sequence[tuple[str, Callable[[Sizes, int], tuple[list[Check], Row]]]] = (
        ("meaning", _meaning),
        ("bounds", _bounds),
        ("shares", _shares),
        ("estimators", _sides),
        ("intervals", _intervals),
        ("stopping", _stopping),
        ("null runs", _null),
        ("text worlds", _text),
    )
    checks: list[Check] = []
    found: Row = {}
    with progress.stage("verify", len(stages)) as step:
        for _, stage in stages:
            made, rows = stage(sizes, seed)
            checks += made
            found.update(rows)
            step(1)
    return {"full": full, "seed": seed, "sizes": asdict(sizes), "checks": [asdict(c) for c in checks], **found}


def _meaning(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.meaning import UNPROVEN, meaning, violations

    found = meaning(sizes.meaning_worlds, seed)
    row = {row.policy: row for row in found.rows}
    order = (
        f"{found.told_right:,} of {found.n_told:,} worlds (in {found.n - found.n_told} more it only echoes); "
        f"wrong character {100 * row[UNPROVEN].right:.2f}%; signed EMI in {found.emi_all_right:,}, "
        f"the parrot first in {100 * row['parrot'].emi_first:.0f}%; without a copier {found.cross_all_right:,}"
    )
    mixed = [half for half in found.halves if half.kind == "mixture"]
    halves = "; ".join(
        f"{kind} {sum(h.right for h in found.halves if h.kind == kind):,} of {3 * found.n:,}"
        for kind in ("mixture", "tempered")
    )
    held = [growth for growth in found.growth if not growth.fresh]
    loose = [growth.ratio_median for growth in held if growth.n_ratio >= found.n / 10]
    bound = (
        f"{violations(found.growth)} violations by {len(held)} policies in {found.n:,} worlds; median bound / growth "
        f"{min(loose):.1f} to {max(loose):.1f}"
    )
    claim = (
        "the gap puts the reference first, noise in order, and parrot, generic, shuffled, other language and whoever "
        "ignores a part above it in every world in which the reference does more than echo; wrong character in 99%"
    )
    ordered = found.told_right == found.n_told and row[UNPROVEN].right >= 0.99 and row["reference"].right == 1
    checks = [
        Check("the gap orders policies", claim, order, ordered),
        Check("half-informed policies", "mixtures in order in every world", halves, all(h.right == h.n for h in mixed)),
        Check("the gap's bound under a shift", "no violation, shared channels", bound, violations(found.growth) == 0),
    ]
    counts = {key: getattr(found, key) for key in ("n", "n_told", "all_right", "emi_all_right", "cross_all_right")}
    tables = {key: _plain(getattr(found, key)) for key in ("rows", "copiers", "halves", "growth")}
    return checks, {"meaning": {**counts, **tables, "copying": _plain([found.copying])[0]}}


def _bounds(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    rows = [row for shared in (True, False) for row in random_search(sizes.worlds, seed, shared=shared)]
    attacks = attack_all(chains=sizes.chains, steps=sizes.steps, seed=seed)
    cases = [large_alphabet_case(1_480), large_alphabet_case(5_901), latin_case(), pairing_case()]
    by_inputs = tightness_by_inputs(max(sizes.worlds // 20, 500), seed)
    proven = [row for row in rows if row.bound != PAPER]
    violations = sum(row.violations for row in [*proven, *(row for row in by_inputs if row.bound != PAPER)])
    n_worlds = sum(row.n for row in [*rows, *by_inputs] if row.bound == PAPER)
    tried = sum(row.n for row in attacks)
    least = {row.family: row for row in rows if row.bound == "least"}
    plain = {row.family: row for row in rows if row.bound == "least without cross"}
    paper = {row.family: row for row in rows if row.bound == PAPER}
    medians = "; ".join(
        f"{family}: {least[family].ratio_median:.2f} ({plain[family].ratio_median:.2f} without cross-information), "
        f"paper's form {paper[family].ratio_median:.0f}"
        for family in least
    )
    apart = _witness_gap()
    checks = [
        Check("bounds hold on random worlds", "no violation", f"{violations} in {n_worlds:,} worlds", violations == 0),
        Check(
            "bounds survive a search for counterexamples",
            "no violation",
            f"{sum(row.violated for row in attacks)} of {len(attacks)} attacks succeed, {tried:,} worlds tried",
            not any(row.violated for row in attacks),
        ),
        Check(
            "tightness",
            "median bound / EMID at most 5 (2 to 8 inputs, 2 to 6 responses)",
            medians,
            all(row.ratio_median <= 5 for row in [*least.values(), *plain.values()]),
        ),
        Check(
            "no bound is EMID in disguise",
            "two worlds agree in every ingredient and differ in EMID",
            f"bounds differ by {apart['bounds']:.1e}, EMID by {apart['emid']:.3f} nats",
            apart["bounds"] < 1e-12 < apart["emid"],
        ),
        Check(
            "the paper's form can fail",
            "shown, not claimed",
            "; ".join(f"{case.name}: EMID {case.emid:.2f}, form {case.paper:.2f}" for case in cases),
            None,
        ),
    ]
    return checks, {
        "bound_rows": _plain(rows),
        "attack_rows": _plain(attacks),
        "input_rows": _plain(by_inputs),
        "paper_cases": [{**asdict(case), "violated": case.violated} for case in cases],
        "witness": apart,
    }


def _witness_gap() -> Row:
    from remid.estimate.exact import emid
    from remid.verify.bounds import all_bounds

    worlds = witnesses()
    first, second = (all_bounds(world) for world in worlds)
    truths = [float(emid(*world.flat())) for world in worlds]
    return {
        "bounds": max(abs(float(first[name] - second[name])) for name in first),
        "emid": abs(truths[0] - truths[1]),
        "emid_values": truths,
    }


def _shares(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.shares import share_rows

    rows = share_rows(sizes.share_worlds, seed)
    text = []
    for method in dict.fromkeys(row.method for row in rows):
        marginal = min(row.attributed for row in rows if row.method == method and not row.conditional)
        conditional = min(row.attributed for row in rows if row.method == method and row.conditional)
        text.append(f"{method}: {100 * marginal:.1f}% of marginal, {100 * conditional:.1f}% of conditional shifts")
    good = all(row.attributed >= 0.9 for row in rows if row.method == "sparse")
    claim = "with one shift present, at least 90% of the attributed risk falls on it"
    return [Check("shares name what changed", claim, "; ".join(text), good)], {"share_rows": _plain(rows)}


def _sides(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.sides import estimator_sides

    rows = [
        *estimator_sides(n=8, draws=4 * sizes.side_draws, n_worlds=sizes.side_worlds, seed=seed),
        *estimator_sides(n=64, draws=sizes.side_draws // 2, n_worlds=sizes.side_worlds, seed=seed + 1),
    ]
    wrong = sum(row.wrong for row in rows)
    off = max(abs(row.mean - row.expected) / row.mc_error for row in rows if row.expected is not None)
    measured = f"{wrong} of {len(rows)} cells on the wrong side; CLUB within {off:.1f} SE of information + reverse KL"
    claim = "with the exact q, CLUB and L1Out above, InfoNCE, NWJ and I_alpha below the information"
    return [Check("estimators err as theory says", claim, measured, wrong == 0)], {"side_rows": _plain(rows)}


def _intervals(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.coverage import coverage_table
    from remid.verify.power import power_rows

    rows = coverage_table(sizes.replications, sizes.coverage_sizes, (NEGATIVES,), seed)
    outside = [row for row in rows if not 0.93 <= row.coverage <= 0.97]
    clearly = [row for row in outside if not _within(row.coverage, 2 * row.mc_error, 0.93, 0.97)]
    low, high = min(row.coverage for row in rows), max(row.coverage for row in rows)
    measured = (
        f"{100 * low:.1f}% to {100 * high:.1f}% in {len(rows)} cells of {sizes.replications:,} replications; "
        f"{len(outside)} outside, {len(clearly)} by more than twice the Monte-Carlo error"
    )
    claim = "95% intervals hold the truth in 93% to 97% of replications, up to twice the Monte-Carlo error"
    power = power_rows(sizes.replications, sizes.coverage_sizes, NEGATIVES, seed)
    found = "; ".join(f"n {row.n}: {row.detectable / row.spread:.2f} SD" for row in power if row.world == "gaussian")
    checks = [
        Check("intervals cover", claim, measured, not clearly),
        Check("power", "shown: R-EMID found in 80% of runs, in SD of a contribution", found, None),
    ]
    return checks, {"coverage_rows": _plain(rows), "power_rows": _plain(power)}


def _stopping(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.simulated import DiscreteScores, GaussianScores
    from remid.verify.stopping import stopping_cell

    rows = [
        row
        for world in (GaussianScores(), DiscreteScores())
        for clustered in (False, True)
        for wish in ("at the first look", "middling")
        for row in stopping_cell(world, 125, wish, clustered=clustered, replications=sizes.stopping, seed=seed)
    ]
    # Cells of so few replications say little one by one, and the claim is one-sided.
    share, naive = (float(np.mean([getattr(row, field) for row in rows])) for field in ("coverage", "naive"))
    low = [row for row in rows if row.coverage + 3.5 * np.sqrt(0.95 * 0.05 / row.replications) < 0.95]
    measured = (
        f"{100 * share:.1f}% over {len(rows)} cells of {sizes.stopping} replications (as if nobody had looked: "
        f"{100 * naive:.1f}%); {len(low)} cells below by more than 3.5 times the Monte-Carlo error"
    )
    claim = "95% intervals of runs that stop at a wished standard error hold the truth in 95% of replications or more"
    return [Check("intervals after stopping", claim, measured, share >= 0.945 and not low)], {
        "stopping_rows": _plain(rows)
    }


def _within(share: float, margin: float, low: float, high: float) -> bool:
    return low - margin <= share <= high + margin


def _null(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.null import null_simulated
    from remid.verify.simulated import DiscreteScores, GaussianScores

    rows: list[Row] = []
    for world in (GaussianScores(), DiscreteScores()):
        for clustered in (False, True):
            found = null_simulated(world, n=50, m=NEGATIVES, clustered=clustered, splits=sizes.null_splits, seed=seed)
            name = world.name + (", clustered" if clustered else "")
            rows.append(
                {
                    "world": name,
                    "n": 50,
                    "splits": found.splits,
                    "cells": len(found.cells),
                    "significant": found.share,
                    "mc_error": found.mc_error,
                    "significant_holm": found.holm_share,
                    "any_holm": found.holm_any,
                    "any_holm_error": found.holm_any_error,
                }
            )
    most = max(rows, key=lambda row: row["significant"] - 2 * row["mc_error"])
    holm = max(row["significant_holm"] for row in rows)
    measured = (
        f"{100 * min(row['significant'] for row in rows):.1f}% to {100 * max(row['significant'] for row in rows):.1f}% "
        f"(error {100 * most['mc_error']:.1f}) before, at most {100 * holm:.1f}% after Holm"
    )
    good = all(row["significant"] - 2 * row["mc_error"] <= 0.05 and row["significant_holm"] <= 0.05 for row in rows)
    claim = (
        "ID against ID: no more than 5% of cells significant, up to twice the Monte-Carlo error; after Holm without it"
    )
    return [Check("null runs", claim, measured, good)], {"null_rows": rows}


def _text(sizes: Sizes, seed: int) -> tuple[list[Check], Row]:
    from remid.verify.text import text_truth

    truth = text_truth(sizes.quick_text, seed)
    graded = [row for row in truth.summaries if row.policies == "graded"]
    checks = []
    for source in ("exact", "trained"):
        rows = {row.estimator: row for row in graded if row.source == source and row.reveals == "none"}
        n = rows["infonce"].n
        text = ", ".join(
            f"{name} {100 * row.error_rms:.1f}% (bias {100 * _bias(row):.1f}%)" for name, row in rows.items()
        )
        # The quick sizes draw 200 items, whose sampling error alone is above 5% of the range.
        error = _bias(rows["infonce"]) if sizes.quick_text else rows["infonce"].error_rms
        what = "bias" if sizes.quick_text else f"error of one run of {n} items"
        claim = f"R-EMID by InfoNCE: {what} at most 5% of the range of the truth, RMS over combinations"
        checks.append(Check(f"text worlds, {source} q", claim, text, error <= 0.05))
    counted = [row for row in graded if row.estimator == "infonce" and row.source in {"exact", "trained"}]
    n_large, n_right = sum(row.n_large for row in counted), sum(row.n_large_right for row in counted)
    n_found = sum(row.n_significant for row in counted)
    found_right = sum(round(row.right * row.n_significant) for row in counted if row.n_significant)
    claim = "sign right in at least 99% of shifts larger than 2 standard errors (InfoNCE)"
    measured = f"{n_right} of {n_large}; of estimates beyond 2 standard errors {found_right} of {n_found}"
    checks.append(Check("signs", claim, measured, n_right >= 0.99 * n_large))
    worst = max(truth.traces, key=lambda row: row.share_of_error)
    agree = min(row.agree for row in truth.traces)
    measured = f"differ by {worst.share_of_error:.2f} standard errors (RMS) at most; {100 * agree:.0f}% within 2"
    checks.append(Check("with and without traces", "agree within error", measured, agree >= 0.95))
    parts = {key: _plain(getattr(truth, key)) for key in ("rows", "summaries", "fits", "traces")}
    for row, summary in zip(parts["summaries"], truth.summaries, strict=True):
        row["bias_rms_less_noise"] = number(_bias(summary))
    return checks, {"text": parts}


def _bias(row: TextSummary) -> float:
    """RMS bias as a share of the range, less what sampling alone adds to a mean of this many replications."""
    return float(np.sqrt(max(row.bias_rms**2 - row.noise**2, 0.0)))


def _plain(rows: Sequence[Any]) -> list[Row]:
    """Dataclasses as JSON: what is not finite is null."""

    def value(found: Any) -> Any:
        return number(float(found)) if isinstance(found, float | np.floating) else found

    return [{key: value(found) for key, found in asdict(row).items()} for row in rows]
