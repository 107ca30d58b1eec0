"""R-EMID through a trained model against the truth, on worlds of text (data/worlds/text.py).

One small model is trained once. Channels are functions of the input, so it serves every policy under every law: inputs
and responses of a shift are drawn from its laws, scored by the model, and R-EMID is estimated as in a real run. Beside
it stands the exact q on the same draws: what is left there is the estimator's own error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.estimate import balanced_design, exact, infonce, l1out, remi, remid
from remid.estimate.information import Influence
from remid.lm.models import LoadedModel
from remid.types import Estimate, FloatArray, PairScores
from remid.verify.null import pair_scores
from remid.verify.text_pool import Fit, Pool, Source, fits_of, make_pool
from remid.verify.tiny import Training, train_tiny

#: "club" has the pipeline's two negatives per item, the others Setting.candidates.
Estimator = Literal["club", "l1out", "infonce", "midpoint"]
ESTIMATORS: tuple[Estimator, ...] = ("club", "l1out", "infonce", "midpoint")
_STRENGTHS = (-2.0, -1.0, 1.0, 2.0)
SHIFTS: tuple[tuple[worlds.TextShift, float], ...] = (
    *((shift, s) for shift in ("user", "character", "dialogue", "several") for s in _STRENGTHS),
    ("pairing", 0.5),
    ("pairing", 1.0),
    ("reference", 1.0),
)


def _estimates(
    policy: PairScores, reference: PairScores, policy_few: PairScores, reference_few: PairScores
) -> dict[Estimator, Influence]:
    """R-EMI by every estimator; the last two arguments are the same responses under CLUB's few negatives.

    midpoint: the mean of leave-one-out and InfoNCE. With K candidates and q = p(y|x) their biases are, to first order,
    plus and minus chi2(p(x,y) || p(x)p(y)) / (2K), and cancel.
    """
    upper, lower = l1out(policy, reference), infonce(policy, reference)
    between = replace(upper, value=(upper.value + lower.value) / 2, phi_B=(upper.phi_B + lower.phi_B) / 2)
    return {"club": remi(policy_few, reference_few), "l1out": upper, "infonce": lower, "midpoint": between}


@dataclass(frozen=True, slots=True)
class TextRow:
    """R-EMID of one policy under one shift by one estimator, over replications; nats per response.

    mean, spread: of the estimates. stderr: root mean square of their standard errors. covered: share of 95% intervals
    that hold the truth. n_significant: estimates above 2 standard errors; n_right: of these, with the truth's sign.
    n_large: estimates whose truth is above 2 of their standard errors; n_large_right: of these, with its sign.
    """

    policy: str
    shift: str
    strength: float
    source: Source
    reveals: grammar.Reveals
    estimator: Estimator
    n: int
    replications: int
    truth: float
    mean: float
    spread: float
    stderr: float
    rms_error: float
    covered: float
    n_significant: int
    n_right: int
    n_large: int
    n_large_right: int


@dataclass(frozen=True, slots=True)
class TextSummary:
    """All combinations of one source, trace and estimator.

    policies: "graded", or "parrot", which is a case of its own: a response that is impossible under every other input
    has an infinite CLUB and leave-one-out. Errors are shares of `span`, max - min of the true R-EMID.
    bias_rms, bias_median, bias_most: of |mean over replications - truth|. noise: root mean square standard error of
    those means, which bias_rms holds too. error_rms: of single estimates. right: share of estimates above 2 standard
    errors that have the sign of the truth, where the truth is not 0. n_large, n_large_right: as in TextRow.
    false_alarm: share above 2 standard errors where the truth is 0 (NaN without such combinations). beside_exact: root
    mean square difference from the same estimator under the exact q on the same draws (NaN without it).
    """

    source: Source
    reveals: grammar.Reveals
    estimator: Estimator
    n: int
    replications: int
    policies: str
    combinations: int
    span: float
    noise: float
    bias_rms: float
    bias_median: float
    bias_most: float
    error_rms: float
    right: float
    n_significant: int
    n_large: int
    n_large_right: int
    false_alarm: float
    covered: float
    beside_exact: float


@dataclass(frozen=True, slots=True)
class TraceCheck:
    """R-EMID with minus without a trace on the same draws (trained q). share_of_error: root mean square difference over
    root mean square standard error; agree: share of combinations whose difference is below 2 standard errors."""

    reveals: grammar.Reveals
    estimator: Estimator
    rms_difference: float
    share_of_error: float
    agree: float


@dataclass(frozen=True, slots=True)
class TextTruth:
    """Everything that text_truth found. seconds are not kept here: results must not depend on the machine."""

    rows: tuple[TextRow, ...]
    summaries: tuple[TextSummary, ...]
    fits: tuple[Fit, ...]
    traces: tuple[TraceCheck, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """Size of the check. policies must be among training.voices.

    surfaces: surface forms per input symbol in the pool of prompts. n: items per subset. candidates: other inputs under
    which each response is scored.
    """

    training: Training
    sources: tuple[Source, ...]
    reveals: tuple[grammar.Reveals, ...]
    surfaces: int
    n: int
    candidates: int
    replications: int
    shifts: tuple[tuple[worlds.TextShift, float], ...] = SHIFTS
    policies: tuple[str, ...] = worlds.POLICIES


#: Policies of the quick check: with 19 shifts more than 100 combinations. The model learns their voices alone.
_QUICK_POLICIES = ("blur-60", "blind-user", "blind-dialogue", "frail-user", "frail-dialogue", "sharp")


def quick_setting(seed: int) -> Setting:
    """About a minute on one quiet core."""
    return Setting(
        Training(steps=700, seed=seed, voices=("reference", "editor", *_QUICK_POLICIES)),
        sources=("trained", "exact"),
        reveals=("none", "full"),
        surfaces=1,
        n=200,
        candidates=199,
        replications=2,
        policies=_QUICK_POLICIES,
    )


def full_setting(seed: int) -> Setting:
    """About ten minutes on one quiet core."""
    return Setting(
        Training(seed=seed),
        sources=("trained", "exact", "one trained", "one exact"),
        reveals=("none", "partial", "full"),
        surfaces=1,
        n=1000,
        candidates=199,
        replications=4,
    )


def text_truth(quick: bool, seed: int, *, loaded: LoadedModel | None = None) -> TextTruth:
    """Train (unless a trained model is given), draw, score, estimate, compare."""
    setting = quick_setting(seed) if quick else full_setting(seed)
    return check(setting, train_tiny(setting.training) if loaded is None else loaded, seed)


def check(setting: Setting, loaded: LoadedModel | None, seed: int) -> TextTruth:
    """text_truth with sizes of one's own. loaded: None where setting.sources need no trained model."""
    pool = make_pool(setting.sources, setting.reveals, setting.training.voices, setting.surfaces, loaded, seed)
    found: dict[tuple[str, str, float, Source, grammar.Reveals, Estimator], list[Estimate]] = {}
    for replication in range(setting.replications):
        rng = np.random.default_rng(np.random.SeedSequence([seed, replication]))
        _replicate(setting, pool, rng, found)
    rows = tuple(_row(key, made, setting) for key, made in found.items())
    keys = [(s, r, e) for s, r, e in product(setting.sources, setting.reveals, ESTIMATORS)]
    # The exact q does not look at the trace: it is measured once.
    keys = [(s, r, e) for s, r, e in keys if "exact" not in s or r == setting.reveals[0]]
    span = max(row.truth for row in rows) - min(row.truth for row in rows) or float("nan")
    summaries = []
    for key, parrot in product(keys, (False, True)):
        mine = [r for r in rows if (r.source, r.reveals, r.estimator) == key and (r.policy == "parrot") == parrot]
        if mine:
            summaries.append(_summary(mine, span, rows))
    return TextTruth(rows, tuple(summaries), fits_of(pool), _trace_checks(rows, setting))


