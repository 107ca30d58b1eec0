"""A trace is parsed strictly: its core features and nothing else, or a named failure; never the whole text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.pipeline.traces import (
    COMPACT_HEADING,
    CONTENT_FEATURES,
    FULL_HEADINGS,
    STYLE_FEATURES,
    TRIAL_LABELS,
    compact_from_full,
    parse_trace,
    trimmed,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
NAMES = (*CONTENT_FEATURES, *STYLE_FEATURES)
#: One line of prose that cannot be taken for markup.
LINES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs"), exclude_characters="`#"), max_size=30
).map(lambda text: "x" + text.strip())


def block(features: dict[str, str], colon: str = "") -> str:
    """The six features as Part 3 lists them."""
    content = [f"- {name}: {features[name]}" for name in CONTENT_FEATURES]
    style = [f"- {name}: {features[name]}" for name in STYLE_FEATURES]
    return "\n".join([f"Content{colon}", *content, f"Style{colon}", *style])


def full(features: dict[str, str], note: str = "A note.", fence: str = "```") -> str:
    """A full trace in the paper's format."""
    lines = []
    for heading in FULL_HEADINGS[:-1]:
        lines += [heading, *([f"{label}: {note}" for label in TRIAL_LABELS] if "Trial " in heading else [note])]
    return "\n".join([*lines, FULL_HEADINGS[-1], fence, block(features), "```"])


def compact(content: str, style: str) -> str:
    """A trace in the compact format."""
    return f"{COMPACT_HEADING}\nContent: {content}\nStyle: {style}"


FEATURES = {name: f"Feature {number}" for number, name in enumerate(NAMES)}
FULL = full(FEATURES)
COMPACT = compact("Says where the rum is.", "Gruff and short.")


def assert_fails(text: str, reason: str = "") -> None:
    parsed = parse_trace(text)
    assert parsed.features is None, text
    assert parsed.failure, text
    assert reason in parsed.failure, (reason, parsed.failure)


@QUICK
@given(values=st.lists(LINES, min_size=6, max_size=6), note=LINES)
def test_a_rendered_full_trace_parses_to_its_core_features(values: list[str], note: str) -> None:
    features = dict(zip(NAMES, values, strict=True))
    parsed = parse_trace(full(features, note))
    assert parsed.failure is None
    assert parsed.features == block(features).strip()
    assert note == "x" or f"\n{note}\n" not in parsed.features


@QUICK
@given(content=LINES, style=LINES, blank=st.sampled_from(["", "\n", "  \n\n"]))
def test_a_rendered_compact_trace_parses_to_its_two_lines(content: str, style: str, blank: str) -> None:
    parsed = parse_trace(blank + compact(content, style) + blank)
    assert parsed.failure is None
    assert parsed.features == f"Content: {content.strip()}\nStyle: {style.strip()}"


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_an_empty_trace_is_a_failure(text: str) -> None:
    assert_fails(text, "empty")


@pytest.mark.parametrize("heading", FULL_HEADINGS)
def test_each_heading_of_a_full_trace_is_needed_exactly_once(heading: str) -> None:
    without = "\n".join(line for line in FULL.splitlines() if line != heading)
    assert_fails(without)
    assert_fails(FULL.replace(heading, f"{heading}\n{heading}", 1), "repeated")
    assert_fails(FULL.replace(heading, heading.lower()))


def test_headings_out_of_order_are_a_failure() -> None:
    lines = FULL.splitlines()
    one, two = lines.index("### Trial 1"), lines.index("### Trial 2")
    lines[one], lines[two] = lines[two], lines[one]
    assert_fails("\n".join(lines), "out of order")


@pytest.mark.parametrize("name", NAMES)
def test_each_core_feature_is_needed_and_must_say_something(name: str) -> None:
    line = f"- {name}: {FEATURES[name]}"
    assert_fails(FULL.replace(line + "\n", "").replace("\n" + line, ""), name)
    assert_fails(FULL.replace(line, f"- {name}: "), name)
    assert_fails(FULL.replace(line, f"- {name}:{FEATURES[name]}"), name)
    assert_fails(FULL.replace(line, f"{name}: {FEATURES[name]}"), name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("```", ""),
        lambda text: text.removesuffix("```"),
        lambda text: text.replace("```", "", 1),
        lambda text: text + "\nAnd more.",
        lambda text: text + "\n```\nmore\n```",
        lambda text: text.replace("Core Features\n", "Core Features\nHere they are:\n"),
        lambda text: text.replace("\nStyle\n", "\n```\nStyle\n```\n"),
        lambda text: text.partition("```")[0] + "```\n\n```",
        lambda text: text.replace("```", "~~~"),
    ],
)
def test_core_features_outside_one_fenced_block_are_a_failure(damage: object) -> None:
    assert callable(damage)
    assert_fails(damage(FULL))


