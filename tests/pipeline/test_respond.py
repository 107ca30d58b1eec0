"""Recording a policy's responses: a broken run goes on, nothing of anyone else's is lost, and blindness is real."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_tiny import Told, write

from remid.data import read_benchmark
from remid.engine.server_settings import ServerSettings
from remid.engine.work import Written
from remid.errors import ConfigError, DataError
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel
from remid.pipeline.engines import EngineConfig, Engines
from remid.pipeline.respond import RespondConfig, respond
from remid.types import Sample

SHORT: dict[str, Any] = {"device": "cpu", "max_new_tokens": 4}
CONFIG = RespondConfig("mine", **SHORT)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Three tiny samples."""
    return [s for s in read_benchmark([write(tmp_path / "b.json")]).test if s.sample_id in ("i1", "i2", "g0")]


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch, models: None) -> list[list[int]]:
    """Ids of all prompts for which responses are asked; the model is not run."""
    seen: list[list[int]] = []

    def generate(loaded: Any, batch: Sequence[list[int]], *args: Any, **options: Any) -> list[tuple[str, bool]]:
        seen.extend(map(list, batch))
        return [(f"answer {len(ids)}", True) for ids in batch]

    monkeypatch.setattr("remid.lm.generate.generate", generate)
    return seen


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_real_model_answers_every_sample_and_a_run_can_read_it(
    tmp_path: Path, samples: list[Sample], models: None
) -> None:
    out = tmp_path / "new" / "r.jsonl"
    assert respond(samples, out, CONFIG, Told()).written == 3
    made = lines(out)
    assert sorted(line["sample_ID"] for line in made) == ["g0", "i1", "i2"]
    for line in made:
        assert line["policy"] == "mine"
        assert isinstance(line["response"], str)
        assert isinstance(line["finished"], bool)
        assert (line["max_new_tokens"], line["temperature"], line["seed"], line["without"]) == (4, 0.0, 0, [])
        assert line["model"].startswith("builtin:")
    assert any(line["response"] for line in made)
    benchmark = read_benchmark([tmp_path / "b.json"], responses=[out])
    given = {s.sample_id: s.responses["mine"] for s in benchmark.test if "mine" in s.responses}
    assert given == {line["sample_ID"]: line["response"] for line in made if line["response"]}


def test_an_unfinished_last_line_is_dropped_and_made_again(tmp_path: Path, samples: list[Sample], models: None) -> None:
    out = tmp_path / "r.jsonl"
    respond(samples, out, CONFIG, Told())
    whole = out.read_bytes()
    kept = whole[: whole.rstrip(b"\n").rfind(b"\n") + 1]
    last = whole[len(kept) :]
    for cut in (1, len(last) // 2, len(last) - 3):
        out.write_bytes(kept + last[:cut])
        assert respond(samples, out, CONFIG, Told()).written == 1
        assert out.read_bytes().startswith(kept)
        assert sorted(line["sample_ID"] for line in lines(out)) == ["g0", "i1", "i2"]


def test_a_last_line_that_lacks_only_its_end_is_kept(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]]
) -> None:
    out = tmp_path / "r.jsonl"
    respond(samples[:2], out, CONFIG, Told())
    whole = out.read_bytes()
    out.write_bytes(whole.removesuffix(b"\n"))
    assert respond(samples[:2], out, CONFIG, Told()).written == 0
    assert out.read_bytes() == whole
    out.write_bytes(whole.removesuffix(b"\n"))
    assert respond(samples, out, CONFIG, Told()).written == 1
    assert len(lines(out)) == 3


def test_whoever_has_answered_everything_loads_no_model(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "r.jsonl", Told()
    respond(samples, out, CONFIG, Told())
    before = out.read_bytes()
    monkeypatch.setattr("remid.lm.models.load_model", None)
    assert respond(samples, out, CONFIG, told).written == 0
    assert "mine has answered every sample" in told.lines[0]
    assert out.read_bytes() == before


def test_other_policies_in_the_file_are_kept_and_do_not_count(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]]
) -> None:
    out = tmp_path / "r.jsonl"
    theirs = json.dumps({"policy": "other", "sample_ID": "i1", "response": "naïve"}, ensure_ascii=False) + "\n"
    out.write_text(theirs, "utf-8")
    assert respond(samples, out, CONFIG, Told()).written == 3
    assert respond(samples, out, RespondConfig("third", **SHORT), Told()).written == 3
    assert out.read_text("utf-8").startswith(theirs)
    assert [line["policy"] for line in lines(out)] == ["other", *["mine"] * 3, *["third"] * 3]


@pytest.mark.parametrize(
    "change",
    [{"max_new_tokens": 5}, {"without": ("user",)}, {"temperature": 0.5}, {"seed": 1}],
)
def test_one_name_is_not_given_to_answers_of_two_kinds(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]], change: dict[str, Any]
) -> None:
    out = tmp_path / "r.jsonl"
    respond(samples[:1], out, CONFIG, Told())
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=next(iter(change))):
        respond(samples, out, replace(CONFIG, **change), Told())
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"notes without an end",
        b"notes\n",
        b"[1, 2]\n",
        b'{"policy": "mine"}\n',
        b'{"IDTest": []}',
        b"\xff\xfe",
        b"\n",
        b'{"policy": "x", "sample_ID": "1"}\n{"poli',
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]], content: bytes
) -> None:
    out = tmp_path / "r.jsonl"
    out.write_bytes(content)
    if content.endswith(b'{"poli'):  # ours, cut by a kill
        assert respond(samples, out, CONFIG, Told()).written == 3
        assert len(lines(out)) == 4
        return
    with pytest.raises(DataError, match=r"r\.jsonl: line 1"):
        respond(samples, out, CONFIG, Told())
    assert out.read_bytes() == content


