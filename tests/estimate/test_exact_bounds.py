"""The proven bounds hold, mean what they say, and the paper's form fails where docs/theory.md says it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data.worlds.discrete import random_worlds
from remid.estimate.exact import emid, information, jensen_shannon, residuals, total_variation
from remid.estimate.exact_bounds import (
    ANY,
    PROVEN,
    SHARED,
    exact_bounds,
    largest_total_variation,
    variational_information,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    inputs=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    n_y=st.integers(1, 6),
    shared=st.booleans(),
)
def test_no_bound_is_violated(seed: int, inputs: tuple[int, int, int], n_y: int, shared: bool) -> None:
    world = random_worlds(200, (*inputs, n_y), seed, shared_reference=shared)
    truth, bounds = emid(*world.flat()), exact_bounds(*world.flat())
    for name in (*PROVEN, "T9'", "least", "least without cross") if shared else (*ANY, "T9'", "least"):
        assert np.all(truth <= bounds[name] + 1e-9), name


def test_bounds_that_need_a_shared_reference_are_missing_without_one() -> None:
    bounds = exact_bounds(*random_worlds(10, (3, 1, 1, 3), 0, shared_reference=False).flat())
    assert all(np.isnan(bounds[name]).all() for name in SHARED)
    assert all(np.isfinite(bounds[name]).all() for name in ANY)


def test_what_t0_and_t6_exceed_emid_by() -> None:
    p, q, v, w, w_q = random_worlds(300, (3, 2, 1, 3), 5).flat()
    truth, bounds = emid(p, q, v, w, w_q), exact_bounds(p, q, v, w, w_q)
    np.testing.assert_allclose(bounds["T0"] - truth, information(p, w) + information(q, v), atol=1e-9)
    t, _, p_only, q_only = residuals(p, q)
    slack = t * (information(p_only, w) + information(q_only, v))
    assert np.all(bounds["T6"] - truth <= slack + 1e-9)
    assert np.median((bounds["T6"] - truth) / slack) > 0.9  # usually exactly so


def test_bounds_vanish_without_shift_and_with_the_reference_as_policy() -> None:
    p, _, v, w, _ = random_worlds(50, (3, 2, 1, 3), 6).flat()
    still = exact_bounds(p, p, v, w, w)
    for name in ("T1", "T1'", "T3", "T6", "T8"):
        np.testing.assert_allclose(still[name], 0.0, atol=1e-9)
    p, q, _, w, _ = random_worlds(50, (3, 2, 1, 3), 7).flat()
    same = exact_bounds(p, q, w, w, w)
    for name in ("T2", "T3", "T7", "T8"):
        np.testing.assert_allclose(same[name], 0.0, atol=1e-9)


def test_variational_information_is_below_and_reaches_it() -> None:
    p, _, v, w, _ = random_worlds(300, (4, 1, 1, 4), 8).flat()
    truth = information(p, w)
    assert np.all(variational_information(p, w, v) <= truth + 1e-12)
    np.testing.assert_allclose(variational_information(p, w, w), truth, atol=1e-12)
    zeros = np.eye(4)[None].repeat(300, 0)  # a density without mass where the responses are: no statement, so 0
    assert np.all(variational_information(p, np.roll(zeros, 1, axis=1), zeros) >= 0)


def test_total_variation_from_divergence_is_never_too_small() -> None:
    world = random_worlds(500, (5, 1, 1, 2), 9)
    p, q, *_ = world.flat()
    assert np.all(largest_total_variation(jensen_shannon(p, q)) >= total_variation(p, q))
    assert largest_total_variation(np.array(0.0)) == pytest.approx(0.0, abs=1e-4)
    assert largest_total_variation(np.array(np.log(2))) == 1.0
