"""The package's errors. Each message says what is wrong, where, and what to do about it.

Every error here is the user's to mend (a file, a setting, a machine), so the command line prints its text without a
traceback and exits with code 2. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class RemidError(Exception):
    """Base of everything that remid raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in one place of the user's data.

    file: path as the user gave it. record: where in the file ("IDTest[3]", "line 17"), empty for the whole file.
    field: the field's name, empty for the whole record. message: what is wrong and what would be right.
    """

    file: str
    record: str
    field: str
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.record, self.field) if part)
        return f"{place}: {self.message}"


class DataError(RemidError):
    """The user's data cannot be used as it is. `problems` holds every fault found, at least one."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        shown = "\n".join(str(problem) for problem in problems[:20])
        more = f"\n... and {len(problems) - 20} more problems" if len(problems) > 20 else ""
        super().__init__(shown + more)


class ConfigError(RemidError):
    """A setting, or a combination of settings, that makes no sense."""


class ModelError(RemidError):
    """A model or embedder cannot be found, verified or loaded."""


class EngineError(RemidError):
    """An engine (a server, a cluster) cannot be reached, cannot do what is asked, or may not spend more."""


class DeviceError(EngineError):
    """An accelerator failed, and this process can use it no more; another one may."""


class RenderError(RemidError):
    """A chat template and a tokenizer cannot express a sample with an exact response span."""


class StoreError(RemidError):
    """The run folder cannot be used: it belongs to another run, or another process holds it."""
