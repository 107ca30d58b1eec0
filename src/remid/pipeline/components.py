"""Information by component: what a response's likelihood loses when a part of its input is removed or another sample's.

Under the sample without its user, character or dialogue, or with a partner's in its place, each policy's own response
is scored once more. Prompts hold no trace, own and changed alike: a trace is written from the whole input and would
give the changed part away. The rule by which a component is called ignored is in docs/components.md, with its error
rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from remid.estimate import Influence, balanced_design, holm
from remid.estimate.components import Kept, kept_share, mean_drop, shapley
from remid.lm.chat import Message
from remid.pipeline.measure import Cell, Row, SubsetScores, cells, estimate_of, number, numbers, place
from remid.pipeline.plan import Group, Plan, Scored, clusters_of
from remid.pipeline.policies import REFERENCE, Texts
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.score import Unit, prompt_key, text_key
from remid.types import COMPONENTS, Estimate, FloatArray, IntArray, Sample

#: In Shapley's rows, all three replaced at once: what the three shares sum to.
WHOLE = "all"
#: A policy that keeps more than this of what the reference takes from a component does not ignore it. Where a part is
#: removed, who never saw it is at 0 or below, and who uses another part less as well is not (docs/components.md).
KEPT_MOST = {"replace": 0.5, "remove": 0.25}
#: Partners are drawn apart from negatives: `shuffled` speaks with the first negative's words, and a partner who is that
#: very sample would give it back what it belongs to.
_APART = 10_007

#: Which of COMPONENTS come from the partner, or are removed.
Swapped = frozenset[int]
#: What stands in their place: a partner of that component's own, Shapley's partner for all, or nothing.
By = Literal["single", "together", "nobody"]
_OWN: Swapped = frozenset()
_SINGLE = tuple(frozenset({c}) for c in range(3))
_EVERY = tuple(frozenset(s) for size in (1, 2, 3) for s in combinations(range(3), size))


@dataclass(frozen=True, slots=True)
class Swaps:
    """One subset's samples and who stands in for whom. own: each sample's own prompt. mode: as the run asks.

    partner: by what is swapped, (n, m), -1 where nobody has another text. Shapley's eight prompts need one partner for
    all, who differs in all three: under `together`. Where parts are removed nobody stands in, and both are unused.
    """

    group: Group
    own: tuple[tuple[Message, ...], ...]
    partner: dict[int, IntArray]
    together_Bm: IntArray
    mode: str

    def prompts(self, swapped: Swapped, by: By) -> list[list[tuple[Message, ...] | None]]:
        """(n, m) prompts with these components changed, None where there is no partner or nothing to remove."""
        samples = self.group.samples
        if by == "nobody":
            return [[_removed(sample, swapped)] for sample in samples]
        partner_Bm = self.together_Bm if by == "together" else self.partner[next(iter(swapped))]
        return [
            [None if j < 0 else _swapped(sample, samples[j], swapped) for j in row]
            for sample, row in zip(samples, partner_Bm.tolist(), strict=True)
        ]

    def asked(self) -> Iterator[tuple[Swapped, By]]:
        """What has to be scored besides the own prompts: the components changed, and by whom."""
        by: By = "nobody" if self.mode == "remove" else "single"
        yield from ((one, by) for one in _SINGLE)
        if self.mode == "shapley":
            yield from ((one, "together") for one in _EVERY)


def swaps_of(plan: Plan) -> list[Swaps]:
    """The subsets' swaps; none where the run does not ask for components."""
    config = plan.config
    if config.components == "none":
        return []
    made = []
    for g in plan.groups:
        clusters = clusters_of(g.samples, config.cluster_by)
        single, together_Bm = draw_partners(g.samples, config.component_partners, config.seed, clusters)
        own = tuple(tuple(role_play_messages(sample)) for sample in g.samples)
        made.append(Swaps(g, own, single, together_Bm, config.components))
    return made


