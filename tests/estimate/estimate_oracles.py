"""Slow, readable twins of the estimators, and small worlds in which the truth is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from remid.estimate import Influence, balanced_design
from remid.types import FloatArray, PairDesign, PairScores


def pair_scores(S_BB: FloatArray, m: int, seed: int = 0) -> PairScores:
    """The pairs of a full score matrix that a balanced design keeps; every response 10 tokens and 40 bytes long."""
    n = len(S_BB)
    design = balanced_design(n, m, seed)
    negative_Bm = S_BB[np.arange(n)[:, None], design.negatives_Bm]
    return PairScores(np.diagonal(S_BB).copy(), negative_Bm, np.full(n, 10.0), np.full(n, 40.0), design)


def slow_club(scores: PairScores) -> tuple[float, list[float]]:
    """CLUB and contributions, pair by pair, nothing missing: effects by dense least squares."""
    n = len(scores.positive_B)
    rows, values = [], []
    for i in range(n):
        for k, j in enumerate(scores.design.negatives_Bm[i]):
            row = [0.0] * (2 * n)
            row[i], row[n + j] = 1.0, 1.0
            rows.append(row)
            values.append(scores.negative_Bm[i, k])
    effect = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    phi = [scores.positive_B[i] - effect[i] - effect[n + i] for i in range(n)]
    return sum(scores.positive_B) / n - sum(values) / len(values), phi


def slow_club_with_missing(S_BB: FloatArray, scores: PairScores) -> float:
    """The value alone, by naming the pairs to use."""
    n = len(S_BB)
    scored = [i for i in range(n) if not math.isnan(scores.positive_B[i])]
    pairs = [
        (i, int(j), S_BB[i, j])
        for i in scored
        for k, j in enumerate(scores.design.negatives_Bm[i])
        if j in scored and not math.isnan(scores.negative_Bm[i, k])
    ]
    items = [i for i in scored if any(i in pair[:2] for pair in pairs)]
    if not items:
        return math.nan
    return sum(S_BB[i, i] for i in items) / len(items) - sum(s for _, _, s in pairs) / len(pairs)


def additive_world(rng: np.random.Generator, design: PairDesign, *, truth: float, noise: float = 0.6) -> PairScores:
    """Scores with large response effects, as lengths make them; CLUB has expectation `truth`, phi has sd 1."""
    n = len(design.negatives_Bm)
    a_B, b_B = rng.normal(0, 1, n), rng.normal(0, 5, n)
    positive_B = truth + a_B + b_B + rng.normal(0, 1, n)
    negative_Bm = a_B[:, None] + b_B[design.negatives_Bm] + rng.normal(0, noise, design.negatives_Bm.shape)
    return PairScores(positive_B, negative_Bm, np.ones(n), np.ones(n), design)


#: A joint law p(x, y) of three inputs and three responses, without zeros (then CLUB's expectation is finite).
JOINT_XY = np.array([[0.20, 0.05, 0.08], [0.04, 0.22, 0.06], [0.09, 0.06, 0.20]])


def discrete_truth() -> tuple[float, float, float]:
    """I(X;Y), KL(p(x)p(y) || p(x,y)) and CLUB's expectation under the exact q(y|x), nats, from the definitions."""
    p_X, p_Y = JOINT_XY.sum(axis=1), JOINT_XY.sum(axis=0)
    information = reverse = club = 0.0
    for x in range(3):
        for y in range(3):
            joint, product = JOINT_XY[x, y], p_X[x] * p_Y[y]
            log_q = math.log(joint / p_X[x])
            information += joint * math.log(joint / product)
            reverse += product * math.log(product / joint)
            club += (joint - product) * log_q
    return information, reverse, club


def discrete_world(rng: np.random.Generator, n: int, m: int) -> PairScores:
    """n draws from JOINT_XY scored by the exact conditional."""
    x_B, y_B = np.unravel_index(rng.choice(9, size=n, p=JOINT_XY.ravel()), (3, 3))
    log_q_XY = np.log(JOINT_XY / JOINT_XY.sum(axis=1, keepdims=True))
    return pair_scores(log_q_XY[x_B[:, None], y_B[None, :]], m, int(rng.integers(1 << 30)))


