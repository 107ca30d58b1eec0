"""An end for every answer of a server. HTTP clients bound the silence between two pieces of it, not the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2

#: Bytes that no answer needs: log-probabilities of 100,000 tokens with their words are less.
MOST_BYTES = 256 * 2**20


class TooLongError(httpx2.ReadError):
    """An answer of more than MOST_BYTES."""


class _Bounded(httpx2.SyncByteStream):
    """A body that ends with an error at a moment (time.monotonic), or behind MOST_BYTES."""

    def __init__(self, body: httpx2.SyncByteStream, until: float) -> None:
        self._body, self._until = body, until

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._body:
            size += len(piece)
            if time.monotonic() > self._until:
                raise httpx2.ReadTimeout("the answer did not end in time")
            if size > MOST_BYTES:
                raise TooLongError(f"more than {MOST_BYTES} bytes")
            yield piece

    def close(self) -> None:
        self._body.close()


def bounded(response: httpx2.Response) -> None:
    """For event_hooks["response"]: the body has as long as one read of its request may take."""
    seconds = response.request.extensions.get("timeout", {}).get("read")
    if seconds is not None and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Bounded(response.stream, time.monotonic() + seconds)
