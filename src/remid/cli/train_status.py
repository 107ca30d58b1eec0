"""What `remid train status RUN` says: where a training run stands, what it warns of, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = "training.html"


def train_status(folder: Path) -> None:
    """Print the run's stages, last signals and warnings, and write its page. Raises StoreError where there is none."""
    from rich.console import Console

    from remid.report.sheet import console_tables
    from remid.report.training import headline, status_sections
    from remid.train.summary import train_summary

    records, run = train_summary(folder)
    console = Console()
    console.print(console_tables(status_sections(records, run)))
    console.print(
        f"\n{headline(records, run)}\n{_standing(run)}\npage: {write_training_page(folder, records, run)}",
        markup=False,
        highlight=False,
    )


def write_training_page(
    folder: Path, records: list[dict[str, Any]] | None = None, run: dict[str, Any] | None = None
) -> Path:
    """Write the run's page as it is now and return its path. records, run: where they have been read already."""
    from remid.report.training import render_training
    from remid.train.summary import train_summary

    if records is None or run is None:
        records, run = train_summary(folder)
    page, beside = folder / PAGE, folder / f".{PAGE}"
    beside.write_text(render_training(records, run), encoding="utf-8")
    beside.replace(page)  # a reader never finds half a page
    return page


def _standing(run: dict[str, Any]) -> str:
    from remid.report.training import time_text

    if run["finished"]:
        return "finished"
    now = next((row for row in run["stages"] if row["state"] == "in hand"), None)
    ago = f"last record {time_text(run['seconds_since_last'])} ago"
    if now is None:
        return f"between stages; {ago}"
    return (
        f"{now['stage']}: step {now['step'] if now['step'] is not None else 'n/a'} of {now['steps'] or 'n/a'}, "
        f"{time_text(now['seconds_left'])} left in this stage; {ago}"
    )
