"""The bound against sample size where truth is known: small discrete worlds, tables of n draws put for the laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from remid.data.worlds.discrete import DiscreteWorld, random_worlds
from remid.estimate.exact import entropy, information, jensen_shannon, marginal, normalised
from remid.pipeline.measure import number
from remid.study.agreement import kendall, pearson
from remid.types import FloatArray

Row = dict[str, Any]
SIZES = (10, 20, 40, 80, 160, 640, 2560)
#: |U|, |A|, |D|, |Y| of the worlds that the command draws, and how many it draws.
SHAPE = (3, 3, 3, 4)
WORLDS = 200
#: What is held against its exact value, in the order of the tables. All nats but the shares.
QUANTITIES = (
    *("emid", "bound", "h_hat", "conditional_max", "output_entropy", "delta", "input_term", "reference_term"),
    *("js_user", "js_character", "js_dialogue", "share_user", "share_character", "share_dialogue"),
)


def command_worlds(seed: int) -> DiscreteWorld:
    """The worlds of `remid study sample-size`: any kind of shift, the reference channel the same in ID and OOD."""
    return random_worlds(WORLDS, SHAPE, seed)


def bound_against_n_exact(
    worlds: DiscreteWorld, *, sizes: Sequence[int] = SIZES, draws: int = 10, seed: int = 0
) -> list[Row]:
    """One row per n, and a last one (n None) with the exact values: plug-in bound and EMID against the truth.

    worlds: a batch (one leading axis). Of each, n inputs are drawn under ID and n under OOD, with one policy and one
    reference response each; the empirical tables take the place of the laws in EMID and in the paper's form. Per n:
    means over worlds and draws (QUANTITIES), their mean `_exact` value, and `_rmse`, the root mean square error.
    follows: over worlds, averaged over draws, the plug-in bound against the plug-in EMID of the same draw; follows_size
    against its absolute value; follows_truth against the exact EMID; follows_bound against the exact bound; of each,
    pearson and kendall. gap: bound - EMID. exceeded: share where the plug-in EMID is above the plug-in bound;
    truth_exceeds: where the exact EMID is.
    Nats. Raises ValueError for sizes below 1 or unbatched worlds.
    """
    if worlds.p_UAD.ndim != 4 or min(sizes, default=0) < 1 or draws < 1:
        raise ValueError("needs one batch axis of worlds, sizes of at least 1 and at least one draw")
    exact = table_quantities(*_laws(worlds))
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = []
    for n in sorted(set(sizes)):
        found = [table_quantities(*_draw(worlds, n, rng)) for _ in range(draws)]
        rows.append({"n": n, **_row(found, exact)})
    return [*rows, {"n": None, **_row([exact], exact)}]


def table_quantities(
    policy_p_UADY: FloatArray, reference_p_UADY: FloatArray, policy_q_UADY: FloatArray, reference_q_UADY: FloatArray
) -> dict[str, FloatArray]:
    """EMID, the paper's form and its parts from four joint laws of (input, response), exact or empirical; nats.

    policy_p: the policy's responses under ID; _q: under OOD. Each (..., U, A, D, Y), summing to 1. Shares are NaN where
    no component moved. h_hat = conditional_max (over the OOD inputs that occur) + output_entropy (paper, Theorem 3.4).
    """
    joints = (policy_p_UADY, reference_p_UADY, policy_q_UADY, reference_q_UADY)
    p_UAD, q_UAD = policy_p_UADY.sum(-1), policy_q_UADY.sum(-1)
    lead = p_UAD.shape[:-3]
    flat = [joint.reshape(*lead, -1, joint.shape[-1]) for joint in joints]
    outputs = [table.sum(-2) for table in flat]
    of_policy_p, of_reference_p, of_policy_q, of_reference_q = (
        information(table.sum(-1), normalised(table)) for table in flat
    )
    occurs = flat[3].sum(-1) > 0
    conditional_max = np.where(occurs, entropy(normalised(flat[3])), 0.0).max(-1)
    output_entropy = entropy(outputs[0])
    names = ("user", "character", "dialogue")
    js = {name: jensen_shannon(marginal(p_UAD, (z,)), marginal(q_UAD, (z,))) for z, name in enumerate(names)}
    total = np.sum([np.sqrt(value) for value in js.values()], axis=0)
    delta = jensen_shannon(outputs[0], outputs[1]) + jensen_shannon(outputs[2], outputs[3])
    input_term = np.sqrt(2 / 3) * (conditional_max + output_entropy) * total
    reference_term = 8 * delta**0.25
    safe = np.where(total > 0, total, np.nan)
    return {
        "emid": (of_policy_p - of_reference_p) - (of_policy_q - of_reference_q),
        "bound": input_term + reference_term,
        "h_hat": conditional_max + output_entropy,
        "conditional_max": conditional_max,
        "output_entropy": output_entropy,
        "delta": delta,
        "input_term": input_term,
        "reference_term": reference_term,
        **{f"js_{name}": value for name, value in js.items()},
        **{f"share_{name}": np.sqrt(value) / safe for name, value in js.items()},
    }


def _laws(w: DiscreteWorld) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    p, q = w.p_UAD[..., None], w.q_UAD[..., None]
    return p * w.policy_UADY, p * w.reference_p_UADY, q * w.policy_UADY, q * w.reference_q_UADY


def _draw(w: DiscreteWorld, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Empirical joint laws: n inputs per world and side, and for each input a response of policy and of reference."""
    tables: list[FloatArray] = []
    for law_WUAD, reference_WUADY in ((w.p_UAD, w.reference_p_UADY), (w.q_UAD, w.reference_q_UADY)):
        count_WUAD = rng.multinomial(n, _exact_sum(law_WUAD.reshape(len(law_WUAD), -1))).reshape(law_WUAD.shape)
        for channel_WUADY in (w.policy_UADY, reference_WUADY):
            tables.append(rng.multinomial(count_WUAD, _exact_sum(channel_WUADY)) / n)
    return tables[0], tables[1], tables[2], tables[3]


