"""Does R-EMI order models as a judge does, and does R-EMID follow the judge's drop under a shift?

For data whose records carry a judge's scores, `judge_scores` = {policy: {dimension: [model, reference]}}. Per unit:

  models  Spearman over the policies, R-EMI on ID against the mean judge score on ID
  cells   Pearson over (policy, shifted subset), R-EMID against the drop of the mean judge score from ID

with 95% percentile intervals from 2,000 bootstrap draws over contexts (within subsets, the same draw for score and
judge) and over models. Contributions phi_B stand for recomputed values: an item must not be paired with its own copy.

  python benchmarks/judge_agreement.py runs/mmrole --out agreement.json
  python benchmarks/judge_agreement.py runs/untrained --after runs/trained --out agreement.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from remid.estimate import UNITS, remi
from remid.pipeline.measure import SubsetScores
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.pipeline.run import scored_subsets
from remid.types import ID, FloatArray

DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--after", type=Path, help="a run of the same samples with another estimator, compared with it")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = measured(args.run)
    result = {"agreement": [row for row, _ in found["rows"]], "by_policy": found["by_policy"]}
    if args.after is not None:
        other = measured(args.after)
        if other["samples"] != found["samples"]:
            raise SystemExit(f"{args.after}: other samples than in {args.run}; they cannot be compared")
        result["after"] = [row for row, _ in other["rows"]]
        result["change"] = [
            {"unit": row["unit"], "measure": row["measure"], **change(row, draws, later, later_draws)}
            for (row, draws), (later, later_draws) in zip(found["rows"], other["rows"], strict=True)
        ]
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def measured(run: Path) -> dict[str, Any]:
    """rows: (figures, bootstrap draws) of each measure; by_policy; samples: ids, to see that two runs have the same."""
    subsets = scored_subsets(run)
    policies = [name for name in subsets[0].scores if name not in CONTROLS]
    judged = {s.subset: judge_scores(s, policies) for s in subsets}
    rows = []
    for unit in UNITS:
        phi = {s.subset: contributions(s, policies, unit) for s in subsets}
        for measure, signed in (("R-EMI", True), ("-|R-EMI|", False)):
            figures, draws_N2 = agreement(subsets, phi, judged, signed=signed)
            rows.append(({"unit": unit, "measure": measure, **figures}, draws_N2))
    table = {
        p: {s.subset: mean_pair(phi_of(s, p), judged[s.subset][k]) for s in subsets} for k, p in enumerate(policies)
    }
    return {"rows": rows, "by_policy": table, "samples": [[x.sample_id for x in s.samples] for s in subsets]}


def change(row: dict[str, Any], draws_N2: FloatArray, later: dict[str, Any], later_N2: FloatArray) -> dict[str, Any]:
    """After minus before, with intervals: both runs were drawn with the same contexts and models each time."""
    low_2, high_2 = np.nanpercentile(later_N2 - draws_N2, [2.5, 97.5], axis=0)
    return {
        f"{name}_change": [round(later[key] - row[key], 3), round(float(low_2[k]), 3), round(float(high_2[k]), 3)]
        for k, (name, key) in enumerate((("models", "models_spearman"), ("cells", "cells_pearson")))
    }


def judge_scores(s: SubsetScores, policies: list[str]) -> FloatArray:
    """(policies, B) mean over the judge's dimensions of the model's score, out of 10; NaN where it was not judged."""

    def score(judged: dict[str, dict[str, list[float]]], policy: str) -> float:
        values = [pair[0] for pair in judged.get(policy, {}).values()]
        return float(np.mean(values)) if values else float("nan")

    return np.array([[score(x.meta["judge_scores"], p) for x in s.samples] for p in policies])


def contributions(s: SubsetScores, policies: list[str], unit: str) -> FloatArray:
    """(policies, B) contributions to R-EMI."""
    return np.stack([remi(s.scores[p], s.scores[REFERENCE], unit).phi_B for p in policies])


def phi_of(s: SubsetScores, policy: str) -> FloatArray:
    return remi(s.scores[policy], s.scores[REFERENCE]).phi_B


def mean_pair(phi_B: FloatArray, judged_B: FloatArray) -> dict[str, float]:
    return {"remi_nats_per_response": float(np.nanmean(phi_B)), "judge": float(np.nanmean(judged_B))}


def agreement(
    subsets: list[SubsetScores], phi: dict[str, FloatArray], judged: dict[str, FloatArray], *, signed: bool
) -> tuple[dict[str, Any], FloatArray]:
    """Both correlations with their intervals, and their bootstrap draws (DRAWS, 2)."""
    names = [s.subset for s in subsets]
    id_name = next(s.subset for s in subsets if s.shift == ID)
    others = [name for name in names if name != id_name]
    n_policies = phi[id_name].shape[0]
    rng = np.random.default_rng(0)

    def both(items: dict[str, np.ndarray], models: np.ndarray) -> tuple[float, float]:
        value = {n: np.nanmean(phi[n][models][:, items[n]], axis=1) for n in names}
        if not signed:
            value = {n: -np.abs(v) for n, v in value.items()}
        judge = {n: np.nanmean(judged[n][models][:, items[n]], axis=1) for n in names}
        rank = stats.spearmanr(value[id_name], judge[id_name]).statistic
        fall = np.concatenate([value[id_name] - value[n] for n in others])
        drop = np.concatenate([judge[id_name] - judge[n] for n in others])
        return float(rank), float(stats.pearsonr(fall, drop).statistic)

    everything = {n: np.arange(phi[n].shape[1]) for n in names}
    point = both(everything, np.arange(n_policies))
    draws = np.array(
        [
            both(
                {n: rng.integers(phi[n].shape[1], size=phi[n].shape[1]) for n in names},
                rng.integers(n_policies, size=n_policies),
            )
            for _ in range(DRAWS)
        ]
    )
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    figures = {
        "models_spearman": round(point[0], 3),
        "models_interval": [round(float(low[0]), 3), round(float(high[0]), 3)],
        "n_models": n_policies,
        "n_contexts_id": phi[id_name].shape[1],
        "cells_pearson": round(point[1], 3),
        "cells_interval": [round(float(low[1]), 3), round(float(high[1]), 3)],
        "n_cells": n_policies * len(others),
    }
    return figures, draws


if __name__ == "__main__":
    main()
