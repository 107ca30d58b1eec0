"""The values that malformed.py puts where they do not belong, and the valid record that they are put into."""

from __future__ import annotations

from typing import Any

LONE = "a\ud800b"
NAN = float("nan")
MISSING = object()


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid record; `changes` replace fields, MISSING removes one."""
    fields = {
        "sample_ID": f"s{number}",
        "user_persona": f"I am user {number} and I like tea.",
        "agent_character": {"name": f"Zoë {number}", "work": "A play", "profile": "Speaks in riddles."},
        "dialogue_context": [
            {"user_query": f"Hello {number}!"},
            {"agent_response": "Who knocks?"},
            {"user_query": "It is me, 你好."},
        ],
        "agent_golden_response": f"Then come in, number {number}.",
        "subset_tag": "IDTest",
        "model_response": {"tiny": f"Come {number}.", "other": None},
        "source": "tests",
    }
    return {key: value for key, value in (fields | changes).items() if value is not MISSING}


RECORDS = 4


def benchmark(**changes: Any) -> dict[str, Any]:
    """A valid RPGBench object."""
    return {"IDTest": [record(number, **changes) for number in range(RECORDS)]}


def _turns(*turns: Any) -> list[Any]:
    return list(turns)


USER, AGENT = {"user_query": "Hi."}, {"agent_response": "Ho."}

#: field -> what it must not be. For every field: the wrong JSON types.
WRONG: dict[str, list[Any]] = {
    "sample_ID": [MISSING, None, 1.5, True, [], {}, "", " \n", LONE, NAN],
    "user_persona": [MISSING, None, 3, 0.5, False, [], {}, ["x"], LONE, NAN],
    "agent_character": [MISSING, None, 3, True, [], ["x"], "", "\t", {}, {"name": None}, {"name": LONE}, {"age": NAN}],
    "dialogue_context": [
        *(MISSING, None, "text", {}, 3, True, [], [3], [None], ["x"], [[]], [{}], [{"text": "x"}]),
        *(
            [{"user_query": 3}],
            [{"user_query": ""}],
            [{"user_query": " "}],
            [{"user_query": None}],
            [{"user_query": LONE}],
        ),
        _turns(AGENT, USER),
        _turns(USER, AGENT),
        _turns(USER, USER),
        _turns(USER, AGENT, AGENT, USER),
        _turns({**USER, **AGENT}),
        _turns({"role": "system", "content": "x"}, USER),
        _turns({"role": 3, "content": "x"}),
        _turns({"role": "user"}),
        _turns({"from": "human", "value": ["x"]}),
        _turns({"from": "narrator", "value": "x"}),
    ],
    "agent_golden_response": [MISSING, None, 3, True, [], {}, "", " \r\n ", LONE, -float("inf")],
    "subset_tag": [3, True, [], {}, LONE],
    "SThought": [3, False, [], {}, LONE],
    "model_response": [
        *(3, "x", [], True, {"tiny": 3}, {"tiny": []}, {"tiny": {}}, {"tiny": False}, {"tiny": LONE}, {LONE: "x"}),
        *({"reference": "x"}, {"Shuffled": "x"}, {"generic": None}, {" parrot": "x"}, {"": "x"}, {"  ": "x"}),
    ],
    "note": [NAN, float("inf"), LONE, [LONE], {"deep": {"deeper": NAN}}],
}

WRONG_RECORDS: list[Any] = [None, 3, "x", [], [["sample_ID", "s"]], True]

MAPPINGS: list[tuple[Any, str]] = [
    (None, ""),
    (3, ""),
    ([], ""),
    ("x", ""),
    ({"feilds": {}}, "feilds"),
    ({"fields": []}, "fields"),
    ({"fields": "x"}, "fields"),
    ({"fields": {"persona": "x"}}, "fields.persona"),
    ({"fields": {"user_persona": 3}}, "fields.user_persona"),
    ({"fields": {"user_persona": None}}, "fields.user_persona"),
    ({"fields": {"user_persona": " "}}, "fields.user_persona"),
    ({"fields": {"user_persona": LONE}}, "fields.user_persona"),
    ({"defaults": 3}, "defaults"),
    ({"defaults": {"sample_ID": "x"}}, "defaults.sample_ID"),
    ({"defaults": {"split": 3}}, "defaults.split"),
    ({"defaults": {"split": ""}}, "defaults.split"),
    ({"roles": []}, "roles"),
    ({"roles": {"system": ["x"]}}, "roles.system"),
    ({"roles": {"user": "human"}}, "roles.user"),
    ({"roles": {"user": []}}, "roles.user"),
    ({"roles": {"user": [3]}}, "roles.user"),
    ({"roles": {"agent": [""]}}, "roles.agent"),
    ({"roles": {"user": ["a"], "agent": ["A"]}}, "roles"),
    ({"roles": {"user": ["gpt"]}}, "roles"),
    ({"defaults": {"split": NAN}}, "defaults.split"),
]

TAXONOMIES: list[tuple[Any, str]] = [
    (None, ""),
    (3, ""),
    ([], ""),
    ({}, "shifts"),
    ({"shift": {}}, "shifts"),
    ({"shifts": None}, "shifts"),
    ({"shifts": []}, "shifts"),
    ({"shifts": {}}, "shifts"),
    ({"shifts": {"user": {"subsets": ["x"]}}, "more": 1}, "more"),
    ({"shifts": {"user": ["x"]}}, "shifts.user"),
    ({"shifts": {"user": None}}, "shifts.user"),
    ({"shifts": {"user": {}}}, "shifts.user"),
    ({"shifts": {"user": {"splits": [], "subsets": []}}}, "shifts.user"),
    ({"shifts": {"user": {"subset": ["x"]}}}, "shifts.user.subset"),
    ({"shifts": {"user": {"subsets": "x"}}}, "shifts.user.subsets"),
    ({"shifts": {"user": {"subsets": {"x": 1}}}}, "shifts.user.subsets"),
    ({"shifts": {"user": {"subsets": [3]}}}, "shifts.user.subsets"),
    ({"shifts": {"user": {"splits": [None]}}}, "shifts.user.splits"),
    ({"shifts": {"user": {"splits": [""]}}}, "shifts.user.splits"),
    ({"shifts": {" ": {"splits": ["x"]}}}, "shifts."),
    ({"shifts": {"user": {"subsets": [LONE]}}}, "shifts.user.subsets"),
    ({"shifts": {LONE: {"subsets": ["x"]}}}, "shifts."),
    ({"shifts": {"user": {"subsets": ["x"]}, "time": {"subsets": ["x"]}}}, "shifts.time.subsets"),
    ({"shifts": {"user": {"splits": ["x"]}, "time": {"splits": ["x"]}}}, "shifts.time.splits"),
]

ANSWER = {"policy": "new", "sample_ID": "s0", "response": "Yes."}
WRONG_ANSWERS: dict[str, list[Any]] = {
    "policy": [MISSING, None, 3, True, [], {}, "", " ", "reference", "Shuffled", "generic", "PARROT", LONE, "tiny"],
    "sample_ID": [MISSING, None, 1.5, True, [], {}, "", "s99", 99, LONE, NAN],
    "response": [MISSING, 3, False, [], {}, LONE],
    "subset_tag": [3, [], "german", LONE],
}
