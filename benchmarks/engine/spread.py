"""What many blocks of an arm come to: medians, ranges, and intervals over blocks."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def spread(values: Sequence[float]) -> Row:
    """Least, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "n": len(values)}


def ratio(slow_B: Sequence[float], fast_B: Sequence[float], seed: int = 0) -> Row:
    """How many times the fast arm fits into the slow one, block by block and over all blocks.

    low, high: 95% interval of the ratio of sums, 2,000 resamples of the blocks; None with fewer than three.
    """
    slow, fast = np.array(slow_B), np.array(fast_B)
    low = high = None
    if len(slow) > 2:
        drawn = np.random.default_rng(seed).integers(len(slow), size=(2000, len(slow)))
        low, high = (float(x) for x in np.percentile(slow[drawn].sum(1) / fast[drawn].sum(1), [2.5, 97.5]))
    return {"of_sums": float(slow.sum() / fast.sum()), "low": low, "high": high, **spread((slow / fast).tolist())}


def turns(arms: Sequence[str], block: int) -> list[str]:
    """The order of the arms in a block: forwards, then backwards, so that drift is fair to all."""
    return list(arms) if block % 2 == 0 else list(arms)[::-1]


def load_average() -> float:
    """Of the last minute: 0 on a quiet machine before the bench begins."""
    return round(os.getloadavg()[0], 2)
