"""The wording of the verdict in each case: what is found, what is not, and what the controls say of the scale."""

from __future__ import annotations

from typing import Any

import pytest
from factory import make_result

from remid.report.text import decimals, number, p_text, visible
from remid.report.verdict import Finding, Verdict, make_verdict


def _codes(lines: Any) -> list[str]:
    return [line.code for line in lines]


def _text(finding: Finding, code: str) -> str:
    return next(line.text for line in finding.lines if line.code == code)


def _set(result: dict[str, Any], table: str, match: dict[str, Any], **values: Any) -> None:
    rows = [row for row in result[table] if all(row[key] == value for key, value in match.items())]
    assert rows
    for row in rows:
        row.update(values)


def _one_model(**pooled: tuple[float, bool]) -> dict[str, Any]:
    """A result with one model and exactly these pooled R-EMIDs (value, significant), half-width 2."""
    result = make_result(models=("m",), cost=0)
    _set(result, "remid", {"policy": "m"}, significant=False)
    for shift, (value, significant) in pooled.items():
        _set(
            result,
            "remid",
            {"policy": "m", "shift": shift, "subset": None},
            **{"value": value, "ci_low": value - 2, "ci_high": value + 2, "significant": significant},
            p_adjusted=0.004 if significant else 0.4,
        )
    return result


def _verdict(**pooled: tuple[float, bool]) -> Verdict:
    return make_verdict(_one_model(**pooled))


def test_the_worst_significant_shift_comes_first() -> None:
    verdict = _verdict(user=(3.0, True), character=(5.0, True), dialogue=(9.0, False))
    finding = verdict.models[0]
    assert finding.tone == "loss"
    assert finding.lines[0].text == (
        "Loses most under the character shift: R-EMID +5.0 nats/response (95% interval +3.0 to +7.0, "
        "adjusted p = 0.004, n = 12 ID, 48 shifted)."
    )
    assert finding.lines[1].text.startswith("It also loses under the user shift: R-EMID +3.0")
    # Large, but not significant: never called a loss.
    assert "No change is detectable under the dialogue shift" in _text(finding, "undetected")
    assert verdict.headline.text == "The model loses measurably, most under the character shift."


def test_nothing_found_says_what_could_have_been_found() -> None:
    verdict = _verdict(user=(0.5, False), character=(-0.5, False), dialogue=(0.1, False))
    finding = verdict.models[0]
    assert finding.tone == "calm"
    assert "No change is detectable at this n." in finding.lines[0].text
    assert "a loss below about 2.0 nats/response (the half-width of the interval" in finding.lines[0].text
    assert verdict.headline.text == "The model shows no detectable loss under any shift as a whole, at this n."


def test_an_interval_beyond_zero_without_corrected_significance_is_not_a_loss() -> None:
    finding = _verdict(user=(3.0, False), character=(0.0, False), dialogue=(0.0, False)).models[0]
    assert finding.lines[0].code == "nothing"
    assert "after correction for the number of comparisons it may be chance" in finding.lines[0].text


def test_a_gain_is_not_praised() -> None:
    finding = _verdict(user=(-4.0, True), character=(0.0, False), dialogue=(0.0, False)).models[0]
    assert finding.tone == "gain"
    assert "More information is not better role-play" in finding.lines[0].text


def test_a_subset_that_loses_alone_is_named() -> None:
    result = _one_model(user=(0.5, False), character=(0.5, False), dialogue=(0.5, False))
    _set(result, "remid", {"policy": "m", "subset": "korean"}, value=8.0, significant=True)
    assert "Loses on the subset “korean”" in _text(make_verdict(result).models[0], "subset")


def test_another_unit_with_another_answer_is_told() -> None:
    result = _one_model(user=(3.0, True), character=(0.5, False), dialogue=(0.5, False))
    for unit in ("nats/token", "nats/byte"):
        _set(result, "remid", {"policy": "m", "unit": unit}, significant=False)
    line = _text(make_verdict(result).models[0], "unit")
    assert "in nats/token and nats/byte, what is significant is nothing" in line


