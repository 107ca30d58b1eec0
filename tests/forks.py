"""Processes to kill: forks of one that has the libraries imported, since importing them takes longer than the work.

A process of its own in every other respect. That `remid` itself starts, is killed and goes on is in
benchmarks/kills.py, which tests/pipeline/test_durable.py runs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
#: Of the pipeline and of training; transformers imports the rest where it is asked.
_HEAVY = (
    "remid.pipeline.run",
    "remid.report",
    "remid.train.watched",
    "trl",
    "transformers.models.llama.modeling_llama",
)


def forked(work: Callable[..., Any], *args: Any) -> ForkServerProcess:
    """A started process that calls work(*args). Kill or join it; its exitcode is None while it runs."""
    _CONTEXT.set_forkserver_preload(list(_HEAVY))
    process = _CONTEXT.Process(target=work, args=args)
    process.start()
    return process


def remid(words: list[str], stderr: Path) -> None:
    """What `remid WORDS` does, with what it says in a file."""
    from remid import cli

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.environ["COLUMNS"] = "200"  # wide enough that rich breaks no line
    sys.argv = ["remid", *words]
    cli.main()
