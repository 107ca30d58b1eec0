"""Where traces come from, and what becomes of samples whose trace cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import sample
from pipeline_tiny import Told, stored, trace
from test_traces import FULL

from remid.errors import ConfigError
from remid.pipeline.config import make_config
from remid.pipeline.engines import run_engines
from remid.pipeline.plan import _groups
from remid.pipeline.reason import Traces, collect_traces, trace_messages
from remid.pipeline.store import Store
from remid.pipeline.traces import parse_trace
from remid.types import Benchmark, Sample

BAD = "The character should be polite."


def collect(
    folder: Path, samples: Sequence[Sample], train: Sequence[Sample] = (), told: Told | None = None, **settings: Any
) -> Traces:
    benchmark = Benchmark((*train, *samples), "b.json", "0")
    config = make_config(data=("b.json",), device="cpu", **settings)
    with Store(folder) as store, run_engines(config, None, Told()) as engines:
        return collect_traces(benchmark, samples, store, engines, config, told or Told())


def with_traces(*texts: str | None) -> list[Sample]:
    return [sample(number, trace=text) for number, text in enumerate(texts)]


def test_traces_in_the_data_are_parsed_and_failures_counted(tmp_path: Path) -> None:
    made = collect(tmp_path, with_traces(trace("0"), BAD, FULL, None, BAD, ""), traces="data")
    assert [bool(made.features[f"IDTest-{number}"]) for number in range(6)] == [
        *(True, False, True, False, False, False)
    ]
    assert made.features["IDTest-0"] == ("Content: It answers 0.\nStyle: It is short.",)
    assert made.summary == {
        "source": "data",
        "format": None,
        "draws": 1,
        "n": 6,
        "n_parsed": 2,
        "n_failed": 4,
        "failure_rate": 4 / 6,
        "n_without": 4,
        "failures": {"empty": 1, "no heading of either format": 2, "no trace": 1},
    }


def test_a_sample_with_a_failed_trace_has_no_prompt_and_the_text_is_never_used_in_its_place(tmp_path: Path) -> None:
    samples = with_traces(trace("0"), BAD, trace("2"))
    made = collect(tmp_path, samples, traces="data")
    (group,) = _groups(samples, (), made, make_config(data=("b.json",)))
    assert [len(prompts) for prompts in group.prompts] == [1, 0, 1]
    shown = "\n".join(m.content for prompts in group.prompts for messages in prompts for m in messages)
    assert "It answers 0." in shown
    assert BAD not in shown


def test_traces_asked_of_data_that_has_none_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds none"):
        collect(tmp_path, with_traces(None, None), traces="data")


def test_auto_takes_the_datas_traces_only_if_every_sample_has_one(tmp_path: Path) -> None:
    told = Told()
    assert collect(tmp_path, with_traces(trace("0"), BAD), told=told).source == "data"
    assert collect(tmp_path, with_traces(None, None), told=told).source == "none"
    assert told.lines == []
    part = collect(tmp_path, with_traces(trace("0"), None), told=told)
    assert (part.source, part.features) == ("none", {})
    assert "only 1 of 2 samples" in told.lines[0]


def test_a_source_of_which_nothing_follows_the_format_is_a_config_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not one of 3 .*: no heading of either format \(2\); no trace \(1\)"):
        collect(tmp_path, with_traces(BAD, BAD, None), traces="data")


def test_none_means_none_whatever_the_data_holds(tmp_path: Path) -> None:
    made = collect(tmp_path, with_traces(trace("0"), trace("1")), traces="none")
    assert made.summary == {
        **{"source": "none", "format": None, "n": 0, "n_parsed": 0, "n_failed": 0},
        **{"draws": 1, "failure_rate": None, "n_without": 0, "failures": {}},
    }


@pytest.mark.parametrize("draws", [1, 3])
def test_a_real_models_traces_are_kept_and_found_again(
    tmp_path: Path, models: None, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    people = [("Ann, a cook.", "A pirate."), ("Bob, nine.", "A wizard.")]
    samples = [sample(number, user=user, character=character) for number, (user, character) in enumerate(people)]

    def write() -> dict[Any, str]:
        with contextlib.suppress(ConfigError):  # in 16 tokens nothing comes to its second line
            collect(tmp_path, samples, traces="model", trace_tokens=16, trace_draws=draws)
        return {key: row[2] for key, row in stored(tmp_path, "generations").items()}

    made = write()
    assert len(made) == 2 * draws
    assert all(text.startswith("## Core Features\nContent: ") for text in made.values())
    assert draws == 1 or len(set(made.values())) > 2
    assert draws > 1 or all(len(text) > 30 for text in made.values())
    monkeypatch.setattr("remid.lm.models.load_model", None)
    assert write() == made


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, models: None) -> list[int]:
    """Sizes of the batches asked of a model that writes a good trace to every other prompt; it is not run."""
    sizes: list[int] = []

    def generate(loaded: Any, batch: Sequence[Any], *args: Any, **options: Any) -> list[tuple[str, bool]]:
        sizes.append(len(batch))
        texts = ["Says it.\nStyle: Short.\nAnd on it rambles.", "I cannot do that."]
        return [(texts[number % 2], True) for number in range(len(batch))]

    monkeypatch.setattr("remid.lm.generate.generate", generate)
    return sizes


def test_a_models_failures_are_counted_and_its_good_traces_parsed(tmp_path: Path, written: list[int]) -> None:
    made = collect(tmp_path, [sample(number) for number in range(4)], traces="model")
    assert sorted(made.features.values()) == [*[()] * 2, *[("Content: Says it.\nStyle: Short.",)] * 2]
    assert made.summary["failures"] == {"not in the compact format": 2}


def test_only_traces_that_are_not_in_the_store_are_written(tmp_path: Path, written: list[int]) -> None:
    samples = [sample(number) for number in range(11)]
    collect(tmp_path, samples[:9], traces="model")
    assert sum(written) == 9
    collect(tmp_path, samples, traces="model")
    assert sum(written) == 11
    collect(tmp_path, samples, traces="model", trace_tokens=50)  # another generator
    assert sum(written) == 22


def test_a_trace_is_made_from_the_input_alone() -> None:
    secret = sample(0, reference="SECRET", trace="SECRET", responses={"one": "SECRET"}, meta={"note": "SECRET"})
    for form in ("compact", "full"):
        shown = "\n".join(m.content for m in trace_messages(secret, form))
        assert "SECRET" not in shown
        assert all(text in shown for text in (secret.user, secret.character, secret.dialogue[-1].text))


def test_examples_come_from_training_data_in_the_compact_format_whichever_they_have(
    tmp_path: Path, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [sample(number, "t", "train", trace=text) for number, text in enumerate((BAD, FULL, trace("t2"), FULL))]
    seen: list[list[Sample]] = []

    def messages(asked: Sample, form: str, shots: Sequence[Sample] = ()) -> Any:
        seen.append(list(shots))
        return trace_messages(asked, form, shots)

    monkeypatch.setattr("remid.pipeline.reason.trace_messages", messages)
    collect(tmp_path, [sample(0)], train, traces="model")
    assert [s.sample_id for s in seen[0]] == ["t-1", "t-2"]
    said = [m.content for m in trace_messages(sample(0), "compact", seen[0]) if m.role == "assistant"]
    assert len(said) == 2
    assert all(parse_trace(text).failure is None and "```" not in text for text in said)
    with pytest.raises(ConfigError):  # what this fixture's model writes is no full trace
        collect(tmp_path, [sample(0)], train, traces="model", trace_format="full")
    assert seen[-1] == []
