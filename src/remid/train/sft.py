"""Supervised stages on TRL's SFTTrainer: one adapter learns completions, and nothing but completions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from remid.errors import ConfigError
from remid.lm.adapters import activate
from remid.train.arguments import common_arguments
from remid.train.config import SftSettings
from remid.train.examples import Example
from remid.train.resume import last_checkpoint
from remid.train.shared import read_logits

_IGNORED = -100  # the label that transformers leaves out of the loss
_WARMUP = 0.03


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """SFTTrainer that on a CPU makes logits for completions alone.

    There TRL's own makes them for every position, forwards and again backwards, and then drops the prompts': with a
    small model, a large vocabulary and long prompts a quarter of a step (docs/log.md). The loss is the same. Mixtures
    of experts, whose routers have a loss of their own, are left to TRL.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-probability of the completions' tokens, nats, of this micro-batch's share of a batch."""
        if return_outputs or self.aux_loss_enabled or inputs["labels"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels_BL = inputs["labels"][:, 1:]
        kept = (labels_BL != _IGNORED).any(dim=0).nonzero()[:, 0]
        seen = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        logits_BKV = model(**seen, use_cache=False, logits_to_keep=kept).logits
        learnt_BK = labels_BL[:, kept] != _IGNORED
        logits_RV, targets_R = logits_BKV[learnt_BK], labels_BL[:, kept][learnt_BK]
        logp_R, entropy_R = read_logits(logits_RV, targets_R)
        self._tell(logits_RV, targets_R, entropy_R, int(seen["attention_mask"].sum()))
        loss = -logp_R.sum() / (len(targets_R) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # counted over all of them, and averaged over them again
        return loss

    def _tell(self, logits_RV: Any, targets_R: Any, entropy_R: Any, tokens: int) -> None:
        """What SFTTrainer logs beside the loss, of all processes."""
        right = (logits_RV.detach().argmax(dim=-1) == targets_R).sum()
        mine = torch.stack(
            [entropy_R.sum(), right.float(), torch.tensor(float(len(targets_R))), torch.tensor(float(tokens))]
        )
        entropy, correct, n, seen = self.accelerator.gather_for_metrics(mine[None]).sum(dim=0).tolist()
        metrics = self._metrics["train"]
        metrics["entropy"].append(entropy / n)
        metrics["mean_token_accuracy"].append(correct / n)
        self._total_train_tokens += int(seen)
        metrics["num_tokens"] = [self._total_train_tokens]


def run_sft(
    model: Any,
    adapter: str,
    examples: Sequence[Example],
    tokenizer: Any,
    settings: SftSettings,
    out: Path,
    *,
    seed: int,
    callbacks: Sequence[Any] = (),
) -> None:
    """Train `adapter` of the PeftModel on the examples, in place; a run that was broken off goes on in `out`.

    The loss is the mean over completion tokens of a batch, end of turn included. Raises ConfigError without examples.
    """
    from datasets import Dataset

    if not examples:
        raise ConfigError(
            f"{adapter}: no training sample is left to learn from (too long for --max-tokens, or without a trace that "
            "parses; train.jsonl says how many)"
        )
    activate(model, adapter)
    rows = [
        {
            "input_ids": [*e.prompt_ids, *e.completion_ids],
            "labels": [_IGNORED] * len(e.prompt_ids) + list(e.completion_ids),
        }
        for e in examples
    ]
    config = SFTConfig(
        **common_arguments(model, out, seed),
        num_train_epochs=settings.epochs,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        # Below 1: a share of the steps. It is rounded up and begins at 0, so that few steps would lose one of them.
        warmup_steps=_WARMUP if _WARMUP * settings.epochs * len(examples) / settings.batch >= 1 else 0,
        per_device_train_batch_size=min(settings.micro, settings.batch),
        gradient_accumulation_steps=max(1, settings.batch // settings.micro),
        max_length=None,  # what is too long was left out and counted before; nothing is cut here
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
        save_steps=50,
    )
    trainer = CompletionTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the journal's callback says what there is to say
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
