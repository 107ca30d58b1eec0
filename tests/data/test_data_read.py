"""Reading: every format gives the same benchmark, and mapping, grouping and response files do what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_values import record

from remid.data import assemble, read_benchmark, write_benchmark
from remid.errors import DataError
from remid.types import Benchmark, Sample, Turn

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SPLITS: dict[str, list[dict[str, Any]]] = {
    "IDTrain": [record(9, subset_tag="german", model_response=None)],
    "IDTest": [record(0), record(1, sample_ID=1, SThought="Think.", model_response=None)],
    "OOD1Test": [record(2, subset_tag="german", agent_character="A plain text."), record(3, subset_tag="klingon")],
}


def bare(benchmark: Benchmark) -> list[Sample]:
    """Samples without their places, which differ from file to file."""
    return [replace(sample, place="") for sample in benchmark.samples]


def dump(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    return path


def lines(path: Path, values: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values), "utf-8")
    return path


def flat(splits: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{**item, "split": split} for split, items in splits.items() for item in items]


def same_type(item: dict[str, Any]) -> dict[str, Any]:
    """Columns have one type each and stand in every record; so made, records survive the columnar formats."""
    character = item["agent_character"]
    return {
        **item,
        "sample_ID": str(item["sample_ID"]),
        "SThought": item.get("SThought"),
        "agent_character": {"name": character} if isinstance(character, str) else character,
    }


UNIFORM = {split: [same_type(item) for item in items] for split, items in SPLITS.items()}


def to_json(folder: Path) -> Path:
    return dump(folder / "b.json", UNIFORM)


def to_list(folder: Path) -> Path:
    return dump(folder / "list.json", flat(UNIFORM))


def to_jsonl(folder: Path) -> Path:
    return lines(folder / "b.jsonl", flat(UNIFORM))


def to_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(flat(UNIFORM)), folder / "b.parquet")
    return folder / "b.parquet"


def to_dataset(folder: Path) -> Path:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(flat(UNIFORM)).save_to_disk(str(folder / "dataset"))
    return folder / "dataset"


def to_dataset_dict(folder: Path) -> Path:
    import datasets

    datasets.disable_progress_bars()
    parts = {split: datasets.Dataset.from_list(items) for split, items in UNIFORM.items()}
    datasets.DatasetDict(parts).save_to_disk(str(folder / "dict"))
    return folder / "dict"


@pytest.mark.parametrize("make", [to_list, to_jsonl, to_parquet, to_dataset, to_dataset_dict])
def test_every_format_gives_the_same_benchmark(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    expected = read_benchmark([to_json(tmp_path)])
    found = read_benchmark([make(tmp_path)])
    assert bare(found) == bare(expected)
    assert found.digest == expected.digest


def test_the_fields_of_a_record_arrive_where_they_belong(tmp_path: Path) -> None:
    benchmark = read_benchmark([dump(tmp_path / "b.json", SPLITS)])
    assert [(s.sample_id, s.split, s.subset, s.shift) for s in benchmark.samples] == [
        ("s9", "IDTrain", "german", "train"),
        ("s0", "IDTest", "IDTest", "id"),
        ("1", "IDTest", "IDTest", "id"),
        ("s2", "OOD1Test", "german", "user"),
        ("s3", "OOD1Test", "klingon", "user"),
    ]
    first = benchmark.test[0]
    assert first.character == "name: Zoë 0\nwork: A play\nprofile: Speaks in riddles."
    assert first.dialogue[1] == Turn("agent", "Who knocks?")
    assert first.responses == {"tiny": "Come 0."}
    assert first.meta == {"source": "tests", "agent_character": record()["agent_character"]}
    assert first.place == f"{tmp_path / 'b.json'}: IDTest[0]"
    assert benchmark.test[1].trace == "Think."
    assert benchmark.policies == ("tiny", "other")
    assert benchmark.silent == ("other",)


def test_a_byte_order_mark_and_unicode_line_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "IDTest.jsonl"
    text = json.dumps(record(user_persona="a\u2028b\x85c", subset_tag=None), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    assert read_benchmark([path]).samples[0].user == "a\u2028b\x85c"


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_in_the_place_of_lines_is_one_problem(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "IDTest.jsonl"
    text = ",\n".join(json.dumps(record(k), indent=indent) for k in range(3))
    path.write_text(f"[{text}]\n", "utf-8")
    with pytest.raises(DataError, match="begins with an array") as caught:
        read_benchmark([path])
    assert len(caught.value.problems) == 1


def test_lines_that_are_nested_beyond_the_stack_are_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "IDTest.jsonl"
    path.write_text("[" * 100_000 + "]" * 100_000 + "\n[]", "utf-8")
    with pytest.raises(DataError):
        read_benchmark([path])


def test_the_split_of_a_flat_record(tmp_path: Path) -> None:
    """Its field, else the subset's, else the mapping's default, else the file's stem."""
    items = [record(0, split="OOD2Test", subset_tag="new"), record(1, subset_tag="korean"), record(2, subset_tag=None)]
    path = lines(tmp_path / "OOD3Test.jsonl", items)
    mapping = dump(tmp_path / "m.json", {"defaults": {"split": "IDTest"}})
    splits = ["OOD2Test", "OOD1Test", "OOD3Test"]
    assert [sample.split for sample in read_benchmark([path]).samples] == splits
    assert [sample.split for sample in read_benchmark([path], mapping=mapping).samples] == [*splits[:2], "IDTest"]


