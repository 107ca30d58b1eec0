"""The pieces of a round as each layout runs them, timed (see the package)."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer, SFTConfig, SFTTrainer

from remid.lm.adapters import activate, frozen_copy, new_adapters
from remid.lm.branches import branches
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import parse_trace
from remid.train.arguments import common_arguments
from remid.train.config import GrpoSettings, LoraSettings, SftSettings
from remid.train.evaluate import prompt_ids, reference_pair, write_traces
from remid.train.examples import Example, q2_example
from remid.train.grpo import SharedPromptTrainer, _arguments, _rollout
from remid.train.scoring import AdapterScorer, Pair, using
from remid.train.sft import run_sft
from remid.types import Sample

#: (2,): seconds on the wall and of the processor.
Seconds = np.ndarray
Parts = dict[str, Seconds]
MAX_TOKENS = 2048
ROLLOUT_BATCH = 16


def now() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


class Clock:
    """Adds up the seconds of parts by name."""

    def __init__(self) -> None:
        self.parts: Parts = defaultdict(lambda: np.zeros(2))

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        begin = now()
        yield
        self.parts[part] += now() - begin


class TrainingTime(TrainerCallback):  # type: ignore[misc]
    """The seconds between a training's begin and end, without what it takes to make the trainer."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._begin = now()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = now() - self._begin


def timed(kind: Any, clock: Clock) -> Any:
    """The GRPO trainer, its parts timed."""

    class Timed(kind):  # type: ignore[misc]
        def _generate(self, *args: Any) -> Any:
            with clock.of("sampling"):
                return super()._generate(*args)

        def _calculate_rewards(self, *args: Any) -> Any:
            with clock.of("rewards"):
                return super()._calculate_rewards(*args)

        def training_step(self, *args: Any) -> Any:
            with clock.of("step"):
                return super().training_step(*args)

    return Timed


