"""The Python door: the same three things that the command line does, in one call each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from remid.errors import StoreError
from remid.lm.heap import one_heap

if TYPE_CHECKING:
    from remid.pipeline.engines import EngineConfig
    from remid.pipeline.run import Run

PathLike = str | Path


def evaluate(
    data: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    progress: bool = True,
    engine: EngineConfig | None = None,
    **settings: Any,
) -> Run:
    """Measure every policy in `data` under every shift, and write the run's files and page into the folder `out`.

    data: benchmark files in any readable format. settings: fields of remid.pipeline.config.RunConfig (responses, model,
    estimator, traces, negatives, limit, ...). engine: where the model runs (remid.pipeline.engines.EngineConfig), this
    process if None. The same call again resumes, or returns at once. Raises subclasses of RemidError.
    """
    share_processors()
    from remid.pipeline.config import make_config
    from remid.pipeline.progress import Progress
    from remid.pipeline.run import execute

    paths = [data] if isinstance(data, str | Path) else list(data)
    run = execute(make_config(data=tuple(map(Path, paths)), **settings), Path(out), Progress(progress), engine)
    write_report(run)
    return run


def load(folder: PathLike) -> Run:
    """A finished run from its folder. Raises DataError when there is none."""
    from remid.pipeline.run import load_run

    return load_run(Path(folder))


def share_processors() -> None:
    """Let waiting threads spin for a moment, then sleep, and share a heap; before torch is imported, or it is too late.

    On a machine with other work a thread that spins on takes the processor from the very thread it waits for: scoring
    was up to five times slower with one competing process on two cores. Threads that sleep at once lose a quarter to a
    third of the speed on a quiet machine. A thousand turns cost a fifth in the first case and nearly nothing in the
    second (docs/log.md). A user's own settings win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    one_heap()


def write_report(run: Run) -> Path:
    """Write report.html and tables/ from a run's result and details; returns the page's path.

    The old files stay until all new ones are written. Raises StoreError where there is no room for them.
    """
    from remid.report import render_page, write_tables

    page, tables = run.folder / "report.html", run.folder / "tables"
    try:
        with TemporaryDirectory(prefix=".report-", dir=run.folder) as scratch:
            new = Path(scratch)
            (new / page.name).write_text(render_page(run.result, run.details), encoding="utf-8")
            written = write_tables(run.result, new / tables.name)
            tables.mkdir(exist_ok=True)
            for path in written:
                os.replace(path, tables / path.name)
            os.replace(new / page.name, page)
    except OSError as error:
        raise StoreError(
            f"{page}: cannot be written ({error.strerror or error}). The numbers are in result.json; make room, and "
            f"the same command, or remid report {run.folder}, writes the page"
        ) from error
    return page
