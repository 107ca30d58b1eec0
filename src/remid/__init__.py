"""Measure how far a role-playing model falls when its users, characters or dialogues change, and which change did it.

    import remid

    run = remid.evaluate("dialogues.json", out="runs/mine")
    for row in run.rows("remid", unit="nats/response", subset=None):
        print(row["policy"], row["shift"], row["value"], (row["ci_low"], row["ci_high"]))

Everything else is in the rooms: remid.data, remid.lm, remid.pipeline, remid.estimate, remid.report,
remid.study, remid.verify.
"""

from remid.api import evaluate, load, write_report
from remid.errors import ConfigError, DataError, ModelError, RemidError, RenderError, StoreError
from remid.types import Benchmark, Estimate, Sample, Turn

__all__ = [
    "Benchmark",
    "ConfigError",
    "DataError",
    "Estimate",
    "ModelError",
    "RemidError",
    "RenderError",
    "Sample",
    "StoreError",
    "Turn",
    "evaluate",
    "load",
    "write_report",
]
