"""Several traces for each sample: a run scores the mean of a response's probability over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_tiny import POLICY, SETTINGS, Tiny, records, stored, trace, write
from result_schema import Details, Result

import remid
from remid.errors import ConfigError
from remid.lm.models import LoadedModel
from remid.pipeline.mix import mixed_key
from remid.pipeline.run import Run, scored_subsets
from remid.pipeline.score import prompt_key

#: What the author writes for a sample, draw by draw; None: what follows no format.
DRAWS = ("first", None, "second", "third")


def said(sample_id: str, draw: int) -> str:
    word = DRAWS[draw]
    return f"Content: The {word} of {sample_id}.\nStyle: Short." if word else "I had rather not."


@pytest.fixture
def author(shallow: LoadedModel, models: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Draws traces as told above, whatever the prompt's length; the model scores. Returns how many texts were drawn."""
    counts: list[int] = []
    tokenizer = shallow.tokenizer

    def sample_completions(model: Any, prompts: Any, numbers: Any, **options: Any) -> list[list[tuple[list[int], Any]]]:
        counts.extend(map(len, numbers))
        drawn = []
        for ids, mine in zip(prompts, numbers, strict=True):
            users = [row["user_persona"] for split in ("IDTest", "OOD2Test") for row in records(split)]
            (user,) = (u for u in users if u in tokenizer.decode(ids))
            texts = [said(user, draw - 1).removeprefix("Content: ") for draw in mine]
            drawn.append([([*tokenizer(text)["input_ids"], options["end_of_turn"]], []) for text in texts])
        return drawn

    monkeypatch.setattr("remid.lm.sampling.sample_completions", sample_completions)
    return counts


def content() -> dict[str, list[dict[str, Any]]]:
    return {split: records(split)[:3] for split in ("IDTest", "OOD2Test")}


def run(data: Path, folder: Path, **settings: Any) -> Run:
    made = remid.evaluate(data, out=folder, progress=False, **{**SETTINGS, **settings})
    Result.model_validate_json((folder / "result.json").read_text("utf-8"))
    Details.model_validate_json((folder / "details.json").read_text("utf-8"))
    return made


def by_one_trace(tmp_path: Path, draw: int) -> Run:
    """The same samples with this draw's trace as the only one, out of the data."""
    rows = content()
    for row in (row for split in rows.values() for row in split):
        row["SThought"] = f"## Core Features\n{said(row['user_persona'], draw)}"
    return run(write(tmp_path / f"only{draw}.json", rows), tmp_path / f"only{draw}", traces="data")


def test_every_score_is_the_mean_over_the_traces_that_parse(tmp_path: Path, author: list[int]) -> None:
    data = write(tmp_path / "plain.json", content())
    mixed = run(data, tmp_path / "mixed", traces="model", trace_draws=4)
    assert sum(author) == 6 * 4
    ones = [scored_subsets(by_one_trace(tmp_path, draw).folder) for draw in (0, 2, 3)]
    for place, subset in enumerate(scored_subsets(mixed.folder)):
        for policy, scores in subset.scores.items():
            alone = [one[place].scores[policy] for one in ones]
            for name in ("positive_B", "negative_Bm"):
                values = np.stack([getattr(one, name) for one in alone])
                with np.errstate(invalid="ignore"):  # no response, no score
                    wanted = np.logaddexp.reduce(values) - np.log(3)
                assert getattr(scores, name) == pytest.approx(wanted, abs=1e-5, nan_ok=True)
                assert np.nanmax(np.ptp(values, axis=0)) > 0.01  # traces that changed nothing would prove nothing
            assert scores.tokens_B == pytest.approx(alone[0].tokens_B, abs=0, nan_ok=True)
            assert np.isnan(scores.positive_B).sum() == ((policy, subset.shift) == (POLICY, "character"))
    assert mixed.result["traces"] == {
        **{"source": "model", "format": "compact", "draws": 4, "n": 24, "n_parsed": 18, "n_failed": 6},
        **{"failure_rate": 0.25, "n_without": 0, "failures": {"not in the compact format": 6}},
    }
    assert mixed.details[0]["trace"].count("Content: ") == 3
    rows = stored(mixed.folder)
    assert len({prompt for _, prompt, _ in rows}) == 6 * (3 + 1)  # three traces of each sample, and their mean
    for *_, logp, tokens, _, _ in rows.values():
        assert np.frombuffer(tokens, dtype=np.float32).sum(dtype=np.float64) == pytest.approx(logp, abs=1e-4)


