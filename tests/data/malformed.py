"""Inputs that cannot be read, made by rule: what each mutation does to a valid input makes it invalid for certain.

`cases(tmp_path, seed)` writes them all and returns them; the seed chooses which record is hurt and where bytes are. The
tests of the reader and of the command line both use it (with tests/data on sys.path).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from malformed_values import (
    ANSWER,
    LONE,
    MAPPINGS,
    MISSING,
    RECORDS,
    TAXONOMIES,
    WRONG,
    WRONG_ANSWERS,
    WRONG_RECORDS,
    benchmark,
    record,
)


@dataclass(frozen=True)
class Case:
    """One invalid input. file: the name of the file at fault; record, field: what the message must name, if known."""

    name: str
    benchmark: tuple[Path, ...]
    mapping: Path | None = None
    taxonomy: Path | None = None
    responses: tuple[Path, ...] = ()
    file: str = ""
    record: str = ""
    field: str = ""


def cases(tmp_path: Path, seed: int) -> list[Case]:
    """All cases, written under `tmp_path`, each in a folder of its own."""
    maker = _Maker(tmp_path, random.Random(seed))
    return [
        *maker.records(),
        *maker.json_files(),
        *maker.jsonl_files(),
        *maker.parquet_files(),
        *maker.folders(),
        *maker.settings("mapping", MAPPINGS),
        *maker.settings("taxonomy", TAXONOMIES),
        *maker.responses(),
    ]


def broken_json(text: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) that are no JSON text, made from the text of one JSON object."""
    text = text.strip()
    at = [rng.randrange(len(text)) for _ in range(8)]
    yield "empty", b""
    yield "blank", b" \n\t "
    yield "only-bom", b"\xef\xbb\xbf"
    yield "utf-16", text.decode().encode("utf-16")
    yield "utf-32", text.decode().encode("utf-32")
    yield "latin-1", '{"é": "ü"}'.encode("latin-1")
    yield "nul", text[: at[0]] + b"\0" + text[at[0] :]
    # None of these bytes occurs in UTF-8, wherever it stands.
    yield "byte-ff", text[: at[1]] + b"\xff" + text[at[1] :]
    yield "byte-c0", text[: at[2]] + b"\xc0" + text[at[2] :]
    # Control characters are allowed neither between tokens nor in strings.
    yield "control", b"{\x01" + text[1:]
    yield "brackets", b"[" * 100_000
    yield "objects", b'{"a":' * 50_000
    yield "digits", b'{"IDTest": ' + b"9" * 5000 + b"}"
    yield "two-values", text + b" {}"
    yield "trailing", text + b" x"
    yield "comma", text[:-1] + b",}"
    yield "single-quotes", b"{'a': 1}"
    # An object without its end is no object.
    for cut in sorted({at[3], at[4], len(text) - 1}):
        yield f"cut-{cut}", text[:cut]
    yield "headless", text[1:]


