"""What a run will do: the samples of each subset, their prompts, everyone's responses, and the pairs to score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from remid.data import read_benchmark
from remid.data.mapping import look_up
from remid.data.read import sample_fields
from remid.data.same import marks
from remid.errors import ConfigError, DataError, Problem
from remid.estimate import balanced_design
from remid.lm.chain import Estimator
from remid.lm.models import ModelSource
from remid.pipeline.config import RunConfig
from remid.pipeline.engines import Engines
from remid.pipeline.measure import SubsetScores
from remid.pipeline.mix import Prompts, mixed_key
from remid.pipeline.policies import Texts, chosen_policies, subset_texts
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import Traces, collect_traces
from remid.pipeline.score import Unit, pair_scores, plan_units
from remid.pipeline.store import Store
from remid.types import ID, Benchmark, PairDesign, Sample

#: What `Store.scored` gives.
Scored = Mapping[tuple[str, str], tuple[int, float | None, str | None]]


@dataclass(frozen=True, slots=True)
class Group:
    """The test samples of one subset, in file order, with their negatives, prompts and everyone's responses.

    prompts: of each sample one for every trace that is usable, so none where none is.
    """

    subset: str
    shift: str
    split: str
    samples: tuple[Sample, ...]
    design: PairDesign
    prompts: tuple[Prompts, ...]
    answers: dict[str, Texts]

    @property
    def keys(self) -> list[str | None]:
        """Under which key each sample's scores are, those of several prompts mixed; None where it has no prompt."""
        return [mixed_key(prompts) for prompts in self.prompts]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is settled before scoring starts. scorer_id: the key of this run's scores in the store.

    where: floating type of the weights, and device. estimator: what the trained one is, None without.

    Where scoring went in rounds, groups are what was scored, first: the groups of the first round, whole: samples of
    each subset in the data, stopping: what result.json says about the rounds.
    """

    config: RunConfig
    benchmark: Benchmark
    traces: Traces
    source: ModelSource
    where: tuple[str, str]
    scorer_id: str
    groups: tuple[Group, ...]
    estimator: dict[str, Any] | None = None
    first: tuple[Group, ...] = ()
    whole: tuple[int, ...] = ()
    stopping: dict[str, Any] | None = None

    @property
    def units(self) -> list[Unit]:
        """All prompts with the texts to score under each."""
        return [unit for g in self.groups for unit in plan_units(g.prompts, g.answers, g.design)]

    def subsets(self, store: Store) -> list[SubsetScores]:
        """The subsets with their scores, once the store holds them."""
        scored = store.scored(self.scorer_id)
        made, first = ([self._subset(g, scored) for g in groups] for groups in (self.groups, self.first))
        if not first:
            return made
        sized = zip(made, first, self.whole, strict=True)
        return [replace(s, first=replace(early, whole=n), whole=n) for s, early, n in sized]

    def _subset(self, g: Group, scored: Scored) -> SubsetScores:
        keys = g.keys
        return SubsetScores(
            g.subset,
            g.shift,
            g.samples,
            {policy: pair_scores(keys, texts, g.design, scored) for policy, texts in g.answers.items()},
            clusters_of(g.samples, self.config.cluster_by),
        )


def make_plan(config: RunConfig, store: Store, engines: Engines, progress: Progress) -> Plan:
    """Read the data, collect the traces (the one stage that may need the model here), and lay out the pairs.

    Raises DataError, ConfigError, ModelError or EngineError.
    """
    benchmark = read_benchmark(
        config.data,
        mapping=config.mapping,
        taxonomy=config.taxonomy,
        responses=config.responses,
        group_by=config.group_by,
    )
    samples = limited(benchmark, config.limit)
    if not samples:
        raise ConfigError("data: no test samples (only training data); R-EMI needs an in-distribution test subset")
    policies = chosen_policies(benchmark, config.policies)
    clusters_of(tuple(samples), config.cluster_by)  # fails now where the field is missing, not after hours of scoring
    traces = collect_traces(benchmark, samples, store, engines, config, progress)
    if engines.estimator is not None:
        traces.prompts = engines.estimator.prompt_version
    groups = tuple(_groups(samples, policies, traces, config))
    scorer_id = engines.scorer_id(config.overflow, config.max_tokens)
    estimator = _about(engines.estimator, samples) if engines.estimator else None
    return Plan(config, benchmark, traces, engines.source, engines.where, scorer_id, groups, estimator)


def _about(estimator: Estimator, samples: Sequence[Sample]) -> dict[str, Any]:
    """What an estimator is, and n_seen: how many of the samples it was trained on; None where it does not say."""
    seen = estimator.trained_on
    n = None if seen is None else sum(not seen.isdisjoint(marks(sample)) for sample in samples)
    return {**estimator.about, "n_seen": n}


def limited(benchmark: Benchmark, limit: int | None) -> list[Sample]:
    """Test samples, at most `limit` of each subset, in file order."""
    seen: dict[str, int] = {}
    kept = []
    for sample in benchmark.test:
        seen[sample.subset] = seen.get(sample.subset, 0) + 1
        if limit is None or seen[sample.subset] <= limit:
            kept.append(sample)
    return kept


def _groups(samples: list[Sample], policies: tuple[str, ...], traces: Traces, config: RunConfig) -> list[Group]:
    """Subsets in order of first appearance, ID first."""
    names = sorted(dict.fromkeys(s.subset for s in samples), key=lambda n: _first(samples, n).shift != ID)
    groups = []
    for name in names:
        members = tuple(s for s in samples if s.subset == name)
        clusters = clusters_of(members, config.cluster_by)
        design = balanced_design(len(members), config.negatives, config.seed, clusters=clusters)
        prompts = tuple(_prompts(sample, traces) for sample in members)
        answers = subset_texts(members, policies, design)
        groups.append(Group(name, members[0].shift, members[0].split, members, design, prompts, answers))
    return groups


def _first(samples: list[Sample], subset: str) -> Sample:
    return next(s for s in samples if s.subset == subset)


def _prompts(sample: Sample, traces: Traces) -> Prompts:
    if traces.source == "none":
        return (tuple(role_play_messages(sample)),)
    version = traces.prompts
    return tuple(tuple(role_play_messages(sample, f, version=version)) for f in traces.features[sample.sample_id])


def clusters_of(samples: tuple[Sample, ...], field: str | None) -> tuple[str, ...] | None:
    if field is None:
        return None
    labels = []
    for sample in samples:
        _, value = look_up(sample_fields(sample), field)
        if value is None:
            file, _, record = sample.place.rpartition(": ")
            raise DataError([Problem(file, record, field, "is missing; --cluster-by needs it in every test sample")])
        labels.append(json.dumps(value, sort_keys=True, ensure_ascii=False))
    return tuple(labels)
