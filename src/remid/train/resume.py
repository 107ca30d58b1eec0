"""Where a stage that was broken off goes on: its newest checkpoint that was written whole."""

from __future__ import annotations

import shutil
from pathlib import Path

#: What transformers' Trainer writes last into a checkpoint.
_LAST = "trainer_state.json"


def last_checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint in a stage's folder, None where there is none; torn ones are removed."""
    if not out.is_dir():
        return None
    whole: list[tuple[int, Path]] = []
    for folder in out.glob("checkpoint-*"):
        if (folder / _LAST).is_file() and (folder / _LAST).stat().st_size:
            whole.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return str(max(whole)[1]) if whole else None
