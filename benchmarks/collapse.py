"""Every signature of collapse provoked in real training, and healthy trainings beside it: what does the watch name?

Trained is `train_corl` on the hops world (docs/ablation.md) with everything that `remid train corl` watches with. The
healthy trainings have the settings of the ablation, whole. Each bad one begins where the healthy one of its seed stood
before the stage that is to collapse, changes one thing, and is broken off after 20 steps; bad data make a cold start
of their own. The same command goes on behind what the folder holds. Named is what the
watch says of the journals now.

  OMP_NUM_THREADS=1 python -m benchmarks.collapse --seeds 3 --out runs/collapse
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from remid.data import write_benchmark
from remid.data.worlds import hops
from remid.lm.chain import replacing
from remid.pipeline.progress import Progress
from remid.pipeline.run import write_json
from remid.study.ablation_world import SIZES, hops_material
from remid.train.config import TrainConfig
from remid.train.corl import train_corl
from remid.train.journal import JOURNAL, read_journal
from remid.train.run import TrainRun
from remid.train.watch import SIGNATURES, watch
from remid.train.watched import watchers

#: Steps of a bad stage.
STEPS = 20
_STAGES = ("sft-q1", "sft-q2", "grpo-q1-1", "sft-q2-1", "grpo-q2-1")

Row = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """One way to spoil a training. expected: the signature. stage: that is to collapse. changed: settings of GRPO that
    are not those of the ablation. data: of another kind (_DATA)."""

    expected: str
    stage: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None


BAD: Mapping[str, Bad] = {
    "traces shuffled": Bad("trace ignored", "grpo-q1-1", data="shuffled"),
    "a world whose steps the base does not know": Bad("trivial traces", "grpo-q1-1", data="strange"),
    "temperature 0.1": Bad("trivial traces", "grpo-q1-1", {"temperature": 0.1}),
    "rate 10 times as high, q2": Bad("uninformative responses", "grpo-q2-1", {"rate": 2e-2}),
    "temperature 3, rate doubled": Bad("one module running ahead", "grpo-q2-1", {"temperature": 3.0, "rate": 4e-3}),
    "no weight on likelihood": Bad("no signal", "grpo-q1-1", {"likelihood": 0.0}),
    "rate 10 times as high, q1": Bad("format lost", "grpo-q1-1", {"rate": 2e-2}),
    "10 tokens for a trace": Bad("format lost", "grpo-q1-1", {"trace_tokens": 10}),
}


class _EnoughError(Exception):
    """The stage has shown what it had to."""


class _BreakOff(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Ends the training after so many steps of a stage, as a user would."""

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step >= STEPS:
            raise _EnoughError


def healthy(folder: Path, seed: int, progress: Progress) -> list[Row]:
    """The journal of a whole training by the settings of the ablation."""
    config = hops_material(folder / "world", {}, progress).settings(seed)
    run = folder / f"healthy-{seed}"
    train_corl(config, run, progress, callbacks=watchers)
    return read_journal(run)


def spoiled(folder: Path, name: str, bad: Bad, seed: int, progress: Progress) -> list[Row]:
    """The journal of a training that is spoiled so, up to STEPS steps of its stage."""
    config = hops_material(folder / "world", {"grpo": dict(bad.changed)}, progress).settings(seed)
    run = folder / f"{_slug(name)}-{seed}"
    if bad.data is not None:
        config = config.model_copy(update={"data": (_DATA[bad.data](config.data[0], seed),)})
    elif not run.exists():
        begin_from(folder / f"healthy-{seed}", run, config, bad.stage)

    def callbacks(run: TrainRun) -> list[Any]:
        return [*watchers(run), _BreakOff()] if run.stage == bad.stage else watchers(run)

    if not _done(run, bad.stage):
        try:
            train_corl(config, run, progress, callbacks=callbacks)
        except _EnoughError:
            for checkpoints in run.glob(f"stages/*-{bad.stage}"):
                shutil.rmtree(checkpoints)
    return read_journal(run)


