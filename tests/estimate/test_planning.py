from __future__ import annotations

import numpy as np
import pytest
from estimate_oracles import additive_world
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.estimate import balanced_design, estimate, remi
from remid.estimate.planning import Components, Cost, components, plan, pooled_components, precision, predict

COST = Cost(prompt_tokens=1500, response_tokens=75, answerers=3)


def known(item: float = 4.0, pair: float = 6.0) -> Components:
    return Components(item=item, pair=pair, n=30, m=4, counted=0.8, df_item=29, df_pair=61)


def pilot(seed: int, n: int, m: int, noise: float = 1.5) -> Components:
    rng = np.random.default_rng(seed)
    design = balanced_design(n, m, seed)
    policy, reference = (additive_world(rng, design, truth=3.0, noise=noise) for _ in range(2))
    return components(policy, reference)


@pytest.mark.parametrize("m", [3, 4, 8])
def test_components_are_found_in_a_known_world(m: int) -> None:
    """Var(g) = 2 and sigma_e^2 = 4.5 for the difference of two independent responses; pilots of 30 items."""
    made = [pilot(seed, 30, m) for seed in range(300)]
    pair = [c.pair for c in made]
    assert np.mean(pair) == pytest.approx(4.5, abs=4 * np.std(pair) / np.sqrt(300))
    assert np.mean([c.item for c in made]) == pytest.approx(2.0, rel=0.2)  # clipped at 0, so a little high


def test_the_prediction_meets_the_truth_in_the_median() -> None:
    """Pilots of 30 items and 4 negatives, predicted for 200 and 3: SE^2 = (2 + 4.5/3)/200."""
    truth = np.sqrt((2 + 4.5 / 3) / 200)
    made = np.array([predict([pilot(seed, 30, 4)], 200, 3) for seed in range(300)])
    assert np.median(made[:, 0]) == pytest.approx(truth, rel=0.1)
    assert np.mean((made[:, 1] <= truth) & (truth <= made[:, 2])) > 0.85


def test_a_pilot_that_cannot_tell_noise_is_cautious() -> None:
    made = pilot(0, 40, 2)
    assert made.pair == 0
    assert made.df_pair == 0
    assert np.mean([pilot(seed, 40, 2).item for seed in range(100)]) > 2 + 4.5


def test_clusters_raise_the_item_variance() -> None:
    rng = np.random.default_rng(0)
    group_B = np.repeat(np.arange(20), 4)
    design = balanced_design(80, 4, 0, clusters=group_B)
    policy, reference = (additive_world(rng, design, truth=3.0) for _ in range(2))
    policy.positive_B[:] += 4 * rng.normal(size=20)[group_B]
    alone, grouped = components(policy, reference), components(policy, reference, clusters=group_B)
    assert grouped.item > 2 * alone.item
    assert grouped.pair == alone.pair
    predicted = predict([grouped], 80, 4)[0]
    assert predicted == pytest.approx(estimate(remi(policy, reference), clusters=group_B).stderr, rel=0.15)


@given(st.floats(0.1, 10), st.floats(0, 20), st.floats(0.05, 3), st.sampled_from(["stderr", "half-width", "detect"]))
@settings(deadline=None, max_examples=30)
def test_the_plan_reaches_the_wish_and_is_the_cheapest(item: float, pair: float, wish: float, goal: str) -> None:
    sides = [known(item, pair), known(2 * item, pair)]
    got = plan(sides, goal, wish, COST)  # type: ignore[arg-type]
    assert precision(got.stderr, got.n, 2, goal) <= wish * (1 + 1e-9)  # type: ignore[arg-type]
    assert got.tokens == 2 * COST.of(got.n, got.m)
    assert got.pairs == 2 * got.n * got.m
    for m in range(4, 17):  # slow twin: any cheaper size misses the wish
        n = int((got.tokens / 2 - 1) // COST.of(1, m))
        if n >= 2 * m + 1:
            assert precision(predict(sides, n, m)[0], n, 2, goal) > wish * (1 - 1e-9)  # type: ignore[arg-type]


def test_dear_prompts_buy_more_negatives_and_noise_does_too() -> None:
    def m(pair: float, prompt: float) -> int:
        return plan([known(pair=pair)], "stderr", 0.2, Cost(prompt, 75, 3)).m

    assert m(6, 200) < m(6, 20_000)
    assert m(0.5, 1500) < m(60, 1500)


def test_negatives_are_as_few_and_as_many_as_is_said() -> None:
    few, many = (plan([known(item, pair)], "stderr", 0.2, COST).m for item, pair in ((50.0, 0.0), (0.01, 900.0)))
    assert plan.__doc__ is not None
    assert f"m ({few} to {many})" in plan.__doc__


def test_precision_in_each_sense() -> None:
    assert precision(2.0, 10_000, 1, "stderr") == 2.0
    assert precision(2.0, 10_000, 1, "half-width") == pytest.approx(2 * 1.96, rel=1e-3)
    assert precision(2.0, 10_000, 2, "detect") == pytest.approx(2 * (1.96 + 0.8416), rel=1e-3)


def test_pooling_weighs_subsets_by_their_items() -> None:
    a = Components(item=1, pair=2, n=10, m=4, counted=0.8, df_item=9, df_pair=21)
    b = Components(item=4, pair=5, n=20, m=4, counted=0.8, df_item=19, df_pair=41)
    both = pooled_components([a, b])
    assert (both.item, both.pair, both.n, both.df_item) == (pytest.approx(3), pytest.approx(4), 30, 28)


def test_what_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        plan([known()], "stderr", 0.0, COST)
    with pytest.raises(ValueError, match="more than 1,000,000"):
        plan([known()], "stderr", 1e-6, COST)
    with pytest.raises(ValueError, match="no pilot"):
        pooled_components([])
    design = balanced_design(2, 1, 0)
    scores = additive_world(np.random.default_rng(0), design, truth=1.0)
    with pytest.raises(ValueError, match="at least 3"):
        components(scores, scores)
    five = additive_world(np.random.default_rng(0), balanced_design(5, 3, 0), truth=1.0)
    with pytest.raises(ValueError, match="do not vary"):
        components(five, five)
