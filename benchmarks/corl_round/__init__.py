"""Seconds of a whole CoRL round: everything that is shared computed once, against the layout of CoRL's release.

A round: GRPO on q1, the new q1's traces for the training samples, SFT of q2 on them, GRPO on q2. Small pieces of each
are measured (a GRPO step, a batch of traces, a few training sequences) and brought to a round by its counts. Layouts
take turns on the same samples in one process, in an order that swaps.

| | ours | release |
| --- | --- | --- |
| sampling | keys of a prompt shared by its completions | TRL's own, each completion with its prompt |
| rewards | adapter of the same base, shared prompts | a second model, pair by pair, logits everywhere |
| learning | packed behind one copy of the prompt | TRL's own, each completion with its prompt |
| roll-out | lm/sampling.py | transformers' generate, batches in the data's order |
| SFT | logits of completions alone | TRL's SFTTrainer as it comes: of every position |

`release` has our linear layers (lm/cpu.py), so that the layout alone differs; `stock` is the same with PyTorch's own,
as it would come. An untrained q1 writes no trace that parses; what it writes is taken for the features, so that each
completion makes another prompt for q2, as it will when q1 is trained.

  python -m benchmarks.corl_round --turns 3 --out corl_round.json
  python -m benchmarks.corl_round --journal runs/corl   # where the time of a run that was really made went
"""
