"""Does the gap to the reference order models as a judge does, and does its change follow the judge's drop?

For data whose records carry a judge's scores, `judge_scores` = {policy: {dimension: [model, reference]}}. Per group of
contexts (a subset, or with --group-by a field's value within it) Spearman over the policies of minus the gap with the
mean judge score; over cells (policy, other group) Pearson of the gap's change from ID with the judge's drop. Intervals:
95% percentiles of 2,000 bootstrap draws over contexts, and over contexts and models. Signed R-EMI stands beside it.
Several runs on disjoint contexts are put together, each response with the negatives of its own run.

  python benchmarks/gap_agreement.py runs/first runs/rest --out agreement.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from remid.data.mapping import look_up
from remid.estimate import remi
from remid.estimate.candidates import energy_distance, paired_distance, quantile_distance, two_sided, wasserstein
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.pipeline.run import told_subsets
from remid.types import ID, FloatArray, Sample

DRAWS = 2000
#: Contexts that a group of cells must hold.
LEAST = 20
#: Distances of densities from the reference's (estimate/candidates.py), all per token.
DISTANCES = {
    "two-sided R-EMI": two_sided,
    "paired distance": paired_distance,
    "Wasserstein-1": wasserstein,
    "deciles": quantile_distance,
    "energy distance": energy_distance,
}
#: What is held against the judge. Distances are negated, so that more is better everywhere.
MEASURES = (
    *("minus gap", "minus missing", "minus excess", "minus repeated", "earned, nats/response", "R-EMI, nats/token"),
    *(f"minus {name}" for name in DISTANCES),
    "minus difference of log q",
)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Contexts that are taken together, columns by policy (P, B): R-EMI's contributions per token, judge, and what
    responses tell (estimate/gap.py); of the reference (B,)."""

    on_id: bool
    remi_PB: FloatArray
    judge_PB: FloatArray
    earned_PB: FloatArray
    repeated_PB: FloatArray
    blind_PB: FloatArray
    tokens_PB: FloatArray
    earned_B: FloatArray
    repeated_B: FloatArray
    blind_B: FloatArray
    tokens_B: FloatArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of finished runs, on contexts that they do not share"
    )
    parser.add_argument(
        "--group-by", help="field whose values split subsets that are not ID, such as agent_character.kind"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    policies, groups = read(args.runs, args.group_by)
    text = json.dumps({"policies": policies, **agreement(groups)}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def read(runs: list[Path], field: str | None) -> tuple[list[str], dict[str, Group]]:
    parts: dict[str, list[Group]] = {}
    policies: list[str] = []
    for run in runs:
        subsets, told = told_subsets(run)
        policies = [name for name in subsets[0].scores if name not in CONTROLS]
        for s in subsets:
            on_id, reference = s.shift == ID, told[s.subset][REFERENCE]
            names = np.array(
                [s.subset if on_id or field is None else f"{s.subset}, {value(x, field)}" for x in s.samples]
            )
            mine = [told[s.subset][p] for p in policies]
            columns = (
                np.stack([remi(s.scores[p], s.scores[REFERENCE], "nats/token").phi_B for p in policies]),
                np.array([[judged(x, p) for x in s.samples] for p in policies]),
                *(np.stack([getattr(t, name) for t in mine]) for name in TOLD),
                *(getattr(reference, name) for name in TOLD),
            )
            for name in dict.fromkeys(names.tolist()):
                parts.setdefault(name, []).append(Group(on_id, *(column[..., names == name] for column in columns)))
    return policies, {
        name: Group(some[0].on_id, *(np.concatenate([getattr(g, key) for g in some], axis=-1) for key in COLUMNS))
        for name, some in parts.items()
    }


TOLD = ("earned_B", "repeated_B", "blind_B", "tokens_B")
COLUMNS = ("remi_PB", "judge_PB", *(name.replace("_B", "_PB") for name in TOLD), *TOLD)


def value(sample: Sample, field: str) -> Any:
    return look_up(sample.meta, field)[1]


def judged(sample: Sample, policy: str) -> float:
    """Mean over the judge's dimensions, out of 10; NaN where it was not judged."""
    values = [pair[0] for pair in sample.meta["judge_scores"].get(policy, {}).values()]
    return float(np.mean(values)) if values else float("nan")


def scores(group: Group, items: np.ndarray) -> tuple[dict[str, FloatArray], FloatArray]:
    """Each measure by policy on these contexts, and the judge's mean."""
    g = replace(group, **{name: getattr(group, name)[..., items] for name in COLUMNS})
    here_PB = np.isfinite(g.earned_PB) & np.isfinite(g.earned_B)
    length_PB = np.where(here_PB, g.tokens_B, np.nan)
    missing_P = np.nansum(g.earned_B - g.earned_PB, axis=1) / np.nansum(length_PB, axis=1)
    rate_PB, rate_B = g.repeated_PB / g.tokens_PB, g.repeated_B / g.tokens_B
    missing_P, excess_P = np.maximum(missing_P, 0), np.maximum(np.nanmean(rate_PB - rate_B, axis=1), 0)
    density_PB, density_B = (g.earned_PB + g.repeated_PB) / g.tokens_PB, (g.earned_B + g.repeated_B) / g.tokens_B
    own_PB, own_B = density_PB - g.blind_PB / g.tokens_PB, density_B - g.blind_B / g.tokens_B
    found = (
        *(-(missing_P + excess_P), -missing_P, -excess_P, -np.nanmean(rate_PB, axis=1)),
        *(np.nanmean(g.earned_PB, axis=1), np.nanmean(g.remi_PB, axis=1)),
        *(np.array([-distance(d_B, density_B) for d_B in density_PB]) for distance in DISTANCES.values()),
        np.array([-two_sided(d_B, own_B) for d_B in own_PB]),
    )
    return dict(zip(MEASURES, found, strict=True)), np.nanmean(g.judge_PB, axis=1)


def agreement(groups: dict[str, Group]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sizes = {name: group.tokens_B.size for name, group in groups.items()}
    n_policies = next(iter(groups.values())).earned_PB.shape[0]
    everyone = np.arange(n_policies)
    whole = correlations({n: scores(g, np.arange(sizes[n])) for n, g in groups.items()}, groups, everyone)
    drawn: dict[str, list[dict[tuple[str, str], float]]] = {"contexts": [], "contexts and models": []}
    for _ in range(DRAWS):
        made = {n: scores(g, rng.integers(sizes[n], size=sizes[n])) for n, g in groups.items()}
        drawn["contexts"].append(correlations(made, groups, everyone))
        models = rng.integers(n_policies, size=n_policies)
        drawn["contexts and models"].append(correlations(made, groups, models))
    rows = []
    for (measure, where), point in whole.items():
        row = {"measure": measure, "where": where, "value": round(point, 3)}
        for over, draws in drawn.items():
            low, high = np.nanpercentile([draw[measure, where] for draw in draws], [2.5, 97.5])
            row[over] = [round(float(low), 3), round(float(high), 3)]
        rows.append(row)
    table = {
        n: [[round(float(x), 4) for x in found[m]] for m in MEASURES] + [[round(float(x), 3) for x in judge]]
        for n, (found, judge) in ((n, scores(g, np.arange(sizes[n]))) for n, g in groups.items())
    }
    return {"n_contexts": sizes, "n_models": n_policies, "rows": rows, "columns": [*MEASURES, "judge"], "table": table}


def correlations(
    made: dict[str, tuple[dict[str, FloatArray], FloatArray]], groups: dict[str, Group], models: np.ndarray
) -> dict[tuple[str, str], float]:
    base = next(name for name, group in groups.items() if group.on_id)
    others = [name for name, group in groups.items() if not group.on_id and group.tokens_B.size >= LEAST]
    found = {}
    for measure in MEASURES:
        for name, (values, judge) in made.items():
            found[measure, name] = rank(values[measure][models], judge[models])
        if others:
            change = np.concatenate([made[base][0][measure][models] - made[n][0][measure][models] for n in others])
            drop = np.concatenate([made[base][1][models] - made[n][1][models] for n in others])
            found[measure, "change ~ drop"] = float(stats.pearsonr(change, drop).statistic)
    return found


def rank(a: FloatArray, b: FloatArray) -> float:
    """Spearman's correlation, NaN where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


if __name__ == "__main__":
    main()
