"""First traces: which source is taken, what is counted, and that what a model wrote is not written twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from remid.data import mini_benchmark_paths, read_benchmark
from remid.engine.local import LocalEngine
from remid.engine.work import Chat, WritingEngine, Written
from remid.errors import ConfigError, EngineError
from remid.lm.generate import Decoding
from remid.lm.models import LoadedModel
from remid.pipeline.progress import Progress
from remid.pipeline.shorten import shorten
from remid.pipeline.store import Store
from remid.pipeline.traces import COMPACT_HEADING, parse_trace
from remid.train.collect import (
    Author,
    collect_training_traces,
    extracted,
    from_data,
    hindsight_messages,
    origin,
    without_model,
    written,
)
from remid.train.config import make_train_config
from remid.types import Sample

QUIET = Progress(enabled=False)


@pytest.fixture(scope="module")
def train() -> tuple[Sample, ...]:
    return read_benchmark(mini_benchmark_paths()[:1]).train[:4]


@dataclass
class Script:
    """A writer with given texts (None: refused; "": not answered), as a server would send them."""

    texts: Sequence[str | None]
    name: str = "script"

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        for k in range(len(chats)):
            text = self.texts[k]
            reason = None if text else "no answer: busy" if text == "" else f"prompt of {k} tokens, room for 3"
            yield [Written(k, text or None, bool(text), reason, again=text == "")]


def never(decoding: Decoding, chats: Sequence[Chat]) -> WritingEngine:
    raise AssertionError(f"asked again for {len(chats)}")


def test_auto_takes_the_datas_traces_only_where_all_parse(train: tuple[Sample, ...]) -> None:
    assert origin(train, "auto") == "data"
    assert origin([*train[:-1], replace(train[-1], trace=None)], "auto") == "extractive"
    assert origin([*train[:-1], replace(train[-1], trace="nothing")], "auto") == "extractive"
    assert origin(train, "model") == "model"


def test_traces_from_the_input_know_no_reference_at_all(train: tuple[Sample, ...]) -> None:
    """Neither a sample's own nor, by how rare words are, another's: so the rule can stand in for q1 at a test."""
    others = [replace(s, reference=f"{s.dialogue[-1].text} {k}") for k, s in enumerate(train)]
    assert without_model(train, "input", "compact") == without_model(others, "input", "compact")
    assert without_model(train, "extractive", "compact") != without_model(others, "extractive", "compact")


def test_the_datas_traces_come_in_the_format_asked_for(train: tuple[Sample, ...]) -> None:
    compact, full = from_data(train, "compact"), from_data(train, "full")
    assert all(text.startswith(COMPACT_HEADING) for text in compact.texts.values())
    assert [full.texts[s.sample_id] for s in train] == [(s.trace or "").strip() for s in train]
    assert not compact.failures + full.failures
    short = [replace(train[0], trace=compact.texts[train[0].sample_id]), replace(train[1], trace=None)]
    assert from_data(short, "compact").texts == {train[0].sample_id: compact.texts[train[0].sample_id]}
    failures = from_data([*short, replace(train[2], trace="## Core Features\nStyle: x")], "full").failures
    assert failures == {
        "not in the full format, nor to be made so": 1,
        "no trace": 1,
        "not in the compact format": 1,
    }


def test_extraction_never_fails(train: tuple[Sample, ...]) -> None:
    for form in ("compact", "full"):
        found = extracted(train, form)
        assert set(found.texts) == {s.sample_id for s in train}
        assert all(parse_trace(text).features for text in found.texts.values())


def test_a_model_sees_the_reference_and_what_it_writes_is_judged(train: tuple[Sample, ...], tmp_path: Path) -> None:
    order: list[Sample] = []

    def opened(decoding: Decoding, chats: Sequence[Chat]) -> WritingEngine:
        for chat in chats:
            assert chat.opening.startswith(COMPACT_HEADING)
            order.append(next(s for s in train if s.reference in chat.messages[-1].content))
        stolen = " ".join(order[1].reference.split()[:8])
        return Script(
            ["He gives an order.\nStyle: Hearty.\nAnd more.", f"He says {stolen}\nStyle: Hearty.", "One line.", None]
        )

    with Store(tmp_path) as store:
        found = written(train, "compact", Author(["script"], opened, 64), store, QUIET)
        assert found.texts == {order[0].sample_id: f"{COMPACT_HEADING}\nContent: He gives an order.\nStyle: Hearty."}
        assert found.failures == {
            "quotes the reference": 1,
            "not in the compact format": 1,
            "prompt of N tokens, room for N": 1,
        }
        again = written(train, "compact", Author(["script"], never, 64), store, QUIET)
        assert again.texts == found.texts
        assert again.failures.total() == 3
        assert again.failures["nothing was written"] == 1


def test_a_short_reference_is_quoted_by_its_few_words(train: tuple[Sample, ...], tmp_path: Path) -> None:
    short = [
        replace(train[0], sample_id=str(k), reference=f"{said}.")
        for k, said in enumerate(("Zing zang zong", "Zig zag"))
    ]
    texts = ["It says zing zang zong.\nStyle: Short.", "It says zig zag.\nStyle: Short."]

    def opened(decoding: Decoding, chats: Sequence[Chat]) -> WritingEngine:
        return Script([texts["Zig zag" in chat.messages[-1].content] for chat in chats])

    with Store(tmp_path) as store:
        found = written(short, "compact", Author(["script"], opened, 64), store, QUIET)
    assert found.failures == {"quotes the reference": 1}
    assert set(found.texts) == {"1"}


def test_what_was_not_answered_is_asked_again_and_nothing_else(train: tuple[Sample, ...], tmp_path: Path) -> None:
    asked: list[int] = []

    def opened(decoding: Decoding, chats: Sequence[Chat]) -> WritingEngine:
        asked.append(len(chats))
        return Script(["He gives an order.\nStyle: Hearty.", "" if len(asked) == 1 else None, None, None][: len(chats)])

    author = Author(["script"], opened, 64)
    with Store(tmp_path) as store:
        with pytest.raises(EngineError, match=r"1 of 4 were not answered \(no answer\)"):
            written(train, "compact", author, store, QUIET)
        found = written(train, "compact", author, store, QUIET)
    assert asked == [4, 1]
    assert (len(found.texts), found.failures) == (2, {"nothing was written": 2})


def test_hindsight_shows_the_reference_to_nobody_else(train: tuple[Sample, ...]) -> None:
    system, shown = hindsight_messages(train[0], "full")
    assert "Do not quote the line" in system.content
    assert shown.content.endswith(train[0].reference)


def test_a_local_model_writes_once(train: tuple[Sample, ...], embedded: LoadedModel, tmp_path: Path) -> None:
    author = Author(["embedded"], lambda decoding, chats: LocalEngine(embedded, decoding), 40)
    with Store(tmp_path) as store:
        found = written(train[:2], "compact", author, store, QUIET)
        assert len(found.texts) + found.failures.total() == 2
        again = written(train[:2], "compact", replace(author, open=never), store, QUIET)
    assert (again.texts, again.failures) == (found.texts, found.failures)


def test_a_run_collects_and_notes(tmp_path: Path) -> None:
    from remid.train.run import open_run

    config = make_train_config(data=mini_benchmark_paths()[:1], limit=5, holdout=0.2, device="cpu", rounds=0)
    run = open_run(config, tmp_path, QUIET)
    run.stage = "traces"
    assert set(collect_training_traces(run)) == {s.sample_id for s in run.split.train}
    for origin_name in ("input", "extractive", "data"):
        run.config = config.model_copy(update={"traces": origin_name})
        assert len(whole := collect_training_traces(run)) == 4
    run.config = run.config.model_copy(update={"trace_share": 0.5})
    halves = collect_training_traces(run)
    assert halves == {name: shorten(text, 0.5) for name, text in whole.items()}
    assert all(len(halves[name]) < len(text) for name, text in whole.items())
    run.config = config.model_copy(
        update={"traces": "model", "grpo": config.grpo.model_copy(update={"trace_tokens": 8})}
    )
    active = run.model.active_adapter
    with pytest.raises(ConfigError, match="extractive"):  # eight tokens are no trace
        collect_training_traces(run)
    assert run.model.active_adapter == active