def draw_partners(
    samples: Sequence[Sample], m: int, seed: int, clusters: Sequence[str] | None = None
) -> tuple[dict[int, IntArray], IntArray]:
    """Partners of every component, (n, m) each, and partners who differ in all three; -1 where there is none.

    All come from one balanced design in which mates (samples of a cluster, otherwise of a character) are not paired,
    so that most partners are shared. One whose text is the sample's own replaces nothing: the least used of those with
    another text takes that place.
    """
    mates = clusters if clusters is not None else [sample.character for sample in samples]
    design_Bm = balanced_design(len(samples), m, seed + _APART, mates).negatives_Bm
    differs_3BB = []
    for component in COMPONENTS:
        number: dict[Any, int] = {}
        label_B = np.array([number.setdefault(getattr(sample, component), len(number)) for sample in samples])
        differs_3BB.append(label_B[:, None] != label_B)
    single = {c: _mended(design_Bm, differs_BB, seed) for c, differs_BB in enumerate(differs_3BB)}
    return single, _mended(design_Bm, np.logical_and.reduce(differs_3BB), seed)


def component_units(plan: Plan) -> list[Unit]:
    """What has to be scored for components: every policy's own response under the own and the changed prompts."""
    units = []
    for swaps in swaps_of(plan):
        answers = swaps.group.answers.values()
        said = [tuple(dict.fromkeys(t for texts in answers if (t := texts[i]))) for i in range(len(swaps.own))]
        prompts = [[messages] for messages in swaps.own]
        for swapped, by in swaps.asked():
            for row, more in zip(prompts, swaps.prompts(swapped, by), strict=True):
                row += [messages for messages in more if messages is not None]
        units += [
            Unit(prompt_key(messages), messages, texts)
            for row, texts in zip(prompts, said, strict=True)
            for messages in row
            if texts
        ]
    return units


def component_rows(plan: Plan, subsets: Sequence[SubsetScores], scored: Scored) -> list[Row]:
    """Rows of `components` (docs/result.md): every policy, per subset and pooled per shift."""
    made = swaps_of(plan)
    if not made:
        return []
    confidence = plan.config.confidence
    looked = [Looked(swaps, scored) for swaps in made]
    rows = []
    for policy in subsets[0].scores:
        for quantity, names in _quantities(plan.config.components):
            found = [
                list(
                    zip(
                        cells(subsets, _influences(looked, policy, quantity, name, REFERENCE)),
                        cells(subsets, _influences(looked, REFERENCE, quantity, name, policy)),
                        cells(subsets, _influences(looked, policy, quantity, name, REFERENCE, minus=True)),
                        strict=True,
                    )
                )
                for name in names
            ]
            for of_cell in zip(*found, strict=True):  # the components of one subset or shift
                rows += cell_rows(policy, quantity, names, of_cell, looked, confidence)
    return rows


def _quantities(mode: str) -> list[tuple[str, tuple[str, ...]]]:
    if mode == "shapley":
        return [("replace", COMPONENTS), ("shapley", (*COMPONENTS, WHOLE))]
    return [(mode, COMPONENTS)]