_Found = dict[tuple[str, str, float, Source, grammar.Reveals, Estimator], list[Estimate]]


def _replicate(setting: Setting, pool: Pool, rng: np.random.Generator, found: _Found) -> None:
    """One benchmark: one ID subset and one subset per shift, all policies answering in each."""
    base = _subset(setting, pool, worlds.law(), "reference", rng)
    for shift, strength in setting.shifts:
        author = "editor" if shift == "reference" else "reference"
        shifted = _subset(setting, pool, worlds.law(shift, strength), author, rng)
        for (source, reveals, estimator, policy), influence in shifted.items():
            made = remid(base[source, reveals, estimator, policy], influence)
            found.setdefault((policy, shift, strength, source, reveals, estimator), []).append(made)


def _subset(
    setting: Setting, pool: Pool, law_UAD: FloatArray, reference: str, rng: np.random.Generator
) -> dict[tuple[Source, grammar.Reveals, Estimator, str], Influence]:
    """R-EMI of every policy on one drawn subset, by every source, trace and estimator."""
    n = setting.n
    symbols_B3 = worlds.draw_symbols(law_UAD, n, rng)
    x_B = np.ravel_multi_index(tuple(symbols_B3.T), worlds.INPUT_SHAPE)
    prompt_B = pool.prompt_XK[x_B, rng.integers(pool.prompt_XK.shape[1], size=n)]
    authors = (reference, *setting.policies)
    answers = {name: worlds.draw_responses(worlds.channel(name), symbols_B3, rng) for name in authors}
    few, many = (balanced_design(n, m, int(rng.integers(1 << 31))) for m in (2, setting.candidates))
    out: dict[tuple[Source, grammar.Reveals, Estimator, str], Influence] = {}
    for source, reveals in product(setting.sources, setting.reveals):
        if source.endswith("exact") and reveals != setting.reveals[0]:
            continue
        S_BB = {name: pool.scores(source, reveals, name, prompt_B, answers[name]) for name in authors}
        golden, golden_few = pair_scores(S_BB[reference], many), pair_scores(S_BB[reference], few)
        for policy in setting.policies:
            made = _estimates(pair_scores(S_BB[policy], many), golden, pair_scores(S_BB[policy], few), golden_few)
            out |= {(source, reveals, estimator, policy): influence for estimator, influence in made.items()}
    return out