class Layout:
    """Both layouts' common part: a step of GRPO. policy: PeftModel with the adapters q1 and q2."""

    kind: Any

    def __init__(self, policy: Any, loaded: LoadedModel, settings: GrpoSettings) -> None:
        self.policy, self.loaded, self.settings = policy, loaded, settings
        self.renderer = ChatRenderer(loaded.tokenizer)

    def means(self, adapter: str, pairs: Sequence[Pair]) -> list[float]:
        """log q of completions under the frozen adapter, nats per token."""
        raise NotImplementedError

    def more(self, tokens: int, seed: int) -> dict[str, Any]:
        """Further arguments of the GRPO trainer."""
        return {}

    def traces(self, samples: Sequence[Sample], tokens: int) -> None:
        raise NotImplementedError

    def sft(self, examples: Sequence[Example], settings: SftSettings, out: Path, heard: TrainingTime) -> None:
        raise NotImplementedError

    def grpo(self, adapter: str, samples: Sequence[Sample], features: Mapping[str, str], seed: int) -> Parts:
        """One optimizer step on these prompts; features: of q2's prompts, by sample."""
        clock, known = Clock(), {sample.sample_id: sample for sample in samples}
        tokens = self.settings.trace_tokens if adapter == "q1" else self.settings.response_tokens

        def q1(completions: Sequence[Any], sample_id: Sequence[str], **_: Any) -> list[float | None]:
            texts = [completion[0]["content"] for completion in completions]
            own = [parse_trace(text).features or text or None for text in texts]
            pairs = [self._reference(known[name], f) for name, f in zip(sample_id, own, strict=True)]
            return [math.exp(mean) for mean in self.means("q2", pairs)]

        def q2(completion_ids: Sequence[Sequence[int]], sample_id: Sequence[str], **_: Any) -> list[float | None]:
            golden = {name: self._reference(known[name], features[name]) for name in dict.fromkeys(sample_id)}
            pairs = [Pair(golden[n].prompt, tuple(ids)) for n, ids in zip(sample_id, completion_ids, strict=True)]
            found = self.means("ref", [*golden.values(), *pairs])
            of_golden = dict(zip(golden, found, strict=False))
            sampled = found[len(golden) :]
            return [math.exp(min(0.0, x - of_golden[name])) for name, x in zip(sample_id, sampled, strict=True)]

        asked = {
            s.sample_id: trace_messages(s, "compact")
            if adapter == "q1"
            else role_play_messages(s, features[s.sample_id])
            for s in samples
        }
        rows = [
            {"sample_id": name, "prompt": [{"role": m.role, "content": m.content} for m in messages]}
            for name, messages in asked.items()
        ]
        activate(self.policy, adapter)
        with tempfile.TemporaryDirectory() as folder:
            trainer = timed(self.kind, clock)(
                model=self.policy,
                reward_funcs=[q1 if adapter == "q1" else q2],
                args=_arguments(self.policy, self.settings, [1.0], tokens, Path(folder), seed),
                train_dataset=Dataset.from_list(rows),
                processing_class=self.loaded.tokenizer,
                **self.more(tokens, seed),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        found = clock.parts
        found["learning"] = found.pop("step") - found["sampling"] - found["rewards"]
        return {f"{adapter} {part}": found[part] for part in ("sampling", "rewards", "learning")}

    def _reference(self, sample: Sample, features: str | None) -> Pair:
        pair = reference_pair(sample, features, self.renderer)
        assert pair is not None
        return pair


class Ours(Layout):
    kind = SharedPromptTrainer

    def __init__(self, settings: GrpoSettings) -> None:
        loaded = load_model(find_model("builtin"), device="cpu")
        super().__init__(new_adapters(loaded.model, LoraSettings(), ("q1", "q2"), 0), loaded, settings)
        frozen_copy(self.policy, "q2", "ref")
        self.scorer = AdapterScorer(self.policy, loaded, MAX_TOKENS)

    def means(self, adapter: str, pairs: Sequence[Pair]) -> list[float]:
        return [found.mean if found else math.nan for found in self.scorer.score(adapter, pairs)]

    def more(self, tokens: int, seed: int) -> dict[str, Any]:
        rollout = _rollout(self.renderer, self.settings, tokens, seed, branched=branches(self.policy))
        return {"packed": True, "rollout_func": rollout}

    def traces(self, samples: Sequence[Sample], tokens: int) -> None:
        write_traces(self.policy, self.loaded, self.renderer, samples, "compact", tokens)

    def sft(self, examples: Sequence[Example], settings: SftSettings, out: Path, heard: TrainingTime) -> None:
        run_sft(self.policy, "q2", examples, self.loaded.tokenizer, settings, out, seed=0, callbacks=[heard])


class Release(Layout):
    kind = GRPOTrainer

    def __init__(self, settings: GrpoSettings, *, stock: bool = False) -> None:
        loaded, second = (load_model(find_model("builtin"), device="cpu") for _ in range(2))
        for module in (*loaded.model.modules(), *second.model.modules()) if stock else ():
            if vars(module).pop("remid_packed", None):
                del module.forward
        super().__init__(new_adapters(loaded.model, LoraSettings(), ("q1", "q2"), 0), loaded, settings)
        self.judge = new_adapters(second.model, LoraSettings(), ("q2",), 0).eval()

    @torch.no_grad()
    def means(self, adapter: str, pairs: Sequence[Pair]) -> list[float]:
        found = []
        for pair in pairs:
            ids = torch.tensor([[*pair.prompt, *pair.completion]])
            logp_LV = torch.log_softmax(self.judge(input_ids=ids).logits[0, :-1].float(), dim=-1)
            logp_L = logp_LV.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :, 0]
            found.append(float(logp_L.mean()))
        return found

    def traces(self, samples: Sequence[Sample], tokens: int) -> None:
        asked = [prompt_ids(trace_messages(sample, "compact"), self.renderer) for sample in samples]
        prompts, end = [list(ids) for ids in asked if ids is not None], self.renderer.end_of_turn_id
        with using(self.policy, "q1"), torch.inference_mode():
            for start in range(0, len(prompts), ROLLOUT_BATCH):
                batch = prompts[start : start + ROLLOUT_BATCH]
                longest = max(map(len, batch))
                self.policy.generate(
                    input_ids=torch.tensor([[end] * (longest - len(p)) + p for p in batch]),
                    attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch]),
                    max_new_tokens=tokens,
                    do_sample=False,
                    eos_token_id=end,
                    pad_token_id=end,
                )

    def sft(self, examples: Sequence[Example], settings: SftSettings, out: Path, heard: TrainingTime) -> None:
        activate(self.policy, "q2")
        rows = [
            {
                "input_ids": [*e.prompt_ids, *e.completion_ids],
                "labels": [-100] * len(e.prompt_ids) + list(e.completion_ids),
            }
            for e in examples
        ]
        arguments = SFTConfig(
            **common_arguments(self.policy, out, 0),
            num_train_epochs=settings.epochs,
            learning_rate=settings.rate,
            per_device_train_batch_size=settings.micro,
            gradient_accumulation_steps=settings.batch // settings.micro,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SFTTrainer(
            model=self.policy,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=self.loaded.tokenizer,
            callbacks=[heard],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def measure(layout: Layout, samples: Sequence[Sample], features: Mapping[str, str], options: Any, seed: int) -> Parts:
    """Seconds per prompt, trace and training sequence, by part. samples: as many as the largest part takes."""
    parts: Parts = {}
    for adapter in ("q1", "q2"):
        found = layout.grpo(adapter, samples[: options.prompts_per_step], features, seed)
        parts |= {name: seconds / options.prompts_per_step for name, seconds in found.items()}
    begin = now()
    layout.traces(samples[: options.traces], options.trace_tokens)
    parts["roll-out"] = (now() - begin) / options.traces
    made = [q2_example(s, features[s.sample_id], layout.renderer, MAX_TOKENS) for s in samples[: options.sequences]]
    examples = [one for one in made if isinstance(one, Example)]
    heard = TrainingTime()
    with tempfile.TemporaryDirectory() as folder:
        layout.sft(examples, SftSettings(epochs=1), Path(folder), heard)
    parts["SFT"] = heard.seconds / len(examples)
    return parts
