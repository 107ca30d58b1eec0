"""Correlations and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from remid.study.agreement import agreement, kendall, pearson


@pytest.mark.parametrize("seed", range(5))
def test_statistics_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=20), rng.integers(0, 5, 20).astype(np.float64)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_what_does_not_vary_has_no_correlation() -> None:
    flat, x = np.ones(6), np.arange(6.0)
    assert np.isnan(pearson(flat, x))
    assert np.isnan(kendall(flat, x))
    assert np.isnan(kendall(x[:2], x[:2]))


def test_missing_cells_are_left_out_and_few_groups_have_no_interval() -> None:
    x = np.array([1.0, 2, 3, 4, np.nan, 6])
    row = agreement(x, x, ["a", "b", "c", "d", "e", "d"], confidence=0.95, seed=0)
    assert (row["n_cells"], row["n_groups"], row["pearson"], row["kendall"]) == (5, 4, pytest.approx(1), 1.0)
    assert row["pearson_low"] is row["kendall_high"] is None


def test_the_interval_widens_when_cells_move_in_groups() -> None:
    rng = np.random.default_rng(0)
    effect, noise = rng.normal(size=(2, 12)).repeat(10, axis=1), rng.normal(size=(2, 120)) / 3
    x, y = effect + noise
    groups = [f"g{k}" for k in range(12) for _ in range(10)]
    grouped = agreement(x, y, groups, confidence=0.95, seed=0)
    alone = agreement(x, y, [str(k) for k in range(120)], confidence=0.95, seed=0)
    width = {name: row["pearson_high"] - row["pearson_low"] for name, row in (("grouped", grouped), ("alone", alone))}
    assert width["grouped"] > 1.5 * width["alone"]
    assert alone["pearson_low"] < alone["pearson"] < alone["pearson_high"]
