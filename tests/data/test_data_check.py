"""The census, the findings, what is shown of hostile data, and the language detector's honesty."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.data import assemble, check, describe, render
from remid.data.language import language_of
from remid.data.text import shown
from remid.types import Sample, Turn


def sample(number: int, subset: str = "IDTest", shift: str = "id", **changes: object) -> Sample:
    made = Sample(
        sample_id=f"{subset}-{number}",
        split="IDTrain" if shift == "train" else "IDTest" if shift == "id" else "OOD1Test",
        subset=subset,
        shift=shift,
        user=f"user {number}",
        character="name: Zoë",
        dialogue=(Turn("user", "What is it that you have?"), Turn("agent", "It is tea."), Turn("user", f"{number}?")),
        reference=f"That is the {subset} answer {number}.",
        responses={"p": f"Response {number}", "q": "x"},
        place=f"b.json: {subset}[{number}]",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


GOOD = [sample(n) for n in range(4)] + [sample(n, "german", "user") for n in range(3)]


def kinds(samples: list[Sample]) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.places for finding in check(assemble(samples, "b.json")).findings}


def test_a_sound_benchmark_has_no_findings() -> None:
    report = check(assemble([*GOOD, sample(7, "IDTrain", "train")], "b.json"))
    assert report.findings == ()
    assert (report.n_test, report.n_train) == (7, 1)
    assert [(s.shift, s.subset, s.n) for s in report.subsets] == [
        ("id", "IDTest", 4),
        ("user", "german", 3),
        ("train", "IDTrain", 1),
    ]
    assert report.subsets[0].turns.median == 2
    assert report.subsets[0].reference_bytes.low == len(b"That is the IDTest answer 0.")
    assert report.subsets[0].languages == (("en", 4),)
    assert "Findings: none" in render(report)


def test_missing_responses_are_counted() -> None:
    report = check(assemble([replace(GOOD[0], responses={"q": "x"}), *GOOD[1:]], "b.json"))
    assert [(p.name, p.answered, p.missing, p.missing_by_subset) for p in report.policies] == [
        ("q", 7, 0, ()),
        ("p", 6, 1, (("IDTest", 1),)),
    ]


@pytest.mark.parametrize(
    ("samples", "kind", "places"),
    [
        (GOOD[4:], "no-id", ()),
        (GOOD[:4], "no-ood", ()),
        (GOOD[:-1], "too-small", ("b.json: german[0]", "b.json: german[1]")),
        ([replace(s, responses={}) for s in GOOD], "no-responses", ()),
        ([*GOOD, replace(GOOD[0], sample_id="new", place="twin")], "duplicate-sample", ("b.json: IDTest[0]", "twin")),
        (
            [*GOOD, replace(GOOD[0], sample_id="new", user="another", place="twin")],
            "duplicate-reference",
            ("b.json: IDTest[0]", "twin"),
        ),
        ([*GOOD, sample(7, "t", "train", sample_id="german-1")], "train-overlap-id", ("b.json: german[1]",)),
        (
            [*GOOD, replace(GOOD[3], sample_id="t", shift="train", reference="Quite another.")],
            "train-overlap-input",
            ("b.json: IDTest[3]",),
        ),
        (
            [
                *GOOD,
                replace(GOOD[1], sample_id="t", shift="train", user="x", reference="That IS the  idtest answer 1."),
            ],
            "train-overlap-reference",
            ("b.json: IDTest[1]",),
        ),
        (
            [replace(GOOD[0], responses={"p": f" {GOOD[0].reference}\n"}), *GOOD[1:]],
            "response-is-reference",
            ("b.json: IDTest[0]",),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_finding_is_found_alone(samples: list[Sample], kind: str, places: tuple[str, ...]) -> None:
    found = kinds(samples)
    assert set(found) == {kind}
    assert found[kind] == places
    assert f"[{kind}]" in render(check(assemble(samples, "b.json")))


def test_a_policy_that_says_nothing_is_named_and_counted() -> None:
    report = check(replace(assemble(GOOD, "b.json"), silent=("mute",)))
    assert [(finding.kind, "mute" in finding.message) for finding in report.findings] == [("silent-policy", True)]
    assert [(p.name, p.answered, p.missing) for p in report.policies][-1] == ("mute", 0, 7)


def test_hostile_data_cannot_steer_a_terminal() -> None:
    evil = "\x1b]0;evil\x07\u202e\u2066\r\n\x9b2J\u200f\x00"
    hostile = sample(
        0, evil, "user", split=evil, user=evil, character=evil, reference=evil, responses={evil: evil}, place=evil
    )
    benchmark = assemble([replace(hostile, dialogue=(Turn("user", evil),))], evil)
    for text in (render(check(benchmark)), describe(benchmark)):
        assert text.replace("\n", "").isprintable()


def test_one_is_one_and_two_are_two() -> None:
    one = assemble([sample(0, "a", "id", responses={"p": "Yes."})], "b.json")
    assert "1 test sample, 0 training samples, 1 policy, digest" in render(check(one))
    assert "1 test sample, 0 training samples, 1 subset" in describe(one)


def test_a_description_fits_a_screen() -> None:
    many = [sample(n, f"subset {k}", "user", user="x" * 999) for k in range(9) for n in range(4)]
    text = describe(assemble(many, "b.json"), width=90)
    assert max(map(len, text.splitlines())) <= 90
    assert len(text.splitlines()) <= 3 + 9 * 5
    assert describe(assemble(many, "b.json"), examples=3).count("reference: ") == 27


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text(), limit=st.integers(4, 40))
def test_shown_text_is_short_printable_and_encodable(text: str, limit: int) -> None:
    line = shown(text, limit).replace("\u200c", "").replace("\u200d", "")
    assert len(line) <= limit
    assert line.isprintable()
    line.encode("utf-8")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What do you have for me? I like to go for a walk and it is fun."),
        ("de", "Ich habe heute keine Zeit, aber wir sind morgen mit der Arbeit fertig und das ist gut."),
        ("es", "No tengo mucho tiempo, pero me gusta la música y los libros que tú lees."),
        ("fr", "Je ne suis pas sûr, mais vous avez un chat et c'est très bien pour nous."),
        ("it", "Non ho molto tempo, ma mi piace la musica e anche gli animali che hai tu."),
        ("pt", "Eu não tenho muito tempo, mas você gosta do mar e isso é bom para os dois."),
        ("nl", "Ik heb het niet gezien, maar wij zijn er met de trein naar toe en dat is leuk."),
        ("id", "Saya suka membaca buku dan kamu juga, tetapi itu tidak murah untuk saya."),
        ("zh", "你好，今天在做什么？"),
        ("ja", "私は年間20冊の本を読みました。"),
        ("ko", "나는 일년에 20권의 책을 읽어."),
        ("ru", "Привет, как твои дела?"),
        ("uk", "Привіт, як твої справи?"),
        ("ar", "مرحبا كيف حالك اليوم"),
        ("el", "Καλημέρα, τι κάνεις;"),
        ("th", "สวัสดีครับ"),
        ("hi", "नमस्ते आप कैसे हैं"),
        ("unknown", ""),
        ("unknown", "12345 ... !!"),
        ("unknown", "Xyzzy plugh frobnicate"),
        ("unknown", "Hm."),
    ],
)
def test_languages(language: str, text: str) -> None:
    assert language_of(text) == language
