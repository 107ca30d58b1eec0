"""Several texts for one chat: drawn behind one run of its prompt, different from each other, the same when repeated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from remid.engine.local import LocalEngine
from remid.engine.work import Chat, seed_of
from remid.lm.chat import ChatRenderer, Message
from remid.lm.generate import Decoding
from remid.lm.models import LoadedModel

PLAIN = Decoding(max_new_tokens=8, temperature=1.0, top_p=1.0, seed=3)
#: Cut at top_p, so that every text has a prompt of its own.
CUT = Decoding(max_new_tokens=8, temperature=1.0, top_p=0.99, seed=3)


def chats(draws: int, questions: int = 3) -> list[Chat]:
    asked = [(Message("user", f"Question {'x ' * k}?"),) for k in range(questions)]
    return [Chat(messages, draw=draw) for messages in asked for draw in range(1, draws + 1)]


def written(loaded: LoadedModel, decoding: Decoding, asked: list[Chat], times: int = 1_000) -> dict[Chat, str]:
    """What the engine writes, of its first batches alone where times says so."""
    found: dict[Chat, str] = {}
    for batch, _ in zip(LocalEngine(loaded, decoding).write(asked), range(times), strict=False):
        found |= {asked[w.chat]: str(w.text) for w in batch}
    return found


@pytest.mark.parametrize("decoding", [PLAIN, CUT])
def test_draws_differ_and_come_again(shallow: LoadedModel, decoding: Decoding) -> None:
    asked = chats(6)
    found = written(shallow, decoding, asked)
    assert set(found) == set(asked)
    for k in range(3):
        assert len(set(list(found.values())[6 * k : 6 * k + 6])) > 3
    assert written(shallow, decoding, asked) == found
    assert written(shallow, decoding, asked[::-1]) == found


@pytest.mark.parametrize("decoding", [PLAIN, CUT])
def test_what_is_resumed_draws_what_a_whole_run_draws(
    shallow: LoadedModel, decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remid.engine.local._BATCH", 4)
    monkeypatch.setattr("remid.lm.sampling._ROWS", 8)
    asked = chats(4, questions=5)
    whole, first = written(shallow, decoding, asked), written(shallow, decoding, asked, times=2)
    assert 0 < len(first) < len(asked)
    rest = [chat for chat in asked if chat not in first]
    assert first | written(shallow, decoding, rest) == whole


@pytest.mark.parametrize("decoding", [PLAIN, CUT])
def test_further_draws_are_no_copies_of_the_first(shallow: LoadedModel, decoding: Decoding) -> None:
    """Whoever asks for twice as many is asked for those that are missing only."""
    both = chats(8, questions=1)
    first, further = (list(written(shallow, decoding, part).values()) for part in (both[:4], both[4:]))
    assert first != further
    assert len({*first, *further}) > len(set(first))


def test_a_model_that_keeps_its_past_in_another_way_draws_too(
    shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remid.lm.room.roomy_cache", lambda model, room: None)
    monkeypatch.setattr("remid.lm.sampling.sample_completions", None)
    asked = chats(6, questions=2)
    found = written(shallow, PLAIN, asked)
    assert set(found) == set(asked)
    assert len(set(found.values())) > 6
    assert written(shallow, PLAIN, asked) == found


def test_a_prompt_is_run_once_for_all_its_draws(shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = chats(6, questions=1)
    length = len(ChatRenderer(shallow.tokenizer).prompt_ids(asked[0].messages))
    shapes: list[tuple[int, ...]] = []
    forward = type(shallow.model).forward

    def watched(self: object, *args: object, **options: Any) -> object:
        shapes.append(tuple(options["input_ids"].shape))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(shallow.model), "forward", watched)
    written(shallow, PLAIN, asked)
    assert [shape for shape in shapes if shape[1] == length] == [(1, length)]
    shapes.clear()
    written(shallow, CUT, asked)
    assert [shape for shape in shapes if shape[1] == length] == [(6, length)]


def test_what_is_drawn_beside_it_changes_no_draw(shallow: LoadedModel) -> None:
    """Fewer samples, fewer draws, another worker's share: each text depends on its prompt and number."""
    asked = chats(6, questions=4)
    whole = written(shallow, PLAIN, asked)
    for part in (asked[:7], asked[3::5], asked[-1:], chats(2, questions=4)):
        assert written(shallow, PLAIN, part).items() <= whole.items()
    assert written(shallow, PLAIN, [*asked, *asked[:2]]) == whole
    other = written(shallow, replace(PLAIN, seed=4), asked)
    assert sum(other[chat] == text for chat, text in whole.items()) < 4


def test_seeds_of_draws() -> None:
    (one,) = chats(1, questions=1)
    assert seed_of(replace(one, draw=0), 7) == 7
    seeds = {seed_of(chat, seed) for chat in chats(20, questions=20) for seed in range(5)}
    assert len(seeds) == 2_000
    assert max(seeds) < 2**31