def true_remid(policy: str, shift: worlds.TextShift, strength: float) -> float:
    """Exact R-EMID, nats per response."""
    return float(exact.emid(*worlds.text_world(policy, shift, strength).flat()))


def _row(
    key: tuple[str, str, float, Source, grammar.Reveals, Estimator], made: Sequence[Estimate], setting: Setting
) -> TextRow:
    policy, shift, strength = key[:3]
    truth = true_remid(policy, shift, strength)  # type: ignore[arg-type]
    truth = 0.0 if abs(truth) < 1e-9 else truth
    value_R, stderr_R = np.array([e.value for e in made]), np.array([e.stderr for e in made])
    significant_R, large_R = np.abs(value_R) > 2 * stderr_R, abs(truth) > 2 * stderr_R
    right_R = np.sign(value_R) == np.sign(truth)
    held = [e.ci_low <= truth <= e.ci_high for e in made]
    return TextRow(
        *key,
        n=setting.n,
        replications=len(made),
        truth=truth,
        mean=float(value_R.mean()),
        spread=float(value_R.std(ddof=1)) if len(made) > 1 else float("nan"),
        stderr=float(np.sqrt(np.mean(stderr_R**2))),
        rms_error=float(np.sqrt(np.mean((value_R - truth) ** 2))),
        covered=float(np.mean(held)),
        n_significant=int(significant_R.sum()),
        n_right=int(np.sum(significant_R & right_R)),
        n_large=int(large_R.sum()),
        n_large_right=int(np.sum(large_R & right_R)),
    )


def _summary(rows: Sequence[TextRow], span: float, everything: Sequence[TextRow]) -> TextSummary:
    first = rows[0]
    truth_C, mean_C = np.array([row.truth for row in rows]), np.array([row.mean for row in rows])
    bias_C = np.abs(mean_C - truth_C) / span
    real = [row for row in rows if row.truth != 0]
    null = [row for row in rows if row.truth == 0]
    n_significant = sum(row.n_significant for row in real)
    return TextSummary(
        first.source,
        first.reveals,
        first.estimator,
        first.n,
        first.replications,
        "parrot" if first.policy == "parrot" else "graded",
        len(rows),
        span,
        noise=float(np.sqrt(np.mean([row.stderr**2 / row.replications for row in rows])) / span),
        bias_rms=float(np.sqrt(np.mean(bias_C**2))),
        bias_median=float(np.median(bias_C)),
        bias_most=float(bias_C.max()),
        error_rms=float(np.sqrt(np.mean([row.rms_error**2 for row in rows])) / span),
        right=sum(row.n_right for row in real) / n_significant if n_significant else float("nan"),
        n_significant=n_significant,
        n_large=sum(row.n_large for row in rows),
        n_large_right=sum(row.n_large_right for row in rows),
        false_alarm=sum(r.n_significant for r in null) / sum(r.replications for r in null) if null else float("nan"),
        covered=float(np.mean([row.covered for row in rows])),
        beside_exact=_beside_exact(rows, everything) / span,
    )


def _beside_exact(rows: Sequence[TextRow], everything: Sequence[TextRow]) -> float:
    """Root mean square difference of the means from those under the exact q of the same kind, nats per response."""
    wanted = rows[0].source.replace("trained", "exact")
    exact_ones = {
        (r.policy, r.shift, r.strength): r.mean
        for r in everything
        if r.source == wanted and r.estimator == rows[0].estimator
    }
    away = [row.mean - exact_ones.get((row.policy, row.shift, row.strength), np.nan) for row in rows]
    return float(np.sqrt(np.mean(np.square(away))))


def _trace_checks(rows: Sequence[TextRow], setting: Setting) -> tuple[TraceCheck, ...]:
    """Every kind of trace against none, trained q. Empty where there is nothing to compare."""
    if "none" not in setting.reveals or "trained" not in setting.sources:
        return ()
    by_key = {(r.policy, r.shift, r.strength, r.reveals, r.estimator): r for r in rows if r.source == "trained"}
    checks = []
    for reveals, estimator in product([r for r in setting.reveals if r != "none"], ESTIMATORS):
        pairs = [
            (row, by_key[row.policy, row.shift, row.strength, "none", estimator])
            for key, row in by_key.items()
            if key[3:] == (reveals, estimator) and row.policy != "parrot"
        ]
        difference_C = np.array([a.mean - b.mean for a, b in pairs])
        stderr_C = np.array([b.stderr for _, b in pairs])
        rms = float(np.sqrt(np.mean(difference_C**2)))
        share = rms / float(np.sqrt(np.mean(stderr_C**2)))
        checks.append(TraceCheck(reveals, estimator, rms, share, float(np.mean(np.abs(difference_C) < 2 * stderr_C))))
    return tuple(checks)
