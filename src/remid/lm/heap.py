"""The C library's heap (glibc only; elsewhere nothing happens): tensors that are used again, and a process kept small.

Threads that walk works of many lengths came to twice the memory that lived. glibc gives every thread a heap of its own
in steps of 64 MB, which large tensors leave half empty; and of what a heap has free in its middle nothing goes back by
itself (docs/engine.md). No torch here: `one_heap` must come before it is imported.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

#: Freed pages are given back this often: rarely enough to be cheap, often enough that little piles up.
_GIVE_BACK_SECONDS = 1.0
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8

_given_back = 0.0


def one_heap() -> bool:
    """Let all threads to come share one heap. Returns whether that was possible; later heaps stay as they are.

    What one thread has freed is then there for all. Tensors are too few for threads to wait for each other.
    """
    return _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for its next tensor. Returns whether that was possible.

    By default every tensor of a few megabytes is mapped anew and its pages are cleared one fault at a time: measured
    here, a quarter of the time of a feed-forward block. The price: nothing that was freed goes back by itself.
    """
    # No single tensor gets a mapping of its own, nothing is given back, and the heap grows in large steps.
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))
    return all(_mallopt(what, to) for what, to in options)


def give_back_memory() -> None:
    """Give freed pages back to the system, at most once in a while."""
    global _given_back  # noqa: PLW0603
    now = time.monotonic()
    if now < _given_back + _GIVE_BACK_SECONDS:
        return
    _given_back = now
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _mallopt(what: int, to: int) -> bool:
    libc = _libc()
    return bool(hasattr(libc, "mallopt") and libc.mallopt(what, to))


def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
