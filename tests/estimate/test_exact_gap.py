"""The exact gap: what is proven of it, by hand and on random worlds, and where it misleads."""

from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import exact
from remid.estimate.exact_gap import BEGIN, ExactGap, conditional_parts, exact_gap, exact_gap_bound, telling
from remid.estimate.gap import Told, draw_contexts, measure_gap, paired
from remid.types import FloatArray

UNIFORM = np.array([0.5, 0.5])
#: Two inputs, two answers and an echo of each input; the reference echoes once in twenty.
REFERENCE = np.array([[0.75, 0.20, 0.05, 0.0], [0.20, 0.75, 0.0, 0.05]])
ECHO = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def gap_of(policy_XY: FloatArray, p_X: FloatArray = UNIFORM, begin: float = BEGIN) -> ExactGap:
    told = telling(p_X, REFERENCE, ECHO, begin=begin, smooth=1e-9)
    return exact_gap(p_X, policy_XY, REFERENCE, told)


def test_by_hand() -> None:
    told = telling(UNIFORM, REFERENCE, ECHO, begin=0.1, smooth=1e-12)
    assert told.earned_XY[0, :3] == pytest.approx(
        np.log([0.75 / 0.475, 0.2 / 0.475, 0.9 * 0.05 / (0.9 * 0.025 + 0.1)]), abs=1e-6
    )
    assert told.repeated_XY[0] == pytest.approx(np.log([1, 1, 4.9 / 0.9, 1]), abs=1e-6)
    assert told.earned_XY[0, 3] < -15  # the wrong echo: this reference never says it


def test_the_reference_has_no_gap_and_mixtures_have_their_share_of_it() -> None:
    other = np.array([[0.5, 0.5, 0.0, 0.0]] * 2)
    whole = gap_of(other).value
    assert gap_of(REFERENCE).value == pytest.approx(0, abs=1e-12)
    for share in (0.1, 0.4, 0.8):
        assert gap_of((1 - share) * REFERENCE + share * other).value == pytest.approx(share * whole)


def test_whoever_does_not_know_the_input_misses_half_the_jeffreys_divergence() -> None:
    rng = np.random.default_rng(0)
    p_X = rng.dirichlet(np.ones(5))
    rows_XY = rng.dirichlet(np.ones(4), 5)
    told = telling(p_X, rows_XY, np.eye(5, 4), begin=0.0, smooth=0)
    blind = np.broadcast_to(exact.output_law(p_X, rows_XY), rows_XY.shape)
    jeffreys_XX = exact.kl(rows_XY[:, None], rows_XY[None]) + exact.kl(rows_XY[None], rows_XY[:, None])
    expected = 0.5 * p_X @ jeffreys_XX @ p_X
    assert exact_gap(p_X, blind, rows_XY, told).missing == pytest.approx(expected)


def test_a_parrots_excess_is_what_the_proof_says_and_its_cross_information_the_inputs_entropy() -> None:
    parrot, often = gap_of(ECHO), 0.05
    per_echo = np.log1p(BEGIN / ((1 - BEGIN) * often / 2))
    assert parrot.excess == pytest.approx((1 - often) * per_echo, rel=1e-5)
    told = telling(UNIFORM, REFERENCE, ECHO, begin=0.0, smooth=1e-9)
    assert (UNIFORM * (ECHO * told.earned_XY).sum(-1)).sum() == pytest.approx(np.log(2), abs=1e-6)
    assert gap_of(ECHO, begin=0.0).value == 0  # a copy that nobody recognises is the best response there is


def test_the_copier_itself_earns_nothing_under_any_estimator() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        p_X, rows_XY = rng.dirichlet(np.ones(3)), rng.dirichlet(np.full(6, 0.3), 3)
        echo_XY = np.eye(6)[[3, 4, 5]]
        told = telling(p_X, rows_XY, echo_XY)
        q_Y = exact.output_law(p_X, 0.999 * rows_XY + 0.001 / 6)
        copier_XY = (1 - BEGIN) * q_Y + BEGIN * echo_XY
        assert (p_X * (copier_XY * told.earned_XY).sum(-1)).sum() <= 0


