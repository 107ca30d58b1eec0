"""What a scorer is asked and what it answers, in token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TokenLogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Work:
    """One prompt and the continuations to score under it, all as token ids, none of them empty."""

    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens to run: the prompt once and each continuation once."""
        return len(self.prompt) + sum(map(len, self.continuations))


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one continuation. work, continuation: its place in what was asked.

    logp_T: log-probability of each of its tokens (float32, nats), or None; missing: the reason why it is None.
    again: whether another try may succeed (memory, a lost worker), so that the failure is told but not stored.
    """

    work: int
    continuation: int
    logp_T: TokenLogProbs | None
    missing: str | None = None
    again: bool = False
