"""Studies of the measurement itself: how its numbers move with sample size and with the trace (docs/studies.md)."""
