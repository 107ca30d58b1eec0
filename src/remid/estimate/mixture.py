"""What a response is worth where the reasoning is drawn: the mean of its probability over several traces.

Who draws a trace r from q1(r|x) and then speaks by q2(y|x,r) has the law

    q(y|x) = sum_r q1(r|x) q2(y|x,r)

and the log-probability under a single drawn trace is, on average, too low by KL(q1(r|x) || q(r|x,y)) (Jensen; proven).
The log of the mean over K traces is below log q(y|x) on average too, by less with every further trace, and comes to it
(Burda et al., arXiv 1509.00519).
"""

from __future__ import annotations

import numpy as np

from remid.types import FloatArray


def mixed_logp(logp_KT: FloatArray) -> FloatArray:
    """(T,) token log-probabilities under the mean of K laws, nats; they sum to log mean_k exp(sum_t logp_kt).

    logp_KT: (K, T), those of each law. A law counts for the next token as much as it has deserved by the tokens before:
    this is the mixture's own conditional, so over a vocabulary it sums to 1 (proven, checked in tests).
    Raises ValueError for none or for values that are not finite.
    """
    if logp_KT.ndim != 2 or not logp_KT.size or not np.isfinite(logp_KT).all():
        raise ValueError("needs (K, T) finite log-probabilities, K and T at least 1")
    said_KT = np.cumsum(logp_KT, axis=1, dtype=np.float64)
    mixed_T: FloatArray = np.logaddexp.reduce(said_KT, axis=0) - np.log(len(logp_KT))
    return np.diff(mixed_T, prepend=0.0)
