"""How R-EMID depends on the trace: its length, whose it is, and whether it holds the reference's words.

Every setting is another prompt for each sample, so every setting is scored anew; the run store finds prompts by their
content and serves all settings. The trace is made from the input alone, so the true R-EMI does not depend on it: what
moves is the estimator (docs/theory.md, "Definitions").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from remid.errors import ConfigError
from remid.estimate import holm
from remid.pipeline.config import RunConfig
from remid.pipeline.engines import run_engines
from remid.pipeline.measure import Row, SubsetScores, number, remi_rows, remid_rows
from remid.pipeline.plan import Group, Plan, make_plan
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.score import score_units, text_key
from remid.pipeline.store import Store
from remid.study.agreement import kendall
from remid.study.settings import FULL, Features, chosen_settings, dose, setting_features
from remid.types import ID, PairScores

_UNIT = "nats/response"
#: Bytes of English text to a token of a small model's vocabulary, for the estimate of the cost. Other scripts differ.
_BYTES_PER_TOKEN = 4


def traces_study(
    config: RunConfig, folder: Path, progress: Progress, *, settings: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score every setting (settings.SETTINGS, or those chosen and `full`) and compare each with the full own trace.

    folder: the study's folder, whose store the settings share; the same call resumes. config.traces must be "data" or
    "model". Returns the content of the study's result.json (docs/studies.md).
    Raises DataError, ConfigError, ModelError or StoreError.
    """
    names = chosen_settings(settings)
    if config.traces not in {"data", "model"}:
        raise ConfigError("traces: this study needs traces; use --traces data or --traces model")
    if config.trace_draws > 1:
        raise ConfigError("trace_draws: this study changes one trace of each sample")
    with Store(folder) as store, run_engines(config, None, progress) as engines:
        plan = make_plan(config, store, engines, progress)
        own = plan.traces.single
        features = {name: setting_features(name, plan.groups, own, config.seed) for name in names}
        plans = {name: with_features(plan, features[name]) for name in names}
        units = [unit for one in plans.values() for unit in one.units]
        cost = _cost(plans, store, plan.scorer_id)
        progress.say(_cost_line(cost, len(names)))
        score_units(units, store, plan.scorer_id, engines, config, progress)
        scored = {name: one.subsets(store) for name, one in plans.items()}
    rows = _rows(scored, config)
    return {
        "study": "traces",
        "settings": [{"setting": name, **asdict(dose(features[name], own))} for name in names],
        **rows,
        "traces": plan.traces.summary,
        "cost": cost,
        "unit": _UNIT,
        "config": config.model_dump(mode="json"),
        "benchmark": {"source": plan.benchmark.source, "digest": plan.benchmark.digest},
        "model": {"name": plan.source.name, "fingerprint": plan.source.fingerprint},
        "subsets": [{"subset": g.subset, "shift": g.shift, "n": len(g.samples)} for g in plan.groups],
        "policies": [
            {"policy": name, "kind": "control" if name in CONTROLS else "model"} for name in plan.groups[0].answers
        ],
    }


def with_features(plan: Plan, features: Features | None) -> Plan:
    """The plan with other core features in its prompts; None: prompts without the section for them.

    A sample without features of its own (None) has no prompt in any setting, also not in the one without traces:
    settings are compared on the same samples.
    """
    own = plan.traces.single

    def prompts(group: Group) -> Group:
        made = []
        for sample in group.samples:
            text = None if features is None else features[sample.sample_id]
            lost = own[sample.sample_id] is None or (features is not None and text is None)
            said = tuple(role_play_messages(sample, text, version=plan.traces.prompts))
            made.append(() if lost else (said,))
        return replace(group, prompts=tuple(made))

    return replace(plan, groups=tuple(prompts(group) for group in plan.groups))


def _cost(plans: Mapping[str, Plan], store: Store, scorer_id: str) -> list[Row]:
    """Per setting: prompts and responses in all and still to score, and about how many tokens the latter are."""
    have = store.scored(scorer_id)
    seen: set[tuple[str, str]] = set()
    rows = []
    for name, plan in plans.items():
        prompts = pairs = tokens = 0
        for unit in plan.units:
            todo = [text for text in unit.texts if (unit.key, text_key(text)) not in have and
                    (unit.key, text_key(text)) not in seen]  # fmt: skip
            seen |= {(unit.key, text_key(text)) for text in todo}
            if todo:
                texts = [*todo, *(message.content for message in unit.messages)]
                prompts, pairs = prompts + 1, pairs + len(todo)
                tokens += sum(len(text.encode()) for text in texts) // _BYTES_PER_TOKEN
        rows.append({"setting": name, "prompts_to_score": prompts, "pairs_to_score": pairs, "tokens_about": tokens})
    return rows


def _cost_line(cost: Sequence[Row], settings: int) -> str:
    prompts, pairs, tokens = (
        sum(row[k] for row in cost) for k in ("prompts_to_score", "pairs_to_score", "tokens_about")
    )
    # Tokens a second, measured on two cores (docs/log.md): 760 on an idle machine, 300 beside other work.
    least, most = (max(1, round(tokens / rate / 60)) for rate in (760, 300))
    time = f"{least} to {most} min" if least < most else f"about {least} min"
    return (
        f"study: {settings} settings, {prompts} prompts and {pairs} responses to score, about {tokens} tokens; "
        f"with the embedded model on two processor cores {time}"
    )


