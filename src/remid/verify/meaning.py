"""Does the gap rank policies by what they know of their input? In exact worlds (meaning_worlds.py), beside signed EMI.

A policy's place follows from how it is made; whatever measures it must find that place in every world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from remid.estimate.exact import emi, mean_over
from remid.estimate.exact_gap import BEGIN, Telling, exact_gap, exact_gap_bound, telling
from remid.types import COMPONENTS, FloatArray
from remid.verify.meaning_worlds import NOISE, Scene, ignoring, longer, noise_name, policies, scenes

#: Rounding: a gap is above another, or a bound violated, where it is by more.
TOLERANCE = 1e-9
#: Growths below this are left out of bound / growth, nats/token.
SMALLEST = 1e-3
#: Shares of the reference in the half-informed policies; the rest ignores a part of the input.
INFORMED = (0.25, 0.5, 0.75)
#: How often the copier repeats; the first is what estimate/copier.py has, 0 is no copier at all.
BEGINS = (BEGIN, 0.0, 0.1, 0.5)
#: Policies whose rank is shown and not claimed.
SHOWN = ("longer", "sharper")
#: The one of which nothing is proven unless characters are exchangeable: a wrong one may be played more sharply.
UNPROVEN = "wrong character"


@dataclass(frozen=True, slots=True)
class MeaningRow:
    """One policy over n worlds. median, least: of its gap, nats/token. right: share of worlds in which its gap is above
    the reference's (noise: above the next weaker noise's). above_noise: above that of 10% noise.

    emi_median, emi_right: the same for signed EMI, where right is below. emi_first: it has the largest EMI of all.
    cross_right: right by the cross-information E log q(y|x)/q(y), the gap without a copier and with its sign.
    """

    policy: str
    n: int
    median: float
    least: float
    right: float
    above_noise: float
    emi_median: float
    emi_right: float
    emi_first: float
    cross_right: float


@dataclass(frozen=True, slots=True)
class CopierRow:
    """begin: how often the copier repeats. right: worlds in which every claim of `meaning` about the order holds."""

    begin: float
    n: int
    right: int
    parrot_right: int


@dataclass(frozen=True, slots=True)
class HalfRow:
    """Policies between the reference and one that ignores a part. right: worlds with all five gaps in their order.

    kind: "mixture", a share of responses is the reference's; "tempered", the laws' product with shares as exponents.
    """

    part: str
    kind: str
    n: int
    right: int


@dataclass(frozen=True, slots=True)
class GrowthRow:
    """The bound on the gap's growth under a shift. worst: largest growth - bound, nats/token. ratio_*: bound / growth
    where the gap grows by more than 0.001 (n_ratio cases). fresh: q(y) and c are those of the shifted inputs, which the
    bound does not allow for."""

    policy: str
    fresh: bool
    n: int
    violations: int
    worst: float
    n_ratio: int
    ratio_median: float
    ratio_p90: float


@dataclass(frozen=True, slots=True)
class CopyingRow:
    """A policy that answers as the reference to some dialogues and echoes the others, in worlds where these become at
    least 5 points commoner. gap_grows, emi_grows: share of worlds. By signed EMI it looks improved where it grows."""

    n: int
    gap_grows: float
    emi_grows: float


@dataclass(frozen=True, slots=True)
class Meaning:
    """Everything `meaning` found. *_right: of n worlds, those with the order wholly right, by the gap, by EMI, and by
    cross-information. n_told: worlds in which the reference earns anything, so that its information is not all
    echoes; told_right: of these, with the order right by the gap but for UNPROVEN."""

    n: int
    n_told: int
    all_right: int
    told_right: int
    emi_all_right: int
    cross_all_right: int
    rows: tuple[MeaningRow, ...]
    copiers: tuple[CopierRow, ...]
    halves: tuple[HalfRow, ...]
    growth: tuple[GrowthRow, ...]
    copying: CopyingRow


_Flags = npt.NDArray[np.bool_]
#: Values of every policy in all worlds, (n,) each.
_Values = Mapping[str, FloatArray]


def meaning(n: int, seed: int) -> Meaning:
    """Rank every policy in at least n worlds, by gap and by signed EMI, and hold the gap's growth against its bound."""
    found: list[dict[tuple[str, ...], FloatArray]] = [_measured(scene) for scene in scenes(n, seed)]
    all_of = {key: np.concatenate([part[key] for part in found]) for key in found[0]}

    def named(*head: str) -> _Values:
        return {key[-1]: values for key, values in all_of.items() if key[:-1] == head}

    gaps = [named("gap", str(begin)) for begin in BEGINS]
    # Larger is better for EMI and cross-information: turned round, every measure is best where it is least.
    emi_of, cross_of = ({name: -values for name, values in named(what).items()} for what in ("emi", "cross"))
    told_N = all_of["told",] > TOLERANCE
    rights = [_right(values) for values in gaps]
    growth = [
        _growth_row(name, fresh, named("growth", str(fresh))[name], bound_N)
        for fresh in (False, True)
        for name, bound_N in named("bound").items()
    ]
    return Meaning(
        gaps[0]["reference"].size,
        int(told_N.sum()),
        int(_all(rights[0]).sum()),
        int(_all({**rights[0], UNPROVEN: told_N}).sum()),
        int(_all(_right(emi_of)).sum()),
        int(_all(_right(cross_of)).sum()),
        tuple(_rows(gaps[0], emi_of, cross_of)),
        tuple(
            CopierRow(begin, right["parrot"].size, int(_all(right).sum()), int(right["parrot"].sum()))
            for begin, right in zip(BEGINS, rights, strict=True)
        ),
        tuple(
            _half_row(kind, part, named("half", kind, part)) for kind in ("mixture", "tempered") for part in COMPONENTS
        ),
        tuple(growth),
        _copying_row(named("copying")),
    )


