"""The likelihood of a copier is a probability, equals a sum over all ways of copying, and explains copies alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remid.estimate.copier import Copier, copier_logp, split_information

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=3)
HOW = st.builds(Copier, begin=st.floats(0, 0.9), stop=st.floats(0, 1))


def by_hand(response: list[int], free_V: np.ndarray, sources: list[list[int]], how: Copier) -> float:
    """The likelihood as a sum over every sequence of modes: None for a free token, else (text, place)."""
    places = [(k, i) for k, text in enumerate(sources) for i in range(len(text))]
    if not places:
        return float(np.prod(free_V[response]))
    total = 0.0
    for modes in itertools.product([None, *places], repeat=len(response)):
        p, before = 1.0, None
        for mode, token in zip(modes, response, strict=True):
            ahead = None if before is None else (before[0], before[1] + 1)
            can = ahead in places
            if before is None:
                p *= 1 - how.begin if mode is None else how.begin / len(places)
            elif mode is None:
                p *= how.stop if can else 1.0
            else:
                p *= (1 - how.stop) if can and mode == ahead else 0.0
            p *= free_V[token] if mode is None else float(sources[mode[0]][mode[1]] == token)
            before = mode
        total += p
    return total


@given(st.lists(st.integers(0, 2), max_size=4), TEXTS, HOW)
def test_it_is_the_sum_over_all_ways_of_copying(response: list[int], sources: list[list[int]], how: Copier) -> None:
    free_V = np.array([0.5, 0.3, 0.2])
    found = copier_logp(response, np.log(free_V[response]), sources, how)
    assert np.exp(found.sum()) == pytest.approx(by_hand(response, free_V, sources, how), rel=1e-9)


@given(TEXTS, HOW, st.integers(1, 4))
def test_all_responses_together_have_probability_one(sources: list[list[int]], how: Copier, length: int) -> None:
    free_V = np.array([0.6, 0.3, 0.1])
    every = itertools.product(range(3), repeat=length)
    total = sum(np.exp(copier_logp(y, np.log(free_V[list(y)]), sources, how).sum()) for y in every)
    assert total == pytest.approx(1.0)


def test_a_parrots_information_is_repeated_and_a_paraphrases_is_earned() -> None:
    rng = np.random.default_rng(0)
    text = rng.integers(0, 1000, 60).tolist()
    free_T, own_T = np.full(20, -5.0), np.full(20, -0.2)  # the estimator expects both responses from their input
    parrot = split_information(text[10:30], own_T, free_T, [text])
    assert parrot.repeated_T.sum() > 0.8 * 20 * 4.8
    paraphrase = split_information(list(range(2000, 2020)), own_T, free_T, [text])
    assert paraphrase.earned_T.sum() == pytest.approx(20 * 4.8)  # not a nat for the length
    assert paraphrase.repeated_T == pytest.approx(np.zeros(20), abs=1e-12)
    for found in (parrot, paraphrase):
        assert found.earned_T + found.repeated_T == pytest.approx(own_T - free_T)


def test_words_that_happen_to_stand_in_the_input_explain_nothing() -> None:
    text = list(range(500))
    scattered = [7, 300, 41, 120, 9, 250, 77, 400, 15, 333]
    found = copier_logp(scattered, np.full(10, -4.0), [text])
    assert found.sum() < np.full(10, -4.0).sum() + 0.5
    assert copier_logp(list(range(40, 50)), np.full(10, -4.0), [text]).sum() > -15


def test_a_copy_ends_with_its_text_and_impossible_tokens_stay_finite() -> None:
    how = Copier(begin=0.1, stop=0.0)
    whole = copier_logp([1, 2, 3, 4], np.full(4, -9.0), [[1, 2, 3, 4]], how).sum()
    halves = copier_logp([1, 2, 3, 4], np.full(4, -9.0), [[1, 2], [3, 4]], how).sum()
    assert whole > halves + 2
    assert np.isfinite(copier_logp([5, 6], np.full(2, -2000.0), [[1, 2]], how)).all()
    assert copier_logp([5], np.array([-3.0]), [[], []]) == pytest.approx([-3.0])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="begin"):
        Copier(begin=1.0)
    with pytest.raises(ValueError, match="2 tokens, but 1"):
        copier_logp([1, 2], np.zeros(1), [[1]])
    with pytest.raises(ValueError, match="alike"):
        split_information([1, 2], np.zeros(3), np.zeros(2), [[1]])
