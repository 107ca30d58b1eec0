"""What the trace study puts in the place of a trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import sample

from remid.errors import ConfigError
from remid.estimate import balanced_design
from remid.pipeline.plan import Group
from remid.pipeline.shorten import cut, shorten
from remid.pipeline.traces import parse_trace
from remid.study.settings import (
    SETTINGS,
    chosen_settings,
    dose,
    mask,
    other_shift_donors,
    same_subset_donors,
    setting_features,
)
from remid.train.extract import extract, rarity

COMPACT = "Content: It greets Reto by name, then points at the plan on the wall.\nStyle: Blunt, kind, short."
FULL = (
    "Content:\n- Fits the user: Reto hates rows.\n- Embodies the character: She counts, always.\n"
    "- Continues the dialogue: It answers his question.\nStyle:\n- Tone for the user: Du, never Sie."
)


@pytest.mark.parametrize(
    ("text", "share", "wanted"),
    [
        (COMPACT, 1.0, COMPACT),
        (COMPACT, 0.5, "Content: It greets Reto by name, then\nStyle: Blunt, kind"),
        (COMPACT, 0.25, "Content: It greets Reto\nStyle: Blunt"),
        (FULL, 0.5, "Content:\n- Fits the user: Reto hates\n- Embodies the character: She counts\n"
                    "- Continues the dialogue: It answers\nStyle:\n- Tone for the user: Du, never"),
        # A sentence ends within a tenth of the wanted place.
        ("Content: One two three four. Five six seven eight nine ten.", 0.5, "Content: One two three four."),
        # Characters where there are no spaces, marks staying with theirs.
        ("Content: 用德语回答，语气直率。", 0.5, "Content: 用德语回答"),
        ("Content: か\u3099き\u3099く\u3099け\u3099", 0.5, "Content: か\u3099き\u3099"),
        ("no label at all here", 0.5, "no label"),
    ],
)  # fmt: skip
def test_a_cut_takes_the_first_words_of_each_field(text: str, share: float, wanted: str) -> None:
    if text.startswith("no label"):
        wanted = "no label"  # half of five words, rounded to even
    assert cut(text, share) == wanted


@given(text=st.text(alphabet="ab c.,\n:-字か", max_size=80), share=st.sampled_from([0.25, 0.5, 0.75]))
def test_a_cut_is_line_by_line_a_beginning(text: str, share: float) -> None:
    lines = cut(text, share).split("\n")
    assert len(lines) == len(text.split("\n"))
    assert all(whole.startswith(part) for whole, part in zip(text.split("\n"), lines, strict=True))
    assert cut(text, 1.0) == "\n".join(line.rstrip() for line in text.split("\n"))


def test_a_shorter_trace_parses_and_loses_core_features_alone() -> None:
    compact = f"## Core Features\n{COMPACT}"
    assert shorten(compact, 0.5) == f"## Core Features\n{cut(COMPACT, 0.5)}"
    whole = extract(sample(0, "IDTest", "id"), rarity([sample(0, "IDTest", "id")]), "full")
    short = shorten(whole, 0.5)
    features = parse_trace(whole).features or ""
    assert parse_trace(short).features == cut(features, 0.5) != features
    assert short.partition("```")[0] == whole.partition("```")[0]
    # What is left of a dash is nothing, and that would not parse: such a trace stays.
    for kept in ("no trace", "## Core Features\nContent: - - - a\nStyle: dry"):
        assert shorten(kept, 0.25) == kept


@pytest.mark.parametrize(
    ("features", "reference", "wanted"),
    [
        ("Content: Name the blue kettle, not tea.", "Bring a KETTLE.", "Content: Name the blue … not tea."),
        ("Content: on the wall it is", "It hangs on the door", "Content: … wall it is"),
        ("Content: the tea", "tea the", "Content: the tea"),
        ("Content: take kettle and teapot now", "Kettle, teapot!", "Content: take … and … now"),
        ("Content: take kettle teapot now", "Kettle, teapot!", "Content: take … now"),
        ("Content: 用德语回答", "她说德语。", "Content: 用…回答"),
        ("Style: dry", "Content style", "Style: dry"),
        ("Content: nothing shared", "", "Content: nothing shared"),
    ],
)
def test_the_references_words_are_masked(features: str, reference: str, wanted: str) -> None:
    assert mask(features, reference) == wanted


def group(subset: str, shift: str, n: int, m: int = 2) -> Group:
    members = tuple(sample(k, subset, shift) for k in range(n))
    design = balanced_design(n, m, 0)
    return Group(subset, shift, "S", members, design, (None,) * n, {"reference": [s.reference for s in members]})


@given(n=st.integers(1, 30), m=st.integers(1, 5))
def test_a_lent_trace_is_never_that_of_a_response_scored_under_the_prompt(n: int, m: int) -> None:
    one = group("IDTest", "id", n, m)
    donors = same_subset_donors([one])
    names = [s.sample_id for s in one.samples]
    if n <= m + 1:
        assert set(donors.values()) == {None}
        return
    assert sorted(donors.values()) == sorted(names)  # everyone lends once
    for i, name in enumerate(names):
        near = {name, *(names[j] for j in one.design.negatives_Bm[i])}
        assert donors[name] not in near


def test_traces_from_elsewhere_come_from_another_shift_and_are_used_alike() -> None:
    groups = [group("IDTest", "id", 4), group("de", "user", 8), group("es", "user", 8), group("Gaming", "character", 4)]
    shift = {s.sample_id: g.shift for g in groups for s in g.samples}
    donors = other_shift_donors(groups, 3)
    assert all(giver is not None and shift[taker] != shift[giver] for taker, giver in donors.items())
    users = [giver for taker, giver in donors.items() if shift[taker] == "user"]
    assert sorted(map(users.count, set(users))) == [2] * 8
    assert other_shift_donors(groups, 3) == donors != other_shift_donors(groups, 4)
    assert set(other_shift_donors(groups[:1], 0).values()) == {None}


def test_every_setting_gives_every_sample_its_due() -> None:
    groups = [group("IDTest", "id", 5), group("de", "user", 5)]
    own: dict[str, str | None] = {
        s.sample_id: f"Content: words of {s.sample_id} here" for g in groups for s in g.samples
    }
    own["de-2"] = None
    for name in SETTINGS:
        features = setting_features(name, groups, own, 0)
        kept = dose(features, own)
        if features is None:
            assert (name, kept.kept, kept.n_without) == ("length-0", 0.0, 1)
            continue
        assert set(features) == set(own)
        missing = [key for key, text in features.items() if text is None]
        assert len(missing) == kept.n_without
        if name in {"full", "length-25", "length-50", "length-75", "masked"}:
            assert missing == ["de-2"]
        assert kept.kept == (1.0 if name == "full" else pytest.approx(kept.kept))
    assert dose(setting_features("length-25", groups, own, 0), own).kept == pytest.approx(1 / 4)


def test_settings_are_chosen_by_name_and_full_is_always_there() -> None:
    assert chosen_settings(None) == SETTINGS
    assert chosen_settings(["masked", "length-0"]) == ("full", "length-0", "masked")
    with pytest.raises(ConfigError, match="length-10"):
        chosen_settings(["length-10"])
