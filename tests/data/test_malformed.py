"""Whatever a user's files hold, the answer is a DataError that says where, and never anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import malformed
import malformed_values
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remid.data import read_benchmark
from remid.errors import ConfigError, DataError
from remid.types import Benchmark

QUICK = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def verdict(case: malformed.Case) -> str | None:
    """What is wrong with the reader's answer to a case, or None."""
    try:
        read_benchmark(case.benchmark, mapping=case.mapping, taxonomy=case.taxonomy, responses=case.responses)
    except DataError as error:
        text = str(error)
        if not text.replace("\n", "").isprintable():
            return f"{case.name}: unprintable message {text!r}"
        matches = [
            problem
            for problem in error.problems
            if Path(problem.file).name == case.file
            and case.record in ("", problem.record)
            and problem.field.startswith(case.field)
            and problem.message
        ]
        return None if matches else f"{case.name}: no problem names {case.file}, {case.record}, {case.field}: {text}"
    except Exception as error:
        return f"{case.name}: {type(error).__name__}: {error}"
    return f"{case.name}: was read"


@pytest.mark.parametrize("seed", [0, 1])
def test_every_malformed_input_is_a_data_error_with_its_place(tmp_path: Path, seed: int) -> None:
    made = malformed.cases(tmp_path, seed)
    assert len({case.name for case in made}) == len(made) >= 250
    wrong = [fault for case in made if (fault := verdict(case))]
    assert not wrong, "\n".join(wrong)


def test_the_inputs_that_are_mutated_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(malformed_values.benchmark()), "utf-8")
    answers = tmp_path / "r.jsonl"
    answers.write_text(json.dumps(malformed_values.ANSWER), "utf-8")
    benchmark = read_benchmark([path], responses=[answers])
    assert len(benchmark.test) == malformed_values.RECORDS
    assert benchmark.policies == ("tiny", "new", "other")


def test_all_problems_are_raised_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.jsonl"
    one.write_text(
        json.dumps({"IDTest": [malformed_values.record(user_persona=3), malformed_values.record(1, SThought=3)]}),
        "utf-8",
    )
    two.write_text("{\n" + json.dumps(malformed_values.record(2, split="Nowhere", subset_tag=None)), "utf-8")
    with pytest.raises(DataError) as caught:
        read_benchmark([one, two])
    assert [(Path(p.file).name, p.record, p.field) for p in caught.value.problems] == [
        ("one.json", "IDTest[0]", "user_persona"),
        ("one.json", "IDTest[1]", "SThought"),
        ("two.jsonl", "line 1", ""),
        ("two.jsonl", "line 2", "subset_tag"),
    ]


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "dangling", "surrogate\udcff"])
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "csv", ""])
def test_impossible_paths_are_data_errors(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / (f"{name}.{ending}" if ending else name)
    if name == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        read_benchmark([path])
    str(caught.value).encode("utf-8")


def test_no_file_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        read_benchmark([])


def test_messages_cannot_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    hostile = "\x1b[2J\u202eevil"
    path.write_text(
        json.dumps({hostile: [malformed_values.record(subset_tag=hostile, **{hostile: float("nan")})]}), "utf-8"
    )
    with pytest.raises(DataError) as caught:
        read_benchmark([path])
    assert str(caught.value).replace("\n", "").isprintable()


def survives(path: Path) -> None:
    """Reading gives a benchmark or a DataError."""
    try:
        assert isinstance(read_benchmark([path]), Benchmark)
    except DataError as error:
        str(error).encode("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(value=JSON, field=st.sampled_from(list(malformed_values.record())), ending=st.sampled_from(["json", "jsonl"]))
def test_any_value_in_any_field_is_survived(tmp_path: Path, value: Any, field: str, ending: str) -> None:
    record = malformed_values.record(**{field: value})
    path = tmp_path / f"IDTest.{ending}"
    path.write_text(json.dumps({"IDTest": [record]} if ending == "json" else record), "utf-8")
    survives(path)


@QUICK
@given(content=st.binary(max_size=200), ending=st.sampled_from(["json", "jsonl", "parquet"]))
def test_any_bytes_are_survived(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"IDTest.{ending}"
    path.write_bytes(content)
    survives(path)


@QUICK
@given(data=st.data())
def test_any_changed_byte_is_survived(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(malformed_values.benchmark(), ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "b.json"
    path.write_bytes(bytes(text))
    survives(path)
