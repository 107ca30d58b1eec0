"""What a reader must know before believing a number, found by looking at the numbers."""

from __future__ import annotations

from typing import Any

from remid.estimate import UNITS
from remid.pipeline.bounds import exceeded_bounds
from remid.pipeline.config import RunConfig
from remid.pipeline.policies import GENERIC, PARROT, SHUFFLED
from remid.types import ID, Benchmark

_UNIT = UNITS[0]
_FEW = 30


def find_warnings(benchmark: Benchmark, result: dict[str, Any], config: RunConfig) -> list[dict[str, Any]]:
    """Rows of the `warnings` table, most important first."""
    rows = [
        *_parrot_tops(result),
        *_above_reference(result),
        *_brief(result),
        *_floor_broken(result),
        *_uninformed_estimator(result),
        *_gap_scale(result),
        *(_row(*row) for row in exceeded_bounds(result)),
        *_left_out(result),
        *_stopped(result),
        *_small(result),
    ]
    if not any(s["shift"] == ID for s in result["subsets"]):
        rows.insert(0, _row("no-id", "There is no in-distribution subset, so R-EMID cannot be computed; R-EMI is."))
    if result["traces"]["source"] == "none":
        text = "No reasoning traces were used: the figures are EMI and EMID, with the same truth as R-EMI and R-EMID."
        rows.append(_row("no-traces", text))
    overlap = {s.sample_id for s in benchmark.train} & {s.sample_id for s in benchmark.test}
    if overlap:
        rows.append(_row("train-overlap", f"{len(overlap)} test samples have the id of a training sample."))
    estimator = result["manifest"]["estimator"]
    if estimator is not None and estimator["n_seen"]:
        text = (
            f"The estimator was trained on {estimator['n_seen']} of these samples (the same input or reference), or "
            "its stages were chosen by them: it knows these references, and information is too high."
        )
        rows.append(_row("trained-on", text))
    if config.limit is not None:
        rows.append(_row("limit", f"Only the first {config.limit} samples of each subset were used (--limit)."))
    return rows


