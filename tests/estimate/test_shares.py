"""Shares of a shift by component, from embeddings: the kernel form of RJSD, chance, and known causes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from remid.estimate import divergence_shares, rjsd
from remid.estimate.shares import SETS, Shares, gram_rjsd, grown
from remid.types import COMPONENTS, FloatArray

TOPICS, WIDTH = 6, 64


def embedded(rng: np.random.Generator, topic_N3: np.ndarray, centres: FloatArray) -> list[FloatArray]:
    """Per component rows with a common direction, one per topic, and their own."""
    return [1.0 + centres[z][topic_N3[:, z]] + rng.normal(size=(len(topic_N3), WIDTH)) for z in range(len(COMPONENTS))]


def shares(kind: str, n: int = 40, m: int = 40, seed: int = 0) -> Shares:
    """kind: which component shifts. "user": with a dialogue that copies the user's topic two times in three."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * rng.normal(size=(3, TOPICS, WIDTH))
    sides = []
    for size, shifted in ((n, False), (m, True)):
        topic_N3 = rng.integers(TOPICS, size=(size, 3))
        half_N = rng.integers(TOPICS // 2, size=size) + (TOPICS // 2 if shifted else 0)
        if kind in ("user", "both"):
            topic_N3[:, 0] = half_N
        if kind == "user":
            topic_N3[:, 2] = np.where(rng.random(size) < 2 / 3, half_N, topic_N3[:, 2])
        if kind in ("character", "both"):
            topic_N3[:, 1] = rng.integers(TOPICS // 2, size=size) + (TOPICS // 2 if shifted else 0)
        if kind == "pairing" and not shifted:
            topic_N3[:, 1] = topic_N3[:, 0]
        sides.append(embedded(rng, topic_N3, centres))
    singles = [rjsd(a, b, n_permutations=30, seed=1) for a, b in zip(*sides, strict=True)]
    return divergence_shares(sides[0], sides[1], singles, n_permutations=15, seed=1)


@pytest.mark.parametrize(("n", "m"), [(7, 9), (20, 35)])
def test_the_kernel_form_is_the_raw_rjsd(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    a_ND, b_MD = rng.normal(size=(n, 12)) + 0.5, rng.normal(size=(m, 12))
    unit = np.concatenate([a_ND, b_MD])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    raw = rjsd(a_ND, b_MD, n_permutations=1, seed=0).raw
    assert gram_rjsd(unit @ unit.T, np.arange(n + m) >= n) == pytest.approx(raw, abs=1e-9)
    # The product kernel is the cosine kernel of the tensor product, and knows at least what its parts know.
    pairs = np.einsum("nd,ne->nde", unit, unit[:, :5] / np.linalg.norm(unit[:, :5], axis=1, keepdims=True))
    kernel = (unit @ unit.T) * (unit[:, :5] @ unit[:, :5].T) / np.outer(*[np.linalg.norm(unit[:, :5], axis=1)] * 2)
    joint = rjsd(pairs[:n].reshape(n, -1), pairs[n:].reshape(m, -1), n_permutations=1, seed=0).raw
    assert gram_rjsd(kernel, np.arange(n + m) >= n) == pytest.approx(joint, abs=1e-9)
    assert joint >= raw - 1e-9


def test_one_changed_component_gets_nearly_all() -> None:
    got = shares("character")
    assert got.sparse is not None
    assert got.sparse["character"].value > 0.9
    assert (got.leader, got.reason) == ("character", None)
    assert got.leads > 0.9
    assert got.sparse["character"].ci_low > 0.6


def test_a_consequence_gets_less_than_under_the_papers_shares() -> None:
    got = shares("user", 60, 60)
    assert got.sparse is not None
    assert got.shapley is not None
    assert got.paper is not None
    assert got.leader == "user"
    assert got.sparse["user"].value >= got.shapley["user"].value > got.paper["user"].value
    assert got.sparse["user"].value > 0.7


def test_two_independent_changes_share() -> None:
    """A rule that simply picks the largest marginal would give one of them nothing."""
    for got in (shares("both", seed=seed) for seed in range(4)):
        assert got.sparse is not None
        assert got.shapley is not None
        assert 0.1 < got.sparse["user"].value < 0.9
        assert 0.3 < got.shapley["user"].value < 0.7
        assert got.sparse["dialogue"].value < 0.1


def test_a_shift_of_pairing_alone_is_seen_by_joint_sets_only() -> None:
    got = shares("pairing", 60, 60)
    assert abs(got.v["user"]) < 0.05
    assert got.v["user+character"] > 0.1
    assert got.sparse is not None
    assert got.sparse["dialogue"].value < 0.2


def test_without_a_shift_no_component_leads_for_certain() -> None:
    sure = [shares("none", 25, 25, seed).leads > 0.95 for seed in range(6)]
    assert sum(sure) <= 2


def test_the_same_inputs_on_both_sides_have_no_shares() -> None:
    x = [np.random.default_rng(z).normal(size=(9, 20)) for z in range(3)]
    singles = [rjsd(one, one, seed=0) for one in x]
    got = divergence_shares(x, x, singles, n_permutations=5, seed=0)
    assert (got.sparse, got.paper, got.leader) == (None, None, None)
    assert got.reason == "no set of components shifts measurably"


def test_too_few_or_unusable_inputs() -> None:
    x = [np.random.default_rng(z).normal(size=(9, 20)) for z in range(3)]
    few = [one[:5] for one in x]
    got = divergence_shares(x, few, [rjsd(a, b, seed=0) for a, b in zip(x, few, strict=True)], seed=0)
    assert (got.sparse, got.reason) == (None, "fewer than 6 inputs on a side")
    holed = [x[0].copy(), x[1], x[2]]
    holed[0][:4] = 0.0
    got = divergence_shares(holed, x, [rjsd(a, b, seed=0) for a, b in zip(holed, x, strict=True)], seed=0)
    assert got.reason == "fewer than 6 inputs on a side"
    # Orthogonal joint inputs: raw value and null mean are both ln 2, and nothing can be told.
    eye = [np.eye(16)[:8] for _ in range(3)], [np.eye(16)[8:] for _ in range(3)]
    singles = [rjsd(a, b, n_permutations=5, seed=0) for a, b in zip(*eye, strict=True)]
    got = divergence_shares(*eye, singles, n_permutations=5, seed=0)
    assert got.sparse is None
    assert math.isnan(got.v["user+character"])
    assert got.reason == "too few inputs for their spread: joint inputs lie equally far apart"


def test_grown_is_monotone_and_keeps_what_is() -> None:
    value = {s: np.array(x) for s, x in zip(SETS, (0.3, -0.2, 0.1, 0.1, 0.5, -0.1, 0.4), strict=True)}
    got = {tuple(sorted(s)): float(x) for s, x in grown(value).items()}
    assert got == {(): 0.0, (0,): 0.3, (1,): 0.0, (2,): 0.1, (0, 1): 0.3, (0, 2): 0.5, (1, 2): 0.1, (0, 1, 2): 0.5}


def test_same_seed_same_shares() -> None:
    assert shares("user", 12, 10) == shares("user", 12, 10)
