"""Plug-in bounds in worlds where every law is known: what they converge to, and what they say when they cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from remid.estimate import Influence, balanced_design, club, response_gains
from remid.estimate.divergence import cross_fitted_logits
from remid.estimate.exact import expected_club, residuals
from remid.estimate.exact_bounds import exact_bounds
from remid.estimate.inference import estimate
from remid.estimate.plugin import (
    NAMES,
    NO_ALPHABET,
    NO_INPUT_WEIGHTS,
    NO_RESPONSE_WEIGHTS,
    UNSEEN_DIFFERENCE,
    UNSEEN_SHIFT,
    PluginBounds,
    Side,
    plugin_bounds,
)
from remid.types import FloatArray, PairScores

P_X = np.array([0.5, 0.3, 0.15, 0.05])
Q_X = np.array([0.1, 0.2, 0.3, 0.4])
POLICY_XY = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4], [0.4, 0.3, 0.3]])
REFERENCE_XY = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])
EXACT = {k: float(v) for k, v in exact_bounds(P_X, Q_X, POLICY_XY, REFERENCE_XY, REFERENCE_XY).items()}


def draw(rng: np.random.Generator, law_X: FloatArray, channel_XY: FloatArray, n: int) -> tuple[np.ndarray, np.ndarray]:
    x_B = rng.choice(law_X.size, n, p=law_X)
    return x_B, (rng.random((n, 1)) > np.cumsum(channel_XY, axis=1)[x_B]).sum(axis=1)


def scores(x_B: np.ndarray, y_B: np.ndarray, channel_XY: FloatArray, m: int = 4) -> PairScores:
    """Exact log p(y|x) on a balanced design."""
    design = balanced_design(x_B.size, m, seed=0)
    log_XY, ones_B = np.log(channel_XY), np.ones(x_B.size)
    negative_Bm = log_XY[x_B[:, None], y_B[design.negatives_Bm]]
    return PairScores(log_XY[x_B, y_B], negative_Bm, ones_B, ones_B, design)


def one_hot(size: int, *index: np.ndarray) -> FloatArray:
    """Joint one-hot rows of several labels; a common direction, as embeddings have one."""
    flat = index[0] if len(index) == 1 else index[0] * REFERENCE_XY.shape[1] + index[1]
    return np.eye(size)[flat]


def sides(n: int, *, learned: bool, p_X: FloatArray = P_X, q_X: FloatArray = Q_X, seed: int = 0) -> tuple[Side, Side]:
    """Both sides of a sample of n a side, with the true log-ratios or with those of the classifier on one-hot rows."""
    rng = np.random.default_rng(seed)
    made, inputs = [], []
    for law_X, counted_XY in ((p_X, POLICY_XY), (q_X, REFERENCE_XY)):
        x_B, policy_B = draw(rng, law_X, POLICY_XY, n)
        reference_B = (rng.random((n, 1)) > np.cumsum(REFERENCE_XY, axis=1)[x_B]).sum(axis=1)
        own_B = policy_B if counted_XY is POLICY_XY else reference_B
        found = scores(x_B, own_B, counted_XY)
        log_vw_XY = np.log(POLICY_XY / REFERENCE_XY)
        at_policy_B, at_reference_B = log_vw_XY[x_B, policy_B], log_vw_XY[x_B, reference_B]
        if learned:
            rows = [one_hot(12, x_B, y_B) for y_B in (reference_B, policy_B)]
            at_reference_B, at_policy_B = cross_fitted_logits(*rows, seed=1, paired=True)
        inputs.append(x_B)
        gain_B = response_gains(found)
        made.append(Side(_club(found, gain_B), gain_B, np.log(q_X / p_X)[x_B], at_policy_B, at_reference_B))
    if learned:
        logits = cross_fitted_logits(*(one_hot(4, x_B) for x_B in inputs), seed=1)
        made = [replace(side, shift_logit_B=logit_B) for side, logit_B in zip(made, logits, strict=True)]
    return made[0], made[1]


def _club(found: PairScores, gain_B: FloatArray) -> Influence:
    """CLUB; in large samples, where its standard error takes long and is not asked for, the plain mean of gains."""
    if gain_B.size < 1000:
        return club(found)
    n, zeros_B = gain_B.size, np.zeros(gain_B.size, dtype=np.int64)
    return Influence(float(gain_B.mean()), gain_B, n, 0, "nats/response", zeros_B)


def values(found: PluginBounds) -> dict[str, float]:
    return {name: bound.value for name, bound in found.bounds.items() if bound.reason is None}


def test_t0_is_the_sum_of_two_clubs_with_the_interval_of_independent_samples() -> None:
    on_id, on_ood = sides(200, learned=False)
    got = plugin_bounds(on_id, on_ood).bounds["T0"]
    each = [estimate(side.influence) for side in (on_id, on_ood)]
    assert got.value == pytest.approx(each[0].value + each[1].value)
    half = (got.ci_high - got.ci_low) / 2
    assert half == pytest.approx(1.97 * math.hypot(each[0].stderr, each[1].stderr), rel=0.01)
    assert (got.information, got.slack, got.reason) == (got.value, 0.0, None)


def test_with_true_ratios_they_converge_to_no_less_than_the_exact_bounds() -> None:
    found = plugin_bounds(*sides(40_000, learned=False))
    got = values(found)
    club_sum = float(expected_club(P_X, POLICY_XY) + expected_club(Q_X, REFERENCE_XY))
    assert got["T0"] == pytest.approx(club_sum, abs=0.03)
    assert found.t == pytest.approx(float(residuals(P_X, Q_X)[0]), abs=0.01)
    for name in ("T0", "T1", "T2", "T3"):
        assert EXACT[name] - 0.03 < got[name] < 2 * EXACT[name] + 0.1, name
    # T1 and T2 item by item: weights times log-ratios, no sample at all.
    gain = {}
    for key, law_X, channel_XY in (("p", P_X, POLICY_XY), ("q", Q_X, REFERENCE_XY)):
        log_XY = np.log(channel_XY)
        gain[key] = law_X[:, None] * channel_XY * (log_XY - law_X @ log_XY)
    w_p, w_q = np.maximum(1 - Q_X / P_X, 0), np.maximum(1 - P_X / Q_X, 0)
    assert found.bounds["T1"].information == pytest.approx(
        float((w_p[:, None] * gain["p"]).sum() + (w_q[:, None] * gain["q"]).sum()), abs=0.03
    )
    u_v, u_w = np.maximum(1 - REFERENCE_XY / POLICY_XY, 0), np.maximum(1 - POLICY_XY / REFERENCE_XY, 0)
    assert found.bounds["T2"].information == pytest.approx(float((u_v * gain["p"] + u_w * gain["q"]).sum()), abs=0.03)
    apart_X = 0.5 * np.abs(POLICY_XY - REFERENCE_XY).sum(axis=1)
    assert (found.eps_id, found.eps_ood) == pytest.approx((P_X @ apart_X, Q_X @ apart_X), abs=0.01)


def test_with_a_learned_classifier_they_come_near() -> None:
    got, truth = plugin_bounds(*sides(1500, learned=True)), plugin_bounds(*sides(1500, learned=False))
    assert got.t == pytest.approx(truth.t, abs=0.05)
    assert (got.eps_id, got.eps_ood) == pytest.approx((truth.eps_id, truth.eps_ood), abs=0.07)
    for name in ("T0", "T1", "T2", "T3"):
        assert values(got)[name] == pytest.approx(values(truth)[name], rel=0.12), name
        assert values(got)[name] > EXACT[name] - 0.1, name


def test_gains_promise_at_each_input_what_contributions_do_not() -> None:
    """Reweighted by input, gains stay above the information; contributions of CLUB can fall below it."""
    on_id, _ = sides(40_000, learned=False)
    w_B = -np.expm1(np.minimum(on_id.shift_logit_B, 0))
    t, _, p_only_X, _ = residuals(P_X, Q_X)
    kl_X = (POLICY_XY * np.log(POLICY_XY / (P_X @ POLICY_XY))).sum(axis=1)
    least = float(t * (p_only_X @ kl_X))
    assert np.mean(w_B * on_id.gain_B) > least
    assert np.nanmean(on_id.gain_B) == pytest.approx(on_id.influence.value)


def test_no_shift_and_no_difference_cost_nothing_that_is_not_there() -> None:
    on_id, on_ood = sides(300, learned=True, q_X=P_X, seed=1)
    found = plugin_bounds(on_id, on_ood)
    assert found.t < 0.05
    assert abs(found.js) < 0.02
    assert (found.js <= 0) == (found.bounds["T1"].reason == UNSEEN_SHIFT)
    blind = [replace(s, shift_logit_B=0.1 * (-1) ** k * (1 + 0 * s.gain_B)) for k, s in enumerate((on_id, on_ood))]
    found = plugin_bounds(*blind)
    assert {name for name, b in found.bounds.items() if b.reason == UNSEEN_SHIFT} == {"T1", "T3", "T4"}
    wrong = [
        replace(s, policy_logit_B=s.reference_logit_B, reference_logit_B=s.policy_logit_B) for s in (on_id, on_ood)
    ]
    assert plugin_bounds(*wrong).bounds["T2"].reason == UNSEEN_DIFFERENCE
    same = [replace(s, policy_logit_B=0 * s.gain_B, reference_logit_B=0 * s.gain_B) for s in (on_id, on_ood)]
    found = plugin_bounds(*same)
    assert values(found)["T2"] == 0.0
    assert found.least == "T2"


def test_the_interval_of_a_weighted_bound_covers() -> None:
    truth = plugin_bounds(*sides(60_000, learned=False)).bounds["T1"].information
    hits = 0
    for seed in range(200):
        got = plugin_bounds(*sides(60, learned=False, seed=seed)).bounds["T1"]
        hits += got.ci_low - got.slack <= truth <= got.ci_high - got.slack
    assert 183 <= hits <= 200  # 95%, less 2.3 binomial errors


def test_what_cannot_be_told_is_missing_with_its_reason() -> None:
    on_id, on_ood = sides(50, learned=False)
    assert list(plugin_bounds(on_id, on_ood).bounds) == list(NAMES)
    reasons = {name: b.reason for name, b in plugin_bounds(on_id, on_ood).bounds.items() if b.reason}
    assert list(reasons) == ["T1'", "T5"]
    assert reasons["T5"] == NO_ALPHABET
    nan_B = np.full(50, np.nan)
    blind = [replace(s, shift_logit_B=nan_B) for s in (on_id, on_ood)]
    found = plugin_bounds(*blind)
    assert {name for name, b in found.bounds.items() if b.reason == NO_INPUT_WEIGHTS} == {"T1", "T3", "T4"}
    assert found.least in ("T0", "T2")
    mute = [replace(s, policy_logit_B=nan_B, reference_logit_B=nan_B) for s in (on_id, on_ood)]
    found = plugin_bounds(*mute)
    assert {name for name, b in found.bounds.items() if b.reason == NO_RESPONSE_WEIGHTS} == {"T2", "T3"}
    empty = replace(on_id, influence=replace(on_id.influence, n=0, value=math.nan), gain_B=nan_B)
    found = plugin_bounds(empty, on_ood)
    assert found.least is None
    assert all(b.reason and math.isnan(b.value) for b in found.bounds.values())


def test_missing_pairs_are_left_out_of_gains() -> None:
    rng = np.random.default_rng(0)
    found = scores(*draw(rng, P_X, POLICY_XY, 12), POLICY_XY, m=3)
    found.positive_B[2] = np.nan
    found.negative_Bm[:, 1] = np.nan
    want = []
    for j in range(12):
        pairs = [(i, k) for i in range(12) for k in range(3) if found.design.negatives_Bm[i, k] == j]
        column = [found.negative_Bm[i, k] for i, k in pairs if not math.isnan(found.negative_Bm[i, k])]
        want.append(found.positive_B[j] - sum(column) / len(column) if column and j != 2 else math.nan)
    assert response_gains(found) == pytest.approx(want, nan_ok=True)
