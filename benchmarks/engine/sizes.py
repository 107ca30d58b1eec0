"""How much is measured. No torch here: the command line reads it before the processors are shared."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each section measures; every field is an option of the command.

    contexts: of the data that designs are drawn over. negatives, batch: of the paper's design. blocks: turns of the
    arms. slow_batches: batches pair by pair in a turn. speed_contexts: whole contexts of ours, over all turns;
    eleven_contexts: of these in each turn with all policies. matrix_contexts: whose pairs are all scored, 0 for none.
    exact_contexts, exact_pairs: compared with one-at-a-time scoring, and pairs under each. harness_contexts: scored
    by lm-evaluation-harness too, after a trial of batch sizes on another; negatives_run: a run's negatives per sample.
    stage_contexts, stage_repeats: of the scoring stage. growth: scales the four sizes of each axis. ray_repeats: of
    two workers against one. kills: SIGKILLs.
    """

    contexts: int = 72
    negatives: int = 1000
    batch: int = 4
    blocks: int = 6
    slow_batches: int = 2
    speed_contexts: int = 36
    eleven_contexts: int = 2
    matrix_contexts: int = 36
    exact_contexts: int = 6
    exact_pairs: int = 6
    harness_contexts: int = 4
    negatives_run: int = 4
    stage_contexts: int = 40
    stage_repeats: int = 3
    growth: float = 1.0
    ray_repeats: int = 3
    kills: int = 100


QUICK = replace(
    Sizes(),
    contexts=16,
    negatives=40,
    batch=2,
    blocks=1,
    slow_batches=1,
    speed_contexts=1,
    eleven_contexts=1,
    matrix_contexts=0,
    exact_contexts=2,
    exact_pairs=2,
    harness_contexts=1,
    negatives_run=1,
    stage_contexts=2,
    stage_repeats=1,
    growth=0.1,
    ray_repeats=1,
    kills=2,
)
