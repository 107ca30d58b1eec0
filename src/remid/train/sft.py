"""Supervised stages on TRL's SFTTrainer: one adapter learns completions, and nothing but completions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remid.errors import ConfigError
from remid.train.arguments import common_arguments
from remid.train.config import SftSettings
from remid.train.examples import Example

_IGNORED = -100  # the label that transformers leaves out of the loss


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
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from remid.lm.adapters import activate
    from remid.train.resume import last_checkpoint

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
        warmup_steps=0.03,  # below 1: a share of the steps
        per_device_train_batch_size=min(settings.micro, settings.batch),
        gradient_accumulation_steps=max(1, settings.batch // settings.micro),
        max_length=None,  # what is too long was left out and counted before; nothing is cut here
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
        save_steps=50,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the journal's callback says what there is to say
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
