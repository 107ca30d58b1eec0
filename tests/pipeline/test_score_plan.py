"""The plan: each pair that a run needs exactly once and no other, and from the store each into its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_fakes import sample

from remid.estimate import balanced_design
from remid.lm.chat import Message
from remid.lm.models import ModelSource
from remid.pipeline.config import make_config
from remid.pipeline.engines import run_engines
from remid.pipeline.mix import mixed_key
from remid.pipeline.policies import CONTROLS, REFERENCE, SHUFFLED, Texts, subset_texts
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import drop_oldest_turns, role_play_messages
from remid.pipeline.score import Unit, _merge, pair_scores, plan_units, prompt_key, text_key
from remid.types import PairDesign, PairScores, Sample, Turn

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
#: Of each sample, one for each of its traces.
Prompts = list[tuple[tuple[Message, ...], ...]]
Scored = dict[tuple[str, str], tuple[int, float | None, str | None]]


def subset_of(seed: int) -> tuple[Prompts, dict[str, Texts], PairDesign]:
    """A subset with repeated answers, missing ones, samples that share an input, and samples without a prompt."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    samples = []
    for number in range(n):
        answer = {"one": rng.choice(["yes", "no", f"own {number}"])} if rng.random() < 0.8 else {}
        twin = number % 2 if rng.random() < 0.3 else number
        dialogue = (Turn("user", f"question {twin}"),)
        fields = {"user": f"u{twin}", "character": f"c{twin}", "dialogue": dialogue, "responses": answer}
        samples.append(sample(number, **fields))
    design = balanced_design(n, m, seed)
    drawn = [rng.integers(3, size=rng.integers(4)) for _ in samples]  # none to three traces, some of them alike
    prompts: Prompts = [
        tuple(tuple(role_play_messages(s, f"Content: {k}.")) for k in traces)
        for s, traces in zip(samples, drawn, strict=True)
    ]
    return prompts, subset_texts(samples, ["one"], design), design


def needed(prompts: Prompts, texts: dict[str, Texts], design: PairDesign) -> set[tuple[str, str]]:
    """The slow twin: every pair that some estimator will look up."""
    pairs = set()
    for answers in texts.values():
        for i, of_sample in enumerate(prompts):
            for j in [i, *design.negatives_Bm[i].tolist()]:
                if answers[j] is not None:
                    pairs |= {(prompt_key(messages), str(answers[j])) for messages in of_sample}
    return pairs


@QUICK
@given(seed=st.integers(0, 10_000))
def test_each_needed_pair_is_planned_exactly_once_and_no_other(seed: int) -> None:
    prompts, texts, design = subset_of(seed)
    units = plan_units(prompts, texts, design)
    planned = [(unit.key, text) for unit in _merge(units) for text in unit.texts]
    assert len(planned) == len(set(planned))
    assert set(planned) == needed(prompts, texts, design)
    assert len(units) == sum(len(set(of_sample)) for of_sample in prompts)
    assert all(unit.key == prompt_key(unit.messages) for unit in units)


def test_samples_that_share_an_input_are_scored_under_one_prompt() -> None:
    twins = [sample(number, user="u", character="c", dialogue=(Turn("user", "q"),)) for number in (0, 1)]
    design = balanced_design(2, 1, seed=0)
    prompts: Prompts = [(tuple(role_play_messages(s)),) for s in twins]
    merged = _merge(plan_units(prompts, subset_texts(twins, [], design), design))
    assert len(merged) == 1
    assert sorted(merged[0].texts).count("reference IDTest 0") == 1
    assert set(merged[0].texts) >= {"reference IDTest 0", "reference IDTest 1"}


def test_merging_keeps_every_text_once_and_the_order_of_units() -> None:
    one, two = (Message("user", "1"),), (Message("user", "2"),)
    merged = _merge([Unit("1", one, ("a", "b")), Unit("2", two, ("a",)), Unit("1", one, ("b", "c"))])
    assert merged == [Unit("1", one, ("a", "b", "c")), Unit("2", two, ("a",))]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_shuffled_reuses_the_references_pairs_and_adds_one_under_each_prompt(m: int) -> None:
    samples = [sample(number) for number in range(9)]
    design = balanced_design(9, m, seed=5)
    prompts: Prompts = [(tuple(role_play_messages(s)),) for s in samples]
    texts = subset_texts(samples, [], design)
    alone = needed(prompts, {REFERENCE: texts[REFERENCE]}, design)
    both = needed(prompts, {name: texts[name] for name in (REFERENCE, SHUFFLED)}, design)
    assert len(alone) == 9 * (m + 1)
    assert len(both - alone) == 9


