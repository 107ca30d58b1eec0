"""Which responses are scored under which other inputs, so that easy texts and easy inputs cannot move the estimate."""

from __future__ import annotations

import numpy as np

from remid.types import PairDesign


def balanced_design(n: int, m: int, seed: int) -> PairDesign:
    """Draw m negatives for each of n items so that every item is a negative exactly m times.

    The items are permuted once (seeded); in that order item k gets the m items that follow it, around the circle.
    Every row and every column is then used m times, so additive effects of an input (it makes all responses likely) or
    of a response (it is short) cancel exactly from CLUB. m is clipped to n - 1, where every pair is used once;
    n < 2 has no negatives and gives shape (n, 0). The same (n, m, seed) gives the same design everywhere.

    Returns a PairDesign with negatives_Bm of shape (n, min(m, n - 1)). Raises ValueError for negative n or m < 1.
    Source: docs/theory.md, "Negatives".
    """
    if n < 0 or m < 1:
        raise ValueError(f"a design needs n >= 0 items and m >= 1 negatives each, got n={n}, m={m}")
    shifts_m = np.arange(1, min(m, n - 1) + 1)
    negatives_Bm = np.empty((n, shifts_m.size), dtype=np.int64)
    if n >= 2:
        order_B = np.random.default_rng(np.random.SeedSequence(seed)).permutation(n)
        negatives_Bm[order_B] = order_B[(np.arange(n)[:, None] + shifts_m) % n]
    return PairDesign(negatives_Bm=negatives_Bm, seed=seed)
