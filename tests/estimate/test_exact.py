"""Exact quantities of finite laws against loops and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.estimate import exact


def _law(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1]) if len(shape) > 1 else rng.dirichlet(np.ones(shape[0]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_x=st.integers(1, 5), n_y=st.integers(1, 5))
def test_information_is_the_double_sum_of_its_definition(seed: int, n_x: int, n_y: int) -> None:
    rng = np.random.default_rng(seed)
    p, w = _law(rng, n_x), _law(rng, n_x, n_y)
    w[0, 0] += w[0, 1:].sum()  # a row with zeros
    w[0, 1:] = 0
    y_law = [sum(p[x] * w[x, y] for x in range(n_x)) for y in range(n_y)]
    looped, reverse = 0.0, 0.0
    for x, y in itertools.product(range(n_x), range(n_y)):
        if w[x, y] > 0:
            looped += p[x] * w[x, y] * np.log(w[x, y] / y_law[y])
    assert exact.information(p, w) == pytest.approx(looped, abs=1e-12)
    w = _law(rng, n_x, n_y)
    y_law = [sum(p[x] * w[x, y] for x in range(n_x)) for y in range(n_y)]
    for x, y in itertools.product(range(n_x), range(n_y)):
        reverse += p[x] * y_law[y] * np.log(y_law[y] / w[x, y])
    assert exact.expected_club(p, w) == pytest.approx(exact.information(p, w) + reverse, abs=1e-9)


def test_batches_agree_with_single_worlds() -> None:
    rng = np.random.default_rng(0)
    p, q, v, w, w_q = _law(rng, 7, 4), _law(rng, 7, 4), _law(rng, 7, 4, 3), _law(rng, 7, 4, 3), _law(rng, 7, 4, 3)
    batched = exact.emid(p, q, v, w, w_q)
    for i in range(7):
        assert batched[i] == pytest.approx(float(exact.emid(p[i], q[i], v[i], w[i], w_q[i])))


def test_divergences_in_closed_form() -> None:
    apart = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert exact.jensen_shannon(*apart) == pytest.approx(np.log(2))
    assert exact.total_variation(*apart) == 1.0
    assert exact.kl(*apart) == np.inf
    assert exact.kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    )
    assert exact.binary_entropy(np.array(0.5)) == pytest.approx(np.log(2))


def test_residuals_reassemble_both_laws() -> None:
    rng = np.random.default_rng(1)
    p, q = _law(rng, 20, 6), _law(rng, 20, 6)
    t, common, p_only, q_only = exact.residuals(p, q)
    np.testing.assert_allclose((1 - t)[:, None] * common + t[:, None] * p_only, p, atol=1e-12)
    np.testing.assert_allclose((1 - t)[:, None] * common + t[:, None] * q_only, q, atol=1e-12)
    assert np.all(np.minimum(p_only, q_only) < 1e-12)


def test_divergence_of_components_grows_with_the_set() -> None:
    rng = np.random.default_rng(2)
    p, q = (rng.dirichlet(np.ones(18), size=30).reshape(30, 3, 2, 3) for _ in range(2))
    value = exact.subset_divergences(p, q)
    for small, large in itertools.permutations(value, 2):
        if small < large:
            assert np.all(value[small] <= value[large] + 1e-12)
    whole = exact.jensen_shannon(p.reshape(30, -1), q.reshape(30, -1))
    np.testing.assert_allclose(value[frozenset({0, 1, 2})], whole)
