from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remid.estimate import holm


def slow_holm(p_values: list[float]) -> list[float]:
    """Definition: adjusted p is the least level at which Holm's step-down procedure rejects the hypothesis."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    for rank, (_, i) in enumerate(tested):
        steps = [(len(tested) - earlier) * tested[earlier][0] for earlier in range(rank + 1)]
        adjusted[i] = min(1.0, max(steps))
    return adjusted


def test_known_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_equals_the_slow_twin_and_leaves_untested_cells_out(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), slow_holm(p_values), atol=1e-15)


def test_refuses_what_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="0, 1"):
        holm([0.5, 1.5])
