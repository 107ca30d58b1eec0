"""Is a policy that is blind to one part of its input told by name, with 50 contexts?

Policies of benchmarks.component_policies, blind by construction, are scored by the model that wrote them
(docs/components.md), with each part removed or replaced by another sample's (--how). A run is a draw of N contexts
without replacement, from one source or from both; partners are those of the whole source. Per policy the share of
runs in which exactly the right part is told as ignored (for `full`: none), and how often each part was named. Such
runs share most of their contexts and so agree more than runs on other contexts would; `fresh` is the same share with
contexts drawn with replacement, which spreads as fresh contexts do. Intervals (Wilson) are those of the drawing. The
same command goes on behind what the folder holds.

  OMP_NUM_THREADS=1 python -m benchmarks.components runs/policies.json --out runs/components
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from remid.estimate import Influence, pool, wilson
from remid.estimate.components import mean_drop
from remid.pipeline.components import Looked, cell_rows, component_units, swaps_of
from remid.pipeline.config import RunConfig
from remid.pipeline.engines import run_engines
from remid.pipeline.measure import Cell
from remid.pipeline.plan import make_plan
from remid.pipeline.policies import REFERENCE
from remid.pipeline.progress import Progress
from remid.pipeline.score import score_units
from remid.pipeline.store import Store
from remid.types import COMPONENTS

#: What should be told of each policy; of the others there is no right answer.
RIGHT: dict[str, frozenset[str]] = {
    "full": frozenset(),
    "no-user": frozenset({"user"}),
    "no-character": frozenset({"character"}),
    "other-character": frozenset({"character"}),
    "no-dialogue": frozenset({"dialogue"}),
    "generic": frozenset(COMPONENTS),
}
RUNS = 400
Row = dict[str, Any]


def scored(data: Path, folder: Path, how: str, partners: int, dtype: str) -> list[Looked]:
    """Drops of every policy in every source."""
    config = RunConfig.model_validate(
        {"data": (data,), "device": "cpu", "dtype": dtype, "components": how, "component_partners": partners}
    )
    progress = Progress()
    with Store(folder) as store, run_engines(config, None, progress) as engines:
        plan = make_plan(config, store, engines, progress)
        score_units(component_units(plan), store, plan.scorer_id, engines, config, progress)
        found = store.scored(plan.scorer_id)
    return [Looked(swaps, found) for swaps in swaps_of(plan)]


def drawn_rows(looked: list[Looked], policy: str, reference: str, chosen: list[np.ndarray]) -> list[Row]:
    """Rows of one policy over the chosen samples of each source, pooled. chosen: flags, or numbers that may repeat."""
    how = looked[0].swaps.mode
    of_cell = []
    for name in COMPONENTS:
        sides = [[], [], []]
        for one, keep_B in zip(looked, chosen, strict=True):
            ours, theirs = (one.drop(who, how, name) for who in (policy, reference))
            partner_Bm = one.partner(how, name)
            for side, drop_Bm in zip(sides, (ours, theirs, ours - theirs), strict=True):
                side.append(_mean(drop_Bm, partner_Bm, keep_B))
        of_cell.append(tuple(Cell(None, "id", pool(side), None) for side in sides))
    return cell_rows(policy, how, COMPONENTS, of_cell, [], 0.95)


def _mean(drop_Bm: np.ndarray, partner_Bm: np.ndarray | None, keep_B: np.ndarray) -> Influence:
    if partner_Bm is None:
        return mean_drop(drop_Bm[keep_B], None)
    if keep_B.dtype == bool:
        return mean_drop(np.where(keep_B[:, None], drop_Bm, np.nan), partner_Bm)
    # Partners of a sample that is there twice are no longer told apart: each is an item of its own, without a drop.
    here_Bm = drop_Bm[keep_B]
    n, m = here_Bm.shape
    padded_Bm = np.vstack([here_Bm, np.full((n * m, m), np.nan)])
    apart_Bm = np.vstack([n + np.arange(n * m).reshape(n, m), np.zeros((n * m, m), dtype=np.int64)])
    return mean_drop(padded_Bm, apart_Bm)


def drawn(
    looked: list[Looked], policies: list[str], reference: str, n: int, seed: int, *, again: bool = False
) -> list[Row]:
    """RUNS draws of n samples of all these sources together: what was told of whom. again: with replacement."""
    sizes = [len(one.swaps.group.samples) for one in looked]
    rng = np.random.default_rng(seed)
    told: dict[str, Counter[frozenset[str]]] = {policy: Counter() for policy in policies}
    for _ in range(RUNS):
        numbers = rng.choice(sum(sizes), n, replace=again)
        keep = np.zeros(sum(sizes), dtype=bool)
        keep[numbers] = True
        starts = np.cumsum([0, *sizes[:-1]])
        chosen = np.split(keep, starts[1:])
        if again:
            chosen = [numbers[(numbers >= a) & (numbers < a + size)] - a for a, size in zip(starts, sizes, strict=True)]
        for policy in policies:
            rows = drawn_rows(looked, policy, reference, chosen)
            told[policy][frozenset(row["component"] for row in rows if row["ignored"])] += 1
    out = []
    for policy in policies:
        row: Row = {"policy": policy, "n": n, "runs": RUNS}
        row["named"] = {
            part: sum(k for names, k in told[policy].items() if part in names) / RUNS for part in COMPONENTS
        }
        if policy in RIGHT:
            hits = told[policy][RIGHT[policy]]
            row |= {"right": hits / RUNS, "interval": [round(end, 4) for end in wilson(hits / RUNS, RUNS)]}
        out.append(row)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--how", choices=["remove", "replace"], default="replace")
    parser.add_argument("--partners", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--against", nargs="+", default=[REFERENCE, "human"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    looked = scored(args.data, args.out, args.how, args.partners, args.dtype)
    pools = {one.swaps.group.subset: [one] for one in looked} | ({"all": looked} if len(looked) > 1 else {})
    result: Row = {"how": args.how, "partners": args.partners, "dtype": args.dtype, "amounts": [], "told": []}
    for name, members in pools.items():
        everyone = [np.ones(len(one.swaps.group.samples), dtype=bool) for one in members]
        policies = list(members[0].swaps.group.answers)
        for reference in args.against:
            for policy in policies:
                for row in drawn_rows(members, policy, reference, everyone):
                    result["amounts"].append({"pool": name, "against": reference, **row})
        for reference in args.against:
            others = [policy for policy in policies if policy not in (reference, REFERENCE, "shuffled")]
            for n in args.sizes:
                if n <= sum(map(len, everyone)):
                    rows = drawn(members, others, reference, n, n)
                    fresh = drawn(members, others, reference, n, n, again=True)
                    rows = [row | {"fresh": more.get("right")} for row, more in zip(rows, fresh, strict=True)]
                    result["told"] += [{"pool": name, "against": reference, **row} for row in rows]
                    print(name, reference, n, {r["policy"]: (r.get("right"), r["fresh"]) for r in rows}, flush=True)
    (args.out / f"components-{args.how}-{args.partners}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
