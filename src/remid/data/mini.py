"""The built-in mini benchmark: where its files are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from remid.errors import DataError, Problem


def mini_benchmark_paths() -> tuple[Path, list[Path]]:
    """(benchmark JSON, recorded response files sorted by name) of the benchmark that comes with remid.

    DataError where the package is installed without them.
    """
    folder = Path(str(resources.files("remid.data").joinpath("mini")))
    benchmark = folder / "benchmark.json"
    if not benchmark.is_file():
        raise DataError([Problem(str(benchmark), "", "", "is not there; install remid again, from a complete package")])
    return benchmark, sorted(folder.glob("responses-*.jsonl"))