@pytest.mark.parametrize(
    "text",
    [
        COMPACT.replace("\nStyle", "\n\nStyle"),
        COMPACT.replace("Style:", "style:"),
        COMPACT.partition("\nStyle")[0],
        COMPACT.replace("Content: Says where the rum is.\n", ""),
        COMPACT.replace("Gruff and short.", ""),
        COMPACT.replace("Says where the rum is.", " "),
        COMPACT + "\nAnd more.",
        "Let me think.\n" + COMPACT,
        COMPACT + "\n" + COMPACT,
        COMPACT.replace("##", "#"),
        COMPACT.replace("## Core Features", "**Core Features**"),
        "The captain should say where the rum is.",
        "Content: Says where.\nStyle: Gruff.",
    ],
)
def test_a_damaged_compact_trace_is_a_failure(text: str) -> None:
    assert_fails(text)


def test_a_cut_anywhere_is_a_failure() -> None:
    # Only white space at the end may go.
    assert all(parse_trace(FULL[:end]).failure for end in range(len(FULL)))
    shortest = COMPACT.index("Style: ") + len("Style: G")
    assert all(parse_trace(COMPACT[:end]).failure for end in range(shortest))


@QUICK
@given(seed=st.integers(0, 10_000))
def test_whatever_is_cut_out_the_answer_is_the_features_or_a_failure_and_never_the_whole_text(seed: int) -> None:
    rng = random.Random(seed)
    text = rng.choice([FULL, COMPACT])
    start = rng.randrange(len(text))
    damaged = text[:start] + rng.choice(["", "\n", "```", "# "]) + text[start + rng.randrange(40) :]
    parsed = parse_trace(damaged)
    assert (parsed.features is None) != (parsed.failure is None)
    if parsed.features is not None:
        assert parsed.features in damaged
        assert all(heading not in parsed.features for heading in (*FULL_HEADINGS, COMPACT_HEADING))


@QUICK
@given(text=st.text(max_size=80))
def test_free_text_is_always_a_failure(text: str) -> None:
    assert_fails(text)


@QUICK
@given(values=st.lists(LINES, min_size=6, max_size=6))
def test_a_full_trace_becomes_a_compact_one_that_parses_and_keeps_every_feature(values: list[str]) -> None:
    made = compact_from_full(full(dict(zip(NAMES, values, strict=True))))
    assert made is not None
    parsed = parse_trace(made)
    assert parsed.features is not None
    assert all(value.strip().rstrip(".;") in parsed.features for value in values)
    assert parsed.features.count("\n") == 1


@pytest.mark.parametrize("colon", ["", ":"])
def test_a_full_trace_is_made_compact_with_or_without_a_colon_behind_content(colon: str) -> None:
    text = FULL.replace("\nContent\n", f"\nContent{colon}\n").replace("\nStyle\n", f"\nStyle{colon}\n")
    made = compact_from_full(text)
    assert made is not None
    assert parse_trace(made).failure is None
    assert made.startswith(f"{COMPACT_HEADING}\nContent: Feature 0. Feature 1. Feature 2.\nStyle: Feature 3; ")


@pytest.mark.parametrize("text", ["", COMPACT, FULL.replace("```", ""), "free text"])
def test_nothing_else_is_made_compact(text: str) -> None:
    assert compact_from_full(text) is None


@given(st.lists(LINES, max_size=4), st.booleans())
@QUICK
def test_what_a_small_model_rambles_behind_a_compact_trace_is_cut(rest: list[str], spaced: bool) -> None:
    gap = "\n\n" if spaced else "\n"
    text = f"{COMPACT_HEADING}{gap}Content: A.{gap}Style: B."
    assert trimmed("\n".join([text, *rest]), "compact") == f"{COMPACT_HEADING}\nContent: A.\nStyle: B."
    assert trimmed("\n".join([text, *rest]), "full") == "\n".join([text, *rest])
    assert trimmed(f"{COMPACT_HEADING}\nContent: A.", "compact") == f"{COMPACT_HEADING}\nContent: A."
