"""Progress bars with an ETA on everything that takes more than a moment; silent where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Step(Protocol):
    """Called with how much more has been done, in the stage's own unit."""

    def __call__(self, done: float) -> None: ...


class Progress:
    """Shows stages on the terminal (stderr). enabled=False is for libraries and tests."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled

    def say(self, text: str) -> None:
        """A line for the user."""
        if self._enabled:
            from rich.console import Console

            Console(stderr=True).print(text, markup=False, highlight=False)

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Step]:
        """A bar with percentage, time so far and time left. total: amount of work, in any unit."""
        if not self._enabled or total <= 0:
            yield lambda done: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        with RichProgress(*columns, *left, console=Console(stderr=True)) as bars:
            task = bars.add_task(f"{name:<22}", total=total)

            def step(done: float) -> None:
                bars.advance(task, done)

            yield step