def _stopped(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Which samples were scored, where scoring stopped by itself, and who did not get the wished precision."""
    stopping = result["stopping"]
    if stopping is None:
        return []
    scored, there = (sum(s[name] for s in stopping["subsets"]) for name in ("n", "n_all"))
    short = [ask["policy"] for ask in stopping["asks"] if ask["verdict"] != "met"]
    goal = f"a standard error of {stopping['until_se']:g} nats/response"
    met = f"{len(stopping['asks']) - len(short)} of {len(stopping['asks'])} reached it"
    needs = [max(ask["n_needed"]) for ask in stopping["asks"] if ask["n_needed"]]
    more = f"; all would with about {max(needs)} samples a side" if needs else ""
    text = (
        f"Scoring went on until {goal}, in {stopping['looks']} rounds: {scored} of {there} samples, in random order. "
        f"{met}{more}. Intervals allow for the looking (docs/stopping.md)."
    )
    return [_row("stopped", text)]


def _row(code: str, text: str, policy: str | None = None, subset: str | None = None) -> dict[str, Any]:
    return {"code": code, "policy": policy, "subset": subset, "text": text}


def _id_remi(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """R-EMI on all of ID by policy, where it could be estimated."""
    rows = [r for r in result["remi"] if r["shift"] == ID and r["subset"] is None and r["unit"] == _UNIT]
    return {r["policy"]: r for r in rows if r["value"] is not None}


def _models(result: dict[str, Any]) -> list[str]:
    return [p["policy"] for p in result["policies"] if p["kind"] == "model"]


def _parrot_tops(result: dict[str, Any]) -> list[dict[str, Any]]:
    remi = _id_remi(result)
    parrot = remi.get(PARROT)
    values = {name: remi[name]["value"] for name in _models(result) if name in remi}
    if parrot is None or parrot["ci_low"] is None or parrot["ci_low"] <= 0:
        return []
    beaten = [name for name, value in values.items() if value < parrot["value"]]
    text = (
        f"A parrot that repeats the user's last message scores R-EMI {parrot['value']:+.1f} nats/response on ID, above "
        f"the reference's 0{_beats(beaten, values)}. Repeating is informative, so a high R-EMI is not quality here: "
        "read the gap, which takes repetition off, and the responses themselves."
    )
    return [_row("parrot-tops", text, PARROT)]


def _beats(beaten: list[str], values: dict[str, float]) -> str:
    if not beaten:
        return ""
    return (
        " and above every model" if len(beaten) == len(values) else f" and above {len(beaten)} of {len(values)} models"
    )


def _above_reference(result: dict[str, Any]) -> list[dict[str, Any]]:
    remi, rows = _id_remi(result), []
    for name in _models(result):
        found = remi.get(name)
        if found and found["ci_low"] is not None and found["ci_low"] > 0:
            text = (
                f"{name} is more informative about its input than the reference on ID (R-EMI {found['value']:+.1f}, "
                f"interval {found['ci_low']:+.1f} to {found['ci_high']:+.1f} nats/response, n {found['n']}). "
                f"That is no merit: {_seen(result, name)}"
            )
            rows.append(_row("above-reference", text, name))
    return rows


def _seen(result: dict[str, Any], policy: str) -> str:
    """What in its responses on ID would make them more predictable from their input than the references are."""
    looks = {
        (r["measure"], r["source"], r["policy"]): r
        for r in result["surface"]
        if r["shift"] == ID and r["subset"] is None and r["policy"] in (policy, "reference")
    }

    def pair(measure: str, source: str | None) -> tuple[float, float] | None:
        own, theirs = looks.get((measure, source, policy)), looks.get((measure, source, "reference"))
        if own is None or theirs is None or (own["over_reference"]["ci_low"] or 0) <= 0:
            return None
        return own["value"], theirs["value"]

    said = []
    if copied := pair("copied", "input"):
        last = looks["copied", "last turn", policy]["value"]
        said.append(
            f"it takes {copied[0]:.0%} of its words in threes from the input ({last:.0%} from the last turn), the "
            f"references {copied[1]:.0%}"
        )
    if (length := pair("words", None)) and length[1]:
        said.append(f"its responses are {length[0] / length[1]:.1f} times as long as the references")
    if repeated := pair("repeated", None):
        said.append(f"it repeats itself in {repeated[0]:.0%} of them, the references in {repeated[1]:.0%}")
    return f"{'; '.join(said)}." if said else "responses tied to their input more closely than a person's are stilted."


def _brief(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Models that hardly answer now and then: a mean over samples lets their long responses make up for that."""
    rows, models = [], _models(result)
    for r in result["surface"]:
        pooled = r["measure"] == "brief" and r["shift"] == ID and r["subset"] is None and r["policy"] in models
        # Not by the share's own interval: Wilson's lies above 0 as soon as a single response is brief.
        if pooled and ((r["over_reference"] or {}).get("ci_low") or 0) > 0:
            text = (
                f"{r['policy']} hardly answers in {r['value']:.0%} of the samples on ID (interval {r['ci_low']:.0%} to "
                f"{r['ci_high']:.0%}, n {r['n']}): fewer than a fifth of the reference's words. R-EMI and the gap are "
                "means, in which its other responses can make up for these: read them."
            )
            rows.append(_row("brief", text, r["policy"]))
    return rows


def _floor_broken(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Shuffled references know nothing of their input: their information must be 0."""
    rows = []
    for r in result["information"]:
        if r["policy"] == SHUFFLED and r["unit"] == _UNIT and r["ci_low"] is not None and r["ci_low"] > 0:
            text = (
                f"In {r['subset']} the references of other samples still seem informative ({r['value']:.1f} "
                f"nats/response, interval {r['ci_low']:.1f} to {r['ci_high']:.1f}, n {r['n']}), where the truth is 0: "
                "neighbouring samples are alike, or chance struck."
            )
            rows.append(_row("floor", text, SHUFFLED, r["subset"]))
    return rows


def _uninformed_estimator(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Where even the reference's information cannot be told from 0, the estimator sees nothing to lose."""
    rows = []
    for r in result["information"]:
        if r["policy"] == "reference" and r["unit"] == _UNIT and r["ci_low"] is not None and r["ci_low"] <= 0:
            text = (
                f"In {r['subset']} the estimator finds no information between input and reference ({r['value']:.1f} "
                f"nats/response, interval {r['ci_low']:.1f} to {r['ci_high']:.1f}, n {r['n']}): R-EMI there compares "
                "with nothing. A better estimator or more samples are needed."
            )
            rows.append(_row("uninformed", text, "reference", r["subset"]))
    return rows


def _gap_scale(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Shifts under which even a policy that says the same to everybody changes its gap: the scale itself has moved."""
    earned = {r["shift"]: r["earned"]["reference"] for r in result["gap"] if r["policy"] == GENERIC and not r["subset"]}
    rows = []
    for r in result["gap_change"]:
        if r["policy"] == GENERIC and r["subset"] is None and r["significant"]:
            text = (
                f"Under the {r['shift']} shift the generic control's gap changes by {r['value']:+.2f} nats/token "
                f"(interval {r['ci_low']:+.2f} to {r['ci_high']:+.2f}, n {r['n_id']} and {r['n_ood']}), though it says "
                f"the same to everybody: there the references earn {earned[r['shift']]:.1f} nats/response, on ID "
                f"{earned[ID]:.1f}, so that less, or more, can be missing. Read a change of a model's gap beside it."
            )
            rows.append(_row("gap-scale", text, GENERIC))
    return rows


def _left_out(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    t = result["traces"]
    if t["n_failed"]:
        text = f"{t['n_failed']} of {t['n']} traces did not follow their format"
        if t["draws"] == 1:
            text += "; those samples are left out."
        else:
            text += f"; means are over the others. {t['n_without']} samples have none and are left out."
        rows.append(_row("traces-failed", text))
    lost = sum(m["n"] for m in result["missing"] if m["what"] in ("prompt", "pair"))
    if lost:
        rows.append(_row("unscored", f"{lost} prompts or pairs could not be scored and are left out; see below."))
    dropped = result["scoring"]["n_dropped_turns"]
    if dropped:
        rows.append(_row("dropped-turns", f"{dropped} old turns were dropped to fit prompts into the context."))
    return rows


def _small(result: dict[str, Any]) -> list[dict[str, Any]]:
    small = [s for s in result["subsets"] if s["n"] < _FEW]
    if not small:
        return []
    text = (
        f"{len(small)} of {len(result['subsets'])} subsets have fewer than {_FEW} samples. Their intervals are honest "
        "but wide, and a loss smaller than the interval's half-width cannot be seen."
    )
    return [_row("small", text)]
