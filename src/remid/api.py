"""The Python door: the same three things that the command line does, in one call each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Here, not where it is used: a package's first import binds its name in its parent, and `remid.report` is to stay ours.
from remid.report import render_page, write_tables

if TYPE_CHECKING:
    from remid.pipeline.run import Run

PathLike = str | Path


def evaluate(data: PathLike | Sequence[PathLike], *, out: PathLike, progress: bool = True, **settings: Any) -> Run:
    """Measure every policy in `data` under every shift, and write the run's files and page into the folder `out`.

    data: benchmark files in any readable format. settings: fields of remid.pipeline.config.RunConfig (responses, model,
    traces, negatives, limit, ...). The same call again resumes, or returns at once. Raises subclasses of RemidError.
    """
    from remid.pipeline.config import make_config
    from remid.pipeline.progress import Progress
    from remid.pipeline.run import execute

    paths = [data] if isinstance(data, str | Path) else list(data)
    run = execute(make_config(data=tuple(map(Path, paths)), **settings), Path(out), Progress(progress))
    report(run)
    return run


def load(folder: PathLike) -> Run:
    """A finished run from its folder. Raises DataError when there is none."""
    from remid.pipeline.run import load_run

    return load_run(Path(folder))


def report(run: Run) -> Path:
    """Write report.html and tables/ from a run's result and details; returns the page's path."""
    page = run.folder / "report.html"
    page.write_text(render_page(run.result, run.details), encoding="utf-8")
    write_tables(run.result, run.folder / "tables")
    return page
