"""A full disk, too little memory, a damaged file, a failing device, a second process: nothing finished is lost.

Kills are in test_kill.py and, a hundred of them, in benchmarks/kills.py. The model is real and tiny.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_tiny import Told, stored

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from kill_workload import make_data, make_model

from remid.api import load, write_report
from remid.data import read_benchmark
from remid.errors import DataError, EngineError, StoreError
from remid.lm.embed import Embedder
from remid.lm.layouts import Tree
from remid.lm.scoring import Scorer
from remid.pipeline.config import RunConfig
from remid.pipeline.progress import Progress, Step
from remid.pipeline.rescue import KEYS
from remid.pipeline.respond import RespondConfig, respond
from remid.pipeline.run import execute
from remid.pipeline.store import Store

FILES = ("result.json", "details.json", "report.html", "tables/remid.csv", "tables/missing.parquet")
PATIENCE = 240


@dataclass(frozen=True)
class Runs:
    """One benchmark and model, and a run of it that nothing disturbed."""

    config: RunConfig
    whole: Path

    def go(self, folder: Path, progress: Progress | None = None) -> None:
        """What `remid run` does."""
        write_report(execute(self.config, folder, progress or Told()))

    def same(self, folder: Path) -> None:
        """The folder holds, byte for byte, what the undisturbed run left."""
        for name in FILES:
            assert (folder / name).read_bytes() == (self.whole / name).read_bytes(), name
        for table in KEYS:
            assert stored(folder, table) == stored(self.whole, table), table


@pytest.fixture(scope="module", autouse=True)
def encoder() -> Iterator[None]:
    """The real encoder, asked once for each batch of texts."""
    found: dict[tuple[str, ...], Any] = {}
    encode = Embedder.encode

    def once(self: Embedder, texts: Any) -> Any:
        if tuple(texts) not in found:
            found[tuple(texts)] = encode(self, texts)
        return found[tuple(texts)].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "encode", once)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("durable")
    model = make_model(folder / "model")
    data = make_data(folder / "data.json", per_subset=3, length=30)
    rows = json.loads(data.read_text("utf-8"))
    rows["OOD1Test"][1]["model_response"]["one"] = "why? " * 60
    data.write_text(json.dumps(rows), "utf-8")
    config = RunConfig(data=(data,), model=str(model), device="cpu", permutations=20, traces="model")
    made = Runs(config, folder / "whole")
    made.go(made.whole)
    return made


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 12 MiB, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left; returns the file that does."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(b"\1" * size):
                    pass
            except OSError:
                continue
    return ballast


class Filling(Told):
    """Fills the disk when a stage begins."""

    def __init__(self, disk: Path, stage: str) -> None:
        super().__init__()
        self._disk, self._stage = disk, stage

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Step]:
        if name == self._stage:
            fill(self._disk)
        with super().stage(name, total) as step:
            yield step


@pytest.mark.parametrize("stage", ["writing traces", "scoring", "embedding", "bounds"])
def test_a_disk_that_fills_up_stops_the_run_and_the_same_command_goes_on(
    runs: Runs, small_disk: Path, stage: str
) -> None:
    run = small_disk / "run"
    with pytest.raises(StoreError) as caught:
        runs.go(run, Filling(small_disk, stage))
    for words in (str(run), "make room", "the same command goes on"):
        assert words in str(caught.value)
    kept = {table: stored(run, table) for table in KEYS}
    (small_disk / "ballast").unlink()
    again = Told()
    runs.go(run, again)
    runs.same(run)
    for table, rows in kept.items():
        assert rows.items() <= stored(run, table).items()
    assert any("everything is in the store" in line for line in again.lines) == (stage in ("embedding", "bounds"))


def test_a_disk_without_any_room_is_told_at_once(runs: Runs, small_disk: Path) -> None:
    ballast = fill(small_disk)
    with pytest.raises(StoreError, match="run: cannot be"):
        runs.go(small_disk / "run")
    ballast.unlink()
    runs.go(small_disk / "run")
    runs.same(small_disk / "run")


def test_a_page_that_finds_no_room_leaves_the_old_one(runs: Runs, small_disk: Path) -> None:
    run = small_disk / "run"
    runs.go(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ballast = fill(small_disk)
    with pytest.raises(StoreError, match=r"report\.html: cannot be written"):
        write_report(load(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with pytest.raises(StoreError, match="make room"):  # result.json
        runs.go(run)
    for path, content in before.items():
        assert path.name in (".lock", "log.jsonl") or path.suffix.startswith(".sqlite") or path.read_bytes() == content
    ballast.unlink()
    runs.go(run)
    runs.same(run)


def test_answers_that_find_no_room_are_written_when_there_is_some(runs: Runs, small_disk: Path) -> None:
    samples = read_benchmark(runs.config.data).test
    config = RespondConfig("mine", runs.config.model, device="cpu", max_new_tokens=4)
    respond(samples, small_disk / "whole.jsonl", config, Told())
    out = small_disk / "r.jsonl"
    out.touch()
    ballast = fill(small_disk)
    with pytest.raises(StoreError, match=r"r\.jsonl: cannot be written"):
        respond(samples, out, config, Told())
    ballast.unlink()
    assert respond(samples, out, config, Told()).written == len(samples)
    assert out.read_bytes() == (small_disk / "whole.jsonl").read_bytes()


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from remid.errors import StoreError
from remid.pipeline.store import Store
with Store(Path(sys.argv[1])) as store:
    store.add_embeddings("e", [("first", np.ones(4, np.float32))])
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        for number in range(100):
            store.add_embeddings("e", [(f"{number}-{k}", np.ones(512, np.float32)) for k in range(4)])
    except StoreError as error:
        print(number, error)
"""


