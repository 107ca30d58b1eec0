"""Where a training run's time went, as a section of its page and of `remid train status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remid.report.sheet import Section, Table, plain

_PARTS = ("sampling", "rewards", "learning", "evaluation", "rest", "seconds")


def times_section(rows: Sequence[dict[str, Any]]) -> Section:
    """rows: of train.clock.times."""
    cells = tuple(
        (
            row["stage"],
            *(plain(row[part], 0) for part in _PARTS),
            "n/a" if row["reward_share"] is None else f"{100 * row['reward_share']:.0f}%",
        )
        for row in rows
    )
    columns = ("Stage", "sampling", "rewards", "learning", "evaluation", "rest", "all", "rewards' share")
    caption = "Seconds on the wall, without pauses; the share is of all but the evaluation of held-out references"
    text = "Sampling, rewards and learning are the method; evaluation is for the watch and for choosing what is kept."
    return Section("Where the time went", text, tables=(Table(caption, columns, cells),) if cells else ())
