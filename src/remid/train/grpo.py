"""GRPO stages on TRL's GRPOTrainer, in which everything that a prompt's completions share is computed once.

What is ours: completions are sampled behind one copy of their prompt (lm/sampling.py), log-probabilities with
gradients are computed packed (train/shared.py), so groups stay together in micro-batches; and at every step it is
asserted that what learns is one adapter and nothing else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from remid.lm.adapters import activate, frozen_copy, trainable_names
from remid.lm.branches import branches
from remid.lm.chat import ChatRenderer, Message
from remid.lm.sampling import sample_completions
from remid.train.arguments import common_arguments
from remid.train.config import GrpoSettings
from remid.train.resume import last_checkpoint
from remid.train.shared import completion_logps, packs

#: Optimizer steps between two checkpoints: one costs about as much as writing the adapters and twice that.
_SAVE_EVERY = 4


class SharedPromptTrainer(GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """GRPOTrainer whose completions share their prompts. Text only, one optimizer step per sampled batch.

    packed: whether the model may be run packed (shared.packs).
    """

    def __init__(self, *args: Any, packed: bool, **more: Any) -> None:
        super().__init__(*args, **more)
        self._packed = packed
        self._buffered_inputs: list[dict[str, Any]] | None = None
        self._learning = trainable_names(self.accelerator.unwrap_model(self.model))

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """Of one micro-batch. Raises RuntimeError where an adapter that was switched on for scoring was left on."""
        learning = trainable_names(self.accelerator.unwrap_model(self.model))
        if learning != self._learning:
            raise RuntimeError(
                f"{len(set(learning) ^ set(self._learning))} weights changed between trainable and frozen in training"
            )
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, but completions of one prompt stay in one micro-batch: TRL shuffles them first."""
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        every = self.args.steps_per_generation
        if self._step % every == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), every)
        return self._buffered_inputs[self._step % every]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """(B, logits_to_keep) each; 0 where there is padding."""
        del batch_size  # a group is as large as it gets
        prompts, completions = [], []
        for ids_L, seen_L in zip(input_ids, attention_mask.bool(), strict=True):
            prompts.append(ids_L[:-logits_to_keep][seen_L[:-logits_to_keep]].tolist())
            completions.append(ids_L[-logits_to_keep:][seen_L[-logits_to_keep:]].tolist())
        known = [k for k, completion in enumerate(completions) if completion]
        with self.accelerator.autocast():
            logps, entropies = completion_logps(
                model,
                [prompts[k] for k in known],
                [completions[k] for k in known],
                self.temperature,
                packed=self._packed,
            )
        return (
            _padded(logps, known, input_ids.shape[0], logits_to_keep),
            _padded(entropies, known, input_ids.shape[0], logits_to_keep) if compute_entropy else None,
            None,
        )


def run_grpo(  # noqa: PLR0913 - what a stage is made of, all of it by name
    model: Any,
    adapter: str,
    *,
    renderer: ChatRenderer,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    rewards: Sequence[Callable[..., list[float | None]]],
    weights: Sequence[float],
    settings: GrpoSettings,
    max_new_tokens: int,
    out: Path,
    seed: int,
    callbacks: Sequence[Any] = (),
) -> None:
    """Train `adapter` of the PeftModel in place; a run that was broken off goes on in `out`.

    rows: "prompt" (messages as role and content) and the columns that the rewards ask for.
    """
    from datasets import Dataset

    activate(model, adapter)
    if settings.beta:
        frozen_copy(model, adapter, "ref")  # what the KL term holds on to
    with _left_as_it_was(model):
        trainer = SharedPromptTrainer(
            model=model,
            packed=packs(model),
            reward_funcs=list(rewards),
            args=_arguments(model, settings, weights, max_new_tokens, out, seed),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            rollout_func=_rollout(renderer, settings, max_new_tokens, seed, branched=branches(model)),
            callbacks=list(callbacks),
        )
        trainer.beta = settings.beta  # given at once, TRL would look for an adapter that is called "default"
        trainer.remove_callback(PrinterCallback)  # the journal's callback says what there is to say
        trainer.train(resume_from_checkpoint=last_checkpoint(out))


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Undo what TRL does to a model for good: every adapter's dropout set to 0, `forward` replaced.

    Without this the stages behind a GRPO stage would train without dropout, but only where they were not resumed.
    """
    dropouts = {m: m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    forwards = {m: m.__dict__.get("forward") for m in (model, model.get_base_model())}
    try:
        yield
    finally:
        for dropout, p in dropouts.items():
            dropout.p = p
        for module, forward in forwards.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.forward = forward


def _arguments(
    model: Any, settings: GrpoSettings, weights: Sequence[float], max_new_tokens: int, out: Path, seed: int
) -> GRPOConfig:
    return GRPOConfig(
        **common_arguments(model, out, seed),
        num_train_epochs=1,
        learning_rate=settings.rate,
        lr_scheduler_type="constant",
        # A micro-batch is one prompt with its completions; a sampled batch is one optimizer step, so the probabilities
        # at sampling are those at the update and need not be computed apart.
        per_device_train_batch_size=settings.generations,
        gradient_accumulation_steps=settings.prompts_per_step,
        steps_per_generation=settings.prompts_per_step,
        num_generations=settings.generations,
        num_iterations=1,
        max_completion_length=max_new_tokens,
        temperature=settings.temperature,
        beta=0.0,
        scale_rewards=settings.scale,
        reward_weights=list(weights),
        disable_dropout=True,
        # Cut-off completions count: their format reward is 0, and without that they would never learn to end.
        mask_truncated_completions=False,
        save_steps=_SAVE_EVERY,
    )


def _rollout(
    renderer: ChatRenderer, settings: GrpoSettings, max_new_tokens: int, seed: int, *, branched: bool = False
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """TRL's rollout function: prompts come repeated, once for each completion."""

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        begin = time.perf_counter()
        groups = [(key, len(list(same))) for key, same in itertools.groupby(prompts)]
        if {size % settings.generations for _, size in groups} != {0}:
            raise RuntimeError("the completions of a prompt did not arrive together")
        asked = [
            renderer.prompt_ids([Message(m["role"], m["content"]) for m in key])
            for key, size in groups
            for _ in range(size // settings.generations)
        ]
        found = sample_completions(
            trainer.accelerator.unwrap_model(trainer.model),
            asked,
            settings.generations,
            end_of_turn=renderer.end_of_turn_id,
            max_new_tokens=max_new_tokens,
            temperature=settings.temperature,
            seed=seed * 1_000_003 + trainer.state.global_step,
            branched=branched,
        )
        trainer._metrics["train"]["seconds/generation"].append(time.perf_counter() - begin)
        return {
            "prompt_ids": [ids for ids in asked for _ in range(settings.generations)],
            "completion_ids": [ids for group in found for ids, _ in group],
            "logprobs": [logp for group in found for _, logp in group],
        }

    return rollout


def _padded(values: Sequence[Tensor], known: Sequence[int], rows: int, columns: int) -> Tensor:
    """(rows, columns): each known row's values from the left, 0 behind them."""
    found = dict(zip(known, values, strict=True))
    device = values[0].device if values else torch.device("cpu")
    empty = torch.zeros(columns, device=device)
    padded = [
        torch.nn.functional.pad(found[k], (0, columns - len(found[k]))) if k in found else empty for k in range(rows)
    ]
    return torch.stack(padded)