def cell_rows(
    policy: str,
    quantity: str,
    names: Sequence[str],
    of_cell: Sequence[tuple[Cell, Cell, Cell]],
    looked: Sequence[Looked],
    confidence: float,
) -> list[Row]:
    """The rows of one policy in one cell, a family of its own for the verdict (docs/components.md, "The rule").

    names: components. of_cell: of each the policy's drops, the reference's, and their difference. looked: the subsets,
    for counting what cannot be replaced.
    """
    rows, tests = [], []
    for name, (cell, base, apart) in zip(names, of_cell, strict=True):
        over, theirs = estimate_of(apart, confidence), estimate_of(base, confidence)
        kept = kept_share(
            cell.influence, base.influence, apart.influence, confidence=confidence, clusters=cell.clusters
        )
        told = policy != REFERENCE and quantity != "shapley" and _above(theirs) < 1 - confidence
        tests.append(_below(over) if told else np.nan)
        rows.append(
            {
                **place(policy, cell.subset, cell.shift),
                "component": name,
                "quantity": quantity,
                **numbers(estimate_of(cell, confidence)),
                "n_alike": sum(one.alike(quantity, name) for one in looked if one.within(cell)),
                "over_reference": None if policy == REFERENCE else _over(over),
                "kept": None if policy == REFERENCE else _kept(kept),
            }
        )
    # A part of which nothing can be told stays in the family. Left out, the reference's luck would choose the family:
    # where it lies too high a policy lies too far below it, and there would be fewer parts to correct for.
    for row, test, adjusted in zip(rows, tests, holm([1.0 if np.isnan(p) else p for p in tests]), strict=True):
        tested = bool(np.isfinite(test))
        known = tested and row["kept"]["value"] is not None
        row["p_adjusted"] = number(float(adjusted)) if tested else None
        little = known and row["kept"]["value"] < KEPT_MOST[quantity]
        row["ignored"] = bool(little and adjusted < 1 - confidence) if known else None
    return rows


def _below(over: Estimate) -> float:
    """One-sided p-value: a policy that takes at least as much as the reference would lie this far below it."""
    return _above(replace(over, value=-over.value))


def _above(made: Estimate) -> float:
    """One-sided p-value: what is truly at most 0 would lie this far above it."""
    if np.isnan(made.p_value):  # no spread: the same everywhere, or too few to tell
        return 1.0 if made.value <= 0 else float("nan")
    return made.p_value / 2 if made.value > 0 else 1 - made.p_value / 2


def _over(made: Estimate) -> Row:
    return {key: numbers(made)[key] for key in ("value", "ci_low", "ci_high", "p_value", "n")}


def _kept(kept: Kept) -> Row:
    return {key: number(getattr(kept, key)) for key in ("value", "ci_low", "ci_high")}


