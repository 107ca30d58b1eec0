"""Rows of the bounds table: the paper's form, the proven bounds with estimates put in, and the shares, per cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.estimate import Influence, Side, club, plugin_bounds, pool, response_gains, upper_bound
from remid.estimate.plugin import PluginBounds
from remid.estimate.shares import Share, Shares
from remid.pipeline.measure import Row, SubsetScores, number
from remid.pipeline.policies import REFERENCE
from remid.pipeline.progress import Progress
from remid.pipeline.shift import Shifts, Target, joined
from remid.types import FloatArray, PairScores


def bound_rows(
    shifts: Shifts,
    policies: Sequence[str],
    divergences: Sequence[Row],
    remid_rows: Sequence[Row],
    confidence: float,
    progress: Progress,
) -> list[Row]:
    """All bounds for every policy, shifted subset and whole shift, with the R-EMID beside them.

    divergences: what `shifts.divergence_rows` gave. remid_rows: of every unit; those in nats per response are used.
    """
    js: dict[tuple[str | None, str], dict[str, float]] = {}
    for row in divergences:
        value = np.nan if row["rjsd"] is None else row["rjsd"]
        js.setdefault((row["subset"], row["shift"]), {})[row["component"]] = value
    lost = {(r["policy"], r["subset"], r["shift"]): r for r in remid_rows if r["unit"] == "nats/response"}
    rows = []
    references = {target: _measured(target.parts, REFERENCE) for target in shifts.targets}
    with progress.stage("bounds", len(policies) * len(shifts.targets)) as step:
        for policy in policies if shifts.targets else ():
            base = shifts.on_id.parts
            on_id = _measured(base, policy)
            delta_id = shifts.response_divergence(base, policy)
            told_id = shifts.response_logits(base, policy)
            for target in shifts.targets:
                delta_ood = shifts.response_divergence(target.parts, policy)
                row = _paper_row(
                    policy, on_id, references[target], target, js[target.subset, target.shift], (delta_id, delta_ood)
                )
                found = lost.get((policy, target.subset, target.shift), {"value": None, "ci_low": None})
                row["remid"] = found["value"]
                on_id_B, on_ood_B = shifts.input_logits(target)
                told_ood = shifts.response_logits(target.parts, policy)
                made = plugin_bounds(
                    _side(on_id, on_id_B, told_id),
                    _side(references[target], on_ood_B, told_ood),
                    confidence=confidence,
                )
                # The reference's R-EMID is 0 by definition: no measurement that a bound could fail on.
                low = None if policy == REFERENCE else found["ci_low"]
                rows.append({**row, **_plugin_part(made, low), "shares": _shares_part(shifts.shares(target))})
                step(1)
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """What a side of a bound needs of one policy on some subsets together, whatever it is compared with."""

    scores: PairScores
    influence: Influence
    gain_B: FloatArray
    clusters: list[str] | None


def _measured(parts: Sequence[SubsetScores], policy: str) -> _Measured:
    scores = [s.scores[policy] for s in parts]
    clusters = None if parts[0].clusters is None else [label for s in parts for label in s.clusters or ()]
    gain_B = np.concatenate([response_gains(one) for one in scores])
    return _Measured(joined(scores), pool([club(one) for one in scores]), gain_B, clusters)


def _side(made: _Measured, shift_logit_B: FloatArray, told: tuple[FloatArray, FloatArray]) -> Side:
    return Side(made.influence, made.gain_B, shift_logit_B, *told, made.clusters)


def _paper_row(
    policy: str,
    on_id: _Measured,
    reference: _Measured,
    target: Target,
    js: dict[str, float],
    delta: tuple[float, float],
) -> Row:
    made = upper_bound(on_id.scores, reference.scores, js, delta_id=delta[0], delta_ood=delta[1])
    numbers = {key: number(getattr(made, key)) for key in ("value", "h_hat", "delta", "input_term", "reference_term")}
    return {
        "policy": policy,
        "subset": target.subset,
        "shift": target.shift,
        **numbers,
        "js": {name: number(value) for name, value in made.js.items()},
        "share": None if made.share is None else {name: number(value) for name, value in made.share.items()},
        "n_id": made.n_id,
        "n_ood": made.n_ood,
        "n_missing": made.n_missing,
        "unit": "nats/response",
    }


def _plugin_part(made: PluginBounds, remid_low: float | None) -> Row:
    bounds = {}
    for name, bound in made.bounds.items():
        keys = ("value", "ci_low", "ci_high", "information", "slack")
        bounds[name] = {**{key: number(getattr(bound, key)) for key in keys}, "reason": bound.reason}
        above = remid_low is not None and bound.reason is None and remid_low > bound.value
        bounds[name]["exceeded"] = bool(above)
    ingredients = {key: number(getattr(made, key)) for key in ("t", "js", "eps_id", "eps_ood")}
    return {"bounds": bounds, "least": made.least, "ingredients": ingredients}


def _shares_part(made: Shares) -> Row:
    def numbers(shares: Mapping[str, Share] | None) -> Row | None:
        if shares is None:
            return None
        return {z: {key: number(getattr(x, key)) for key in ("value", "ci_low", "ci_high")} for z, x in shares.items()}

    return {
        **{name: numbers(getattr(made, name)) for name in ("paper", "shapley", "sparse")},
        "v": {name: number(value) for name, value in made.v.items()},
        "leader": made.leader,
        "leads": number(made.leads),
        "reason": made.reason,
    }


def exceeded_bounds(result: Mapping[str, Any]) -> list[tuple[str, str, str, str | None]]:
    """(code, text, policy, subset) for each cell whose measured R-EMID lies above a plug-in bound by its interval."""
    found = []
    for row in result.get("bound", ()):
        names = [name for name, bound in row["bounds"].items() if bound["exceeded"]]
        if names:
            where = row["subset"] or f"the {row['shift']} shift as a whole"
            least = min(row["bounds"][name]["value"] for name in names)
            text = (
                f"In {where} the measured R-EMID of {row['policy']} ({row['remid']:+.1f} nats/response, all of its "
                f"interval) exceeds the plug-in bound {', '.join(names)} ({least:.1f} at the least): the plug-in has "
                "failed there, most likely since its classifier saw too little of the difference."
            )
            found.append(("bound-exceeded", text, row["policy"], row["subset"]))
    return found