def test_a_file_that_may_not_grow_is_told_and_keeps_what_it_has(tmp_path: Path) -> None:
    """The same without root: the system refuses to let the store's files grow."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    number, _, message = done.stdout.partition(" ")
    assert "cannot be written" in message
    assert str(tmp_path / "run") in message
    with Store(tmp_path / "run") as store:
        assert len(store.embeddings("e")) == 1 + 4 * int(number) > 4


# Memory


def test_passes_become_smaller_and_what_still_does_not_fit_is_missing_until_the_next_time(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own refusal, at a pass of more than 256 rows; one answer alone takes more."""
    forward, sizes, run = Tree._forward, [], tmp_path / "run"

    def scarce(self: Tree, part: Any, *rest: Any) -> Any:
        sizes.append(len(part.ids))
        if len(part.ids) > 256:
            torch.empty(1 << 50, dtype=torch.uint8)
        return forward(self, part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "_forward", scarce)
        runs.go(run)
    assert {128 < size <= 256 for size in sizes} == {True, False}
    assert max(sizes) > 512
    faults = [row for row in load(run).result["missing"] if "not enough memory" in row["reason"]]
    assert {row["subset"] for row in faults} == {"german"}
    assert "not enough memory" in (run / "report.html").read_text("utf-8")
    kept, whole = stored(run), stored(runs.whole)
    assert 0 < len(kept) < len(whole)
    assert kept.items() <= whole.items()
    again = Told()
    runs.go(run, again)
    assert any(f"{len(whole) - len(kept)} responses" in line for line in again.lines)
    runs.same(run)


