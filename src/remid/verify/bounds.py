"""Do the bounds hold, and how tight are they? Random worlds, a search that tries to break them, and explicit cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from remid.data.worlds.discrete import DiscreteWorld, random_worlds
from remid.estimate.exact import emid, jensen_shannon
from remid.estimate.exact_bounds import ANY, PROVEN, exact_bounds, paper_form
from remid.types import FloatArray

PAPER = "paper"
#: Rounding of float64 over sums of a few dozen terms; a bound is violated where EMID exceeds it by more.
TOLERANCE = 1e-9
#: EMIDs below this are left out of ratios: they say how a bound does where there is nothing to bound.
SMALLEST = 1e-3
_SHAPES = [(u, a, d) for u, a, d in product((1, 2, 3), repeat=3) if 2 <= u * a * d <= 8]


@dataclass(frozen=True, slots=True)
class BoundRow:
    """One bound over a family of worlds. ratio_*: bound / EMID where EMID > 0.001 nats (n_ratio worlds)."""

    bound: str
    family: str
    n: int
    violations: int
    worst: float
    n_ratio: int
    ratio_median: float
    ratio_p90: float


#: |X| for which `tightness_by_inputs` says how the bounds do: the more inputs, the smaller random EMIDs are.
INPUTS = (2, 4, 8, 20, 60)


def tightness_by_inputs(n: int, seed: int) -> list[BoundRow]:
    """Every bound on n random worlds with 4 responses for each number of inputs in INPUTS, both kinds of reference."""
    rows = []
    for inputs, shared in product(INPUTS, (True, False)):
        world = random_worlds(n, (inputs, 1, 1, 4), seed + inputs, shared_reference=shared)
        truth, bounds = emid(*world.flat()), all_bounds(world)
        family = f"{inputs} inputs, {'shared reference' if shared else 'reference changes'}"
        rows += [_row(name, family, truth, bounds[name]) for name in ("least", "least without cross", PAPER)]
    return rows


def world_batches(n: int, seed: int, *, shared: bool) -> Iterator[DiscreteWorld]:
    """At least n random worlds in batches: 2 to 8 inputs in all splits over components, 2 to 6 responses."""
    shapes = [(*inputs, y) for inputs in _SHAPES for y in range(2, 7)]
    each = -(-n // len(shapes))
    seeds = np.random.SeedSequence(seed).generate_state(len(shapes))
    for shape, shape_seed in zip(shapes, seeds, strict=True):
        yield random_worlds(each, shape, int(shape_seed), shared_reference=shared)


def all_bounds(world: DiscreteWorld) -> dict[str, FloatArray]:
    """Every proven bound, and the paper's form under the name PAPER."""
    paper = paper_form(world.p_UAD, world.q_UAD, world.policy_UADY, world.reference_p_UADY, world.reference_q_UADY)
    return {**exact_bounds(*world.flat()), PAPER: paper}


def random_search(n: int, seed: int, *, shared: bool) -> list[BoundRow]:
    """Every bound on at least n random worlds of one family."""
    truths, bounds = [], []
    for world in world_batches(n, seed, shared=shared):
        truths.append(emid(*world.flat()))
        bounds.append(all_bounds(world))
    truth = np.concatenate(truths)
    family = "shared reference channel" if shared else "reference channel changes"
    rows = []
    for name in bounds[0]:
        value = np.concatenate([part[name] for part in bounds])
        if np.isfinite(value).any():
            rows.append(_row(name, family, truth, value))
    return rows


def _row(name: str, family: str, truth: FloatArray, value: FloatArray) -> BoundRow:
    excess = truth - value
    ratio = (value / np.where(truth > 0, truth, np.nan))[truth > SMALLEST]
    return BoundRow(
        bound=name,
        family=family,
        n=truth.size,
        violations=int((excess > TOLERANCE).sum()),
        worst=float(excess.max()),
        n_ratio=ratio.size,
        ratio_median=float(np.median(ratio)),
        ratio_p90=float(np.quantile(ratio, 0.9)),
    )


@dataclass(frozen=True, slots=True)
class AttackRow:
    """The search against one bound: how many worlds it tried, and by how much EMID came to exceed the bound at best.

    worst: largest EMID - bound found, nats; violated if above TOLERANCE. tightest: largest EMID / bound where EMID is
    at least 0.01 nats: near 1, the search found worlds in which the bound cannot be improved.
    """

    bound: str
    shared: bool
    n: int
    worst: float
    tightest: float
    violated: bool


