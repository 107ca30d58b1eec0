from __future__ import annotations

import math

import numpy as np
import pytest

from remid.estimate import classifier_js, rjsd
from remid.types import FloatArray


def slow_rjsd(p_ND: FloatArray, q_MD: FloatArray) -> float:
    """The definition, densely: von Neumann entropies of trace-one covariances of unit vectors."""

    def covariance(x: FloatArray) -> FloatArray:
        total = sum(np.outer(row, row) / (row @ row) for row in x)
        return total / np.trace(total)

    def entropy(matrix: FloatArray) -> float:
        return -sum(value * math.log(value) for value in np.linalg.eigvalsh(matrix) if value > 1e-14)

    p, q = covariance(p_ND), covariance(q_MD)
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def texts(rng: np.random.Generator, n: int, d: int = 16, shift: float = 0.0) -> FloatArray:
    """Embeddings as they come: a common direction, a decaying spectrum, and a mean that may be moved."""
    x_ND = rng.normal(size=(n, d)) * np.exp(-np.arange(d) / 6)
    x_ND[:, 0] += 2.0
    x_ND[:, 1] += shift
    return x_ND


@pytest.mark.parametrize(("n", "m", "d"), [(7, 9, 40), (30, 50, 12), (5, 60, 20)])
def test_raw_value_equals_the_dense_definition(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n)
    p_ND, q_MD = texts(rng, n, d), texts(rng, m, d, shift=1.0)
    got = rjsd(p_ND, 3 * q_MD, n_permutations=5, seed=0)
    assert got.raw == pytest.approx(slow_rjsd(p_ND, q_MD), abs=1e-9)
    assert got.value == got.raw - got.null_mean
    assert got.ci_low < got.value < got.ci_high
    assert (got.n_id, got.n_ood, got.n_distinct_id) == (n, m, n)


def test_orthogonal_laws_are_ln_2_apart() -> None:
    assert rjsd(np.eye(8)[:4], np.eye(8)[4:], n_permutations=0, seed=0).raw == pytest.approx(math.log(2))


def test_same_law_gives_about_zero_and_honest_p_values() -> None:
    rng = np.random.default_rng(0)
    got = [rjsd(texts(rng, 15), texts(rng, 30), n_permutations=60, seed=i) for i in range(80)]
    values = [d.value for d in got]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(80)
    assert np.mean([d.raw for d in got]) > 5 * abs(np.mean(values))
    assert np.mean([d.p_value <= 0.05 for d in got]) < 0.12  # 0.05 and 3 binomial errors


def test_a_shift_is_seen_at_any_sample_size_with_the_same_value() -> None:
    rng = np.random.default_rng(1)
    truth = rjsd(texts(rng, 4000), texts(rng, 4000, shift=1.5), n_permutations=2, seed=0).value
    for n, m in ((20, 40), (150, 150)):
        got = [rjsd(texts(rng, n), texts(rng, m, shift=1.5), n_permutations=40, seed=i) for i in range(20)]
        assert np.mean([d.value for d in got]) == pytest.approx(truth, rel=0.25)
        assert np.median([d.p_value for d in got]) <= 0.05
        assert np.mean([d.ci_low <= truth <= d.ci_high for d in got]) >= 0.8


def test_the_same_texts_on_both_sides_are_no_shift() -> None:
    x_ND = texts(np.random.default_rng(2), 20)
    for other in (x_ND[::-1], np.repeat(x_ND, 3, axis=0)):
        got = rjsd(x_ND, other, seed=0)
        assert (got.value, got.p_value) == (0.0, 1.0)
        assert np.isnan(got.ci_low)
        assert abs(classifier_js(x_ND, other, seed=0)) < 0.05


def test_one_text_per_side() -> None:
    one, other = np.tile(np.eye(4)[0], (12, 1)), np.tile(np.eye(4)[1], (16, 1))
    everywhere = rjsd(one, one[:7], seed=0)
    assert (everywhere.value, everywhere.p_value, everywhere.n_distinct_id) == (0.0, 1.0, 1)
    assert abs(classifier_js(one, one[:7], seed=0)) < 1e-9
    apart = rjsd(one, other, seed=0)
    assert apart.raw == pytest.approx(math.log(2))
    assert (apart.n_distinct_id, apart.n_distinct_ood) == (1, 1)
    assert np.isnan(apart.ci_high)
    assert classifier_js(one, other, seed=0) > 0.4


def test_too_few_or_unusable_rows() -> None:
    x_ND = texts(np.random.default_rng(3), 6)
    got = rjsd(x_ND[:2], x_ND, seed=0)
    assert np.isnan([got.value, got.raw, got.p_value]).all()
    assert (got.n_id, got.n_ood) == (2, 6)
    assert np.isnan(rjsd(np.empty((0, 16)), x_ND, seed=0).value)
    assert np.isnan(classifier_js(x_ND[:3], x_ND, seed=0))
    holed = np.vstack([x_ND, np.full((1, 16), np.nan), np.zeros((1, 16))])
    assert rjsd(holed, x_ND[:4], seed=0) == rjsd(x_ND, x_ND[:4], seed=0)
    with pytest.raises(ValueError, match="at least 2 folds"):
        classifier_js(x_ND, x_ND, seed=0, folds=1)


def test_classifier_is_low_under_no_shift_and_a_lower_bound_under_one() -> None:
    rng = np.random.default_rng(4)
    null = [classifier_js(texts(rng, 25), texts(rng, 60), seed=i) for i in range(12)]
    assert -0.06 < np.mean(null) < 0.01
    # Two values with known chances: JS is known exactly, and a linear model can reach it.
    chance = {"id": 0.9, "ood": 0.2}
    sides = {name: np.eye(2)[(rng.random(400) < p).astype(int)] for name, p in chance.items()}
    middle = np.mean(list(chance.values()))
    entropy = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    truth = entropy(middle) - np.mean([entropy(p) for p in chance.values()])
    assert truth - 0.06 < classifier_js(sides["id"], sides["ood"], seed=0) < truth + 0.06
    unequal = classifier_js(sides["id"][:60], sides["ood"], seed=0)
    assert unequal == pytest.approx(truth, abs=0.12)


def test_same_seed_same_numbers_and_the_sides_are_symmetric_in_law() -> None:
    rng = np.random.default_rng(5)
    a, b = texts(rng, 12), texts(rng, 16, shift=2.0)
    assert rjsd(a, b, n_permutations=20, seed=3) == rjsd(a, b, n_permutations=20, seed=3)
    assert rjsd(a, b, n_permutations=20, seed=3).raw == pytest.approx(rjsd(b, a, n_permutations=1, seed=3).raw)
    assert classifier_js(a, b, seed=3) == classifier_js(a, b, seed=3)