def test_a_policy_costs_nothing_where_it_says_what_the_reference_says() -> None:
    samples = [sample(number, responses={"copy": f"reference IDTest {number}"}) for number in range(6)]
    design = balanced_design(6, 2, seed=0)
    prompts: Prompts = [(tuple(role_play_messages(s)),) for s in samples]
    with_copy = plan_units(prompts, subset_texts(samples, ["copy"], design), design)
    assert with_copy == plan_units(prompts, subset_texts(samples, [], design), design)


def twin_scores(prompts: list[str | None], answers: Texts, design: PairDesign, scored: Scored) -> PairScores:
    """pair_scores, slowly and from a plain reading of its docstring."""
    n, m = design.negatives_Bm.shape
    rows = {}
    for i in range(n):
        for j in range(n):
            pair = (str(prompts[i]), text_key(str(answers[j])))
            there = prompts[i] is not None and answers[j] is not None and pair in scored
            rows[i, j] = scored[pair] if there else (0, None, None)
    value = {pair: np.nan if row[1] is None else row[1] for pair, row in rows.items()}
    lengths = [rows[i, i][0] or np.nan for i in range(n)]
    return PairScores(
        np.array([value[i, i] for i in range(n)]),
        np.array([[value[i, int(j)] for j in design.negatives_Bm[i]] for i in range(n)]).reshape(n, m),
        np.array(lengths),
        np.array([len(str(a).encode()) if np.isfinite(t) else np.nan for a, t in zip(answers, lengths, strict=True)]),
        design,
    )


@QUICK
@given(seed=st.integers(0, 10_000))
def test_pair_scores_agree_with_a_slow_twin(seed: int) -> None:
    prompts, texts, design = subset_of(seed)
    rng = np.random.default_rng(seed)
    keys = [prompt_key(of_sample[0]) if of_sample else None for of_sample in prompts]
    scored: Scored = {}
    for key, text in sorted(needed(prompts, texts, design)):
        lost = rng.random() < 0.2
        scored[key, text_key(text)] = (len(text), None if lost else float(rng.normal()), "why" if lost else None)
    for name in (*CONTROLS, "one"):
        found = pair_scores(keys, texts[name], design, scored)
        expected = twin_scores(keys, texts[name], design, scored)
        for field in ("positive_B", "negative_Bm", "tokens_B", "bytes_B"):
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=f"{name} {field}")
        assert found.design is design


def test_what_was_not_answered_is_nan_and_nothing_else_is() -> None:
    samples = [sample(number, responses={} if number == 1 else {"one": f"own {number}"}) for number in range(4)]
    design = balanced_design(4, 2, seed=0)
    prompts: Prompts = [(tuple(role_play_messages(s)),) for s in samples]
    texts = subset_texts(samples, ["one"], design)
    scored: Scored = {(key, text_key(t)): (2, -1.0, None) for key, t in needed(prompts, texts, design)}
    keys = [mixed_key(of_sample) for of_sample in prompts]
    found = pair_scores(keys, texts["one"], design, scored)
    assert np.isnan(found.positive_B).tolist() == [False, True, False, False]
    assert np.array_equal(np.isnan(found.negative_Bm), design.negatives_Bm == 1)
    assert np.isnan(found.tokens_B).tolist() == np.isnan(found.bytes_B).tolist() == [False, True, False, False]


def test_a_sample_without_a_prompt_is_nan_as_an_input_and_still_a_negative_for_others() -> None:
    samples = [sample(number) for number in range(4)]
    design = balanced_design(4, 2, seed=0)
    prompts: Prompts = [() if number == 2 else (tuple(role_play_messages(s)),) for number, s in enumerate(samples)]
    texts = subset_texts(samples, [], design)
    scored: Scored = {(key, text_key(t)): (2, -1.0, None) for key, t in needed(prompts, texts, design)}
    found = pair_scores([mixed_key(of_sample) for of_sample in prompts], texts[REFERENCE], design, scored)
    assert np.isnan(found.positive_B).tolist() == [False, False, True, False]
    assert np.isnan(found.negative_Bm).all(axis=1).tolist() == [False, False, True, False]
    assert np.isfinite(found.negative_Bm[design.negatives_Bm == 2]).any()


def test_lengths_are_in_tokens_with_the_end_of_turn_and_in_bytes_of_the_text_alone() -> None:
    design = balanced_design(1, 1, seed=0)
    found = pair_scores(["p"], ["naïve"], design, {("p", text_key("naïve")): (4, -1.0, None)})
    assert (found.tokens_B.tolist(), found.bytes_B.tolist()) == ([4.0], [6.0])


def test_core_features_stand_where_the_version_of_the_prompts_has_them() -> None:
    one = sample(0, dialogue=(Turn("user", "Where?"), Turn("agent", "There."), Turn("user", "When?")))
    plain, older, newer = (
        role_play_messages(one, *more, version=v) for more, v in (((), 2), (("SAY NOON",), 1), (("SAY NOON",), 2))
    )
    assert older[1:] == plain[1:]
    assert older[0].content.startswith(plain[0].content)
    assert older[0].content.endswith("SAY NOON")
    # What comes before the last turn is the same for every trace, and so runs once for all of them.
    assert newer[:-1] == plain[:-1]
    assert newer[-1].role == "user"
    assert newer[-1].content.startswith("When?")
    assert newer[-1].content.endswith("SAY NOON")
    alone = role_play_messages(sample(0, dialogue=()), "SAY NOON")
    assert len(alone) == 1
    assert alone[0].content.endswith("SAY NOON")


def test_prompt_keys_tell_apart_every_part_of_the_input_and_nothing_else() -> None:
    first = sample(0)
    others = [
        sample(0, user="other"),
        sample(0, character="other"),
        sample(0, dialogue=(Turn("user", "other"),)),
        sample(0, dialogue=(Turn("user", "a"), Turn("agent", "b"), Turn("user", "question IDTest 0"))),
    ]
    keys = {prompt_key(role_play_messages(s)) for s in [first, *others]}
    keys |= {prompt_key(role_play_messages(first, "features")), prompt_key(role_play_messages(first, ""))}
    assert len(keys) == 7
    same: Sample = sample(0, reference="other", sample_id="other", split="other", responses={"x": "y"})
    assert prompt_key(role_play_messages(same)) == prompt_key(role_play_messages(first))


def test_scorer_keys_change_with_all_that_a_score_depends_on_and_with_nothing_else() -> None:
    def key(fingerprint: str = "f", **settings: object) -> str:
        config = make_config(data=("x.json",), **{"device": "cpu", **settings})
        engines = run_engines(config, None, Progress(enabled=False))
        engines.source = ModelSource("m", None, fingerprint)
        return engines.scorer_id(config.overflow, config.max_tokens)

    base = key()
    changed = [key("g"), key(dtype="bfloat16"), key(device="cuda"), key(overflow="drop-oldest"), key(max_tokens=99)]
    assert len({base, *changed}) == 6
    unchanged = [key(seed=5), key(negatives=7), key(policies=("a",)), key(limit=3), key(confidence=0.9)]
    assert {base, *unchanged, key(dtype="float32")} == {base}
    assert key(device="cuda:1") == key(device="cuda")


def test_dropping_turns_keeps_system_message_alternation_and_the_last_user_turn() -> None:
    turns = [Turn("user", "1"), Turn("agent", "2"), Turn("user", "3"), Turn("agent", "4"), Turn("user", "5")]
    messages = role_play_messages(sample(0, dialogue=tuple(turns)))
    for exchanges, left in ((0, "12345"), (1, "345"), (2, "5")):
        kept = drop_oldest_turns(messages, exchanges)
        assert kept[0] == messages[0]
        assert "".join(m.content for m in kept[1:]) == left
        assert [m.role for m in kept[1:]] == ["user", "assistant"] * (len(left) // 2) + ["user"]