def attack(
    bounds: Sequence[str], *, chains: int, steps: int, seed: int, shared: bool, shapes: Sequence[tuple[int, int]]
) -> list[AttackRow]:
    """Evolution strategy towards violation: per bound and shape (inputs, responses), `chains` climbers in parallel.

    Each climber mutates the logits of all laws and channels of its world, keeps what raises (EMID - bound) / (EMID +
    0.01), and adapts its step size by the one-fifth rule. Logits reach +-30, so laws with (nearly) empty cells, where
    proofs break, are within reach; a third of the climbers start there.
    """
    rows = []
    for index, name in enumerate(bounds):
        worst, tightest, tried = -np.inf, -np.inf, 0
        for inputs, outputs in shapes:
            rng = np.random.default_rng(np.random.SeedSequence([seed, index, inputs, outputs, int(shared)]))
            excess, ratio = _climb(name, chains, steps, inputs, outputs, rng, shared=shared)
            worst, tightest, tried = max(worst, excess), max(tightest, ratio), tried + chains * (steps + 1)
        rows.append(AttackRow(name, shared, tried, worst, tightest, worst > TOLERANCE))
    return rows


def _climb(
    name: str, chains: int, steps: int, inputs: int, outputs: int, rng: np.random.Generator, *, shared: bool
) -> tuple[float, float]:
    """(largest EMID - bound, largest EMID / bound) over all worlds that were visited."""
    sizes = [inputs, inputs] + [inputs * outputs] * (2 if shared else 3)
    scale = np.where(np.arange(chains) % 3 == 0, 8.0, 2.0)[:, None]
    logits = rng.standard_normal((chains, sum(sizes))) * scale
    step_size = np.full(chains, 1.0)

    def evaluate(logits: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        arrays = _laws(logits, sizes, inputs, outputs)
        truth, bound = emid(*arrays), exact_bounds(*arrays)[name]
        return truth, bound, (truth - bound) / (np.maximum(truth, 0.0) + 0.01)

    truth, bound, fitness = evaluate(logits)
    worst, tightest = _extremes(truth, bound)
    for _ in range(steps):
        # Few coordinates at a time: a full mutation of 60 logits rarely improves anything.
        chosen = rng.uniform(size=logits.shape) < 3.0 / logits.shape[1]
        moved = np.clip(logits + chosen * rng.standard_normal(logits.shape) * step_size[:, None], -30.0, 30.0)
        truth, bound, new_fitness = evaluate(moved)
        excess, ratio = _extremes(truth, bound)
        worst, tightest = max(worst, excess), max(tightest, ratio)
        better = new_fitness > fitness
        logits = np.where(better[:, None], moved, logits)
        fitness = np.where(better, new_fitness, fitness)
        step_size = np.clip(step_size * np.where(better, 1.5, 1.5**-0.25), 0.01, 10.0)
    return worst, tightest


def _laws(logits: FloatArray, sizes: list[int], inputs: int, outputs: int) -> tuple[FloatArray, ...]:
    parts = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
    laws = [_softmax(part) for part in parts[:2]]
    channels = [_softmax(part.reshape(-1, inputs, outputs)) for part in parts[2:]]
    policy, reference = channels[0], channels[1]
    return laws[0], laws[1], policy, reference, channels[-1]


def _softmax(logits: FloatArray) -> FloatArray:
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def _extremes(truth: FloatArray, bound: FloatArray) -> tuple[float, float]:
    large = truth > 0.01
    ratio = float((truth[large] / np.maximum(bound[large], 1e-12)).max()) if large.any() else -np.inf
    return float((truth - bound).max()), ratio


def attack_all(*, chains: int, steps: int, seed: int) -> list[AttackRow]:
    """The search against every proven bound, with a shared reference and (where the bound claims it) without."""
    shapes = ((2, 2), (3, 3), (4, 2), (4, 5))
    rows = attack(PROVEN, chains=chains, steps=steps, seed=seed, shared=True, shapes=shapes)
    return rows + attack((*ANY, "T9'"), chains=chains, steps=steps, seed=seed, shared=False, shapes=shapes)


@dataclass(frozen=True, slots=True)
class Case:
    """A world in which the paper's form fails. within_assumption: no conditional shifts, as Theorem 3.4 asks."""

    name: str
    emid: float
    paper: float
    within_assumption: bool

    @property
    def violated(self) -> bool:
        """Whether EMID exceeds the paper's form."""
        return self.emid > self.paper + TOLERANCE


def large_alphabet_case(n: int) -> Case:
    """X = 0 under P, uniform on n values under Q; Y = X; Y_theta always 0; user, character, dialogue copies of X.

    EMID = ln n. H = 0, so the input term is 0; Delta = JS(point, uniform) < ln 2, so the paper's form stays below
    8 (ln 2)^(1/4) = 7.2996 for every n: violated from n = 1,480 by that, from 1,469 by the exact Delta.
    In closed form: grouping the n - 1 symbols that only one law has leaves JS as it is, since the ratio of the laws is
    the same on all of them.
    """
    delta = float(jensen_shannon(np.array([1.0, 0.0]), np.array([1 / n, 1 - 1 / n])))
    return Case(f"alphabet of {n}", float(np.log(n)), 8 * delta**0.25, within_assumption=True)


def latin_world() -> DiscreteWorld:
    """u, a, d in 0..2 with d = u + a (mod 3): u = a uniform under P, u and a independent and uniform under Q.

    Each component is a function of the other two, by the same rule under both laws: no conditional p(z | rest) shifts.
    The policy says u where u = a and anything elsewhere, the reference always anything. EMID = (2/3) ln 3.
    """
    p_UAD, q_UAD = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    anything = np.full((3, 3, 3, 3), 1 / 3)
    policy = anything.copy()
    for u, a in product(range(3), repeat=2):
        q_UAD[u, a, (u + a) % 3] = 1 / 9
        if u == a:
            p_UAD[u, a, (u + a) % 3] = 1 / 3
            policy[u, a, :] = np.eye(3)[u]
    return DiscreteWorld(p_UAD, q_UAD, policy, anything, anything)


def latin_case() -> Case:
    """The paper's form on `latin_world`: every marginal and every output law is uniform, so it is 0."""
    world = latin_world()
    return Case("Latin square", float(emid(*world.flat())), float(all_bounds(world)[PAPER]), within_assumption=True)


def pairing_world() -> DiscreteWorld:
    """User and character are binary and uniform, equal under P, independent under Q. The policy says u where u = a and
    tosses a coin elsewhere; the reference always tosses a coin. No marginal of any kind shifts, yet EMID = (ln 2) / 2.
    """
    p_UAD = np.array([[0.5, 0.0], [0.0, 0.5]])[..., None]
    q_UAD = np.full((2, 2, 1), 0.25)
    policy = np.full((2, 2, 1, 2), 0.5)
    policy[0, 0, 0], policy[1, 1, 0] = (1.0, 0.0), (0.0, 1.0)
    coin = np.full((2, 2, 1, 2), 0.5)
    return DiscreteWorld(p_UAD, q_UAD, policy, coin, coin)


def pairing_case() -> Case:
    """The paper's form on `pairing_world`: it is 0, since it sees marginals only. Outside the theorem's assumption."""
    world = pairing_world()
    return Case("pairing shift", float(emid(*world.flat())), float(all_bounds(world)[PAPER]), within_assumption=False)


def witnesses() -> tuple[DiscreteWorld, DiscreteWorld]:
    """Two worlds in which every proven bound has the same ingredients and value, and EMID differs.

    So no bound on the list, and no combination of them, is EMID in disguise. Inputs 0 and 1 occur under P only, 2 under
    both, 3 under Q only. At inputs 0 and 1 the reference moves mass d between responses 2 and 3, up at one and down at
    the other. There the policy gives both responses equal mass at both inputs, and less than the reference. So output
    laws, model-reference distances, tilted laws, residual channels and cross-information stay, while I(P, W) does not.
    """
    p_X, q_X = np.array([0.3, 0.3, 0.4, 0.0]), np.array([0.0, 0.0, 0.4, 0.6])
    policy = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]])
    made = []
    for d in (0.0, 0.19):
        reference = np.array(
            [[0.3, 0.1, 0.3 + d, 0.3 - d], [0.1, 0.3, 0.3 - d, 0.3 + d], [0.2, 0.4, 0.2, 0.2], [0.5, 0.2, 0.2, 0.1]]
        )
        shaped = [channel.reshape(4, 1, 1, 4) for channel in (policy, reference, reference)]
        made.append(DiscreteWorld(p_X.reshape(4, 1, 1), q_X.reshape(4, 1, 1), *shaped))
    return made[0], made[1]