def _measured(scene: Scene) -> dict[tuple[str, ...], FloatArray]:
    """Every number of one batch, (N,) each, by what it is."""
    p_X, q_X, reference_XY = scene.p_X, scene.q_X, scene.reference_XY
    told = {begin: telling(p_X, reference_XY, scene.echo_XY, begin=begin) for begin in BEGINS}
    fresh = telling(q_X, reference_XY, scene.echo_XY)
    ours = told[BEGIN]
    earned_X = (reference_XY * ours.earned_XY).sum(-1)
    found: dict[tuple[str, ...], FloatArray] = {("told",): mean_over(p_X, earned_X)}
    for name, policy_XY in policies(scene).items():
        for begin in BEGINS:
            found["gap", str(begin), name] = exact_gap(p_X, policy_XY, reference_XY, told[begin]).value
        found["emi", name] = emi(p_X, policy_XY, reference_XY)
        found["cross", name] = -exact_gap(p_X, policy_XY, reference_XY, told[0.0]).missing
        if name != "reference":
            before = found["gap", str(BEGIN), name]
            found["bound", name] = exact_gap_bound(p_X, q_X, policy_XY, reference_XY, ours)
            found["growth", "False", name] = exact_gap(q_X, policy_XY, reference_XY, ours).value - before
            found["growth", "True", name] = exact_gap(q_X, policy_XY, reference_XY, fresh).value - before
    for begin in BEGINS:
        found["gap", str(begin), "longer"] = longer(p_X, reference_XY, told[begin]).value
    # What the filler adds is independent of the input.
    found["emi", "longer"], found["cross", "longer"] = found["emi", "reference"], found["cross", "reference"]
    return found | _halves(scene, ours) | _copying(scene, ours)


def _halves(scene: Scene, told: Telling) -> dict[tuple[str, ...], FloatArray]:
    found: dict[tuple[str, ...], FloatArray] = {}
    reference_XY = scene.reference_XY
    for part in COMPONENTS:
        blind_XY = ignoring(scene, part)
        for share in (0.0, *INFORMED, 1.0):
            product_XY = reference_XY**share * blind_XY ** (1 - share)
            made = {
                "mixture": share * reference_XY + (1 - share) * blind_XY,
                "tempered": product_XY / product_XY.sum(-1, keepdims=True),
            }
            for kind, policy_XY in made.items():
                found["half", kind, part, str(share)] = exact_gap(scene.p_X, policy_XY, reference_XY, told).value
    return found