def begin_from(other: Path, run: Path, config: TrainConfig, stage: str) -> None:
    """Give a run the stages that another has finished before `stage`, as if it had trained them itself."""
    theirs = json.loads((other / "train.json").read_text(encoding="utf-8"))
    with replacing(run) as made:
        for number, name in enumerate(_STAGES[: _STAGES.index(stage)], 1):
            shutil.copytree(other / "stages" / f"{number:02d}-{name}", made / "stages" / f"{number:02d}-{name}")
        for traces in other.glob("traces*.json"):
            shutil.copyfile(traces, made / traces.name)
        write_json(made / "train.json", theirs | {"config": config.model_dump(mode="json")})


def _shuffled(data: Path, seed: int) -> Path:
    """The same data in which each training sample has another's trace."""
    made = data.with_name(f"{data.stem}-shuffled.json")
    if not made.exists():
        splits = json.loads(data.read_text(encoding="utf-8"))
        rows = splits["IDTrain"]
        order = np.random.default_rng([seed, 7]).permutation(len(rows)).tolist()
        traces = [rows[k]["SThought"] for k in order]
        splits["IDTrain"] = [row | {"SThought": trace} for row, trace in zip(rows, traces, strict=True)]
        write_json(made, splits)
    return made


def _strange(data: Path, seed: int) -> Path:
    """Data of a world whose steps the base does not know: its traces are right, and q1 cannot but guess."""
    made = data.with_name(f"{data.stem}-strange.json")
    if not made.exists():
        sizes = {name: SIZES[name] for name in ("train", "test", "shifted")}
        write_benchmark(hops.make_benchmark(hops.HopsWorld(seed=1), seed, **sizes), made)
    return made


_DATA = {"shuffled": _shuffled, "strange": _strange}


def _done(run: Path, stage: str) -> bool:
    return (run / JOURNAL).exists() and any(
        row["kind"] == "step" and row["stage"] == stage and row["step"] >= STEPS for row in read_journal(run)
    )


def named(records: Sequence[Row]) -> list[Row]:
    """What the watch names in a journal: signature, stage, step (None: at the stage's end), and what it saw."""
    return [
        {"signature": found.signature, "stage": found.stage, "step": found.step, "seen": found.seen}
        for found in watch(records)
    ]


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def table(found: Mapping[str, Any]) -> str:
    """The result as tables in Markdown."""
    lines = [
        "| signature | what was bad | stage | named at step, by seed | also named |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["bad"]:
        place = (row["expected"], row["stage"])
        at = [{(w["signature"], w["stage"]): w["step"] for w in run} for run in row["named"]]
        steps = ", ".join(str(run.get(place, "never")) for run in at)
        others = Counter(key for run in at for key in run if key != place)
        also = "; ".join(f"{signature} ({stage}, {n} of {len(at)})" for (signature, stage), n in others.items())
        lines.append(f"| {row['expected']} | {row['name']} | {row['stage']} | {steps} | {also} |")
    lines += ["", "| healthy seed | steps of GRPO | named |", "| --- | --- | --- |"]
    for row in found["healthy"]:
        told = "; ".join(f"{w['signature']} ({w['stage']}, step {w['step']})" for w in row["named"])
        lines.append(f"| {row['seed']} | {row['steps']} | {told or 'nothing'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings; the same one goes on")
    parser.add_argument("--seeds", type=int, default=3, help="of every bad training")
    parser.add_argument("--healthy", type=int, default=6, help="seeds of healthy trainings, --seeds at least")
    parser.add_argument("--only", nargs="*", choices=tuple(BAD), default=tuple(BAD))
    options = parser.parse_args()
    folder, progress = options.out.absolute(), Progress()
    runs = [healthy(folder, seed, progress) for seed in range(max(options.seeds, options.healthy))]
    found: Row = {
        "healthy": [
            {"seed": seed, "steps": sum(_is_grpo(row) for row in rows), "named": named(rows)}
            for seed, rows in enumerate(runs)
        ],
        "bad": [],
    }
    for name in options.only:
        made = [named(spoiled(folder, name, BAD[name], seed, progress)) for seed in range(options.seeds)]
        found["bad"].append({"name": name, **asdict(BAD[name]), "named": made})
        write_json(folder / "collapse.json", found)
    print(table(found))
    missed = set(SIGNATURES) - {row["expected"] for row in found["bad"]}
    if missed:
        print(f"not provoked: {', '.join(sorted(missed))}")


def _is_grpo(row: Row) -> bool:
    return bool(row["kind"] == "step" and row["stage"].startswith("grpo"))


if __name__ == "__main__":
    main()
