"""Scoring in rounds until every R-EMID has the wished standard error (docs/stopping.md).

Each round is a plan of its own: fewer samples, fewer negatives, the same prompts and texts. What comes next follows
from stored scores, the configuration and the seed alone, so a run that was killed walks the same rounds again, finds
them in the store, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remid.data.text import shown
from remid.errors import ConfigError
from remid.estimate import Influence, estimate, remi, remid
from remid.estimate.planning import Components, Cost, components
from remid.estimate.sequential import (
    Answer,
    Ask,
    Extent,
    NestedDesign,
    Room,
    at_full_shares,
    nested_design,
    next_extents,
)  # fmt: skip
from remid.pipeline.measure import SubsetScores, number
from remid.pipeline.plan import Group, Plan, clusters_of
from remid.pipeline.policies import CONTROLS, REFERENCE, subset_texts
from remid.pipeline.progress import Progress
from remid.pipeline.score import text_key
from remid.pipeline.store import Store
from remid.types import ID

#: Fewest negatives that let a round tell the noise of its negatives from the spread between items.
_NEGATIVES_LEAST = 3


@dataclass(frozen=True, slots=True)
class Rounds:
    """What rounds came to. plan: with the groups that were scored; every pair of it is in the store.

    first: the groups of the first round (its degrees of freedom widen the intervals). whole: samples of each subset in
    the data, by which pooled numbers weigh subsets. stopping: the block of result.json (docs/stopping.md).
    """

    plan: Plan
    first: tuple[Group, ...]
    whole: tuple[int, ...]
    stopping: dict[str, Any]


def score_in_rounds(plan: Plan, wish: float, store: Store, score: Callable[[Plan], None], progress: Progress) -> Rounds:
    """Score round by round until every ask is met or cannot be.

    plan: of all samples; its own design is not used. wish: standard error of R-EMID, nats per response. score: puts all
    pairs of a plan into the store; those that are there cost nothing. With a `score` that does nothing this replays
    the rounds of a finished run. Raises ConfigError for a wish that is not positive or fewer than 3 negatives, and
    what `score` raises.
    """
    if not 0 < wish < float("inf"):
        raise ConfigError(f"until_se: a wished standard error must be a positive number of nats, got {wish:g}")
    if plan.config.negatives < _NEGATIVES_LEAST:
        raise ConfigError(
            f"until_se: needs negatives of at least {_NEGATIVES_LEAST}, or noise cannot be told from spread"
        )
    designs = [_design(g, plan) for g in plan.groups]
    asks = _asks(plan)
    whole = tuple(len(g.samples) for g in plan.groups)
    extents = [Extent(1, min(plan.config.negatives, design.most)) for design in designs]
    first: tuple[Group, ...] = ()
    look = 1
    while True:
        here = replace(plan, groups=tuple(map(_part, plan.groups, designs, extents)))
        first = first or here.groups
        score(here)
        subsets = here.subsets(store)
        stderr_A = [_stderr(ask, subsets, whole) for ask in asks]
        rooms = [
            Room(design.sizes, design.most, _cost(group, here.scorer_id, store, plan.traces.draws), float(n))
            for design, group, n in zip(designs, here.groups, whole, strict=True)
        ]
        parts = [_components(s, {ask.policy for ask in asks}) for s in subsets]
        reached = extents
        extents, answers = next_extents(reached, rooms, asks, stderr_A, parts, wish=wish, look=look)
        _tell(look, here, asks, answers, wish, progress, ends=extents == reached)
        if extents == reached:
            return Rounds(here, first, whole, _stopping(here, whole, asks, answers, wish, look))
        look += 1


def _design(group: Group, plan: Plan) -> NestedDesign:
    clusters = clusters_of(group.samples, plan.config.cluster_by)
    return nested_design(len(group.samples), plan.config.negatives, plan.config.seed, clusters)


def _part(group: Group, design: NestedDesign, extent: Extent) -> Group:
    """The samples that a round scores, in file order, with their own design and the answers that follow from it."""
    items_U, pairs = design.prefix(extent.blocks, extent.m)
    samples = tuple(group.samples[i] for i in items_U)
    policies = [name for name in group.answers if name not in CONTROLS]
    prompts = tuple(group.prompts[i] for i in items_U)
    answers = subset_texts(samples, policies, pairs)
    return replace(group, samples=samples, design=pairs, prompts=prompts, answers=answers)


def _asks(plan: Plan) -> list[Ask]:
    """R-EMID of every policy under every shift, subsets pooled; R-EMI where there is no ID or no shift.

    Controls are not asked about (the parrot's spread alone would eat the budget), unless there is nothing else.
    """
    shifts = dict.fromkeys(g.shift for g in plan.groups)
    members = {shift: tuple(k for k, g in enumerate(plan.groups) if g.shift == shift) for shift in shifts}
    names = [name for name in plan.groups[0].answers if name != REFERENCE]
    policies = [name for name in names if name not in CONTROLS] or names
    if ID not in members or len(members) == 1:
        return [Ask(policy, members[shift]) for policy in policies for shift in shifts]
    return [Ask(policy, members[ID], members[shift]) for policy in policies for shift in shifts if shift != ID]


def _stderr(ask: Ask, subsets: Sequence[SubsetScores], whole: Sequence[int]) -> float:
    sides = [_side(numbers, ask.policy, subsets, whole) for numbers in (ask.plus, ask.minus) if numbers]
    if len(sides) == 1:
        ((influence, labels),) = sides
        return estimate(influence, clusters=labels).stderr
    (at_id, labels_id), (at_shift, labels_shift) = sides
    return remid(at_id, at_shift, clusters_id=labels_id, clusters_ood=labels_shift).stderr


def _side(
    numbers: Sequence[int], policy: str, subsets: Sequence[SubsetScores], whole: Sequence[int]
) -> tuple[Influence, tuple[str, ...] | None]:
    chosen = [subsets[k] for k in numbers]
    influence = at_full_shares(
        [remi(s.scores[policy], s.scores[REFERENCE]) for s in chosen], [whole[k] for k in numbers]
    )
    if chosen[0].clusters is None:
        return influence, None
    return influence, tuple(label for s in chosen for label in s.clusters or ())


def _components(subset: SubsetScores, policies: set[str]) -> dict[str, Components]:
    made = {}
    for policy in sorted(policies):
        try:
            made[policy] = components(subset.scores[policy], subset.scores[REFERENCE], clusters=subset.clusters)
        except ValueError:
            continue  # fewer than three answers, or no spread: it adds nothing to a forecast
    return made


def _cost(group: Group, scorer_id: str, store: Store, draws: int) -> Cost:
    """Mean tokens of the prompts and responses in this round. `shuffled` and `generic` add next to nothing.

    draws: traces of a sample, under each of which a response is scored; its prompts share all but the trace."""
    prompts, scored = store.prompts(scorer_id), store.scored(scorer_id)
    keys = [key for key in group.keys if key is not None]
    texts = [text for answers in group.answers.values() for text in answers if text is not None]
    prompt_tokens = [prompts[key].n_tokens for key in keys if key in prompts]
    lengths = {response: tokens for (_, response), (tokens, _, _) in scored.items()}
    response_tokens = [lengths.get(text_key(text), 0) for text in texts]
    answerers = max(len(group.answers) - 2, 1)
    return Cost(_mean(prompt_tokens), max(draws * _mean(response_tokens), 1.0), answerers)


def _mean(values: Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0


def _tell(
    look: int,
    plan: Plan,
    asks: Sequence[Ask],
    answers: Sequence[Answer],
    wish: float,
    progress: Progress,
    *,
    ends: bool,
) -> None:
    """One line a round, and one for every ask that is given up."""
    n = sum(len(g.samples) for g in plan.groups)
    met = sum(answer.verdict == "met" for answer in answers)
    widest = max((answer.stderr for answer in answers if np.isfinite(answer.stderr)), default=float("nan"))
    end = "; done" if ends else ""
    progress.say(
        f"round {look}: {n} samples; {met} of {len(asks)} standard errors at most {wish:g}, widest {widest:.2g}{end}"
    )
    for ask, answer in zip(asks, answers, strict=True):
        if ends and answer.verdict == "not measurable":
            progress.say(f"  {shown(ask.policy)}: no standard error; too few of its samples could be scored")
        elif ends and answer.verdict != "met":
            where = plan.groups[(ask.minus or ask.plus)[0]].shift
            reason = f"about {answer.best:.2g} with all samples and negatives"
            if answer.needed > 1:
                reason += f", so {answer.needed:.1f} times as many samples would be needed"
            progress.say(f"  {shown(ask.policy)}, {shown(where)}: {answer.verdict}; {answer.stderr:.2g}, {reason}")


def _stopping(
    plan: Plan, whole: Sequence[int], asks: Sequence[Ask], answers: Sequence[Answer], wish: float, looks: int
) -> dict[str, Any]:
    """What result.json says about the rounds."""
    rows = []
    for ask, answer in zip(asks, answers, strict=True):
        sides = [side for side in (ask.plus, ask.minus) if side]
        n_all = [sum(whole[k] for k in side) for side in sides]
        enough = answer.verdict == "met" or not np.isfinite(answer.needed)
        rows.append(
            {
                "policy": ask.policy,
                "quantity": "remid" if ask.minus else "remi",
                "shift": plan.groups[sides[-1][0]].shift,
                "verdict": answer.verdict,
                "stderr": number(answer.stderr),
                "stderr_all": number(answer.best),
                "n": [sum(len(plan.groups[k].samples) for k in side) for side in sides],
                "n_all": n_all,
                "n_needed": None if enough else [int(np.ceil(n * answer.needed)) for n in n_all],
            }
        )
    subsets = [
        {"subset": g.subset, "n": len(g.samples), "n_all": n, "negatives": int(g.design.negatives_Bm.shape[1])}
        for g, n in zip(plan.groups, whole, strict=True)
    ]
    return {"until_se": wish, "looks": looks, "unit": "nats/response", "asks": rows, "subsets": subsets}
