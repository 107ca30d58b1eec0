"""A file to which batches of lines are added, each whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from remid.errors import DataError, Problem, StoreError


class BatchFile:
    """Opens the file, or makes it, and finishes a batch that a kill cut short. Use it as a context manager.

    A batch is first written beside the file (.NAME.pending), so that whatever cuts it short, the file ends with a whole
    batch when it is opened again. Raises DataError where there can be no such file, StoreError when another process has
    it or there is no room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = path.with_name(f".{path.name}.pending")
        self._scratch = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError([Problem(str(path), "", "", f"cannot be read or written: {error.strerror}")]) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._told():
                self._finish()
        except BlockingIOError as error:
            self._file.close()
            raise StoreError(f"{path}: another remid process is writing into this file; wait for it") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, lines: bytes) -> None:
        """Add one batch; it is durable on return. Raises StoreError where there is no room; what is there stays."""
        if not lines:
            return
        with self._told():
            start = self._file.seek(0, os.SEEK_END)
            try:
                with self._scratch.open("wb") as stream:
                    stream.write(b"%d\n" % start + lines)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError:
                self._scratch.unlink(missing_ok=True)
                raise
            os.replace(self._scratch, self._pending)
            self._append(start, lines)

    def _finish(self) -> None:
        """Bring in the batch that was being added when this was last open, if the file still ends with it."""
        if not self._pending.exists():
            return
        head, _, lines = self._pending.read_bytes().partition(b"\n")
        start = int(head)
        if self._file.seek(0, os.SEEK_END) >= start and lines.startswith(self._tail(start)):
            self._append(start, lines)
        else:
            self._pending.unlink()

    def _tail(self, start: int) -> bytes:
        self._file.seek(start)
        return self._file.readall() or b""

    def _append(self, start: int, lines: bytes) -> None:
        self._file.truncate(start)
        left = memoryview(lines)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):  # for whoever reads it before the same command is given again
                self._file.truncate(start)
            raise
        os.fsync(self._file.fileno())
        self._pending.unlink()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be written ({error.strerror}). What is in it is kept: make room on that disk, "
                "or see what is wrong with it, and the same command goes on"
            ) from error
