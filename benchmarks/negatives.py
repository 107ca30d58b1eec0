"""The balanced design against random negatives on real scores, and ID against ID on their halves.

Needs a run on one subset with all pairs scored: `remid run ID_ONLY.json --policy NAME --negatives 1000 --out runs/full`
(m is clipped to n - 1). Everything else is resampling of its score matrices: for each policy the standard error over
designs, given the items, of R-EMI by m circulant shifts and by 1,000 random pairs, drawn once for policy and reference
("shared") or afresh for each as in the paper's release ("fresh"), and the least m that does as well.

  python benchmarks/negatives.py runs/full --out negatives.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from remid.pipeline.run import scored_subsets
from remid.types import FloatArray
from remid.verify.negatives import compare_designs
from remid.verify.null import null_splits


def matrices(folder: Path) -> tuple[list[str], FloatArray]:
    """Names (reference first) and S_PBB of the run's only subset; items that miss a score of anyone are left out."""
    (subset,) = scored_subsets(folder)
    names = ["reference", *(name for name in subset.scores if name != "reference")]
    made = []
    for name in names:
        scores = subset.scores[name]
        n = scores.positive_B.size
        if scores.design.negatives_Bm.shape[1] != n - 1:
            raise SystemExit(f"{folder}: needs all pairs, --negatives {n - 1} or more")
        S_BB = np.full((n, n), np.nan)
        np.fill_diagonal(S_BB, scores.positive_B)
        np.put_along_axis(S_BB, scores.design.negatives_Bm, scores.negative_Bm, axis=1)
        made.append(S_BB)
    S_PBB = np.stack(made)
    whole_B = np.isfinite(S_PBB).all(axis=(0, 1)) & np.isfinite(S_PBB).all(axis=(0, 2))
    return names, S_PBB[:, whole_B][:, :, whole_B]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run on one subset with all pairs")
    parser.add_argument("--pairs", type=int, default=1000, help="random pairs")
    parser.add_argument("--splits", type=int, default=200, help="random halves of the null run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names, S_PBB = matrices(options.run)
    rows = [asdict(row) for row in compare_designs(S_PBB, names, random_pairs=options.pairs)]
    for row in rows:
        row["pairs_least_fresh"] = row["least_m_fresh"] and row["least_m_fresh"] * row["n"]
    models = [0, *(p for p, name in enumerate(names) if name not in {"reference", "shuffled", "generic"})]
    null = null_splits(S_PBB[models], [names[p] for p in models], m=4, splits=options.splits)
    text = json.dumps({"designs": rows, "null": asdict(null)}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