def _copying(scene: Scene, told: Telling) -> dict[tuple[str, ...], FloatArray]:
    """A policy that echoes the latter half of the dialogues: how gap, EMI and copies grow from p to q."""
    dialogues = scene.shape[2]
    echoes_X = np.arange(scene.p_X.shape[-1]) % dialogues >= dialogues // 2
    policy_XY = np.where(echoes_X[:, None], scene.echo_XY, scene.reference_XY)
    before, after = (exact_gap(law_X, policy_XY, scene.reference_XY, told).value for law_X in (scene.p_X, scene.q_X))
    emi_before, emi_after = (emi(law_X, policy_XY, scene.reference_XY) for law_X in (scene.p_X, scene.q_X))
    return {
        ("copying", "gap"): after - before,
        ("copying", "emi"): emi_after - emi_before,
        ("copying", "copies"): np.asarray(((scene.q_X - scene.p_X) * echoes_X).sum(-1)),
    }


def _right(worse: _Values) -> dict[str, _Flags]:
    """Whether each policy is where it belongs, by world: above the reference, noise in order. Larger is worse."""
    beside = {name: worse["reference"] for name in worse if name not in ("reference", *SHOWN)}
    levels = [noise_name(share) for share in NOISE]
    beside |= {more: worse[less] for less, more in pairwise(levels)}
    return {name: worse[name] > other + TOLERANCE for name, other in beside.items()}


def _first(worse: _Values) -> _Flags:
    """Worlds in which no policy whose rank is claimed is better than the reference."""
    others = [values for name, values in worse.items() if name not in SHOWN]
    return np.asarray(worse["reference"] <= np.min(others, axis=0) + TOLERANCE)


def _all(right: Mapping[str, _Flags]) -> _Flags:
    return np.asarray(np.all(list(right.values()), axis=0))


def _rows(gap: _Values, emi_of: _Values, cross_of: _Values) -> Iterator[MeaningRow]:
    """emi_of, cross_of: turned round, so that less is better. What is only shown is right where it is not above."""
    right, emi_right, cross_right = (_right(values) for values in (gap, emi_of, cross_of))
    first = np.min(list(emi_of.values()), axis=0)
    light = gap[noise_name(NOISE[0])]
    for name, values in gap.items():
        shown = name in ("reference", *SHOWN)
        judged = [
            measure[name] <= measure["reference"] + TOLERANCE if shown else mine[name]
            for measure, mine in ((gap, right), (emi_of, emi_right), (cross_of, cross_right))
        ]
        if name == "reference":
            judged = [_first(measure) for measure in (gap, emi_of, cross_of)]
        shares = [float(np.mean(one)) for one in judged]
        yield MeaningRow(
            name,
            values.size,
            float(np.median(values)),
            float(values.min()),
            shares[0],
            float(np.mean(values > light + TOLERANCE)),
            float(np.median(-emi_of[name])),
            shares[1],
            float(np.mean(emi_of[name] <= first + TOLERANCE)),
            shares[2],
        )


def _half_row(kind: str, part: str, by_share: _Values) -> HalfRow:
    steps = np.diff([by_share[str(share)] for share in (0.0, *INFORMED, 1.0)], axis=0)
    right_N = np.all(steps < -TOLERANCE, axis=0)
    return HalfRow(part, kind, right_N.size, int(right_N.sum()))


def _growth_row(name: str, fresh: bool, growth_N: FloatArray, bound_N: FloatArray) -> GrowthRow:
    above_N = growth_N > SMALLEST
    ratio = bound_N[above_N] / growth_N[above_N]
    median, p90 = np.quantile(ratio, (0.5, 0.9)) if ratio.size else (np.nan, np.nan)
    over_N = growth_N - bound_N
    violations = int((over_N > TOLERANCE).sum())
    return GrowthRow(name, fresh, over_N.size, violations, float(over_N.max()), ratio.size, float(median), float(p90))


def _copying_row(found: _Values) -> CopyingRow:
    more_N = found["copies"] > 0.05
    shares = [float(np.mean(found[what][more_N] > TOLERANCE)) for what in ("gap", "emi")]
    return CopyingRow(int(more_N.sum()), shares[0], shares[1])


def violations(rows: Sequence[GrowthRow]) -> int:
    """Cases in which the bound fails where it is claimed."""
    return sum(row.violations for row in rows if not row.fresh)
