"""What a response takes over from its input, against a slow twin and on cases whose answer is plain."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remid.data.overlap import GRAM, Source, copied_share, grams, longest_run, repeated_share, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14).map(" ".join)


def slow_run(response: tuple[str, ...], texts: list[str]) -> int:
    """Every stretch of the response looked for in every text."""
    best = 0
    for text in map(words, texts):
        for i in range(len(response)):
            for k in range(GRAM, len(response) - i + 1):
                if any(text[j : j + k] == response[i : i + k] for j in range(len(text) - k + 1)):
                    best = max(best, k)
    return best


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_the_longest_run_is_that_of_a_slow_search(response: str, texts: list[str]) -> None:
    assert longest_run(words(response), Source.of(texts)) == slow_run(words(response), texts)


@given(TEXTS, TEXTS)
def test_a_whole_copy_is_a_whole_copy(before: str, response: str) -> None:
    said, source = words(response), Source.of([f"{before} {response}"])
    if len(said) < GRAM:
        assert copied_share(said, source) is None
        assert longest_run(said, source) == 0
    else:
        assert copied_share(said, source) == 1.0
        assert longest_run(said, source) == len(said)


def test_case_and_marks_do_not_hide_a_copy_and_texts_are_not_joined() -> None:
    said = words("So you like old trains, do you?")
    assert copied_share(said, Source.of(["You like OLD trains."])) == pytest.approx(2 / 5)
    assert longest_run(said, Source.of(["you like old trains do I"])) == 5
    assert longest_run(said, Source.of(["so you like", "old trains do you"])) == 4
    assert copied_share(said, Source.of([])) == 0.0


def test_signs_count_where_there_are_no_spaces() -> None:
    said = words("我也喜欢火车")
    assert len(said) == 6
    assert longest_run(said, Source.of(["你喜欢火车吗"])) == 4


def test_what_is_said_twice_is_repeated() -> None:
    assert repeated_share(words("no more of that no more of that")) == pytest.approx(1 - 4 / 6)
    assert repeated_share(words("one two three four")) == 0.0
    assert repeated_share(words("two words")) is None
    assert list(grams(("a", "b"), 3)) == []


def test_words_of_scripts_with_vowel_signs_and_of_either_spelling_of_an_accent() -> None:
    assert words("मैं हिन्दी बोलता हूँ।") == ("मैं", "हिन्दी", "बोलता", "हूँ")
    assert words("की के को") != words("का कि कू")
    for text in ("Tiếng Việt rất đẹp, phải không?", "한국어를 말해요", "Café à la crème"):
        apart = unicodedata.normalize("NFD", text)
        assert apart != text
        assert words(apart) == words(text)
    assert len(words(unicodedata.normalize("NFD", "Tiếng Việt rất đẹp, phải không?"))) == 6
    assert len(words("می\u200cخواهم")) == 1  # a zero-width non-joiner stands within Persian words