SHORT_OF_MEMORY = """
import resource, sys
from contextlib import contextmanager
from remid.pipeline.progress import Progress

extra, stage = int(sys.argv.pop(1)), Progress.stage

@contextmanager
def limited(self, name, total):
    with stage(self, name, total) as step:
        if name != "scoring" or not extra:
            yield step
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (extra << 20), hard))
        try:
            yield step
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

Progress.stage = limited
from remid.cli import main
main()
"""


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_missing_until_there_is_more(tmp_path: Path) -> None:
    """A real limit on the process's memory while it scores.

    Where oneDNN is the first to find none it stays useless to the process, and all that is left is missing.
    """
    model = make_model(tmp_path / "model", inner=16384)
    data = make_data(tmp_path / "data.json", per_subset=3, length=30)

    def go(extra: int, name: str) -> str:
        command = [sys.executable, "-c", SHORT_OF_MEMORY, str(extra), "run", str(data), "--model", str(model)]
        done = subprocess.run(
            [*command, "--device", "cpu", "--out", str(tmp_path / name)],
            check=False, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stderr

    go(0, "whole")
    go(100, "run")
    result = load(tmp_path / "run").result
    faults = [row for row in result["missing"] if "not enough memory" in row["reason"]]
    assert faults
    assert all("the same command tries again" in row["reason"] for row in faults)
    assert "not enough memory" in (tmp_path / "run" / "report.html").read_text("utf-8")
    kept = stored(tmp_path / "run")
    assert len(kept) < result["scoring"]["n_continuations"]
    assert not any(row[-2] for row in kept.values())  # what failed is not stored as a failure
    said = go(0, "run")
    missing = result["scoring"]["n_continuations"] - len(kept)
    assert f"{missing} responses" in said
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# A bad record


def test_a_damaged_record_is_refused_by_name_before_a_model_is_looked_at(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = runs.config.data[0].read_text("utf-8")
    data = tmp_path / "data.json"
    config = runs.config.model_copy(update={"data": (data,)})
    data.write_text(text, "utf-8")
    execute(config, tmp_path / "run", Told())
    rows = stored(tmp_path / "run")
    result = (tmp_path / "run" / "result.json").read_bytes()
    monkeypatch.setattr("remid.lm.models.load_model", lambda *args, **more: pytest.fail("a model was loaded"))
    half = text.replace('"agent_golden_response"', '"agent_golden', 1)
    for broken, words in (
        (text[: len(text) // 2], r"data\.json"),
        (half, r"data\.json: is not valid JSON: .* line \d+"),
        (
            text.replace('"user_persona": "User 1 of OOD1Test', '"user_persona": 7, "x": "', 1),
            r"OOD1Test\[1\]: user_per",
        ),
    ):
        data.write_text(broken, "utf-8")
        with pytest.raises(DataError, match=words):
            execute(config, tmp_path / "run", Told())
    data.write_text(text, "utf-8")
    execute(config, tmp_path / "run", Told())
    assert stored(tmp_path / "run") == rows
    assert (tmp_path / "run" / "result.json").read_bytes() == result


# A damaged store (test_rescue.py has the store by itself)


def test_a_run_whose_store_was_damaged_ends_with_the_same_numbers(runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.whole, run)
    db = sqlite3.connect(run / "store.sqlite")
    db.execute("UPDATE scores SET logp = logp + 1 WHERE response = (SELECT min(response) FROM scores)")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="rows of scores are not what was written"):
        runs.go(run)
    runs.go(run)
    runs.same(run)


# A device that fails


def test_a_device_that_fails_stops_the_run_with_a_word_and_what_is_finished_stays(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Scorer.score

    def failing(self: Scorer, work: Any) -> Any:
        for number, batch in enumerate(score(self, work)):
            if number == 2:
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
            yield batch

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", failing)
        with pytest.raises(EngineError, match="illegal memory access") as caught:
            runs.go(run)
    assert "the same command goes on" in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = stored(run)
    assert 0 < len(kept) < len(stored(runs.whole))
    told = Told()
    runs.go(run, told)
    assert any(f"{len(stored(runs.whole)) - len(kept)} responses" in line for line in told.lines)
    runs.same(run)


# Several processes


def test_a_finished_run_can_be_read_and_its_page_written_while_another_process_holds_it(
    runs: Runs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.whole, run)
    with Store(run):
        assert load(run).result["missing"] == load(runs.whole).result["missing"]
        write_report(load(run))
        with pytest.raises(StoreError, match="another remid process"):
            runs.go(run)
    runs.same(run)


@pytest.mark.slow
def test_two_processes_on_the_same_data_in_two_folders_do_not_disturb_each_other(runs: Runs, tmp_path: Path) -> None:
    config = runs.config
    command = [sys.executable, "-c", "from remid.cli import main; main()", "run", str(config.data[0])]
    command += ["--model", config.model, "--device", "cpu", "--traces", "model", "--out"]
    names = ("one", "two", "alone")
    started = [subprocess.Popen([*command, str(tmp_path / name)], stderr=subprocess.DEVNULL) for name in names[:2]]
    assert [process.wait(PATIENCE) for process in started] == [0, 0]
    assert subprocess.run([*command, str(tmp_path / "alone")], check=False, timeout=PATIENCE).returncode == 0
    for name in FILES:
        assert len({(tmp_path / folder / name).read_bytes() for folder in names}) == 1, name


# Kills


def test_answers_that_a_kill_cut_short_end_as_if_nothing_had_been(runs: Runs, tmp_path: Path) -> None:
    """Sampled answers depend on who was in their batch, so what is left must be cut into the same batches."""
    data = make_data(tmp_path / "many.json", per_subset=8, length=30)
    samples = read_benchmark([data]).test
    config = RespondConfig("mine", runs.config.model, device="cpu", max_new_tokens=8, temperature=1.0)
    respond(samples, tmp_path / "whole.jsonl", config, Told())
    whole = (tmp_path / "whole.jsonl").read_bytes()
    lines = whole.split(b"\n")
    out = tmp_path / "r.jsonl"
    first = b"\n".join(lines[:16]) + b"\n"
    out.write_bytes(first[: len(first) // 3])
    (tmp_path / ".r.jsonl.pending").write_bytes(b"0\n" + first)
    assert respond(samples, out, config, Told()).written == len(samples) - 16
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "20", "--seed", "1"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
