"""Each warning is given for its cause, and never without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pipeline_fakes import sample

from remid.pipeline.config import RunConfig, make_config
from remid.pipeline.warn import find_warnings
from remid.types import Benchmark

Result = dict[str, Any]
TEST = tuple(sample(number) for number in range(3))
CODES = (
    *("no-id", "parrot-tops", "above-reference", "floor", "uninformed", "traces-failed", "unscored", "dropped-turns"),
    *("stopped", "small", "no-traces", "train-overlap", "limit", "gap-scale", "brief", "trained-on"),
)


def row(policy: str, value: float | None, *, shift: str = "id", subset: str | None = None, half: float = 1) -> Result:
    """A row of `remi` or `information`; value None: could not be estimated."""
    low, high = (None, None) if value is None else (value - half, value + half)
    numbers = {"value": value, "ci_low": low, "ci_high": high, "n": 40}
    return {"policy": policy, "subset": subset, "shift": shift, "unit": "nats/response", **numbers}


def result() -> Result:
    """A result about which there is nothing to warn of."""
    return {
        "subsets": [{"subset": "IDTest", "shift": "id", "n": 40}, {"subset": "german", "shift": "user", "n": 40}],
        "policies": [{"policy": "reference", "kind": "control"}, {"policy": "one", "kind": "model"}],
        "traces": {"source": "data", "draws": 1, "n": 80, "n_failed": 0, "n_without": 0},
        "remi": [row("reference", 0, half=0), row("one", -3), row("parrot", -5)],
        "information": [
            *(row("reference", 20, subset=name) for name in ("IDTest", "german")),
            *(row("shuffled", 0.5, subset=name) for name in ("IDTest", "german")),
        ],
        "missing": [{"what": "response", "n": 3}, {"what": "trace", "n": 0}],
        "scoring": {"n_dropped_turns": 0},
        "stopping": None,
        "surface": [],
        "manifest": {"estimator": {"n_seen": 0}},
        "gap": [gap_row("id", 15.0), gap_row("user", 5.0)],
        "gap_change": [{**row("generic", -0.02, shift="user"), "significant": False, "n_id": 40, "n_ood": 40}],
    }


def gap_row(shift: str, earned: float) -> Result:
    return {"policy": "generic", "subset": None, "shift": shift, "earned": {"reference": earned}}


def warn(made: Result, benchmark: Benchmark | None = None, **settings: Any) -> dict[str, Result]:
    config: RunConfig = make_config(data=("b.json",), **settings)
    rows = find_warnings(benchmark or Benchmark(TEST, "b.json", "0"), made, config)
    for found in rows:
        assert found.keys() == {"code", "policy", "subset", "text"}
        assert found["code"] in CODES
        assert found["text"][0].isalnum()
        assert found["text"].endswith((".", ")."))
    return {found["code"]: found for found in rows}


def changed(change: Callable[[Result], object]) -> Result:
    made = result()
    change(made)
    return made


def test_where_all_is_well_nothing_is_said() -> None:
    assert warn(result()) == {}


def _small(made: Result) -> None:
    made["subsets"][1]["n"] = 29


def _no_id(made: Result) -> None:
    del made["subsets"][0]


CAUSES: dict[str, Callable[[Result], object]] = {
    "parrot-tops": lambda made: made["remi"][2].update(value=0.5, ci_low=0.1),
    "above-reference": lambda made: made["remi"][1].update(value=3, ci_low=0.1, ci_high=6),
    "floor": lambda made: made["information"][3].update(value=3, ci_low=0.1, ci_high=6),
    "uninformed": lambda made: made["information"][1].update(value=3, ci_low=-0.1, ci_high=6),
    "traces-failed": lambda made: made["traces"].update(n_failed=2, n_without=2),
    "unscored": lambda made: made["missing"].append({"what": "pair", "n": 2}),
    "dropped-turns": lambda made: made["scoring"].update(n_dropped_turns=4),
    "small": _small,
    "no-traces": lambda made: made["traces"].update(source="none"),
    "no-id": _no_id,
    "gap-scale": lambda made: made["gap_change"][0].update(significant=True, value=-0.28),
    "trained-on": lambda made: made["manifest"]["estimator"].update(n_seen=2),
    "brief": lambda made: made["surface"].append(brief("one", 0.12, 0.05)),
}


@pytest.mark.parametrize("code", CAUSES)
def test_a_cause_is_told_by_its_warning_alone(code: str) -> None:
    assert list(warn(changed(CAUSES[code]))) == [code]


@pytest.mark.parametrize("estimator", [None, {"n_seen": None}])
def test_what_an_estimator_does_not_say_is_no_warning(estimator: Result | None) -> None:
    assert warn(changed(lambda made: made["manifest"].update(estimator=estimator))) == {}


def test_every_code_has_a_test() -> None:
    assert set(CODES) == {*CAUSES, "limit", "train-overlap", "stopped"}


def test_a_limit_is_told() -> None:
    assert list(warn(result(), limit=5)) == ["limit"]
    assert "5" in warn(result(), limit=5)["limit"]["text"]


def test_ids_shared_with_training_data_are_told() -> None:
    train = (sample(0, shift="train"), sample(9, shift="train"))
    assert list(warn(result(), Benchmark((*TEST, *train), "b.json", "0"))) == ["train-overlap"]
    assert warn(result(), Benchmark((*TEST, train[1]), "b.json", "0")) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["remi"][2].update(value=9, ci_low=0.0),  # a parrot that cannot be told from the reference
        lambda made: made["remi"].pop(2),
        lambda made: made["remi"][2].update(value=None, ci_low=None, ci_high=None),
        lambda made: made["remi"][2].update(value=9, ci_low=8, shift="user"),
        lambda made: made["remi"][2].update(value=9, ci_low=8, subset="IDTest"),
        lambda made: made["remi"][2].update(value=9, ci_low=8, unit="nats/token"),
        lambda made: made["remi"][1].update(value=3, ci_low=0.0, ci_high=6),  # not told from the reference
        lambda made: made["remi"][1].update(value=3, ci_low=None, ci_high=None),
        lambda made: made["remi"][1].update(value=3, ci_low=1, shift="user"),
        lambda made: made["information"][3].update(ci_low=0.0),
        lambda made: made["information"][3].update(value=None, ci_low=None),
        lambda made: made["information"][3].update(value=3, ci_low=1, unit="nats/token"),
        lambda made: made["information"][1].update(ci_low=0.01),
        lambda made: made["information"][1].update(value=None, ci_low=None),
        lambda made: made["subsets"][1].update(n=30),
        lambda made: made["missing"].append({"what": "response", "n": 9}),
        lambda made: made["traces"].update(source="model"),
    ],
)
def test_without_its_cause_no_warning_is_given(change: Callable[[Result], object]) -> None:
    assert warn(changed(change)) == {}


def test_a_control_above_the_reference_is_no_model_above_the_reference() -> None:
    made = changed(lambda made: made["remi"].append(row("generic", 9)))
    assert warn(made) == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [([-3], "above every model"), ([-3, 9], "above 1 of 2 models"), ([9, 9], "0. Repeating"), ([], "0. Repeating")],
)
def test_the_parrot_is_compared_with_the_models(values: list[float], words: str) -> None:
    made = result()
    names = [f"m{number}" for number in range(len(values))]
    made["policies"] = [{"policy": name, "kind": "model"} for name in names]
    made["remi"] = [row("parrot", 5), *(row(name, v, half=99) for name, v in zip(names, values, strict=True))]
    assert words in warn(made)["parrot-tops"]["text"]


def test_warnings_name_the_policy_and_subset_that_they_are_about() -> None:
    places = {code: warn(changed(CAUSES[code]))[code] for code in ("floor", "uninformed", "above-reference", "small")}
    assert {code: (w["policy"], w["subset"]) for code, w in places.items()} == {
        "floor": ("shuffled", "german"),
        "uninformed": ("reference", "german"),
        "above-reference": ("one", None),
        "small": (None, None),
    }


def test_the_absence_of_id_comes_first() -> None:
    made = changed(_no_id)
    made["traces"]["source"] = "none"
    assert list(warn(made, limit=2)) == ["no-id", "no-traces", "limit"]


def test_scoring_that_stopped_by_itself_says_how_much_it_scored_and_who_would_need_more() -> None:
    stopping = {
        "until_se": 0.5,
        "looks": 3,
        "subsets": [{"subset": "IDTest", "n": 25, "n_all": 40, "negatives": 4}],
        "asks": [
            {"policy": "one", "verdict": "met", "n_needed": None},
            {"policy": "two", "verdict": "unreachable", "n_needed": [120, 90]},
        ],
    }
    text = warn(changed(lambda made: made.update(stopping=stopping)))["stopped"]["text"]
    assert "0.5 nats/response, in 3 rounds: 25 of 40 samples" in text
    assert "1 of 2 reached it; all would with about 120 samples a side" in text


def look(
    policy: str, value: float, over: float | None, measure: str = "copied", source: str | None = "input"
) -> Result:
    """A row of `surface`, pooled over ID."""
    about = {"policy": policy, "subset": None, "shift": "id", "measure": measure, "source": source, "value": value}
    return about | {"over_reference": None if over is None else {"ci_low": over}}


def brief(policy: str, value: float, low: float | None) -> Result:
    return look(policy, value, low, "brief", None) | {"ci_low": low, "ci_high": 2 * value, "n": 40}


def test_a_single_brief_response_is_no_warning() -> None:
    made = result()
    made["surface"] = [brief("one", 0.03, -0.03) | {"ci_low": 0.004, "ci_high": 0.13}]
    assert warn(made) == {}


def test_information_above_the_reference_is_told_with_what_the_responses_look_like() -> None:
    def above(made: Result) -> None:
        CAUSES["above-reference"](made)
        made["surface"] = [
            look("one", 0.31, 0.2),
            look("reference", 0.02, None),
            look("one", 0.21, 0.1, source="last turn"),
            look("reference", 0.01, None, source="last turn"),
            look("one", 90.0, 20.0, "words", None),
            look("reference", 36.0, None, "words", None),
            look("one", 0.01, -0.01, "repeated", None),
            look("reference", 0.01, None, "repeated", None),
        ]

    text = warn(changed(above))["above-reference"]["text"]
    assert "takes 31% of its words in threes from the input (21% from the last turn), the references 2%" in text
    assert "2.5 times as long as the references" in text
    assert "repeats itself" not in text
    bare = warn(changed(CAUSES["above-reference"]))["above-reference"]["text"]
    assert "That is no merit" in bare
    assert "copi" not in bare


def test_only_models_that_are_surely_brief_on_id_are_told() -> None:
    assert "in 12% of the samples on ID (interval 5% to 24%, n 40)" in warn(changed(CAUSES["brief"]))["brief"]["text"]
    for row in (brief("one", 0.03, -0.01), brief("one", 1.0, None), brief("parrot", 0.4, 0.3)):
        assert warn(changed(lambda made, row=row: made["surface"].append(row))) == {}


def test_a_scale_that_moved_is_told_with_what_the_references_earn() -> None:
    text = warn(changed(CAUSES["gap-scale"]))["gap-scale"]["text"]
    assert "changes by -0.28 nats/token" in text
    assert "references earn 5.0 nats/response, on ID 15.0" in text
