"""Do cheap scores of every pair save expensive ones? Control variates and stand-in models on real scores.

Needs a run on one subset with all pairs scored, as benchmarks/negatives.py does: `remid run ID_ONLY.json --policy NAME
--negatives 1000 --out runs/full`. Stand-ins cost next to nothing: the embedder's cosine of prompt and response, a
unigram cache and a character n-gram model, both of the response given the prompt's own text.

For every policy: the share of the interactions' variance that a stand-in explains (all pairs, adjusted), and the
standard error over designs, given the items, of R-EMI with m negatives, without the control, with the best slope (from
all pairs, which nobody has), and with the slope that the pairs themselves give (m = 4).

  python benchmarks/control_variates.py runs/full --out control_variates.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from negatives import matrices

from remid.estimate import balanced_design, remi
from remid.estimate.control import best_slopes, interaction_r2, remi_controlled
from remid.lm.embed import Embedder, find_embedder
from remid.pipeline.policies import CONTROLS, REFERENCE, subset_texts
from remid.pipeline.run import scored_subsets
from remid.types import FloatArray, Sample
from remid.verify.null import pair_scores

_WORDS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
#: Weight of the prompt's own text against all responses', and orders of the character model.
_CACHE, _ORDER = 0.5, 4


def prompt_text(sample: Sample) -> str:
    """Everything that the prompt says about this sample."""
    return "\n".join([sample.character, sample.user, *(turn.text for turn in sample.dialogue)])


def last_turns(sample: Sample) -> str:
    return "\n".join(turn.text for turn in sample.dialogue[-3:])


def unigram(prompts: Sequence[str], texts: Sequence[str], background: Sequence[str]) -> FloatArray:
    """C_ij: log-probability of text j's words, half from the prompt's words, half from the background's."""
    total: Counter[str] = Counter()
    for text in background:
        total.update(_WORDS.findall(text.lower()))
    size = sum(total.values()) + len(total) + 1
    made = np.zeros((len(prompts), len(texts)))
    words = [_WORDS.findall(text.lower()) for text in texts]
    for i, prompt in enumerate(prompts):
        own = Counter(_WORDS.findall(prompt.lower()))
        length = max(sum(own.values()), 1)
        for j, said in enumerate(words):
            made[i, j] = sum(math.log((1 - _CACHE) * (total[w] + 1) / size + _CACHE * own[w] / length) for w in said)
    return made


def characters(prompts: Sequence[str], texts: Sequence[str], background: Sequence[str]) -> FloatArray:
    """C_ij: log-probability of text j's characters under orders 0 to 4, interpolated (Witten and Bell), over the counts
    of the background plus five times those of prompt i."""
    base = _counts("\n".join(background), Counter(), 1)
    made = np.zeros((len(prompts), len(texts)))
    for i, prompt in enumerate(prompts):
        own = _counts(prompt, Counter(), 5)
        for j, text in enumerate(texts):
            made[i, j] = _character_log(text, base, own)
    return made


def _counts(text: str, into: Counter[str], weight: int) -> Counter[str]:
    """Counts of all grams up to the order; of contexts under a leading NUL; of distinct followers under two."""
    for k in range(_ORDER + 1):
        for t in range(len(text)):
            if t < k:
                continue
            gram = text[t - k : t + 1]
            if gram not in into:
                into["\0\0" + gram[:-1]] += 1
            into[gram] += weight
            into["\0" + gram[:-1]] += weight
    return into


def _character_log(text: str, base: Counter[str], own: Counter[str]) -> float:
    total = 0.0
    for t in range(len(text)):
        p = 1 / 5000
        for k in range(min(t, _ORDER) + 1):
            gram = text[t - k : t + 1]
            context = gram[:-1]
            seen = base["\0" + context] + own["\0" + context]
            if not seen:
                break
            kinds = base["\0\0" + context] + own["\0\0" + context]
            p = (base[gram] + own[gram] + kinds * p) / (seen + kinds)
        total += math.log(p)
    return total


