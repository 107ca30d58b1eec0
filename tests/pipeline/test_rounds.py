"""Scoring in rounds with a tiny random model: what is spent, what is promised, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_tiny import Told, write
from transformers import LlamaConfig, LlamaForCausalLM

from remid.errors import ConfigError
from remid.estimate import remi as remi_of
from remid.estimate import remid
from remid.estimate.sequential import PILOT_ITEMS, at_full_shares
from remid.pipeline.config import RunConfig, make_config
from remid.pipeline.engines import run_engines
from remid.pipeline.plan import Plan, make_plan
from remid.pipeline.progress import Progress
from remid.pipeline.rounds import Rounds, score_in_rounds
from remid.pipeline.score import text_key
from remid.pipeline.store import PromptRow, ScoreRow, Store

QUIET = Progress(enabled=False)
#: Samples per subset; town: what clusters go by.
SIZES = {"IDTest": ("IDTest", 60), "OOD1Test": ("german", 45), "OOD2Test": ("Gaming", 50)}


class KilledError(Exception):
    """What stands for a kill between two transactions."""


@cache
def _model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=257, initializer_range=0.4, **sizes)).eval()


@cache  # most tests look at the same pairs
def _row(prompt: bytes, text: str) -> ScoreRow:
    said = [*text.encode(), 256]
    with torch.inference_mode():
        logits_TV = _model()(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1]
    logp_T = torch.log_softmax(logits_TV, -1)[torch.arange(len(said)), torch.tensor(said)].numpy()
    return ScoreRow(len(said), float(logp_T.astype(np.float64).sum()), logp_T, None)


class TinyModel:
    """A random causal model over bytes, which scores a plan's pairs prompt by prompt and counts them."""

    def __init__(self, store: Store, pairs_to_live: int | None = None) -> None:
        self._store, self._left = store, pairs_to_live
        self.pairs = 0
        self.rounds = 0

    def __call__(self, plan: Plan) -> None:
        self.rounds += 1
        have = self._store.scored(plan.scorer_id)
        for unit in plan.units:
            texts = [text for text in unit.texts if (unit.key, text_key(text)) not in have]
            if not texts:
                continue
            prompt = b"".join(message.content.encode() for message in unit.messages)[-60:]
            rows = [(unit.key, text_key(text), _row(prompt, text)) for text in texts]
            if self._left is not None and self.pairs + len(rows) > self._left:
                raise KilledError
            self._store.add_scores(plan.scorer_id, {unit.key: PromptRow(len(prompt), 0, None)}, rows)
            self.pairs += len(rows)


def benchmark(splits: tuple[str, ...] = tuple(SIZES)) -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    words = ["rum", "tomb", "sword", "cake", "wizard", "tide", "moon", "tired", "battery", "poem", "dragon", "gone"]

    def said(least: int, most: int) -> str:
        return " ".join(rng.choice(words, int(rng.integers(least, most))))

    made: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        subset, n = SIZES[split]
        made[split] = [
            {
                "sample_ID": f"{subset}{k}",
                "user_persona": said(1, 3),
                "agent_character": {"name": said(1, 2), "profile": said(2, 4)},
                "dialogue_context": [{"user_query": said(2, 6)}],
                "agent_golden_response": said(2, 6),
                "subset_tag": subset,
                "model_response": {"one": said(2, 6), "two": said(1, 3)},
                "town": f"{subset}-{k // 3}",
            }
            for k in range(n)
        ]
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rounds") / "data.json", benchmark())


def config_of(data: Path, **settings: Any) -> RunConfig:
    return make_config(data=(data,), device="cpu", traces="none", **settings)


def go(
    folder: Path,
    config: RunConfig,
    wish: float,
    pairs_to_live: int | None = None,
    progress: Progress = QUIET,
    model: Callable[[Store], Any] | None = None,
) -> tuple[Rounds, Any]:
    with Store(folder) as store:
        plan = make_plan(config, store, run_engines(config, None, QUIET), QUIET)
        scorer = model(store) if model else TinyModel(store, pairs_to_live)
        return score_in_rounds(plan, wish, store, scorer, progress), scorer


def widest(found: Rounds) -> float:
    return max(row["stderr"] for row in found.stopping["asks"])


