"""A policy's responses, written by a model and recorded in a JSONL file that `remid run --responses` reads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remid.data.record import policy_fault
from remid.data.text import shown
from remid.engine.work import Chat, WritingEngine
from remid.errors import ConfigError, DataError, Problem
from remid.lm.generate import Decoding
from remid.lm.models import DTypeName
from remid.pipeline.batch_file import BatchFile
from remid.pipeline.engines import EngineConfig, Engines, ModelChoice
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.score import prompt_key
from remid.types import Sample

#: Parts of the input that a policy can be made blind to.
BLINDABLE = ("character", "user")
#: What each line begins with.
_HEAD = b'{"policy": '


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
    repetition_penalty: float = 1.0
    seed: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Responded:
    """What a command wrote. empty: how many of the written say nothing. unanswered: "sample (reason)" of the others."""

    written: int = 0
    empty: int = 0
    unanswered: tuple[str, ...] = ()


def respond(
    samples: Sequence[Sample],
    out: Path,
    config: RespondConfig,
    progress: Progress,
    engine: EngineConfig | None = None,
) -> Responded:
    """Append a response to `out` for every sample that has none there yet.

    engine: where the model runs; what could not be written is asked for again by the same command.
    A batch is durable once it is written, and a kill leaves all of it or nothing (pipeline/batch_file.py).
    Raises ConfigError for settings that cannot be used, or that differ from those of the policy's lines in `out`,
    DataError for an `out` that holds something else (which is left as it is), StoreError where there is no room.
    """
    if fault := policy_fault(config.policy):
        raise ConfigError(f"policy: {fault}")
    numbers = (config.temperature, config.repetition_penalty)
    if config.max_new_tokens < 1 or not all(map(math.isfinite, numbers)) or numbers[0] < 0 or numbers[1] <= 0:
        raise ConfigError(
            "max_new_tokens must be at least 1, temperature a number of at least 0, repetition_penalty one above 0"
        )
    if unknown := [part for part in config.without if part not in BLINDABLE]:
        raise ConfigError(f"without: {', '.join(unknown)} cannot be left out; one of {', '.join(BLINDABLE)}")
    decoding = Decoding(
        config.max_new_tokens,
        config.temperature,
        repetition_penalty=config.repetition_penalty,
        seed=config.seed,
    )
    choice = ModelChoice(config.model, config.device, config.dtype, config.trust_remote_code)
    with Engines(choice, engine or EngineConfig(), progress) as engines:
        settings = {
            "model": engines.source.fingerprint,
            "without": list(config.without),
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "repetition_penalty": config.repetition_penalty,
            "seed": config.seed,
        }
        omitted = engine.server.omit if engine is not None and engine.server is not None else ()
        # What is not sent is the server's to choose, and we do not know it.
        settings |= {name: None for name in settings if name in omitted}
        asked = {s.sample_id: tuple(role_play_messages(s, without=config.without)) for s in samples}
        with BatchFile(out) as file:
            done = _already_in(out, config.policy, settings, {name: prompt_key(said) for name, said in asked.items()})
            todo = [sample for sample in samples if sample.sample_id not in done]
            if not todo:
                progress.say(f"{out}: {config.policy} has answered every sample")
                return Responded()
            chats = [Chat(asked[sample.sample_id]) for sample in todo]
            writer = engines.writing(decoding, chats)
            progress.say(f"responding: {writer.name}")
            return _write(writer, chats, todo, file, {"policy": config.policy, "settings": settings}, progress)


def _write(
    writer: WritingEngine,
    chats: Sequence[Chat],
    samples: Sequence[Sample],
    file: BatchFile,
    about: dict[str, Any],
    progress: Progress,
) -> Responded:
    """Append what the writer says, a batch at a time."""
    count = empty = 0
    silent: list[str] = []
    with progress.stage("responding", len(chats)) as step:
        for batch in writer.write(chats):
            lines = []
            for written in batch:
                sample_id = samples[written.chat].sample_id
                if written.text is None:
                    silent.append(f"{shown(sample_id)} ({shown(written.missing or 'no reason given')})")
                    continue
                count += 1
                empty += not written.text.strip()
                record = {
                    "policy": about["policy"],
                    "sample_ID": sample_id,
                    "response": written.text,
                    "finished": written.finished,
                    "prompt": prompt_key(chats[written.chat].messages),
                    **about["settings"],
                }
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            file.add("".join(lines).encode())
            step(len(batch))
    return Responded(count, empty, tuple(silent))


def _already_in(out: Path, policy: str, settings: dict[str, Any], prompts: dict[str, str]) -> set[str]:
    """Sample ids that the policy has answered in the file, after an unfinished last line of ours is cut off.

    prompts: keys of what is asked now, by sample. Raises ConfigError where the file has answers to something else.
    """
    if not out.exists():
        return set()
    try:
        lines = out.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError([Problem(str(out), "", "", f"cannot be read: {error.strerror}")]) from error
    last = lines.pop()
    whole = bool(last) and _record(last) is not None
    done = set()
    for number, line in enumerate([*lines, last] if whole else lines, start=1):
        record = _record(line)
        if record is None:
            raise DataError([_foreign(out, number)])
        if record["policy"] != policy:
            continue
        name = str(record["sample_ID"])
        done.add(name)
        if changed := [name for name, value in settings.items() if record.get(name, value) != value]:
            raise ConfigError(
                f"policy: {out} holds answers of {policy} made with another {', '.join(changed)} "
                f"(line {number}); choose another name or file"
            )
        if record.get("prompt", prompts.get(name)) != prompts.get(name) and name in prompts:
            raise ConfigError(
                f"policy: {out} holds an answer of {policy} to sample {shown(name)} as it was before its text changed "
                f"(line {number}); choose another name or file"
            )
    # Only what our own writing can have left is mended: another program's file may have no line break at its end.
    if last and not whole and not (last.startswith(_HEAD) or _HEAD.startswith(last)):
        raise DataError([_foreign(out, len(lines) + 1)])
    if last:
        with out.open("r+b") as stream:
            stream.seek(0 if whole else -len(last), os.SEEK_END)
            stream.write(b"\n" if whole else b"")
            stream.truncate()
    return done


def _record(line: bytes) -> dict[str, Any] | None:
    """A recorded response, or None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and {"policy", "sample_ID"} <= record.keys() else None


def _foreign(out: Path, number: int) -> Problem:
    return Problem(str(out), f"line {number}", "", "is not a response recorded here; give --out another file")