def difference(ours: Sequence[SubsetScores], theirs: Sequence[SubsetScores]) -> list[SubsetScores]:
    """Scores of one setting minus those of another, pair by pair: an R-EMI of it is the difference of two R-EMIs.

    CLUB is linear in the scores and both settings have the same design, so this holds item by item, on the pairs that
    both have, and the noise of the negatives is corrected for as in a single R-EMI.
    """
    made = []
    for a, b in zip(ours, theirs, strict=True):
        scores = {policy: _minus(a.scores[policy], b.scores[policy]) for policy in a.scores}
        made.append(replace(a, scores=scores))
    return made


def _minus(a: PairScores, b: PairScores) -> PairScores:
    return replace(a, positive_B=a.positive_B - b.positive_B, negative_Bm=a.negative_Bm - b.negative_Bm)


def _rows(scored: Mapping[str, Sequence[SubsetScores]], config: RunConfig) -> dict[str, list[Row]]:
    remi, remid, contrasts = [], [], []
    for name, subsets in scored.items():
        remi += _under(name, [row for row in remi_rows(subsets, config.confidence) if row["shift"] == ID])
        remid += _under(name, remid_rows(subsets, config.confidence))
        if name == FULL:
            continue
        apart = difference(subsets, scored[FULL])
        for quantity, rows in (
            ("remi", remi_rows(apart, config.confidence)),
            ("remid", remid_rows(apart, config.confidence)),
        ):
            contrasts += [{"quantity": quantity, **row} for row in _under(name, rows)]
    _adjust(contrasts, config.confidence)
    return {
        "remi": remi,
        "remid": remid,
        "contrasts": contrasts,
        "held": _held_rows(scored, config.confidence),
        "ranks": _rank_rows(remi, remid),
    }


def _under(setting: str, rows: Sequence[Row]) -> list[Row]:
    """Pooled rows in nats per response, with the setting; the reference is left out, it is 0 in all of them."""
    return [
        {"setting": setting, **row}
        for row in rows
        if row["subset"] is None and row["unit"] == _UNIT and row["policy"] != REFERENCE
    ]


def _adjust(contrasts: list[Row], confidence: float) -> None:
    """Holm over all settings, models and shifts of one quantity; controls in a family of their own, as in a run."""
    for family in {(row["quantity"], row["policy"] in CONTROLS) for row in contrasts}:
        members = [row for row in contrasts if (row["quantity"], row["policy"] in CONTROLS) == family]
        raw = np.array([np.nan if row["p_value"] is None else row["p_value"] for row in members])
        for row, adjusted in zip(members, holm(raw), strict=True):
            row["p_adjusted"] = number(float(adjusted))
            row["significant"] = bool(adjusted < 1 - confidence)


def _held_rows(scored: Mapping[str, Sequence[SubsetScores]], confidence: float) -> list[Row]:
    """Mean log q of the reference under its own input, nats per token, per shift; and its paired change from `full`.

    The mean is over responses, each divided by its own tokens. Higher: the trace helps the estimator.
    """
    from scipy import stats

    rows = []
    for name, subsets in scored.items():
        for shift in dict.fromkeys(s.shift for s in subsets):
            ours_N, full_N = (
                np.concatenate([_per_token(s) for s in those if s.shift == shift]) for those in (subsets, scored[FULL])
            )
            row: Row = {"setting": name, "shift": shift, "n": int(np.isfinite(ours_N).sum()), "unit": "nats/token"}
            for key, values_N in (("", ours_N), ("change_", ours_N - full_N)):
                found_N = values_N[np.isfinite(values_N)]
                mean = float(found_N.mean()) if found_N.size else float("nan")
                half = float("nan")
                if found_N.size > 1:
                    quantile = stats.t.ppf((1 + confidence) / 2, found_N.size - 1)
                    half = float(quantile * found_N.std(ddof=1) / np.sqrt(found_N.size))
                row[f"{key}value"] = number(mean)
                row |= {f"{key}ci_low": number(mean - half), f"{key}ci_high": number(mean + half)}
            rows.append(row)
    return rows


def _per_token(subset: SubsetScores) -> np.ndarray[Any, np.dtype[np.float64]]:
    scores = subset.scores[REFERENCE]
    return scores.positive_B / np.where(scores.tokens_B > 0, scores.tokens_B, np.nan)


def _rank_rows(remi: Sequence[Row], remid: Sequence[Row]) -> list[Row]:
    """Kendall's tau of the policies' order between each setting and `full`: by R-EMI on ID, and by R-EMID per shift.

    Over all policies but the reference, and over the models alone.
    """
    rows = []
    for quantity, table in (("remi", remi), ("remid", remid)):
        for shift in dict.fromkeys(row["shift"] for row in table):
            here = [row for row in table if row["shift"] == shift and row["value"] is not None]
            full = {row["policy"]: row["value"] for row in here if row["setting"] == FULL}
            for setting in dict.fromkeys(row["setting"] for row in here):
                mine = {r["policy"]: r["value"] for r in here if r["setting"] == setting and r["policy"] in full}
                models = [policy for policy in mine if policy not in CONTROLS]
                rows.append(
                    {
                        "setting": setting,
                        "quantity": quantity,
                        "shift": shift,
                        "n_policies": len(mine),
                        "tau": _tau(mine, full, list(mine)),
                        "n_models": len(models),
                        "tau_models": _tau(mine, full, models),
                    }
                )
    return rows


def _tau(mine: Mapping[str, float], full: Mapping[str, float], names: Sequence[str]) -> float | None:
    """None with fewer than 3 policies: one pair is no ranking."""
    return number(kendall(np.array([mine[n] for n in names]), np.array([full[n] for n in names])))