def test_a_second_run_draws_and_scores_nothing_and_more_draws_only_what_is_new(
    tmp_path: Path, author: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = write(tmp_path / "plain.json", content()), tmp_path / "mixed"
    run(data, folder, traces="model", trace_draws=3)
    before, rows = (folder / "result.json").read_bytes(), stored(folder)
    with monkeypatch.context() as patch:
        patch.setattr("remid.lm.models.load_model", None)
        run(data, folder, traces="model", trace_draws=3)
    assert (folder / "result.json").read_bytes() == before
    assert stored(folder) == rows
    author.clear()
    run(data, folder, traces="model", trace_draws=4)
    assert sum(author) == 6
    assert rows.items() <= stored(folder).items()


def test_it_goes_in_rounds_too(tmp_path: Path, author: list[int]) -> None:
    data = write(tmp_path / "plain.json", content())
    settings = {"traces": "model", "trace_draws": 4, "negatives": 3}
    at_once = run(data, tmp_path / "once", **settings)
    rounds = run(data, tmp_path / "rounds", **settings, until_se=1e-9)
    (a, b) = (scored_subsets(one.folder)[0].scores["one"].positive_B for one in (at_once, rounds))
    assert (a == b).all()


def test_a_sample_none_of_whose_traces_parse_has_no_score(
    tmp_path: Path, author: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "test_mix.said", lambda name, draw: "Nothing." if "Ann" in name else f"Content: {draw}.\nStyle: x."
    )
    data = write(tmp_path / "plain.json", content())
    made = run(data, tmp_path / "mixed", traces="model", trace_draws=2)
    assert made.result["traces"]["n_without"] == 1
    assert [(m["what"], m["examples"]) for m in made.result["missing"] if m["what"] == "trace"] == [("trace", ["i0"])]


def test_a_pair_that_is_missing_under_one_trace_is_missing(
    tmp_path: Path, author: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third trace of every sample makes its prompt too long."""
    long = " and so on" * 60
    short = said
    monkeypatch.setattr("test_mix.said", lambda name, draw: short(name, draw).replace("third", f"third{long}"))
    data = write(tmp_path / "plain.json", content())
    made = run(data, tmp_path / "mixed", traces="model", trace_draws=4, max_tokens=200)
    reasons = {m["reason"] for m in made.result["missing"] if m["what"] == "prompt"}
    assert reasons
    assert all("room for" in reason for reason in reasons)
    assert {r["logp"] for d in made.details for r in d["responses"]} == {None}


def test_data_has_one_trace_and_cannot_be_drawn_from(tmp_path: Path, tiny: Tiny, models: None) -> None:
    rows = content()
    for row in (row for split in rows.values() for row in split):
        row["SThought"] = trace(row["sample_ID"])
    data = write(tmp_path / "traced.json", rows)
    for settings in ({"traces": "data"}, {"traces": "none"}, {}):
        with pytest.raises(ConfigError, match="trace_draws"):
            run(data, tmp_path / "run", trace_draws=2, **settings)


def test_a_single_prompt_keeps_its_own_key_and_order_does_not_matter(tiny: Tiny) -> None:
    from remid.lm.chat import Message

    a, b = (Message("user", "a"),), (Message("user", "b"),)
    assert mixed_key(()) is None
    assert mixed_key((a,)) == prompt_key(a)
    assert mixed_key((a, b)) == mixed_key((b, a))
    assert len({mixed_key((a, b)), mixed_key((a, a)), mixed_key((a, b, b)), mixed_key((a,))}) == 4