class _Maker:
    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng
        self.made = 0

    def write(self, name: str, content: bytes | Any) -> Path:
        """A file of that name in a new folder; anything but bytes is written as JSON."""
        self.made += 1
        path = self.root / f"{self.made:03d}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def records(self) -> Iterator[Case]:
        """Every wrong field and wrong record, in JSON and in JSONL."""
        wrong = [(field, value) for field, values in WRONG.items() for value in values]
        for number, (field, value) in enumerate(wrong):
            index = self.rng.randrange(RECORDS)
            yield from self.record_cases(f"{field}-{number}", index, record(index, **{field: value}), field)
        for number, value in enumerate(WRONG_RECORDS):
            yield from self.record_cases(f"record-{number}", self.rng.randrange(RECORDS), value, "")

    def record_cases(self, name: str, index: int, value: Any, field: str) -> Iterator[Case]:
        items = benchmark()["IDTest"]
        items[index] = value
        path = self.write("b.json", {"IDTest": items})
        yield Case(f"json-{name}", (path,), file="b.json", record=f"IDTest[{index}]", field=field)
        lines = [json.dumps({**item, "split": "IDTest"} if isinstance(item, dict) else item) for item in items]
        path = self.write("b.jsonl", "\n".join(lines).encode())
        yield Case(f"jsonl-{name}", (path,), file="b.jsonl", record=f"line {index + 1}", field=field)

    def json_files(self) -> Iterator[Case]:
        for name, content in broken_json(json.dumps(benchmark(), ensure_ascii=False).encode(), self.rng):
            yield Case(f"json-{name}", (self.write("b.json", content),), file="b.json")
        items = benchmark()["IDTest"]
        for number, value in enumerate([None, 3, "x", True, {}, [], {"IDTest": []}, {"IDTest": [], "OOD1Test": []}]):
            yield Case(f"json-top-{number}", (self.write("b.json", value),), file="b.json")
        for number, value in enumerate([None, 3, "x", {}, {"0": record()}]):
            path = self.write("b.json", {"IDTest": items, "OOD1Test": value})
            yield Case(f"json-split-{number}", (path,), file="b.json", field="OOD1Test")
        for name, split, field in (
            ("blank", " ", '""'),
            ("surrogate", LONE, "a\\ud800b"),
            ("unmapped", "Mine", "subset"),
        ):
            path = self.write("b.json", {split: [record(subset_tag=None)]})
            yield Case(f"json-split-{name}", (path,), file="b.json", field="" if name == "blank" else field)
        text = json.dumps(items)
        path = self.write("b.json", f'{{"IDTest": {text}, "IDTest": {text}}}'.encode())
        yield Case("json-split-twice", (path,), file="b.json", field="IDTest")
        path = self.write("b.json", b'{"IDTest": [' + json.dumps(record())[:-1].encode() + b', "source": "x"}]}')
        yield Case("json-key-twice", (path,), file="b.json", record="IDTest[0]", field="source")
        deep: Any = 1
        for _ in range(200):
            deep = [deep]
        path = self.write("b.json", {"IDTest": [record(note=deep)]})
        yield Case("json-deep", (path,), file="b.json", record="IDTest[0]", field="note")
        path = self.write("b.json", {"IDTest": [record(1), record(2), record(1)]})
        yield Case("json-id-twice", (path,), file="b.json", record="IDTest[2]", field="sample_ID")
        yield Case("json-given-twice", (path.parent / "b.json",) * 2, file="b.json", field="sample_ID")
        yield Case("json-absent", (self.root / "absent.json",), file="absent.json")
        folder = self.root / "folder.json"
        folder.mkdir()
        yield Case("json-folder", (folder,), file="folder.json")
        good = self.write("b.json", benchmark())
        yield Case("one-of-two", (good, self.root / "absent.jsonl"), file="absent.jsonl")
        for ending in ("csv", "txt", "arrow", "json.gz"):
            yield Case(f"ending-{ending}", (self.write(f"b.{ending}", benchmark()),), file=f"b.{ending}")

    def jsonl_files(self) -> Iterator[Case]:
        lines = [json.dumps(item, ensure_ascii=False).encode() for item in benchmark()["IDTest"]]
        for name, content in broken_json(lines[0], self.rng):
            index = self.rng.randrange(RECORDS)
            hurt = [*lines[:index], content, *lines[index + 1 :]]
            if name in ("empty", "blank", "only-bom"):  # among others, such a line is skipped or no line at all
                hurt = [content]
            whole = name in ("empty", "blank", "only-bom", "utf-16", "utf-32", "nul")
            path = self.write("IDTest.jsonl", b"\n".join(hurt))
            yield Case(f"jsonl-{name}", (path,), file="IDTest.jsonl", record="" if whole else f"line {index + 1}")

    def parquet_files(self) -> Iterator[Case]:
        def case(name: str, content: bytes, field: str = "") -> Case:
            return Case(f"parquet-{name}", (self.write("IDTest.parquet", content),), file="IDTest.parquet", field=field)

        data = _parquet(pa.Table.from_pylist(benchmark()["IDTest"]))
        for cut in sorted(self.rng.sample(range(len(data)), 6)):
            yield case(f"cut-{cut}", data[:cut])
        yield case("magic", data[:-1] + b"X")
        yield case("footer-length", data[:-8] + b"\xff\xff\xff\x7f" + data[-4:])
        yield case("json", json.dumps(benchmark()).encode())
        yield case("zeros", bytes(500))
        footer = int.from_bytes(data[-8:-4], "little")
        yield case("footer", data[: -8 - footer] + bytes(footer) + data[-8:])
        for name, table, field in _wrong_tables():
            yield case(name, _parquet(table), field)
        folder = self.root / "folder.parquet"
        folder.mkdir()
        yield Case("parquet-folder", (folder,), file="folder.parquet")
        yield Case("parquet-absent", (self.root / "absent.parquet",), file="absent.parquet")

    def folders(self) -> Iterator[Case]:
        """Damaged folders of `datasets`, a lone Dataset each, and wrong DatasetDicts."""
        import datasets

        datasets.disable_progress_bars()
        good = self.root / "good" / "IDTest"
        datasets.Dataset.from_list(benchmark()["IDTest"]).save_to_disk(str(good))
        arrow = next(good.glob("*.arrow")).name
        size = (good / arrow).stat().st_size
        damage: list[tuple[str, str, bytes | None]] = [
            ("no-data", arrow, None),
            ("empty-data", arrow, b""),
            ("cut-data", arrow, (good / arrow).read_bytes()[: self.rng.randrange(8, size // 2)]),
            ("zero-data", arrow, bytes(size)),
            ("no-state", "state.json", None),
            ("cut-state", "state.json", (good / "state.json").read_bytes()[:-3]),
            ("list-state", "state.json", b"[]"),
            ("empty-info", "dataset_info.json", b""),
            ("binary-info", "dataset_info.json", b"\xff\xfe\x00"),
            ("list-info", "dataset_info.json", b"[]"),
        ]
        for name, file, content in damage:
            folder = self.root / f"folder-{name}"
            shutil.copytree(good, folder)
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_bytes(content)
            yield Case(f"folder-{name}", (folder,), file=folder.name)
        for name, content in (
            ("absent", {"splits": ["IDTest"]}),
            ("none", {}),
            ("list", []),
            ("number", {"splits": 3}),
        ):
            folder = self.root / f"dict-{name}"
            folder.mkdir()
            (folder / "dataset_dict.json").write_text(json.dumps(content))
            yield Case(f"dict-{name}", (folder,), file=folder.name)
        for name, table, field in _wrong_tables():
            if name != "column-twice":
                folder = self.root / f"folder-{name}"
                datasets.Dataset(table).save_to_disk(str(folder))
                yield Case(f"folder-{name}", (folder,), file=folder.name, field=field)
        (self.root / "empty").mkdir()
        yield Case("folder-empty", (self.root / "empty",), file="empty")

    def settings(self, kind: str, wrong: list[tuple[Any, str]]) -> Iterator[Case]:
        """Wrong mapping or taxonomy files beside a good benchmark."""
        good = (self.write("b.json", benchmark()),)
        file = f"{kind}.json"
        for number, (value, field) in enumerate(wrong):
            yield _with(Case(f"{kind}-{number}", good, file=file, field=field), kind, self.write(file, value))
        example = b'{"fields": {"SThought": "x"}}' if kind == "mapping" else b'{"shifts": {"user": {"subsets": ["x"]}}}'
        for name, content in broken_json(example, self.rng):
            yield _with(Case(f"{kind}-{name}", good, file=file), kind, self.write(file, content))
        yield _with(Case(f"{kind}-absent", good, file="absent.json"), kind, self.root / "absent.json")
        yield _with(Case(f"{kind}-folder", good, file="folder"), kind, good[0].parent)
        twice = b'{"fields": {}, "fields": {}, "shifts": {}, "shifts": {}}'
        field = "fields" if kind == "mapping" else "shifts"
        yield _with(Case(f"{kind}-twice", good, file=file, field=field), kind, self.write(file, twice))

    def responses(self) -> Iterator[Case]:
        good = (self.write("b.json", benchmark()),)
        lines = [{**ANSWER, "sample_ID": f"s{number}"} for number in range(RECORDS)]

        def case(name: str, index: int, content: bytes, field: str = "") -> Case:
            path = self.write("r.jsonl", content)
            return Case(f"r-{name}", good, responses=(path,), file="r.jsonl", record=f"line {index + 1}", field=field)

        for field, values in WRONG_ANSWERS.items():
            for number, value in enumerate(values):
                index = self.rng.randrange(RECORDS)
                hurt = {key: item for key, item in {**lines[index], field: value}.items() if item is not MISSING}
                text = [json.dumps(hurt if at == index else line) for at, line in enumerate(lines)]
                yield case(f"{field}-{number}", index, "\n".join(text).encode(), field)
        for number, value in enumerate(WRONG_RECORDS):
            yield case(f"line-{number}", 0, json.dumps(value).encode())
        for name, content in broken_json(json.dumps(ANSWER).encode(), self.rng):
            path = self.write("r.jsonl", content)
            yield Case(f"r-{name}", good, responses=(path,), file="r.jsonl")
        yield case("twice", 1, b"\n".join([json.dumps(ANSWER).encode()] * 2), "policy")
        path = self.write("r.jsonl", ANSWER)
        yield Case("r-two-files", good, responses=(path, path), file="r.jsonl", record="line 1", field="policy")
        yield Case("r-absent", good, responses=(self.root / "absent.jsonl",), file="absent.jsonl")
        yield Case("r-folder", good, responses=(good[0].parent,), file=good[0].parent.name)


def _with(case: Case, kind: str, path: Path) -> Case:
    name = path.name
    return Case(case.name, case.benchmark, **{kind: path}, file=name, record=case.record, field=case.field)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _wrong_tables() -> Iterator[tuple[str, pa.Table, str]]:
    """(name, table, field at fault). A column has one type, so here whole columns are wrong."""
    items = benchmark()["IDTest"]
    good = pa.Table.from_pylist(items)
    for field in ("sample_ID", "user_persona", "agent_character", "dialogue_context", "agent_golden_response"):
        at = good.schema.get_field_index(field)
        yield f"no-{field}", good.remove_column(at), field
        yield f"null-{field}", good.set_column(at, field, pa.nulls(RECORDS, pa.string())), field
        yield f"bool-{field}", good.set_column(at, field, pa.array([True] * RECORDS)), field
        yield f"binary-{field}", good.set_column(at, field, pa.array([b"\xff"] * RECORDS)), field
    # A buffer said to be text that is not UTF-8, which Arrow itself would hand on.
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    yield "not-utf8", pa.Table.from_pylist(items[:1]).append_column("note", bad), ""
    yield "no-rows", good.slice(0, 0), ""
    yield "column-twice", good.append_column("source", good.column("source")), "source"
