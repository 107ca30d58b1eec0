"""Everything that is claimed of scoring, measured by one command: `python -m benchmarks.engine` (docs/engine.md)."""
