"""In which order prompts and continuations run, so that what they share runs once. Plain arithmetic, no model.

Prompts are put in an order in which neighbours share as long a beginning as possible; a prompt then costs only what
differs from the one before (the task, the same character's profile, a dialogue's earlier turns). What runs together is
a *pass*: rows of token ids of about one size, cut into *blocks* that attend together. At any time there is one *path*,
the prompt that is being run or answered; a prompt block makes it longer, a leaf block holds continuations that hang on
its end, each seeing the path and itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from remid.lm.work import Work

#: Continuations' keys start at multiples of this, so that a sum over them adds in the same order wherever they stand.
ALIGN = 16
#: Prompts that share fewer tokens than this are not neighbours for it (every prompt shares the task's text).
_SHARED_LEAST = 64
#: Blocks of continuations are so many times longer than those of prompts, of which more is masked.
_LEAVES = 2


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """Rows start:stop of a pass, positions base, base+1, ... of the path; each sees the path up to itself."""

    start: int
    stop: int
    base: int


@dataclass(frozen=True, slots=True)
class LeafBlock:
    """Rows start:stop of a pass, in continuations of a path of `path` tokens; each sees the path and its own past.

    first: row where the first of these continuations begins (before start where a long one takes several blocks).
    leaves: rows at which continuations begin. columns: place of each of the rows first:stop among the block's own keys.
    """

    start: int
    stop: int
    path: int
    first: int
    leaves: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(slots=True)
class Pass:
    """What runs through the model at once: ids and positions, row by row, and how the rows attend.

    works: whose rows they are, in order. ends: (row, work) of each prompt's last token. answers: (first row, work,
    continuation) of each continuation; its rows are all of its tokens but the last, which nothing is read after.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    blocks: list[PromptBlock | LeafBlock] = field(default_factory=list)
    works: list[int] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    answers: list[tuple[int, int, int]] = field(default_factory=list)


def arrange(work: Sequence[Work]) -> list[tuple[int, int]]:
    """(index, tokens kept of the prompt before) in the order to run.

    Families of prompts with a common beginning stay together; the family with the longest prompt comes first, so that
    memory runs out at once or never.
    """
    by_text = sorted(range(len(work)), key=lambda i: work[i].prompt)
    families: list[list[int]] = []
    for place, index in enumerate(by_text):
        if place and shared(work[by_text[place - 1]].prompt, work[index].prompt) >= _SHARED_LEAST:
            families[-1].append(index)
        else:
            families.append([index])
    families.sort(key=lambda family: (-max(len(work[i].prompt) for i in family), work[family[0]].prompt))
    order = [index for family in families for index in family]
    before: tuple[int, ...] = ()
    arranged = []
    for index in order:
        prompt = work[index].prompt
        # The last token always runs: what follows it is read off its row.
        arranged.append((index, min(shared(before, prompt), len(prompt) - 1)))
        before = prompt
    return arranged


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # tuples compare at C speed, so halving beats walking
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def passes(work: Sequence[Work], arranged: Iterable[tuple[int, int]], size: int, rows: int) -> Iterator[Pass]:
    """Cut the arranged work into passes of at most `size` rows, blocks of `rows`, of continuations twice that.

    Only a single continuation longer than `size` makes a larger pass.
    """
    current = Pass()
    for index, kept in arranged:
        item = work[index]
        base = kept
        while base < len(item.prompt):
            if len(current.ids) >= size:
                yield current
                current = Pass()
            take = min(rows, len(item.prompt) - base, size - len(current.ids))
            _add_prompt(current, item.prompt[base : base + take], base)
            current.works.append(index)
            base += take
        current.ends.append((len(current.ids) - 1, index))
        for group in _groups(item, _LEAVES * rows):
            if current.ids and len(current.ids) + sum(len(item.continuations[k]) - 1 for k in group) > size:
                yield current
                current = Pass()
            _add_leaves(current, item, index, group, _LEAVES * rows)
            current.works.append(index)
    if current.ids:
        yield current


def _groups(item: Work, rows: int) -> list[list[int]]:
    """Continuations that attend together: at most `rows` columns, or a single longer one. Longest first, first fit."""
    groups: list[tuple[int, list[int]]] = []
    order = sorted(range(len(item.continuations)), key=lambda k: (-len(item.continuations[k]), item.continuations[k]))
    for k in order:
        length = _aligned(len(item.continuations[k]) - 1)
        for place, (used, members) in enumerate(groups):
            if used + length <= rows:
                groups[place] = (used + length, [*members, k])
                break
        else:
            groups.append((length, [k]))
    return [members for _, members in groups]


def _add_prompt(current: Pass, ids: Sequence[int], base: int) -> None:
    start = len(current.ids)
    current.ids += ids
    current.positions += range(base, base + len(ids))
    current.blocks.append(PromptBlock(start, len(current.ids), base))


def _add_leaves(current: Pass, item: Work, index: int, group: Sequence[int], rows: int) -> None:
    path, first = len(item.prompt), len(current.ids)
    columns: list[int] = []
    leaves: list[int] = []
    column = 0
    for k in group:
        fed = item.continuations[k][:-1]
        current.answers.append((len(current.ids), index, k))
        if not fed:
            continue
        leaves.append(len(current.ids))
        columns += range(column, column + len(fed))
        column += _aligned(len(fed))
        current.ids += fed
        current.positions += range(path, path + len(fed))
    for start in range(first, len(current.ids), rows):
        stop = min(start + rows, len(current.ids))
        begun = tuple(row for row in leaves if row < stop)
        current.blocks.append(LeafBlock(start, stop, path, first, begun, tuple(columns[: stop - first])))


def _aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN
