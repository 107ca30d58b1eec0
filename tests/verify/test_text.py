"""R-EMID through a model against the truth: the exact q in seconds, the trained one marked slow."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import remid
from remid.data import write_benchmark
from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.scoring import Scorer
from remid.lm.work import Work
from remid.verify import tiny
from remid.verify.text import Setting, TextSummary, TextTruth, check, quick_setting, text_truth, true_remid

#: A few seconds of training: far from exact, but every path is walked.
_BRIEF = tiny.Training(
    steps=12, prompts=6, responses=6, width=32, layers=1, pool=2, voices=("reference", "sharp", "parrot")
)


@pytest.fixture(scope="module")
def brief() -> LoadedModel:
    return tiny.train_tiny(_BRIEF)


@pytest.fixture(scope="module")
def exact_truth() -> TextTruth:
    setting = Setting(
        tiny.Training(),
        ("exact",),
        ("none",),
        surfaces=1,
        n=200,
        candidates=199,
        replications=3,
        shifts=(("user", 2.0), ("dialogue", 2.0), ("several", 2.0), ("several", -2.0)),
        policies=("blur-60", "frail-user", "frail-dialogue", "sharp", "generic"),
    )
    return check(setting, None, seed=3)


def _summary(truth: TextTruth, source: str, estimator: str, reveals: str = "none") -> TextSummary:
    wanted = (source, estimator, reveals, "graded")
    (found,) = [s for s in truth.summaries if (s.source, s.estimator, s.reveals, s.policies) == wanted]
    return found


def test_true_remid_of_a_policy_that_fails_for_rare_users_is_what_it_loses() -> None:
    assert true_remid("frail-user", "user", 2.0) > 0.5
    assert true_remid("blind-user", "character", -2.0) == pytest.approx(0, abs=1e-9)
    assert true_remid("generic", "several", -2.0) < -1


def test_with_the_exact_q_contrastive_estimators_find_the_truth(exact_truth: TextTruth) -> None:
    for estimator in ("infonce", "l1out", "midpoint"):
        found = _summary(exact_truth, "exact", estimator)
        assert found.bias_rms < 0.05 + found.noise
        assert found.covered > 0.85


def test_club_is_off_by_the_reverse_divergence(exact_truth: TextTruth) -> None:
    club, infonce = (_summary(exact_truth, "exact", e) for e in ("club", "infonce"))
    assert club.bias_rms > 2 * infonce.bias_rms


def test_midpoint_lies_between(exact_truth: TextTruth) -> None:
    mean = {
        (r.policy, r.shift, r.strength, r.estimator): r.mean for r in exact_truth.rows if r.source == "exact"
    }  # fmt: skip
    for key in {k[:3] for k in mean}:
        assert mean[*key, "midpoint"] == pytest.approx((mean[*key, "l1out"] + mean[*key, "infonce"]) / 2)


@pytest.mark.parametrize("reveals", ["none", "partial", "full"])
def test_every_prompt_and_response_is_known_to_the_tokenizer(reveals: grammar.Reveals) -> None:
    tokenizer = tiny.make_tokenizer()
    renderer = ChatRenderer(tokenizer)
    for sample in worlds.make_samples(worlds.law("user", 1.0), 60, 1, reveals=reveals, policies=worlds.POLICIES):
        assert tokenizer.unk_token_id not in renderer.prompt_ids(tiny.messages_of(sample))
        for text in (sample.reference, *sample.responses.values()):
            assert renderer.decode(renderer.response_ids(text)) == f"{text}<|end|>"


def test_batched_scores_are_those_of_the_scorer_also_after_saving(brief: LoadedModel, tmp_path: Path) -> None:
    tiny.save_tiny(brief, tmp_path / "model")
    loaded = load_model(find_model(str(tmp_path / "model")), device="cpu")
    renderer, scorer = ChatRenderer(loaded.tokenizer), Scorer(loaded)
    samples = worlds.make_samples(worlds.law(), 5, 2, reveals="partial")
    prompts = [renderer.prompt_ids(tiny.messages_of(s)) for s in samples]
    texts = [t for s in samples for t in (s.reference, *s.responses.values())]
    ids = [renderer.response_ids(t) for t in texts]
    found_NM = tiny.score_table(brief, prompts, tiny.padded(ids))
    work = [Work(tuple(prompt), tuple(map(tuple, ids))) for prompt in prompts]
    scored = {(s.work, s.continuation): s.logp_T for batch in scorer.score(work) for s in batch}
    for number, found_M in enumerate(found_NM):
        expected_M = [float(scored[number, k].sum()) for k in range(len(ids))]  # type: ignore[union-attr]
        np.testing.assert_allclose(found_M, expected_M, atol=1e-3)


def test_training_is_repeatable(brief: LoadedModel) -> None:
    again = tiny.train_tiny(_BRIEF).model.state_dict()
    assert all((again[name] == value).all() for name, value in brief.model.state_dict().items())


def test_a_brief_model_goes_all_the_way(brief: LoadedModel) -> None:
    setting = replace(
        quick_setting(0), training=_BRIEF, n=20, candidates=19, shifts=(("several", 1.0),), policies=("sharp", "parrot")
    )
    truth = check(setting, brief, seed=0)
    assert {fit.author for fit in truth.fits} == set(_BRIEF.voices)
    assert all(fit.reached <= fit.information + 1e-6 for fit in truth.fits)
    assert all(fit.excess > -0.5 for fit in truth.fits)
    assert math.isnan(_summary(truth, "exact", "club").beside_exact) is False
    assert {(t.reveals, t.estimator) for t in truth.traces} == {
        ("full", e) for e in ("club", "l1out", "infonce", "midpoint")
    }


def test_a_source_that_needs_a_model_says_so() -> None:
    with pytest.raises(ValueError, match="needs a trained model"):
        check(replace(quick_setting(0), n=20, candidates=19), None, seed=0)


@pytest.mark.slow
def test_the_trained_q_finds_remid() -> None:
    truth = text_truth(quick=True, seed=0)
    assert len({(r.policy, r.shift, r.strength) for r in truth.rows}) >= 100
    for reveals in ("none", "full"):
        found = _summary(truth, "trained", "infonce", reveals)
        assert found.beside_exact < 0.05
        assert found.right >= 0.97
    assert all(t.agree > 0.95 for t in truth.traces)


@pytest.mark.slow
def test_the_pipeline_takes_the_model(tmp_path: Path) -> None:
    loaded = tiny.train_tiny(tiny.Training(steps=300))
    tiny.save_tiny(loaded, tmp_path / "model")
    samples = worlds.make_samples(worlds.law(), 60, 1, policies=("sharp", "frail-user"), reveals="full")
    samples += worlds.make_samples(
        worlds.law("user", 2.0), 60, 2, shift="user", policies=("sharp", "frail-user"), reveals="full"
    )
    write_benchmark(worlds.make_benchmark(samples), tmp_path / "world.json")
    run = remid.evaluate(
        tmp_path / "world.json", out=tmp_path / "run", model=str(tmp_path / "model"), device="cpu", permutations=20,
        progress=False,
    )  # fmt: skip
    rows = run.rows("remi", unit="nats/response", subset=None)
    assert {row["policy"] for row in rows} >= {"sharp", "frail-user", "generic", "parrot"}
    by_policy = {row["policy"]: row["value"] for row in run.rows("remid", unit="nats/response", subset=None)}
    assert by_policy["frail-user"] > by_policy["sharp"]
    assert by_policy["reference"] == 0
