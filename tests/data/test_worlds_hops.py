"""The hops world says what its tables say: texts read back, log p is exact, traces are as imperfect as told."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data import read_benchmark, write_benchmark
from remid.data.worlds import hops
from remid.pipeline.traces import parse_trace

WORLD = hops.HopsWorld()
SYMBOLS = st.integers(0, hops.SIZE - 1)


@pytest.mark.parametrize("branches", [1, 2, 4, 8])
def test_a_row_leaves_few_words_and_a_column_says_nothing(branches: int) -> None:
    for table_KK in hops.tables(hops.HopsWorld(branches=branches)):
        assert {len(set(row)) for row in table_KK.tolist()} == {branches}
        assert all(sorted(column) == list(range(hops.SIZE)) for column in table_KK.T.tolist())


def test_tables_are_those_of_the_seed() -> None:
    other = hops.tables(hops.HopsWorld(seed=1))
    assert any((a != b).any() for a, b in zip(hops.tables(WORLD), other, strict=True))


def test_inputs_and_responses_read_back() -> None:
    for sample in hops.make_samples(WORLD, 200, 3, shift="user"):
        symbols = hops.read_input(sample)
        said_3 = hops.read_response(sample.reference)
        assert sample.reference in {hops.response_text(said_3, opening) for opening in range(2)}
        right_3 = hops.facts(WORLD, np.array([symbols]))[0]
        mood, place, gift = hops.tables(WORLD)
        assert right_3.tolist() == [
            m := mood[symbols[0], symbols[1]],
            p := place[m, symbols[2]],
            gift[p, symbols[0]],
        ]


@given(st.lists(st.one_of(st.none(), SYMBOLS), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_trace_parses_and_reads_back(named: list[int | None]) -> None:
    text = hops.trace_text(named)
    features = parse_trace(text).features
    assert features is not None
    assert hops.read_trace(text) == hops.read_trace(features) == named


@pytest.mark.parametrize("text", ["So lamp pier calm", "Ah lamp pier calm.", "So lamp pier.", "So calm pier lamp.", ""])
def test_other_texts_are_never_said(text: str) -> None:
    (sample,) = hops.make_samples(WORLD, 1, 0)
    assert hops.log_p(WORLD, sample, text) == -np.inf
    with pytest.raises(ValueError, match=r"no response|is not one of"):
        hops.read_response(text)


def test_log_p_is_a_law_and_its_mean_the_entropy() -> None:
    (sample,) = hops.make_samples(WORLD, 1, 0)
    words = range(hops.SIZE)
    texts = [hops.response_text(said, o) for said, o in product(product(words, words, words), range(2))]
    logp_Y = np.array([hops.log_p(WORLD, sample, text) for text in texts])
    assert np.exp(logp_Y).sum() == pytest.approx(1.0)
    assert -(np.exp(logp_Y) * logp_Y).sum() == pytest.approx(hops.entropy(WORLD))
    noiseless = hops.HopsWorld(skill=1.0)
    assert hops.entropy(noiseless) == pytest.approx(np.log(2))


def test_references_are_drawn_from_log_p() -> None:
    drawn = hops.make_samples(WORLD, 4000, 5)
    surprise_N = np.array([-hops.log_p(WORLD, sample, sample.reference) for sample in drawn])
    error = surprise_N.std(ddof=1) / np.sqrt(surprise_N.size)
    assert abs(surprise_N.mean() - hops.entropy(WORLD)) < 4 * error


def test_a_shift_turns_one_marginal_round_and_no_other() -> None:
    for part, shift in enumerate(("user", "character", "dialogue")):
        drawn = np.array([hops.read_input(s) for s in hops.make_samples(WORLD, 3000, 2, shift=shift)])
        for axis in range(3):
            found_K = np.bincount(drawn[:, axis], minlength=hops.SIZE) / len(drawn)
            np.testing.assert_allclose(found_K, hops.law("id" if axis != part else shift)[axis], atol=0.03)
        assert (hops.law(shift)[part] == hops.law("id")[part][::-1]).all()


def test_traces_are_as_imperfect_as_their_law() -> None:
    drawn = hops.make_samples(WORLD, 4000, 1, shift="train", traces=hops.NOISY)
    right_N3 = hops.facts(WORLD, np.array([hops.read_input(s) for s in drawn]))
    named_N3 = np.array([[-1 if w is None else w for w in hops.read_trace(s.trace or "")] for s in drawn])
    np.testing.assert_allclose((named_N3 == right_N3).mean(0), hops.NOISY.right, atol=0.03)
    wrong_3 = ((named_N3 != right_N3) & (named_N3 >= 0)).mean(0)
    np.testing.assert_allclose(wrong_3, hops.NOISY.wrong, atol=0.02)
    # Whoever imitates the commonest trace names mood and place, and leaves the gift open: that is RL's to mend.
    named = [r > 1 - r - w for r, w in zip(hops.NOISY.right, hops.NOISY.wrong, strict=True)]
    assert named == [True, True, False]
    perfect = hops.make_samples(WORLD, 50, 1, traces=hops.PERFECT)
    for sample in perfect:
        right_3 = hops.facts(WORLD, np.array([hops.read_input(sample)]))[0]
        assert hops.read_trace(sample.trace or "") == right_3.tolist()
    assert all(s.trace is None for s in hops.make_samples(WORLD, 5, 1))


def test_a_benchmark_is_repeatable_survives_writing_and_shares_its_test_items(tmp_path: Path) -> None:
    made = [hops.make_benchmark(WORLD, seed, train=30, test=12, shifted=6) for seed in (0, 0, 1)]
    assert made[0].digest == made[1].digest != made[2].digest
    assert [replace(s, place="") for s in made[0].test] == [replace(s, place="") for s in made[2].test]
    assert len(made[0].train) == 30
    assert [s.shift for s in made[0].test] == ["id"] * 12 + ["user"] * 6 + ["character"] * 6 + ["dialogue"] * 6
    write_benchmark(made[0], tmp_path / "hops.json")
    assert read_benchmark([tmp_path / "hops.json"]).digest == made[0].digest


def test_no_input_text_comes_twice() -> None:
    made = hops.make_benchmark(WORLD, 4, train=1000, test=300, shifted=150)
    inputs = [(s.user, s.character, s.dialogue) for s in made.samples]
    assert len(set(inputs)) == len(inputs)
    # Trainers refuse test references of 20 characters or more among their training texts; these may repeat.
    assert max(len(s.reference) for s in made.samples) < 20
