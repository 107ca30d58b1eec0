"""The composition operators: what holds for every benchmark, seed and script."""

from __future__ import annotations

import copy
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data import assemble, compose_turns, read_benchmark, recombine_words, write_benchmark
from remid.data.compose import shuffle_words
from remid.errors import ConfigError
from remid.types import Sample, Turn

QUICK = settings(max_examples=80, deadline=None, derandomize=True)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=15).filter(str.strip)


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    made = []
    for number in range(draw(st.integers(0, 8))):
        dialogue = [Turn("user", draw(TEXT))]
        for _ in range(draw(st.integers(0, 3))):
            dialogue += [Turn("agent", draw(TEXT)), Turn("user", draw(TEXT))]
        made.append(
            Sample(
                sample_id=f"s{number}",
                split="IDTest",
                subset="IDTest",
                shift=draw(st.sampled_from(["id", "id", "user", "train"])),
                user=draw(st.sampled_from(["u1", "u2"])),
                character=draw(st.sampled_from(["c1", "c2", "c3"])),
                dialogue=tuple(dialogue),
                reference=draw(TEXT),
                trace="trace",
                responses={"p": "x"},
                meta={"source": "here", "subset_tag": "old"},
            )
        )
    return made


def alternates(dialogue: tuple[Turn, ...]) -> bool:
    return [turn.role for turn in dialogue] == ["user", "agent"] * (len(dialogue) // 2) + ["user"]


@QUICK
@given(given_=samples(), turns=st.integers(2, 9), seed=st.integers(0, 5))
def test_longer_dialogues(given_: list[Sample], turns: int, seed: int) -> None:
    before = copy.deepcopy(given_)
    made = compose_turns(given_, turns=turns, seed=seed)
    assert given_ == before
    assert made == compose_turns(given_, turns=turns, seed=seed)
    by_id = {sample.sample_id: sample for sample in given_ if sample.shift != "train"}
    for sample in made:
        record = sample.meta["composed"]
        origin = by_id[record["sample_ID"]]
        donors = [by_id[donor] for donor in record["donors"]]
        assert alternates(sample.dialogue)
        assert sum(turn.role == "user" for turn in sample.dialogue) == turns
        assert sample.dialogue[-len(origin.dialogue) :] == origin.dialogue
        joined = [turn for donor in donors for turn in (*donor.dialogue, Turn("agent", donor.reference))]
        assert sample.dialogue == (*joined, *origin.dialogue)[-len(sample.dialogue) :]
        assert origin.sample_id not in record["donors"]
        assert len(set(record["donors"])) == len(donors) >= 1
        assert all(usable(donor, origin) for donor in donors)
        assert (sample.split, sample.subset, sample.shift) == ("OOD3Test", "TurnLevelComposition", "dialogue")
        assert (sample.user, sample.character, sample.reference) == (origin.user, origin.character, origin.reference)
        assert (sample.trace, sample.responses, sample.meta["source"]) == (None, {}, "here")
        assert "subset_tag" not in sample.meta
        # The donor nearest to the sample's own turns is the best there is.
        pairs = [s for s in by_id.values() if s is not origin and usable(s, origin)]
        if any((s.user, s.character) == (origin.user, origin.character) for s in pairs):
            assert (donors[-1].user, donors[-1].character) == (origin.user, origin.character)
        elif any(s.character == origin.character for s in pairs):
            assert donors[-1].character == origin.character


def usable(donor: Sample, origin: Sample) -> bool:
    """The reference is nowhere in what the donor gives, and the donor is no later cut of the same conversation."""
    said = {turn.text.strip() for turn in (*donor.dialogue, Turn("agent", donor.reference)) if turn.role == "agent"}
    return origin.reference.strip() not in said and donor.dialogue[: len(origin.dialogue)] != origin.dialogue


def test_later_cuts_of_a_conversation_do_not_give_the_reference_away() -> None:
    said = [f"line {number}" for number in range(8)]
    turns = tuple(Turn("user" if number % 2 == 0 else "agent", text) for number, text in enumerate(said))

    def cut(end: int, reference: str, user: str = "u1", dialogue: tuple[Turn, ...] | None = None) -> Sample:
        name = f"{user}-{end}-{reference}"
        return Sample(name, "IDTest", "IDTest", "id", user, "c1", dialogue or turns[:end], reference)

    logs = [cut(end, said[end]) for end in (1, 3, 5, 7)]
    logs += [cut(1, f"other {n}", "u2", (Turn("user", f"question {n}"),)) for n in range(8)]
    logs += [cut(1, " line 1\n", "u3", (Turn("user", "a question"),))]  # the same words but for blanks
    for seed in range(5):
        for sample in compose_turns(logs, turns=6, seed=seed):
            if sample.user != "u3":
                assert sample.reference not in {turn.text.strip() for turn in sample.dialogue}


def test_a_composed_dialogue_needs_two_turns() -> None:
    with pytest.raises(ConfigError):
        compose_turns([], turns=1)


@QUICK
@given(given_=samples(), seed=st.integers(0, 5))
def test_recombined_words(given_: list[Sample], seed: int) -> None:
    before = copy.deepcopy(given_)
    made = recombine_words(given_, seed=seed)
    assert given_ == before
    assert made == recombine_words(given_, seed=seed)
    origins = [sample for sample in given_ if sample.shift != "train"]
    assert [sample.meta["composed"]["sample_ID"] for sample in made] == [sample.sample_id for sample in origins]
    for sample, origin in zip(made, origins, strict=True):
        assert [turn.role for turn in sample.dialogue] == [turn.role for turn in origin.dialogue]
        for turn, old in zip(sample.dialogue, origin.dialogue, strict=True):
            assert Counter(turn.text) == Counter(old.text)
        assert (sample.split, sample.subset, sample.shift) == ("OOD3Test", "WordLevelComposition", "dialogue")
        assert (sample.reference, sample.trace, sample.responses) == (origin.reference, None, {})


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("a quick  brown\nfox", ["a", "quick", "brown", "fox"]),
        ("나는 책을 읽어.", ["나는", "책을", "읽어."]),
        ("我读了20本GPT书", ["我", "读", "了", "20", "本", "GPT", "书"]),
        ("本を読む", ["本", "を", "読", "む"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("I say 你好 to all of you", ["I", "say", "你好", "to", "all", "of", "you"]),
    ],
)
def test_what_counts_as_a_word(text: str, units: list[str]) -> None:
    for seed in range(20):
        shuffled = shuffle_words(text, random.Random(seed))
        assert shuffled != text
        rest = "".join(shuffled.split())
        assert sorted(rest) == sorted("".join(units))
        assert all(unit in shuffled for unit in units)
        assert [char.isspace() for char in shuffled].count(True) == [char.isspace() for char in text].count(True)


def test_one_word_stays_as_it_is() -> None:
    assert shuffle_words(" hello  ", random.Random(0)) == " hello  "
    assert shuffle_words("no no no", random.Random(0)) == "no no no"


@QUICK
@given(given_=samples())
def test_operators_work_on_samples_alone(given_: list[Sample]) -> None:
    """Leaving a sample out of recombination changes nothing for the others."""
    assert recombine_words(given_)[1:] == recombine_words(given_[1:]) or (given_ and given_[0].shift == "train")


def test_composed_benchmarks_write_and_read(tmp_path: Path) -> None:
    base = [
        Sample(f"s{n}", "IDTest", "IDTest", "id", "u", "c", (Turn("user", f"how are you {n}"),), f"r{n}", meta={"n": n})
        for n in range(4)
    ]
    made = assemble([*base, *compose_turns(base, turns=3), *recombine_words(base)], "x")
    assert len({sample.sample_id for sample in made.samples}) == 12
    write_benchmark(made, tmp_path / "w.json")
    again = read_benchmark([tmp_path / "w.json"])
    assert again.digest == made.digest
    assert again.samples[5].meta["composed"] == made.samples[5].meta["composed"]