def test_blank_responses_and_traces_are_missing(tmp_path: Path) -> None:
    given_ = record(model_response={"a": None, "b": " \n", "c": "", "d": "x"}, SThought=" ", subset_tag=None)
    benchmark = read_benchmark([dump(tmp_path / "b.json", {"IDTest": [given_]})])
    sample = benchmark.samples[0]
    assert sample.responses == {"d": "x"}
    assert benchmark.silent == ("a", "b", "c")
    assert benchmark.policies == ("d", "a", "b", "c")
    assert sample.trace is None
    assert sample.subset == "IDTest"


THEIRS = {
    "key": 7,
    "persona": {"user": "U", "bot": ["x", {"name": "B"}]},
    "chat": [
        {"from": "Human", "value": "q", "weight": 1},
        {"from": "bot", "value": "a"},
        {"from": "human", "value": "r"},
    ],
    "a.b": "the answer",
    "user_persona": "not this one",
}
MAPPING = {
    "fields": {
        "sample_ID": "key",
        "user_persona": "persona.user",
        "agent_character": "persona.bot.1",
        "dialogue_context": "chat",
        "agent_golden_response": "a.b",
    },
    "defaults": {"split": "IDTest", "subset_tag": "chat"},
    "roles": {"user": ["human"], "agent": ["Bot"]},
}


def test_a_mapped_field_that_is_not_there_is_told_by_its_own_name(tmp_path: Path) -> None:
    path, mapping = lines(tmp_path / "t.jsonl", [{**THEIRS, "a.b": None}]), dump(tmp_path / "m.json", MAPPING)
    with pytest.raises(DataError, match=r'agent_golden_response: is missing.*takes it from "a\.b"'):
        read_benchmark([path], mapping=mapping)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_mapping_reads_other_peoples_records(tmp_path: Path, ending: str) -> None:
    theirs = THEIRS if ending == "jsonl" else {**THEIRS, "persona": {"user": "U", "bot": [{}, {"name": "B"}]}}
    path = tmp_path / f"theirs.{ending}"
    if ending == "jsonl":
        lines(path, [theirs])
    else:
        pq.write_table(pa.Table.from_pylist([theirs]), path)
    (sample,) = read_benchmark([path], mapping=dump(tmp_path / "m.json", MAPPING)).samples
    assert (sample.sample_id, sample.user, sample.character, sample.reference) == ("7", "U", "name: B", "the answer")
    assert sample.dialogue == (Turn("user", "q"), Turn("agent", "a"), Turn("user", "r"))
    assert (sample.split, sample.subset, sample.shift) == ("IDTest", "chat", "id")
    assert sample.meta["original.user_persona"] == "not this one"
    assert sample.meta["persona"]["user"] == "U"


