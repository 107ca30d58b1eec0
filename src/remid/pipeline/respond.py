"""A policy's responses, written by a model and recorded in a JSONL file that `remid run --responses` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from remid.errors import ConfigError, DataError, Problem
from remid.lm.models import DTypeName, find_model, load_model
from remid.pipeline.policies import CONTROLS
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.types import Sample

#: Parts of the input that a policy can be made blind to.
BLINDABLE = ("character", "user")
_BATCH = 16


@dataclass(frozen=True, slots=True)
class RespondConfig:
    """How a policy answers. policy: its name in the file. without: components it does not see."""

    policy: str
    model: str = "builtin"
    device: str = "auto"
    dtype: DTypeName = "auto"
    without: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    trust_remote_code: bool = False


def respond(samples: Sequence[Sample], out: Path, config: RespondConfig, progress: Progress) -> int:
    """Append a response to `out` for every sample that has none there yet; returns how many were written.

    A line is durable once its batch is written; a line that a kill cut in two is dropped and made again.
    Raises ConfigError for names that cannot be used, DataError for an `out` that holds something else.
    """
    if config.policy in CONTROLS:
        raise ConfigError(f"policy: {config.policy!r} is the name of a built-in control; choose another")
    if unknown := [part for part in config.without if part not in BLINDABLE]:
        raise ConfigError(f"without: {', '.join(unknown)} cannot be left out; one of {', '.join(BLINDABLE)}")
    done = _already_in(out, config.policy)
    todo = [sample for sample in samples if sample.sample_id not in done]
    if not todo:
        progress.say(f"{out}: {config.policy} has answered every sample")
        return 0
    from remid.lm.chat import ChatRenderer
    from remid.lm.generate import Decoding, generate

    source = find_model(config.model)
    progress.say(f"responding: loading {source.name}")
    loaded = load_model(
        source,
        device=config.device,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    renderer = ChatRenderer(loaded.tokenizer)
    prompts = [(s, renderer.prompt_ids(role_play_messages(s, without=config.without))) for s in todo]
    if over := [s.sample_id for s, ids in prompts if len(ids) + config.max_new_tokens > loaded.max_length]:
        progress.say(f"{len(over)} samples do not fit into {loaded.max_length} tokens and stay unanswered: {over[:5]}")
        prompts = [(s, ids) for s, ids in prompts if len(ids) + config.max_new_tokens <= loaded.max_length]
    prompts.sort(key=lambda pair: (-len(pair[1]), pair[0].sample_id))
    decoding = Decoding(config.max_new_tokens, config.temperature, seed=config.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as stream, progress.stage("responding", len(prompts)) as step:
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            stream_id = len(done) + start
            texts = generate(loaded, [ids for _, ids in batch], renderer.end_of_turn_id, decoding, stream=stream_id)
            for (sample, _), (text, finished) in zip(batch, texts, strict=True):
                record = {
                    "policy": config.policy,
                    "sample_ID": sample.sample_id,
                    "response": text,
                    "finished": finished,
                    "model": source.fingerprint,
                    "without": list(config.without),
                    "max_new_tokens": config.max_new_tokens,
                    "temperature": config.temperature,
                    "seed": config.seed,
                }
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            step(len(batch))
    return len(prompts)


def _already_in(out: Path, policy: str) -> set[str]:
    """Sample ids that the policy has answered in the file, after cutting off an unfinished last line."""
    if not out.exists():
        return set()
    raw = out.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with out.open("r+b") as stream:
            stream.truncate(len(whole))
    done = set()
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["policy"] == policy:
                done.add(str(record["sample_ID"]))
        except (ValueError, KeyError, TypeError) as error:
            problem = Problem(str(out), f"line {number}", "", "is not a recorded response; give --out another file")
            raise DataError([problem]) from error
    return done
