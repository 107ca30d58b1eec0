"""Benchmarks: reading and checking them, the taxonomy of shifts, and making harder ones out of them."""

from remid.data.check import Finding, PolicySummary, Report, Spread, SubsetSummary, check, render
from remid.data.compose import compose_turns, recombine_words
from remid.data.describe import describe
from remid.data.mini import mini_benchmark_paths
from remid.data.read import assemble, read_benchmark
from remid.data.taxonomy import Taxonomy, read_taxonomy
from remid.data.write import write_benchmark

__all__ = [
    "Finding",
    "PolicySummary",
    "Report",
    "Spread",
    "SubsetSummary",
    "Taxonomy",
    "assemble",
    "check",
    "compose_turns",
    "describe",
    "mini_benchmark_paths",
    "read_benchmark",
    "read_taxonomy",
    "recombine_words",
    "render",
    "write_benchmark",
]
