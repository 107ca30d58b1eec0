"""Log-probabilities of completions with gradients, each prompt run once for all of its completions.

Completions of one prompt are packed behind it into one row: each sees the prompt and its own past, at the positions
that it would have alone. So G completions cost P + G T tokens instead of G (P + T), forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from remid.lm.layouts import attends_fully, probe_ids

Ids = Sequence[int]
#: Mean disagreement with scoring one by one, nats per token, above which a model is not run packed.
_TOLERANCE = 1e-3


def completion_logps(
    model: Any, prompts: Sequence[Ids], completions: Sequence[Ids], temperature: float = 1.0, *, packed: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Per completion the log-probability (T,) of each of its tokens, with gradient, and the entropies (T,) in nats.

    Logits are divided by the temperature; the softmax is in float32. packed: share equal prompts; False runs every
    completion with its prompt by itself. Completions have at least one token.
    """
    if not packed:
        alone = [_alone(model, p, c, temperature) for p, c in zip(prompts, completions, strict=True)]
        return [logp_T for logp_T, _ in alone], [entropy_T for _, entropy_T in alone]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(place)
    logps: list[Tensor | None] = [None] * len(prompts)
    entropies: list[Tensor | None] = [None] * len(prompts)
    for key, places in groups.items():
        found = _group(model, key, [completions[k] for k in places], temperature)
        for place, (logp_T, entropy_T) in zip(places, found, strict=True):
            logps[place], entropies[place] = logp_T, entropy_T
    return logps, entropies  # type: ignore[return-value]


def packs(model: Any) -> bool:
    """Whether packed log-probabilities agree with those one by one. Models with windows or states are not asked."""
    if not attends_fully(model):
        return False  # the probe is too short to show it
    ids = probe_ids(model, 60)
    prompts, completions = [ids[:20]] * 3, [ids[20:30], ids[30:31], ids[31:45]]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one_by_one, _ = completion_logps(model, prompts, completions, packed=False)
            together, _ = completion_logps(model, prompts, completions)
    except (RuntimeError, ValueError, TypeError):  # a model that takes no mask of ours may say so in any way
        return False
    finally:
        model.train(training)
    return float((torch.cat(one_by_one) - torch.cat(together)).abs().mean()) < _TOLERANCE


def _alone(model: Any, prompt: Ids, completion: Ids, temperature: float) -> tuple[Tensor, Tensor]:
    # No mask of ours: a model with sliding windows would take it for every layer, and its windows would be gone.
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *completion[:-1]]], device=device)
    out = model(input_ids=ids, use_cache=False, logits_to_keep=len(completion))
    return read_logits(out.logits[0], torch.tensor(completion, device=device), temperature)


def read_logits(logits_RV: Tensor, targets_R: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities (R,) of the targets, with gradient, and entropies (R,) in nats, without."""
    logp_RV = torch.log_softmax(logits_RV.float() / temperature, dim=-1)
    logp_R = logp_RV.gather(1, targets_R[:, None])[:, 0]
    with torch.no_grad():
        entropy_R = -(logp_RV.exp() * logp_RV).sum(dim=-1)
    return logp_R, entropy_R


def _group(
    model: Any, prompt: Sequence[int], completions: Sequence[Ids], temperature: float
) -> list[tuple[Tensor, Tensor]]:
    weight = next(model.parameters())  # a model wrapped for several processes has no device and no type of its own
    device, start = weight.device, len(prompt)
    fed = [list(c[:-1]) for c in completions]  # nothing is read after a completion's last token
    ids = [*prompt, *(token for c in fed for token in c)]
    positions = [*range(start), *(p for c in fed for p in range(start, start + len(c)))]
    owner = torch.tensor([-1] * start + [k for k, c in enumerate(fed) for _ in c], device=device)
    at = torch.arange(len(ids), device=device)
    seen = ((owner[None] == -1) | (owner[None] == owner[:, None])) & (at[None] <= at[:, None])
    mask = torch.zeros(seen.shape, dtype=weight.dtype, device=device)
    mask.masked_fill_(~seen, torch.finfo(weight.dtype).min)
    rows, bounds = [], []
    first = start
    for c in fed:
        rows += [start - 1, *range(first, first + len(c))]
        bounds.append(len(c) + 1)
        first += len(c)
    out = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        attention_mask=mask[None, None],
        use_cache=False,
        logits_to_keep=torch.tensor(rows, device=device),
    )
    targets_R = torch.tensor([token for c in completions for token in c], device=device)
    logp_R, entropy_R = read_logits(out.logits[0], targets_R, temperature)
    return list(zip(torch.split(logp_R, bounds), torch.split(entropy_R, bounds), strict=True))