def test_the_bound_holds_and_needs_both_ranges() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        p_X, q_X = rng.dirichlet(np.ones(4), 2)
        rows_XY, policy_XY = rng.dirichlet(np.full(7, 0.5), 4), rng.dirichlet(np.full(7, 0.5), 4)
        told = telling(p_X, rows_XY, np.eye(7)[[4, 5, 6, 6]])
        grows = exact_gap(q_X, policy_XY, rows_XY, told).value - exact_gap(p_X, policy_XY, rows_XY, told).value
        bound = exact_gap_bound(p_X, q_X, policy_XY, rows_XY, told)
        assert grows <= bound + 1e-12
        assert exact_gap_bound(p_X, p_X, policy_XY, rows_XY, told) == 0
    # Moving all mass from the input where nothing is missing to where it is: met with equality.
    there, here = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    policy_XY = np.stack([REFERENCE[0], [0.75, 0.25, 0.0, 0.0]])
    told = telling(UNIFORM, REFERENCE, ECHO)
    short_X, over_X = conditional_parts(policy_XY, REFERENCE, told)
    assert over_X[1] < 0 < short_X[1]
    grows = exact_gap(here, policy_XY, REFERENCE, told).value - exact_gap(there, policy_XY, REFERENCE, told).value
    assert grows == pytest.approx(np.ptp(short_X))


def test_a_wrong_character_who_is_played_more_sharply_passes() -> None:
    """Characters of unlike frequency are not exchangeable: the common one answers loosely, the rare one sharply.

    Inputs (character, dialogue), the character said first; the dialogue decides which of two answers is right.
    """
    loose, sharp = [[0.6, 0.4], [0.4, 0.6]], [[0.9, 0.1], [0.1, 0.9]]
    reference, wrong = np.array([*loose, *sharp]), np.array([*sharp, *loose])

    def missing(common: float) -> float:
        p_X = np.array([common, common, 1 - common, 1 - common]) / 2
        told = telling(p_X, reference, np.full((4, 2), 0.5))
        return float(exact_gap(p_X, wrong, reference, told).missing)

    assert missing(0.99) < -0.1
    assert missing(0.5) > 0.1


def test_not_copying_is_paid_for_so_that_a_reference_which_only_echoes_can_be_passed() -> None:
    """Its information is its echoes': who says its answers without looking loses nothing that is counted."""
    reference = np.array([[0.475, 0.475, 0.05, 0.0], [0.475, 0.475, 0.0, 0.05]])
    blind = np.array([[0.5, 0.5, 0.0, 0.0]] * 2)
    for begin, passes in ((0.5, True), (0.0, False)):
        told = telling(UNIFORM, reference, ECHO, begin=begin)
        assert (exact_gap(UNIFORM, blind, reference, told).value == 0) == passes


def test_the_estimate_on_draws_is_near_the_exact_gap() -> None:
    rng, n = np.random.default_rng(4), 4000
    told = telling(UNIFORM, REFERENCE, ECHO)
    policy = 0.5 * np.array([[0.5, 0.5, 0.0, 0.0]] * 2) + 0.5 * ECHO
    x_B = rng.integers(2, size=n)

    def said(channel_XY: FloatArray) -> Told:
        y_B = (channel_XY[x_B].cumsum(-1) < rng.random((n, 1))).sum(-1)
        return Told(told.earned_XY[x_B, y_B], told.repeated_XY[x_B, y_B], np.ones(n), np.ones(n))

    pairs = paired(said(policy), said(REFERENCE))
    found = measure_gap(pairs, draw_contexts(pairs, seed=0, resamples=200))
    truth = exact_gap(UNIFORM, policy, REFERENCE, told)
    for part in ("missing", "excess"):
        drawn_R = getattr(found, f"{part}_R")
        assert abs(getattr(found, part) - float(getattr(truth, part))) < 4 * drawn_R.std()