class Looked:
    """Drops of every policy in one subset, from the store."""

    def __init__(self, swaps: Swaps, scored: Scored) -> None:
        self.swaps, self._scored = swaps, scored
        self._own = [prompt_key(messages) for messages in swaps.own]
        self._keys = {
            (swapped, by): [
                [None if messages is None else prompt_key(messages) for messages in row]
                for row in swaps.prompts(swapped, by)
            ]
            for swapped, by in swaps.asked()
        }
        self._drops: dict[tuple[str, str], list[FloatArray]] = {}

    def within(self, cell: Cell) -> bool:
        """Whether the cell is this subset, or a shift that it belongs to."""
        group = self.swaps.group
        return cell.subset == group.subset if cell.subset is not None else cell.shift == group.shift

    def alike(self, quantity: str, name: str) -> int:
        """Samples for which nobody in the subset has another text, or whose own is empty: nothing can be changed."""
        if quantity == "remove":
            return sum(key is None for (key,) in self._keys[_SINGLE[COMPONENTS.index(name)], "nobody"])
        partner_Bm = self.partner(quantity, name)
        return int(np.sum((partner_Bm < 0).all(axis=1))) if partner_Bm is not None else 0

    def partner(self, quantity: str, name: str) -> IntArray | None:
        """(n, m) partners behind a quantity, -1 for none; None where nobody stands in."""
        if quantity == "remove":
            return None
        return self.swaps.together_Bm if quantity == "shapley" else self.swaps.partner[COMPONENTS.index(name)]

    def drop(self, policy: str, quantity: str, name: str) -> FloatArray:
        """(n, m) drops, nats per response; NaN where there is no partner, no response, or no score."""
        if (policy, quantity) not in self._drops:
            self._drops[policy, quantity] = self._made(self.swaps.group.answers[policy], quantity)
        return self._drops[policy, quantity][(*COMPONENTS, WHOLE).index(name)]

    def _made(self, texts: Texts, quantity: str) -> list[FloatArray]:
        own_B = np.array([self._logp(key, text) for key, text in zip(self._own, texts, strict=True)])
        if quantity != "shapley":
            by: By = "nobody" if quantity == "remove" else "single"
            return [own_B[:, None] - self._swapped(texts, one, by) for one in _SINGLE]
        under = {one: self._swapped(texts, one, "together") for one in _EVERY}
        under[_OWN] = np.broadcast_to(own_B[:, None], under[_EVERY[0]].shape)
        # Players are in the coalition where their component is the sample's own.
        value = {frozenset(range(3)) - one: logp_Bm for one, logp_Bm in under.items()}
        shares_Bm3 = shapley(value)
        return [*np.moveaxis(shares_Bm3, -1, 0), shares_Bm3.sum(axis=-1)]

    def _swapped(self, texts: Texts, swapped: Swapped, by: By) -> FloatArray:
        keys = self._keys[swapped, by]
        rows = [[self._logp(key, text) for key in row] for row, text in zip(keys, texts, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(texts), -1)

    def _logp(self, key: str | None, text: str | None) -> float:
        logp = None if key is None or not text else self._scored[key, text_key(text)][1]
        return float("nan") if logp is None else logp


def _influences(
    looked: Sequence[Looked], policy: str, quantity: str, name: str, other: str, *, minus: bool = False
) -> Callable[[SubsetScores], Influence]:
    """One quantity of a policy by subset, where another policy has it too; minus: less the other's, same partners.

    On the same pairs, since a share of two means (`kept_share`) compares unlike subsets where answers are missing
    unevenly.
    """
    by_subset = {one.swaps.group.subset: one for one in looked}

    def influence(s: SubsetScores) -> Influence:
        one = by_subset[s.subset]
        drop_Bm, other_Bm = (one.drop(who, quantity, name) for who in (policy, other))
        common_Bm = drop_Bm - other_Bm if minus else np.where(np.isfinite(other_Bm), drop_Bm, np.nan)
        return mean_drop(common_Bm, one.partner(quantity, name))

    return influence


def _swapped(sample: Sample, other: Sample, swapped: Swapped) -> tuple[Message, ...]:
    parts: Mapping[str, Any] = {COMPONENTS[c]: getattr(other, COMPONENTS[c]) for c in swapped}
    return tuple(role_play_messages(replace(sample, **parts)))


def _removed(sample: Sample, removed: Swapped) -> tuple[Message, ...] | None:
    """The prompt without these components; None where one of them is empty as it is."""
    names = [COMPONENTS[c] for c in removed]
    blank = {"user": not sample.user.strip(), "character": not sample.character.strip(), "dialogue": False}
    return None if any(blank[name] for name in names) else tuple(role_play_messages(sample, without=names))


def _mended(design_Bm: IntArray, differs_BB: np.ndarray[Any, np.dtype[np.bool_]], seed: int) -> IntArray:
    """The design with every partner that does not differ exchanged for one who does, -1 where there is none left."""
    n = design_Bm.shape[0]
    partner_Bm = design_Bm.copy()
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    tie_B = rng.permutation(n)
    bad = [(i, k) for i, row in enumerate(design_Bm) for k, j in enumerate(row) if not differs_BB[i, j]]
    for i, k in bad:
        partner_Bm[i, k] = -1
    for i, k in bad:
        free_B = differs_BB[i].copy()
        free_B[partner_Bm[i][partner_Bm[i] >= 0]] = False
        if free_B.any():
            used_B = np.bincount(partner_Bm[partner_Bm >= 0], minlength=n)
            partner_Bm[i, k] = min(np.flatnonzero(free_B), key=lambda j, u=used_B: (u[j], tie_B[j]))  # type: ignore[misc]
    return partner_Bm