def test_a_folder_in_the_files_place_is_a_data_error(tmp_path: Path, samples: list[Sample], models: None) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        respond(samples, tmp_path, CONFIG, Told())


@pytest.mark.parametrize("name", ["reference", "shuffled", "generic", "parrot", "Reference", " parrot ", "", "  "])
def test_names_that_a_run_would_refuse_are_refused(tmp_path: Path, samples: list[Sample], name: str) -> None:
    with pytest.raises(ConfigError, match="policy: "):
        respond(samples, tmp_path / "r.jsonl", replace(CONFIG, policy=name), Told())
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"without": ("dialogue",)},
        {"without": ("",)},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"repetition_penalty": math.inf},
        {"repetition_penalty": math.nan},
        {"policy": "a\udcffb"},
    ],
)
def test_settings_without_a_sense_are_refused(tmp_path: Path, samples: list[Sample], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        respond(samples, tmp_path / "r.jsonl", replace(CONFIG, **change), Told())


@pytest.mark.parametrize(("part", "title"), [("character", "# Character\n"), ("user", "# User\n")])
def test_blindness_takes_its_part_out_of_the_prompt_and_nothing_else(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]], embedded: LoadedModel, part: str, title: str
) -> None:
    one = samples[:1]
    respond(one, tmp_path / "seeing.jsonl", CONFIG, Told())
    respond(one, tmp_path / "blind.jsonl", replace(CONFIG, without=(part,)), Told())
    seeing, blind = (ChatRenderer(embedded.tokenizer).decode(ids) for ids in prompts)
    text = one[0].character if part == "character" else one[0].user
    assert text in seeing
    assert text not in blind
    assert seeing.replace(f"\n\n{title}{text}", "") == blind
    assert lines(tmp_path / "blind.jsonl")[0]["without"] == [part]


def test_a_policy_never_sees_the_reference_or_other_answers(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]], embedded: LoadedModel
) -> None:
    respond(samples, tmp_path / "r.jsonl", CONFIG, Told())
    shown = "\n".join(ChatRenderer(embedded.tokenizer).decode(ids) for ids in prompts)
    assert all(s.dialogue[-1].text in shown for s in samples)
    assert not any(text in shown for s in samples for text in (s.reference, *s.responses.values()))


def test_what_does_not_fit_stays_unanswered_and_is_said(
    tmp_path: Path,
    samples: list[Sample],
    prompts: list[list[int]],
    embedded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renderer, told = ChatRenderer(embedded.tokenizer), Told()
    respond(samples, tmp_path / "all.jsonl", CONFIG, Told())
    longest = max(map(len, prompts))
    assert renderer.decode(max(prompts, key=len))
    short = replace(embedded, max_length=longest + 4 - 1)
    monkeypatch.setattr("remid.lm.models.load_model", lambda source, **options: short)
    made = respond(samples, tmp_path / "some.jsonl", CONFIG, told)
    assert made.written == 2
    (why,) = made.unanswered
    assert "room for" in why


def test_an_answer_to_a_text_that_changed_since_is_not_taken_for_one_to_the_new(
    tmp_path: Path, samples: list[Sample], prompts: list[list[int]]
) -> None:
    out = tmp_path / "r.jsonl"
    respond(samples, out, CONFIG, Told())
    before, asked = out.read_bytes(), len(prompts)
    edited = [replace(samples[0], character="A bishop."), *samples[1:]]
    with pytest.raises(ConfigError, match=rf"sample {samples[0].sample_id} as it was before its text changed \(line "):
        respond(edited, out, CONFIG, Told())
    assert (out.read_bytes(), len(prompts)) == (before, asked)
    # Files from before prompts were kept count as they did.
    older = [{name: value for name, value in line.items() if name != "prompt"} for line in lines(out)]
    out.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert respond(edited, out, CONFIG, Told()).written == 0


def test_what_a_server_is_not_sent_is_not_said_to_have_been(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer:
        name = "m"

        def write(self, chats: Sequence[Any]) -> Any:
            yield [Written(k, "Aye.", True) for k in range(len(chats))]

    monkeypatch.setattr(Engines, "writing", lambda *_: Writer())
    server = ServerSettings(base_url="http://127.0.0.1:9/v1", model="m")
    out = tmp_path / "r.jsonl"
    plain, without = (EngineConfig(server=replace(server, omit=omit)) for omit in ((), ("temperature",)))
    respond(samples[:1], out, CONFIG, Told(), without)
    assert [(line["temperature"], line["seed"]) for line in lines(out)] == [(None, 0)]
    with pytest.raises(ConfigError, match="made with another temperature"):
        respond(samples, out, CONFIG, Told(), plain)
    assert respond(samples, out, CONFIG, Told(), without).written == len(samples) - 1
