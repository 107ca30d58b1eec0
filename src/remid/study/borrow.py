"""What the trainings of one study need not do twice: a cold start that another has made, texts that a model wrote.

Arms that differ in nothing but CoRL have the same cold start, to the bit: its seeds, its order and its weights depend
on settings that they share. So the second takes it from the first, as a run that was broken off takes it from itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remid.lm.chain import replacing
from remid.pipeline.run import write_json
from remid.train.config import TrainConfig
from remid.train.journal import JOURNAL, Journal, read_journal, read_object

#: Settings that nothing depends on before the first round of CoRL.
_LATER = ("rounds", "patience", "sft_again")


def borrow(config: TrainConfig, run: Path) -> str | None:
    """Give a training that has not begun the cold start of a run beside it, or else texts that a model wrote for one.

    Returns the name of the run whose cold start this one has (also where it was given before), None where it makes its
    own. Whether data and base are still the same is for train_corl to find out, and to refuse. Raises StoreError where
    the folder cannot be written.
    """
    if run.exists():
        return _borrowed(run)
    for other in _others(run):
        theirs = read_object(other / "train.json")
        stages = _cold_start(other)
        if theirs and stages and _early(theirs["config"]) == _early(config.model_dump(mode="json")):
            with replacing(run) as made:
                for stage in stages:
                    shutil.copytree(stage, made / "stages" / stage.name)
                if (other / "traces.json").exists():
                    shutil.copyfile(other / "traces.json", made / "traces.json")
                write_json(made / "train.json", theirs | {"config": config.model_dump(mode="json")})
                text = f"the cold start is that of {other.name}, whose settings are the same so far"
                journal = Journal(made)
                journal.add({"kind": "note", "stage": "cold start", "text": text, "borrowed": other.name})
                for row in _ends(other, [stage.name for stage in stages]):
                    journal.add(row)  # what its stages ended with is watched by the next
            return other.name
    borrow_texts(config, run)
    return None


def borrow_texts(config: TrainConfig, run: Path) -> None:
    """Give a training that has not begun what a model wrote for one beside it. Raises StoreError as `borrow`."""
    stores = [store for other in _others(run) if _whole(store := other / "store.sqlite")]
    if config.traces == "model" and stores and not run.exists():
        with replacing(run) as made:  # found by what was asked of whom: another seed or format asks what is not there
            shutil.copyfile(max(stores, key=lambda store: store.stat().st_size), made / "store.sqlite")


def _others(run: Path) -> list[Path]:
    return [other for other in sorted(run.parent.glob("*")) if (other / "train.json").exists()]


def _early(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _LATER}


def _cold_start(run: Path) -> list[Path]:
    """The folders of its stages; empty unless q2's, which is the last, is finished."""
    found = [folder for role in ("q1", "q2") for folder in run.glob(f"stages/*-sft-{role}")]
    finished = all((folder / "held_out.json").exists() for folder in found)
    return found if finished and any(folder.name.endswith("q2") for folder in found) else []


def _ends(run: Path, stages: Sequence[str]) -> list[dict[str, Any]]:
    """What held-out samples said at the end of these stages."""
    ends = [row for row in read_journal(run) if row["kind"] == "held_out" and "step" not in row]
    return [row for row in ends if any(name.endswith(f"-{row['stage']}") for name in stages)]


def _whole(store: Path) -> bool:
    """Whether it is there and nothing that belongs into it lies beside it, as after a kill."""
    return store.exists() and not store.with_name(f"{store.name}-wal").exists()


def _borrowed(run: Path) -> str | None:
    if not (run / JOURNAL).exists():
        return None
    return next((row["borrowed"] for row in read_journal(run) if "borrowed" in row), None)