@pytest.fixture(scope="module")
def first_stderr(data: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The widest standard error after the first round."""
    found, _ = go(tmp_path_factory.mktemp("first") / "run", config_of(data), 1e6)
    return widest(found)


def test_an_easy_wish_ends_after_the_first_round(data: Path, tmp_path: Path) -> None:
    found, scorer = go(tmp_path / "run", config_of(data), 1e6)
    assert scorer.rounds == 1
    assert found.plan.groups == found.first
    assert [len(g.samples) for g in found.plan.groups] == [
        PILOT_ITEMS,
        45 if PILOT_ITEMS + 20 > 45 else 25,
        PILOT_ITEMS,
    ]
    assert {row["verdict"] for row in found.stopping["asks"]} == {"met"}
    assert {(row["policy"], row["shift"], row["quantity"]) for row in found.stopping["asks"]} == {
        (policy, shift, "remid") for policy in ("one", "two") for shift in ("user", "character")
    }


def test_a_wish_is_met_with_fewer_pairs_than_everything_and_all_share_prompts(
    data: Path, tmp_path: Path, first_stderr: float
) -> None:
    wish = 0.85 * first_stderr
    told = Told()
    found, scorer = go(tmp_path / "run", config_of(data), wish, progress=told)
    assert widest(found) <= wish
    assert {row["verdict"] for row in found.stopping["asks"]} == {"met"}
    assert found.stopping["looks"] == scorer.rounds > 1
    assert "round 2" in told.lines[1]
    everything, all_pairs = go(tmp_path / "all", config_of(data), 0.5 * first_stderr)
    assert scorer.pairs < 0.8 * all_pairs.pairs or all_pairs.rounds == 1
    assert everything.stopping["looks"] <= 5
    with Store(tmp_path / "run") as store:
        subsets = found.plan.subsets(store)
    for s in subsets:
        assert len({scores.design.negatives_Bm.tobytes() for scores in s.scores.values()}) == 1
        assert all(np.isfinite(scores.negative_Bm).all() for name, scores in s.scores.items() if name != "shuffled")
    at_id, *shifts = (at_full_shares([remi_of(s.scores["one"], s.scores["reference"])], [1]) for s in subsets)
    said = {row["shift"]: row["stderr"] for row in found.stopping["asks"] if row["policy"] == "one"}
    assert [remid(at_id, one).stderr for one in shifts] == pytest.approx([said["user"], said["character"]])


def test_a_wish_out_of_reach_is_said_at_once(data: Path, tmp_path: Path, first_stderr: float) -> None:
    told = Told()
    found, scorer = go(tmp_path / "run", config_of(data), first_stderr / 50, progress=told)
    assert scorer.rounds == 1
    for row in found.stopping["asks"]:
        assert row["verdict"] == "unreachable"
        assert row["n_all"][0] == 60
        assert row["n_needed"][0] > 10 * row["n_all"][0]
    assert "times as many samples" in told.lines[1]


@pytest.mark.parametrize("clustered", [False, True])
def test_a_run_killed_anywhere_ends_with_the_same_and_scores_nothing_twice(
    data: Path, tmp_path: Path, first_stderr: float, clustered: bool
) -> None:
    config = config_of(data, cluster_by="town" if clustered else None)
    wish = 0.8 * first_stderr
    whole, scorer = go(tmp_path / "whole", config, wish)
    assert scorer.rounds > 1
    spent, lives = 0, 0
    while True:
        lives += 1
        with Store(tmp_path / "broken") as store:
            model = TinyModel(store, scorer.pairs // 4)
            try:
                found = score_in_rounds(
                    make_plan(config, store, run_engines(config, None, QUIET), QUIET), wish, store, model, QUIET
                )
                break
            except KilledError:
                continue
            finally:
                spent += model.pairs
    assert lives > 3
    assert spent == scorer.pairs
    assert found.stopping == whole.stopping
    assert [g.samples for g in found.plan.groups] == [g.samples for g in whole.plan.groups]
    for ours, theirs in zip(found.plan.groups, whole.plan.groups, strict=True):
        assert np.array_equal(ours.design.negatives_Bm, theirs.design.negatives_Bm)


def test_a_finished_run_is_replayed_without_a_model(data: Path, tmp_path: Path, first_stderr: float) -> None:
    wish = 0.8 * first_stderr
    found, _ = go(tmp_path / "run", config_of(data), wish)
    again, _ = go(tmp_path / "run", config_of(data), wish, model=lambda store: lambda plan: None)
    assert again.stopping == found.stopping
    assert [g.samples for g in again.plan.groups] == [g.samples for g in found.plan.groups]


def test_a_wish_made_stricter_keeps_every_pair(data: Path, tmp_path: Path, first_stderr: float) -> None:
    _, first = go(tmp_path / "run", config_of(data), 0.9 * first_stderr)
    _, more = go(tmp_path / "run", config_of(data), 0.8 * first_stderr)
    _, fresh = go(tmp_path / "fresh", config_of(data), 0.8 * first_stderr)
    assert first.pairs + more.pairs <= fresh.pairs + first.pairs
    assert more.pairs < fresh.pairs


def test_clusters_stay_whole_and_unpaired(data: Path, tmp_path: Path) -> None:
    found, _ = go(tmp_path / "run", config_of(data, cluster_by="town"), 1e6)
    for group in found.plan.groups:
        towns = [str(sample.meta["town"]) for sample in group.samples]
        assert all(towns.count(town) == 3 for town in towns)
        assert not any(towns[i] == towns[j] for i, row in enumerate(group.design.negatives_Bm) for j in row)


def test_without_a_shift_it_is_remi_that_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path / "id.json", benchmark(("IDTest",)))
    found, _ = go(tmp_path / "run", config_of(path), 1e6)
    assert {(row["quantity"], row["shift"], len(row["n"])) for row in found.stopping["asks"]} == {("remi", "id", 1)}


def test_settings_that_make_no_sense_are_refused(data: Path, tmp_path: Path) -> None:
    for wish, negatives in ((0.0, 4), (float("nan"), 4), (-1.0, 4), (1.0, 2)):
        with pytest.raises(ConfigError, match="until_se"):
            go(tmp_path / "run", config_of(data, negatives=negatives), wish)
