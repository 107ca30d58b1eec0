"""Extractive traces: they find what a reference takes up, say how it sounds, parse, and give no more away."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data import mini_benchmark_paths, read_benchmark
from remid.data.text import word_pattern
from remid.pipeline.traces import compact_from_full, parse_trace
from remid.train.extract import Rarity, extract, extract_blind, quotes_reference, rarity, take_up
from remid.train.style import size_of, traits, typical
from remid.types import TRAIN, Sample, Turn

QUICK = settings(max_examples=80, deadline=None, derandomize=True, database=None)
SHARED = Path(__file__).parents[3] / "shared" / "data"


def sample(user: str, character: str, dialogue: list[str], reference: str) -> Sample:
    turns = tuple(Turn("agent" if k % 2 else "user", text) for k, text in enumerate(dialogue))
    return Sample("s", "IDTrain", "IDTrain", TRAIN, user, character, turns, reference)


SHELLFISH = sample(
    "I live in ohio. I like to go hiking in my spare time. I work as an accountant.",
    "persona: I like to go hunting. I am a handyman. I am allergic to shellfish. I restore classic cars.",
    ["Where are you from?", "I'm from Colorado.", "I am from Ohio. I like to go hiking, camping, and fishing."],
    "I love hiking and fishing too! I'm also allergic to shellfish.",
)
CHEESE = sample(
    "The user is a Chinese speaker.",
    "我在一个汤厨房当志愿者。 芝士汉堡是我最喜欢的食物。 我喜欢看战争纪录片。",
    ["你好，你今晚好吗？", "嗨，我今晚过得很好", "你最喜欢吃什么？"],
    "我最喜欢的是芝士汉堡，你呢？",
)


@pytest.fixture(scope="module")
def mini() -> tuple[Sample, ...]:
    return read_benchmark(mini_benchmark_paths()[:1]).samples


@pytest.fixture(scope="module")
def rare(mini: tuple[Sample, ...]) -> Rarity:
    return rarity([*mini, SHELLFISH, CHEESE])


def test_what_the_reference_takes_up_is_quoted_by_component(rare: Rarity) -> None:
    trace = extract(SHELLFISH, rare)
    assert 'Character: "I am allergic to shellfish."' in trace
    assert 'Dialogue: "I like to go hiking, camping, and fishing."' in trace
    assert "handyman" not in trace
    assert "accountant" not in trace
    assert "English; 2 sentences, about 12 words; no question; exclaims; speaks of itself; familiar." in trace


def test_scripts_without_spaces(rare: Rarity) -> None:
    trace = extract(CHEESE, rare)
    assert "芝士汉堡是我最喜欢的食物" in trace
    assert "志愿者" not in trace
    assert "Chinese; 1 sentence" in trace
    assert "ends with a question" in trace
    assert "characters" in trace


def test_common_words_and_words_of_no_topic_do_not_count() -> None:
    """Of 200 talks each is about one of 50 things, said twice; "truly" falls into one text in fifty at random."""
    rng = random.Random(0)
    talks = []
    for number in range(200):
        thing = f"q{number % 50}q"
        texts = [f"we like {thing} {number}", f"we have {thing} {number}", f"we say so {number}", f"we go on {number}"]
        texts = [text + " truly" * (rng.random() < 0.02) for text in texts]
        talks.append(sample(texts[0], texts[2], [texts[3]], texts[1]))
    known = rarity(talks)
    (language,) = known.texts
    assert known.weight("we", language) == 0
    assert known.weight("q7q", language) > 4
    assert known.weight("truly", language) < 1
    plain = sample("We truly have.", "We like so.", ["We go on truly?"], "We truly like, say, so we go on.")
    found = take_up(plain, plain.reference, known, language)
    assert (found.dialogue, found.character, found.user) == ((), (), ())


@pytest.mark.parametrize("form", ["compact", "full"])
def test_every_trace_parses_and_gives_nothing_away(mini: tuple[Sample, ...], rare: Rarity, form: str) -> None:
    for one in mini:
        for trace in (extract(one, rare, form), extract_blind(one, rare, form)):
            assert parse_trace(trace).failure is None
            assert not slow_leaks(trace, one, 4)
        if form == "full":
            assert compact_from_full(extract(one, rare, form)) is not None


def slow_leaks(trace: str, one: Sample, n: int) -> bool:
    """A twin of quotes_reference for words alone, written without its strings and folds."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = [w.lower().replace("’", "'") for w in word_pattern().findall(text)]
        return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}

    if size_of(one.reference) < len(word_pattern().findall(one.reference)):
        n *= 2  # scripts without spaces
    inputs = set().union(*(grams(t) for t in (one.user, one.character, *(turn.text for turn in one.dialogue))))
    return bool((grams(one.reference) & grams(trace)) - inputs)


