"""Small logistic fits: at their minimum, whatever the data, and the same as a general minimiser finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from remid.estimate.logistic import fit_logistic
from remid.types import FloatArray, IntArray

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def slope(x_NK: FloatArray, y_N: IntArray, strength: float, weight_K: FloatArray, intercept: float) -> FloatArray:
    """Gradient of the documented loss, written out term by term."""
    n = y_N.size
    share = {1: n / (2 * np.sum(y_N == 1)), 0: n / (2 * np.sum(y_N == 0))}
    total = np.append(weight_K / strength, 0.0)
    for x_K, y in zip(x_NK, y_N, strict=True):
        p = special.expit(x_K @ weight_K + intercept)
        total += share[int(y)] * (p - y) * np.append(x_K, 1.0)
    return total


@given(
    st.integers(0, 10_000),
    st.integers(3, 40),
    st.integers(1, 6),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.sampled_from([0.0, 1.0, 50.0]),
)
@QUICK
def test_the_loss_has_its_minimum_there_even_where_classes_are_far_apart(
    seed: int, n: int, k: int, strength: float, apart: float
) -> None:
    rng = np.random.default_rng(seed)
    y_N = np.append([0, 1], rng.integers(2, size=n - 2))
    x_NK = rng.normal(size=(n, k)) + apart * y_N[:, None]
    weight_K, intercept = fit_logistic(x_NK, y_N, strength)
    assert np.abs(slope(x_NK, y_N, strength, weight_K, intercept)).max() < 1e-5 * n * max(1.0, apart)


def test_a_general_minimiser_finds_the_same() -> None:
    rng = np.random.default_rng(1)
    y_N = np.arange(50) % 3 // 2
    x_NK = rng.normal(size=(50, 4)) + 0.7 * y_N[:, None]
    weight_K, intercept = fit_logistic(x_NK, y_N, 0.5)
    found = optimize.root(lambda b: slope(x_NK, y_N, 0.5, b[:4], b[4]), np.zeros(5), tol=1e-12)
    assert found.success
    assert np.append(weight_K, intercept) == pytest.approx(found.x, abs=1e-8)


def test_columns_that_say_nothing_leave_the_classes_even() -> None:
    weight_K, intercept = fit_logistic(np.zeros((7, 2)), np.array([0, 0, 0, 0, 0, 1, 1]), 1.0)
    assert weight_K == pytest.approx([0, 0])
    assert intercept == pytest.approx(0, abs=1e-9)  # both classes count the same


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(np.ones((4, 1)), np.ones(4, dtype=np.int64), 1.0)
