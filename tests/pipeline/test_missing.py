"""Everything without a number is counted once, with its reason, and told item by item."""

from __future__ import annotations

from typing import Any

from pipeline_fakes import sample

from remid.estimate import balanced_design
from remid.pipeline.missing import Missing, find_missing
from remid.pipeline.plan import Group
from remid.pipeline.policies import CONTROLS, subset_texts
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import Traces
from remid.pipeline.score import plan_units, text_key
from remid.pipeline.store import PromptRow

Scored = dict[tuple[str, str], tuple[int, float | None, str | None]]


def group(n: int, subset: str = "IDTest", *, traceless: tuple[int, ...] = (), silent: tuple[int, ...] = ()) -> Group:
    """A subset of which some samples have no usable trace, and some no answer of the policy "one"."""
    samples = tuple(
        sample(number, subset, responses={} if number in silent else {"one": f"own {subset} {number}"})
        for number in range(n)
    )
    prompts = tuple(() if k in traceless else (tuple(role_play_messages(s)),) for k, s in enumerate(samples))
    design = balanced_design(n, 2, seed=0)
    return Group(subset, "id", "IDTest", samples, design, prompts, subset_texts(samples, ["one"], design))


def look(g: Group, *, lost_prompt: int | None = None, lost_pairs: tuple[tuple[int, str], ...] = ()) -> Missing:
    """find_missing where all that is planned was scored, but for one prompt and some (input, text) pairs."""
    units = plan_units(g.prompts, g.answers, g.design)
    scored: Scored = {(unit.key, text_key(text)): (3, -1.0, None) for unit in units for text in unit.texts}
    prompts = {unit.key: PromptRow(9, 0, None) for unit in units}
    for i, text in lost_pairs:
        scored[str(g.keys[i]), text_key(text)] = (999, None, "999 tokens do not fit")
    if lost_prompt is not None:
        prompts[str(g.keys[lost_prompt])] = PromptRow(5000, 0, "prompt of 5000 tokens, room for 100")
        for key, text in list(scored):
            if key == g.keys[lost_prompt]:
                scored[key, text] = (3, None, "prompt of 5000 tokens, room for 100")
    return find_missing([g], Traces("none", None), scored, prompts)


def row(what: str, reason: str, ids: list[str], policy: str | None = None, subset: str = "IDTest") -> dict[str, Any]:
    return {"what": what, "reason": reason, "policy": policy, "subset": subset, "n": len(ids), "examples": ids[:5]}


def test_where_everything_has_a_number_nothing_is_missing() -> None:
    assert look(group(5)) == Missing([], {})


def test_an_absent_response_is_counted_for_its_policy_alone() -> None:
    found = look(group(5, silent=(1, 3)))
    reason = "the policy has not answered"
    assert found.rows == [row("response", reason, ["IDTest-1", "IDTest-3"], "one")]
    assert found.reasons == {("IDTest-1", "one"): reason, ("IDTest-3", "one"): reason}


def test_a_failed_trace_is_counted_once_per_sample_and_told_for_every_policy() -> None:
    found = look(group(5, traceless=(2,), silent=(2,)))
    assert found.rows == [row("trace", "no usable trace", ["IDTest-2"])]
    assert found.reasons == {("IDTest-2", policy): "no usable trace" for policy in (*CONTROLS, "one")}


def test_a_prompt_that_does_not_fit_is_counted_once_per_sample_and_told_for_every_policy() -> None:
    found = look(group(5), lost_prompt=4)
    reason = "prompt of 5000 tokens, room for 100"
    assert found.rows == [row("prompt", reason, ["IDTest-4"])]
    assert found.reasons == {("IDTest-4", policy): reason for policy in (*CONTROLS, "one")}


def test_a_pair_that_cannot_be_scored_is_counted_where_it_is_positive() -> None:
    found = look(group(5), lost_pairs=((2, "own IDTest 2"),))
    assert found.rows == [row("pair", "999 tokens do not fit", ["IDTest-2"], "one")]
    assert found.reasons == {("IDTest-2", "one"): "999 tokens do not fit"}


def test_a_pair_that_cannot_be_scored_is_counted_where_it_is_a_negative_under_its_input() -> None:
    g = group(5)
    j = int(g.design.negatives_Bm[0, 1])
    found = look(g, lost_pairs=((0, f"own IDTest {j}"),))
    assert found.rows == [row("pair", "as a negative: 999 tokens do not fit", ["IDTest-0"], "one")]
    assert found.reasons == {}  # the sample's own pair has its number


def test_at_most_five_examples_are_named_and_all_are_counted() -> None:
    found = look(group(9, silent=tuple(range(8))))
    assert [(r["n"], len(r["examples"])) for r in found.rows] == [(8, 5)]


def test_a_subset_too_small_for_an_interval_is_named() -> None:
    small = look(group(2)).rows
    assert small == [row("subset", "fewer than 3 samples: an interval says next to nothing", ["IDTest-0", "IDTest-1"])]
    assert look(group(3)).rows == []


def test_a_lone_samples_shuffled_answer_is_missing() -> None:
    found = look(group(1))
    assert [(r["what"], r["policy"]) for r in found.rows] == [("subset", None), ("response", "shuffled")]
