"""The mean of a response's probability over several traces, token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remid.estimate import mixed_logp

logps = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-30, -1e-3))
)


@given(logps)
def test_tokens_sum_to_the_log_of_the_mean_probability(logp_KT: np.ndarray) -> None:
    mean = np.log(np.mean(np.exp(logp_KT.sum(1) - logp_KT.sum(1).max()))) + logp_KT.sum(1).max()
    assert mixed_logp(logp_KT).sum() == pytest.approx(mean, abs=1e-9)


@given(logps)
def test_it_lies_between_the_mean_log_and_the_best_and_loses_no_order(logp_KT: np.ndarray) -> None:
    said, total = mixed_logp(logp_KT), logp_KT.sum(1)
    assert total.mean() - 1e-9 <= said.sum() <= total.max() + 1e-9
    assert (said <= 1e-9).all()  # a probability, also of each token alone
    assert mixed_logp(logp_KT[::-1]) == pytest.approx(said, abs=1e-9)
    assert mixed_logp(np.repeat(logp_KT, 3, axis=0)) == pytest.approx(said, abs=1e-9)


@given(logps)
def test_a_single_trace_is_itself(logp_KT: np.ndarray) -> None:
    assert mixed_logp(logp_KT[:1]) == pytest.approx(logp_KT[0], abs=1e-9)


def test_it_is_a_law_of_sequences_and_of_every_next_token() -> None:
    """Three authors of two-token texts over five words: enumerated."""
    rng = np.random.default_rng(0)
    first_KV, then_KVV = rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(5), (3, 5))
    under = {
        (a, b): mixed_logp(np.log(np.stack([first_KV[:, a], then_KVV[:, a, b]], axis=1)))
        for a, b in itertools.product(range(5), repeat=2)
    }
    assert sum(np.exp(logp_T.sum()) for logp_T in under.values()) == pytest.approx(1)
    for a in range(5):
        assert np.exp(under[a, 0][0]) == pytest.approx(first_KV[:, a].mean())
        assert sum(np.exp(under[a, b][1]) for b in range(5)) == pytest.approx(1)


def test_more_traces_come_to_the_law_from_below() -> None:
    """x fixed, four traces with known odds: the mean over K drawn ones, on average over draws."""
    rng = np.random.default_rng(1)
    odds_R, law_R = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.9, 0.3, 0.05, 0.01])
    exact = np.log(odds_R @ law_R)
    means = []
    for count in (1, 2, 4, 16):
        drawn = np.log(law_R[rng.choice(4, size=(4000, count), p=odds_R)])
        means.append(np.mean([mixed_logp(row[:, None])[0] for row in drawn]))
    assert means == sorted(means)
    assert means[-1] < exact < means[-1] + 0.1
    posterior_R = odds_R * law_R / (odds_R @ law_R)
    assert exact - means[0] == pytest.approx((odds_R * np.log(odds_R / posterior_R)).sum(), abs=0.1)


@pytest.mark.parametrize("wrong", [np.zeros((0, 3)), np.zeros((2, 0)), np.zeros(3), np.array([[0.0, -np.inf]])])
def test_nothing_and_what_is_not_finite_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        mixed_logp(wrong)