def test_roles_and_content_need_no_mapping(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    path = dump(tmp_path / "b.json", {"IDTest": [record(dialogue_context=chat)]})
    assert [turn.role for turn in read_benchmark([path]).samples[0].dialogue] == ["user", "agent", "user"]


def test_grouping_by_a_field_keeps_the_shift(tmp_path: Path) -> None:
    items = [record(n, agent_character={"name": "N", "script": s}) for n, s in enumerate(["Hamlet", "Hamlet", "Faust"])]
    path = dump(tmp_path / "b.json", {"IDTest": items[:1], "OOD1Test": items[1:]})
    plain = read_benchmark([path])
    grouped = read_benchmark([path], group_by="agent_character.script")
    assert [(s.subset, s.shift) for s in grouped.samples] == [
        ("Hamlet [id]", "id"),
        ("Hamlet [user]", "user"),
        ("Faust", "user"),
    ]
    assert [s.meta["subset_tag"] for s in grouped.samples] == ["IDTest"] * 3
    assert grouped.digest != plain.digest
    write_benchmark(grouped, tmp_path / "w.json")
    assert bare(read_benchmark([tmp_path / "w.json"], group_by="agent_character.script")) == bare(grouped)
    with pytest.raises(DataError, match=r"b\.json: IDTest\[0\]: agent_character\.play: is missing"):
        read_benchmark([path], group_by="agent_character.play")
    with pytest.raises(DataError, match="cannot name a group: it is an object"):
        read_benchmark([path], group_by="agent_character")


def test_response_files_add_policies(tmp_path: Path) -> None:
    path = dump(tmp_path / "b.json", {**SPLITS, "IDTrain": [record(0)]})
    rows = [
        {"policy": "p", "sample_ID": "s0", "response": "R0", "subset_tag": "IDTest", "seconds": 1.5},
        {"policy": "p", "sample_ID": 1, "response": " "},
        {"policy": "q", "sample_ID": "s2", "response": "R2", "subset_tag": "german"},
        {"policy": "other", "sample_ID": "s0", "response": "late"},
    ]
    benchmark = read_benchmark([path], responses=[lines(tmp_path / "r.jsonl", rows)])
    assert [dict(sample.responses) for sample in benchmark.test] == [
        {"tiny": "Come 0.", "p": "R0", "other": "late"},
        {},
        {"tiny": "Come 2.", "q": "R2"},
        {"tiny": "Come 3."},
    ]
    assert benchmark.train[0].responses == {"tiny": "Come 0."}
    assert benchmark.silent == ()
    rows = [{"policy": "mute", "sample_ID": f"s{k}", "response": None} for k in (0, 2)]
    mute = read_benchmark([path], responses=[lines(tmp_path / "mute.jsonl", rows)])
    assert mute.policies == ("tiny", "other", "mute")


def test_ids_may_repeat_in_training_data_only(tmp_path: Path) -> None:
    path = dump(tmp_path / "b.json", {"IDTrain": [record(0), record(0)], "IDTest": [record(0)]})
    assert len(read_benchmark([path]).samples) == 3


CHANGES: list[dict[str, Any]] = [
    {"sample_id": "new"},
    {"subset": "new"},
    {"shift": "user"},
    {"user": "new"},
    {"character": "new"},
    {"dialogue": (Turn("user", "new"),)},
    {"reference": "new"},
    {"trace": "new"},
    {"responses": {"new": "x"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_digest_covers_what_a_run_depends_on(tmp_path: Path, change: dict[str, Any]) -> None:
    benchmark = read_benchmark([dump(tmp_path / "b.json", SPLITS)])
    for index in (0, 1):  # training and test samples
        samples = list(benchmark.samples)
        samples[index] = replace(samples[index], **change)
        assert assemble(samples, "x").digest != benchmark.digest
    noted = [replace(sample, place="elsewhere", meta={"note": 1}) for sample in benchmark.samples]
    assert assemble(noted, "x").digest == benchmark.digest


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
META = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), st.none() | st.integers() | TEXT, max_size=2)


@st.composite
def record_splits(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    splits: dict[str, list[dict[str, Any]]] = {}
    for number in range(draw(st.integers(1, 4))):
        turns = [{"user_query": draw(TEXT)}]
        for _ in range(draw(st.integers(0, 2))):
            turns += [{"agent_response": draw(TEXT)}, {"user_query": draw(TEXT)}]
        splits.setdefault(draw(st.sampled_from(["IDTrain", "IDTest", "OOD2Test"])), []).append(
            draw(META)
            | record(
                number,
                user_persona=draw(TEXT),
                agent_character=draw(TEXT | st.builds(lambda text, meta: {**meta, "name": text}, TEXT, META)),
                dialogue_context=turns,
                agent_golden_response=draw(TEXT),
                SThought=draw(st.none() | TEXT),
                subset_tag=draw(st.none() | st.sampled_from(["Gaming", "anything"])),
            )
        )
    return splits


@QUICK
@given(splits=record_splits())
def test_what_is_written_reads_back_equal(tmp_path: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    read = read_benchmark([dump(tmp_path / "b.json", splits)])
    write_benchmark(read, tmp_path / "w.json")
    again = read_benchmark([tmp_path / "w.json"])
    assert bare(again) == bare(read)
    assert again.digest == read.digest
    flattened = read_benchmark([lines(tmp_path / "f.jsonl", flat(splits))])
    assert bare(flattened) == bare(read)


def test_writing_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    benchmark = read_benchmark([dump(tmp_path / "b.json", SPLITS)])
    for path in (tmp_path / "b.jsonl", tmp_path / "no" / "such" / "folder.json"):
        with pytest.raises(DataError):
            write_benchmark(benchmark, path)


def test_importing_is_light() -> None:
    code = "import sys, remid.data; print({'pyarrow', 'datasets', 'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", ["persona_shift", "mmrole_scored"])
def test_real_files_round_trip(tmp_path: Path, name: str) -> None:
    path = REAL / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    benchmark = read_benchmark([path])
    assert len(benchmark.test) == {"persona_shift": 1470, "mmrole_scored": 196}[name]
    write_benchmark(benchmark, tmp_path / "w.json")
    assert bare(read_benchmark([tmp_path / "w.json"])) == bare(benchmark)