def slow_weighted(name: str, scores: PairScores, weight: list[float], alpha: float = 0.5, clip: float = 5.0) -> float:
    """An estimator of remid.estimate.estimators, pair by pair, nothing missing, in which item i counts weight[i] times
    as the owner of its column and as a candidate in others."""
    n, m = scores.design.negatives_Bm.shape
    terms, ratios = [], []
    for j in range(n):
        own = scores.positive_B[j]
        others = [
            (scores.negative_Bm[i, k], weight[i])
            for i in range(n)
            for k in range(m)
            if scores.design.negatives_Bm[i, k] == j
        ]
        total = sum(w for _, w in others)
        if name == "l1out":
            terms.append(own - math.log(sum(w * math.exp(s) for s, w in others) / total))
        elif name == "infonce":
            mean = sum(w * math.exp(s) for s, w in others) / total
            terms.append(own - math.log((math.exp(own) + m * mean) / (m + 1)))
        else:
            term = ratio = 0.0
            for h, (s, w) in enumerate(others):
                rest = [pair for k, pair in enumerate(others) if k != h]
                a = math.log(sum(v * math.exp(t) for t, v in rest) / sum(v for _, v in rest))
                if name == "smile":
                    term += w / total * (own - a)
                    ratio += w / total * math.exp(min(max(s - a, -clip), clip))
                else:
                    critic = [f - math.log(alpha / m * math.exp(f) + (1 - alpha / m) * math.exp(a)) for f in (own, s)]
                    term += w / total * (1 + critic[0] - math.exp(critic[1]))
            terms.append(term)
            ratios.append(ratio)
    mean = sum(w * t for w, t in zip(weight, terms, strict=True)) / sum(weight)
    if name == "smile":
        mean -= math.log(sum(w * r for w, r in zip(weight, ratios, strict=True)) / sum(weight))
    return mean


def slow_influence(name: str, scores: PairScores, alpha: float = 0.5) -> list[float]:
    """Infinitesimal jackknife by its definition: value + n times the derivative by an item's weight, numerically."""
    n, step = len(scores.positive_B), 1e-5
    phi = []
    for i in range(n):
        up, down = ([1.0 + (sign * step if k == i else 0.0) for k in range(n)] for sign in (1, -1))
        slope = (slow_weighted(name, scores, up, alpha) - slow_weighted(name, scores, down, alpha)) / (2 * step)
        phi.append(slow_weighted(name, scores, [1.0] * n, alpha) + n * slope)
    return phi


def slow_retrieval(scores: PairScores) -> float:
    n, m = scores.design.negatives_Bm.shape
    hits = 0.0
    for j in range(n):
        others = [scores.negative_Bm[i, k] for i in range(n) for k in range(m) if scores.design.negatives_Bm[i, k] == j]
        if max(others) <= scores.positive_B[j]:
            hits += 1 / (1 + others.count(scores.positive_B[j]))
    return hits / n


def expectation(
    estimator: Callable[[PairScores], Influence], joint_XY: FloatArray, log_q_XY: FloatArray, n: int
) -> float:
    """Exact expectation over n independent items of a discrete world, all pairs scored: every draw, by its chance."""
    design = balanced_design(n, n - 1, 0)
    cells = list(itertools.product(range(joint_XY.shape[0]), range(joint_XY.shape[1])))
    total = 0.0
    for draw in itertools.product(cells, repeat=n):
        x_B, y_B = (np.array(part) for part in zip(*draw, strict=True))
        S_BB = log_q_XY[x_B[:, None], y_B[None, :]]
        negative_Bm = S_BB[np.arange(n)[:, None], design.negatives_Bm]
        value = estimator(PairScores(np.diagonal(S_BB), negative_Bm, np.full(n, 9.0), np.ones(n), design)).value
        total += float(np.prod(joint_XY[x_B, y_B])) * value
    return total


def information(joint_XY: FloatArray) -> float:
    """I(X;Y), nats, from its definition."""
    p_X, p_Y = joint_XY.sum(axis=1), joint_XY.sum(axis=0)
    return sum(
        joint_XY[x, y] * math.log(joint_XY[x, y] / (p_X[x] * p_Y[y])) for x in range(len(p_X)) for y in range(len(p_Y))
    )