@pytest.mark.parametrize("name", ["persona_shift.json", "mmrole_scored.json"])
def test_real_dialogues_give_nothing_away(name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    samples = read_benchmark([SHARED / name]).samples
    chosen = random.Random(0).sample(samples, 60)
    known = rarity(chosen)
    for one in chosen:
        trace = extract(one, known)
        assert parse_trace(trace).features is not None
        assert not slow_leaks(trace, one, 4), trace


def test_a_run_of_words_across_two_quotations_is_cut() -> None:
    one = sample(
        "",
        "Ancient zebras. Nothing else. Violet umbrellas!",
        ["Well?"],
        "Ancient zebras violet umbrellas ancient zebras.",
    )
    known = rarity([one])
    found = take_up(one, one.reference, known, "unknown")
    assert set(found.character) == {"Ancient zebras.", "Violet umbrellas!"}
    trace = extract(one, known)
    assert len({"Ancient zebras." in trace, "Violet umbrellas!" in trace}) == 2
    assert not quotes_reference(trace, one)


@pytest.mark.parametrize(
    ("text", "quotes"),
    [
        ("It says gone with the last tide.", True),
        ("It says GONE -- with “the” last", True),
        ("It says gone with the", False),
        ("Where is the good old rum", False),  # the input has it too
    ],
)
def test_quotations_of_four_words(text: str, quotes: bool) -> None:
    one = sample("Ann.", "A pirate.", ["Where is the good old rum?"], "The good old rum is gone with the last tide.")
    assert quotes_reference(text, one) is quotes


def test_eight_characters_are_four_words() -> None:
    assert quotes_reference("他说我最喜欢的是芝士", CHEESE)
    assert not quotes_reference("芝士汉堡是我最喜欢的食物", CHEESE)


def test_blind_traces_do_not_depend_on_the_reference(mini: tuple[Sample, ...], rare: Rarity) -> None:
    from dataclasses import replace

    for one in mini[:40]:
        assert extract_blind(one, rare) == extract_blind(replace(one, reference="Quite another answer?!"), rare)


def test_blind_traces_look_for_what_the_user_asks_after(rare: Rarity) -> None:
    asked = sample("", SHELLFISH.character, ["Hi.", "Hello there!", "Are you allergic to something?"], "No.")
    trace = extract_blind(asked, rare)
    assert "I am allergic to shellfish." in trace
    assert "new matter" not in trace


@QUICK
@given(st.lists(st.text(max_size=60), min_size=4, max_size=4), st.sampled_from(["compact", "full"]))
def test_any_text_makes_a_trace_that_parses(texts: list[str], form: str) -> None:
    hostile = ["## Part 3: Core Features", "```", "Content: x\nStyle: y", '"', "# Core Features", "\u2028", "\x85"]
    filler = " ".join(hostile)
    one = sample(
        texts[0] + filler, f"{filler} {texts[1]} {texts[3]}", [texts[2] + filler + texts[3]], texts[3] + filler
    )
    known = rarity([one])
    for trace in (extract(one, known, form), extract_blind(one, known, form)):
        assert parse_trace(trace).failure is None, trace
        assert extract(one, known, form) == extract(one, known, form)


@pytest.mark.parametrize(
    ("text", "language", "phrases"),
    [
        ("Könnten Sie mir helfen?", "de", {"German", "ends with a question", "formal", "addresses the user"}),
        ("Hast du mich vergessen?", "de", {"familiar", "speaks of itself"}),
        ("*sighs* so... what now? never mind", "en", {"shows actions", "asks a question", "lower case throughout"}),
        ("私は元気です。", "ja", {"formal", "speaks of itself", "no question"}),
        ("저는 간호사예요.", "ko", {"Korean", "formal", "speaks of itself"}),
        ("您好！", "zh", {"formal", "exclaims"}),
        ("She said “never again” 😀", "en", {"has quotation marks", "has emoji"}),
    ],
)
def test_style_is_measured(text: str, language: str, phrases: set[str]) -> None:
    assert phrases <= set(traits(text, language).values())


def test_length_counts_every_script() -> None:
    assert size_of("one two-three don't") == 4
    assert size_of("我最喜欢的") == 2.5
    assert traits("我最喜欢的是芝士汉堡，你呢？", "zh")["length"] == "1 sentence, about 12 characters"
    assert traits("Yes.", "en")["length"] == "1 sentence, about 3 words"


def test_typical_style_is_that_of_most_turns() -> None:
    found = typical(["I do!", "I did? Yes!", "Never."], "en")
    assert found["exclamation"] == "exclaims"
    assert found["self"] == "speaks of itself"
    assert found["question"] == "no question"
    assert typical([], "de") == {"language": "German", "length": "unknown length"}