def test_above_the_reference_is_a_warning() -> None:
    finding = make_verdict(make_result(models=("m",), level={"m": 15.0})).models[0]
    line = next(line for line in finding.lines if line.code == "above_reference")
    assert line.tone == "warning"
    assert "a warning, not a virtue" in line.text
    assert "n = 12" in line.text


@pytest.mark.parametrize(
    ("level", "code"),
    [
        ({"parrot": 38.0}, "parrot_on_top"),
        ({"parrot": 12.0, "rp-grpo-8b": 60.0}, "parrot_above"),
        ({"shuffled": 0.0}, "control_not_below"),
        ({"generic": 1.0}, "control_not_below"),
        ({"rp-base-8b": -80.0}, "model_below_control"),
    ],
)
def test_controls_that_break_the_scale_warn(level: dict[str, float], code: str) -> None:
    assert code in _codes(make_verdict(make_result(level=level)).scale)


def test_a_scale_that_holds_is_not_warned_of() -> None:
    assert make_verdict(make_result(level={"parrot": -20.0})).scale == ()


def test_a_model_called_parrot_is_not_the_control() -> None:
    verdict = make_verdict(make_result(models=("parrot",), controls=("shuffled", "generic")))
    assert "no_parrot" in _codes(verdict.scale)
    assert "parrot_on_top" not in _codes(verdict.scale)


def test_no_models() -> None:
    verdict = make_verdict(make_result(models=()))
    assert verdict.models == ()
    assert verdict.headline.code == "no_models"


def test_all_null() -> None:
    verdict = make_verdict(make_result(all_null=True))
    assert verdict.headline.code == "all_unknown"
    assert all(finding.tone == "unknown" for finding in verdict.models)
    assert "3 × response: the file holds no response" in verdict.models[0].lines[0].text
    assert "0.00" not in "".join(line.text for finding in verdict.models for line in finding.lines)


def test_no_id_data() -> None:
    verdict = make_verdict(make_result(subsets={"user": ("german",)}))
    assert _codes(verdict.models[0].lines) == ["unknown", "id_unknown"]
    assert "No shift was compared with ID data" in verdict.models[0].lines[0].text


def test_a_shift_of_the_users_own_and_other_confidence() -> None:
    result = make_result(models=("m",), subsets={"id": ("a",), "weather": ("b",)}, cost=40)
    result["manifest"]["config"]["confidence"] = 0.9
    text = make_verdict(result).models[0].lines[0].text
    assert "under the shift “weather”" in text
    assert "(90% interval" in text


def test_headline_counts() -> None:
    assert make_verdict(make_result(cost=3)).headline.text.startswith("All 3 models lose measurably")
    result = make_result(cost=0)
    head = {"policy": "rp-sft-8b", "shift": "user", "subset": None}
    _set(result, "remid", head, value=9.0, significant=True)
    assert make_verdict(result).headline.text.startswith("One of 3 models loses measurably")
    assert make_verdict(make_result(cost=0)).headline.text.startswith("None of the 3 models shows")


def test_numbers() -> None:
    assert number(None) == "n/a"
    assert number(-1.234, 1) == "−1.2"
    assert number(0.0001, 1) == "0.0"  # neither +0.0 nor −0.0
    assert number(-0.0001, 1) == "0.0"
    assert [decimals(scale) for scale in (None, 0, 230.0, 4.2, 0.037)] == [2, 2, 0, 1, 3]
    assert p_text(0.0001) == "p < 0.001"
    assert p_text(None, "adjusted p") == "adjusted p n/a"
    assert p_text(0.034) == "p = 0.034"


def test_unseen_marks_are_shown() -> None:
    assert visible("a\u202eb\x00c\td\r\ne\ud800") == "a⟨U+202E⟩b⟨U+0000⟩c\td\ne⟨U+D800⟩"
    assert visible("שלום 👩‍🚀") == "שלום 👩‍🚀"
