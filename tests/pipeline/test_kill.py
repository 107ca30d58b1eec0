"""A run that is killed again and again ends where an undisturbed one ends, and does nothing twice."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pipeline_tiny import records, stored, write

sys.path.insert(0, str(Path(__file__).parents[1]))

from forks import forked, remid

REMID = [sys.executable, "-c", "from remid.cli import main; main()"]
SEED = 20261122
#: No step of the tiny run takes this long (seconds), even where other work takes most of the machine.
PATIENCE = 600


def tiny_data(path: Path) -> Path:
    """Seven samples with 37 different texts to embed, so that one batch can be there and the other not yet.

    Their characters are long and have nothing in common, so that scoring takes several passes.
    """
    rows = {"IDTest": records("IDTest"), "OOD1Test": records("OOD1Test")[1:]}
    for number, record in enumerate(row for split in rows.values() for row in split):
        numbers = " ".join(str(number * 1000 + k) for k in range(150))
        record["agent_character"] = f"{number}: {record['agent_character']} {numbers}"
    return write(path, rows)


@dataclass
class Sessions:
    """One run's folder, and the processes that work on it one after the other."""

    data: Path
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """The command line."""
        return ["run", str(self.data), "--out", str(self.folder), "--device", "cpu"]

    def kill_when(self, reached: Callable[[float], bool]) -> None:
        """Start, and kill as soon as reached(seconds since the start)."""
        start = time.monotonic()
        process = forked(remid, self.words, self.log)
        try:
            while not reached(time.monotonic() - start):
                assert process.exitcode is None, f"ended before it was killed: {self.last()}"
                assert time.monotonic() - start < PATIENCE
                time.sleep(0.005)
        finally:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        self.said.append(self.last())

    def finish(self) -> None:
        process = forked(remid, self.words, self.log)
        try:
            process.join(PATIENCE)
            assert process.exitcode == 0, self.last()
        finally:
            process.kill()
            process.join()
        self.said.append(self.last())

    def last(self) -> str:
        """What the latest process wrote to stderr."""
        return self.log.read_text("utf-8") if self.log.exists() else ""

    @property
    def log(self) -> Path:
        """Where the latest process's stderr goes."""
        return self.folder.with_suffix(".stderr")


def announced(said: str) -> int | None:
    """Number of responses that a process said it scores; None where it was killed before it said so."""
    if "everything is in the store" in said:
        return 0
    found = re.search(r"scoring: \d+ prompts, (\d+) responses", said)
    return int(found[1]) if found else None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """A run that nobody disturbs. Its vectors are its own: those of another run were batched with other texts."""
    folder = tmp_path_factory.mktemp("kill")
    sessions = Sessions(tiny_data(folder / "tiny.json"), folder / "undisturbed")
    sessions.finish()
    return sessions


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes_and_repeats_nothing(undisturbed: Sessions) -> None:
    rng = random.Random(SEED)
    result = (undisturbed.folder / "result.json").read_bytes()
    needed = json.loads(result)["scoring"]["n_continuations"]
    assert announced(undisturbed.said[0]) == len(stored(undisturbed.folder)) == needed

    run = Sessions(undisturbed.data, undisturbed.folder.with_name("killed"))
    first, second = rng.randrange(1, needed // 3), rng.randrange(needed // 3, 2 * needed // 3)
    at = rng.uniform(0.2, 1.5)
    moments: list[Callable[[float], bool]] = [
        lambda seconds: seconds > at,
        lambda seconds: len(stored(run.folder)) >= first,
        lambda seconds: len(stored(run.folder)) >= max(second, before + 1),
        lambda seconds: len(stored(run.folder, "embeddings")) > 0,
        lambda seconds: any(run.folder.glob("result.json*")),
    ]
    counts = []
    for moment in [*moments, None]:
        rows, vectors = stored(run.folder), stored(run.folder, "embeddings")
        before = len(rows)
        if moment is None:
            run.finish()
        else:
            run.kill_when(moment)
        assert announced(run.said[-1]) in (None, needed - before)
        assert rows.items() <= stored(run.folder).items()
        assert vectors.items() <= stored(run.folder, "embeddings").items()
        counts.append((before, announced(run.said[-1])))

    assert [said for _, said in counts[1:]] == [needed - before for before, _ in counts[1:]]
    assert 0 < counts[2][0] < counts[3][0] <= needed  # the two kills while scoring left part of the work
    for name in ("result.json", "details.json", "report.html"):
        assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name
    assert stored(run.folder) == stored(undisturbed.folder)
    assert len(stored(run.folder, "embeddings")) == 37
    assert stored(run.folder, "embeddings").items() <= stored(undisturbed.folder, "embeddings").items()


WRITER = """
import os, random, signal, sys, time
from pathlib import Path
from remid.pipeline.run import write_json

path, rng, seen = Path(sys.argv[1]), random.Random(int(sys.argv[2])), set()
contents = [{"name": name, "rows": [name * 50] * 20000} for name in ("old", "new")]
files = []
for content in contents:
    write_json(path, content)
    files.append(path.read_bytes())
for _ in range(12):
    child = os.fork()
    if child == 0:
        while True:
            for content in contents:
                write_json(path, content)
    time.sleep(rng.uniform(0.005, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(files.index(path.read_bytes()))
print(sorted(seen))
"""


def test_a_kill_while_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "result.json"), str(SEED)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[0, 1]", "[0]", "[1]")


def test_ctrl_c_ends_with_130_and_a_word_on_how_to_go_on(undisturbed: Sessions) -> None:
    run = Sessions(undisturbed.data, undisturbed.folder.with_name("stopped"))
    # A shell starts what runs in the background deaf to Ctrl-C, and its children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from remid.cli import main; main()"
    command = [sys.executable, "-c", heed, *run.words]
    with run.log.open("w") as log, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as process:
        try:
            start = time.monotonic()
            # Not while libraries are imported: some of them swallow an interrupt.
            while not stored(run.folder):
                assert time.monotonic() - start < PATIENCE
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130, run.last()
        finally:
            process.kill()
    assert "the same command goes on where it was" in run.last()
    assert "Traceback" not in run.last()