def cosine(prompts: Sequence[str], texts: Sequence[str], embedder: Embedder) -> FloatArray:
    x_BD, y_BD = (np.array(embedder.encode(list(part)), dtype=np.float64) for part in (prompts, texts))
    return np.asarray(x_BD @ y_BD.T)


def stand_ins(samples: Sequence[Sample], answers: dict[str, list[str]]) -> dict[str, dict[str, FloatArray]]:
    """Name of the stand-in -> policy -> (K, B, B) controls of its responses."""
    whole, last = [prompt_text(s) for s in samples], [last_turns(s) for s in samples]
    background = answers[REFERENCE]
    embedder = Embedder(find_embedder("builtin"))
    length = {name: np.array([len(text.encode()) for text in texts]) for name, texts in answers.items()}
    one: dict[str, Callable[[str], FloatArray]] = {
        "cosine, last turns": lambda name: cosine(last, answers[name], embedder)[None],
        "cosine x bytes, last turns": lambda name: (cosine(last, answers[name], embedder) * length[name])[None],
        "cosine x bytes, whole prompt": lambda name: (cosine(whole, answers[name], embedder) * length[name])[None],
        "unigram cache": lambda name: unigram(whole, answers[name], background)[None],
        "character 5-grams": lambda name: characters(whole, answers[name], background)[None],
    }
    made = {kind: {name: make(name) for name in answers} for kind, make in one.items()}
    joint = ("cosine x bytes, last turns", "cosine x bytes, whole prompt", "unigram cache", "character 5-grams")
    made["the last four together"] = {name: np.concatenate([made[kind][name] for kind in joint]) for name in answers}
    return made


def rows(names: Sequence[str], S_PBB: FloatArray, controls: dict[str, Any], draws: int) -> list[dict[str, Any]]:
    made = []
    n = S_PBB.shape[1]
    designs = {m: [balanced_design(n, m, seed) for seed in range(draws)] for m in (1, 2, 4)}
    for p, name in enumerate(names):
        if name == REFERENCE:
            continue
        scored = {
            m: [(pair_scores(S_PBB[p], d), pair_scores(S_PBB[0], d)) for d in some] for m, some in designs.items()
        }
        plain = {m: _spread([remi(a, b).value for a, b in some]) for m, some in scored.items()}
        for kind, by_name in controls.items():
            C_KBB = by_name[name] - by_name[REFERENCE]
            row: dict[str, Any] = {"policy": name, "stand_in": kind}
            row["r2"] = interaction_r2(S_PBB[p] - S_PBB[0], C_KBB)
            row["r2_of_club"] = interaction_r2(S_PBB[p], by_name[name])
            slope_K = best_slopes(S_PBB[p] - S_PBB[0], C_KBB)
            for m, some in scored.items():
                best = [remi_controlled(a, b, C_KBB, slope_K=slope_K).influence.value for a, b in some]
                row[f"se_m{m}"], row[f"se_m{m}_best"] = plain[m], _spread(best)
            row["se_m4_own"] = _spread([remi_controlled(a, b, C_KBB).influence.value for a, b in scored[4]])
            made.append(row)
    return made


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run on one subset with all pairs")
    parser.add_argument("--draws", type=int, default=200, help="designs behind each standard error")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names, S_PBB = matrices(options.run)
    (subset,) = scored_subsets(options.run)
    if len(subset.samples) != S_PBB.shape[1]:
        raise SystemExit(f"{options.run}: some items were not scored; run on those that were")
    design = next(iter(subset.scores.values())).design
    policies = [name for name in names if name not in CONTROLS]
    texts = subset_texts(subset.samples, policies, design)
    answers = {name: [text or "" for text in texts[name]] for name in names}
    found = rows(names, S_PBB, stand_ins(subset.samples, answers), options.draws)
    for row in found:
        print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1).replace("NaN", "null") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
