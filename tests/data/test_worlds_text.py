"""The text world says what its symbols say: texts read back, laws are laws, information is that of the symbols."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data import read_benchmark, write_benchmark
from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.estimate import exact
from remid.pipeline.policies import GENERIC_SENTENCE
from remid.pipeline.traces import parse_trace

AUTHORS = (*worlds.SLOT_AUTHORS, worlds.ANONYMOUS, "generic", "parrot")


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, grammar.DIALOGUES - 1), st.integers(0, 10_000))
def test_an_input_reads_back_whatever_its_surface(user: int, character: int, dialogue: int, seed: int) -> None:
    sample = worlds.sample_of(user, character, dialogue, "none", np.random.default_rng(seed))
    assert grammar.read_input(sample) == (user, character, dialogue)
    assert sample.dialogue[-1].role == "user"
    assert len(sample.dialogue) in (1, 3)


def test_every_response_text_is_read_back_and_none_is_said_twice() -> None:
    seen = {}
    for response in range(grammar.RESPONSES):
        for surface in range(grammar.SURFACES if response < grammar.GENERIC else 1):
            text = grammar.response_text("Ah,", response, surface)
            assert grammar.read_response(text)[1] == response
            assert seen.setdefault(text, response) == response
    assert len(seen) == grammar.SLOT_RESPONSES * grammar.SURFACES + 1 + 2 * grammar.DIALOGUES


def test_text_of_no_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match="no response of this grammar"):
        grammar.read_response("Practice makes perfect!")


@pytest.mark.parametrize("author", AUTHORS)
def test_a_channel_is_a_law_over_texts(author: str) -> None:
    channel_UADY = worlds.channel(author)
    assert channel_UADY.shape == (*worlds.INPUT_SHAPE, grammar.RESPONSES)
    np.testing.assert_allclose(channel_UADY.sum(-1), 1.0)
    symbols_N3 = np.array([[0, 1, 2], [3, 2, 11]])
    total_N = np.zeros(2)
    for response in range(grammar.RESPONSES):
        for surface in range(grammar.SURFACES if response < grammar.GENERIC else 1):
            text = grammar.response_text("Ah,", response, surface)
            total_N += np.exp(worlds.log_p_text(channel_UADY, symbols_N3, text))
    np.testing.assert_allclose(total_N, 1.0)


def test_information_of_texts_equals_that_of_symbols() -> None:
    """The readable twin: every text is a symbol of its own, with half of the inputs' surface forms spelled out too."""
    p_X = worlds.law().reshape(-1)
    w_XY = worlds.channel("reference").reshape(p_X.size, -1)[:, : grammar.SLOT_RESPONSES]
    texts_XT = np.repeat(w_XY / grammar.SURFACES, grammar.SURFACES, axis=1)
    twice_ST = np.repeat(texts_XT, 2, axis=0)
    p_S = np.repeat(p_X, 2) * np.tile([0.3, 0.7], p_X.size)
    assert exact.information(p_S, twice_ST) == pytest.approx(float(exact.information(p_X, w_XY)), abs=1e-12)


def test_drawn_responses_follow_their_channel_and_depend_on_the_input_alone() -> None:
    symbols_N3 = np.tile([[1, 2, 7]], (40_000, 1))
    drawn_N = worlds.draw_responses(worlds.channel("editor"), symbols_N3, np.random.default_rng(3))
    law_Y = worlds.channel("editor")[1, 2, 7]
    found_Y = np.bincount(drawn_N, minlength=grammar.RESPONSES) / drawn_N.size
    assert exact.total_variation(found_Y, law_Y) < 0.03
    assert not found_Y[law_Y == 0].any()


@pytest.mark.parametrize("shift", ["user", "character", "dialogue", "several", "pairing", "reference"])
def test_a_shift_changes_what_it_names_and_nothing_else(shift: worlds.TextShift) -> None:
    p_UAD, q_UAD = worlds.law(), worlds.law(shift, 0.7)
    changed = {
        name
        for axis, name in enumerate(("user", "character", "dialogue"))
        if not np.allclose(exact.marginal(p_UAD, (axis,)), exact.marginal(q_UAD, (axis,)))
    }
    assert changed == {"several": {"user", "character", "dialogue"}, "pairing": set(), "reference": set()}.get(
        shift, {shift}
    )
    assert np.allclose(p_UAD, q_UAD) == (shift == "reference")
    world = worlds.text_world("blur-25", shift, 0.7)
    assert np.allclose(world.reference_p_UADY, world.reference_q_UADY) == (shift != "reference")


def test_policies_are_as_good_as_their_names_say() -> None:
    p_X = worlds.law().reshape(-1)
    known = {a: float(exact.information(p_X, worlds.channel(a).reshape(p_X.size, -1))) for a in AUTHORS}
    assert known["generic"] == 0
    assert known["blur-60"] < known["blur-25"] < known["reference"] < known["sharp"] < known["parrot"]
    for part in ("user", "character", "dialogue"):
        blind = worlds.channel(f"blind-{part}")
        spread = blind.max(axis=("user", "character", "dialogue").index(part)) - blind.min(
            axis=("user", "character", "dialogue").index(part)
        )
        if part == "user":
            assert spread.max() == pytest.approx(0)
        frail = float(exact.emid(*worlds.text_world(f"frail-{part}", part, 2.0).flat()))  # type: ignore[arg-type]
        assert frail > 0.5


@settings(max_examples=20)
@given(st.sampled_from(["partial", "full"]), st.integers(0, 3), st.integers(0, 11), st.integers(0, 1000))
def test_traces_parse_and_name_no_more_than_they_may(reveals: str, user: int, dialogue: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = grammar.trace_text(user, 1, dialogue, reveals, rng)  # type: ignore[arg-type]
    assert text is not None
    parsed = parse_trace(text)
    assert parsed.failure is None
    named = (parsed.features or "").split("\n")[0].count(" and ") + 1
    assert named == 3 if reveals == "full" else named <= 3
    assert grammar.trace_text(user, 1, dialogue, "none", rng) is None


def test_a_text_world_survives_its_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    samples = worlds.make_samples(worlds.law(), 12, 1, reveals="full")
    samples += worlds.make_samples(worlds.law("several", 1.0), 8, 2, shift="several", policies=("sharp",))
    benchmark = worlds.make_benchmark(samples)
    taxonomy = tmp_path / "taxonomy.json"
    taxonomy.write_text(json.dumps({"shifts": {"several": {"splits": [worlds.SPLITS["several"]]}}}))
    write_benchmark(benchmark, tmp_path / "world.json")
    back = read_benchmark([tmp_path / "world.json"], taxonomy=taxonomy)
    assert back.digest == benchmark.digest
    assert {s.shift for s in back.samples} == {"id", "several"}
    assert worlds.make_samples(worlds.law(), 12, 1, reveals="full") == samples[:12]


def test_anonymous_responses_open_alike() -> None:
    (sample,) = worlds.make_samples(worlds.law(), 1, 4, anonymous=True, policies=worlds.SLOT_AUTHORS)
    assert {text.split(" ")[0] for text in (sample.reference, *sample.responses.values())} == {"Hm,"}


def test_the_generic_sentence_is_that_of_the_pipeline() -> None:
    assert grammar.GENERIC_SENTENCE == GENERIC_SENTENCE