def _exact_sum(law_X: FloatArray) -> FloatArray:
    """Numpy refuses laws that sum to 1 plus rounding."""
    return np.asarray(law_X / law_X.sum(-1, keepdims=True))


def _row(found: Sequence[dict[str, FloatArray]], exact: dict[str, FloatArray]) -> Row:
    row: Row = {}
    for name in QUANTITIES:
        values_DW = np.array([one[name] for one in found])
        known = np.isfinite(values_DW)
        row[name] = number(float(values_DW[known].mean())) if known.any() else None
        row[f"{name}_exact"] = number(float(np.nanmean(exact[name])))
        error = (values_DW - exact[name])[np.isfinite(values_DW - exact[name])]
        row[f"{name}_rmse"] = number(float(np.sqrt(np.mean(error**2)))) if error.size else None
    others = {
        "follows": [one["emid"] for one in found],
        "follows_size": [np.abs(one["emid"]) for one in found],
        "follows_truth": [exact["emid"]] * len(found),
        "follows_bound": [exact["bound"]] * len(found),
    }
    for name, columns in others.items():
        pairs = [(one["bound"], other) for one, other in zip(found, columns, strict=True)]
        row[name] = {
            "pearson": number(float(np.mean([pearson(x, y) for x, y in pairs]))),
            "kendall": number(float(np.mean([kendall(x, y) for x, y in pairs]))),
        }
    row["gap"] = float(np.mean([one["bound"] - one["emid"] for one in found]))
    row["exceeded"] = float(np.mean([one["emid"] > one["bound"] for one in found]))
    row["truth_exceeds"] = float(np.mean([exact["emid"] > one["bound"] for one in found]))
    row["n_worlds"] = int(exact["emid"].size)
    return row
