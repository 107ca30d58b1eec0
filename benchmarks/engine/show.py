"""engine.json as sections for the page and the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remid.report.sheet import Figure, Section, Table, line, plain

from .claims import checks, times
from .spread import Row

TITLE = "What scoring costs"
LEDE = (
    "Each prompt once and each continuation once, against what others do with the same pairs and against what this "
    "machine's own matrix products reach. Ratios come from one process in which the arms take turns; seconds are this "
    "machine's and say little about another."
)


def engine_sections(found: Row) -> list[Section]:
    """The checks first, then every section that has a result."""
    made = [_checks(found)]
    for name, show in _SHOWN.items():
        section = found["sections"].get(name, {})
        if "result" in section:
            made += show(section["result"], _how(section))
    return made


def manifest(found: Row) -> Row:
    """Machine and versions, and of each section how it was run."""
    sections = {
        name: {key: value for key, value in row.items() if key not in {"result", "sizes", "versions"}}
        for name, row in found["sections"].items()
    }
    return {"machine": found["machine"], "versions": found["versions"], "sections": sections}


def _how(section: Row) -> str:
    quick = " Quick sizes: the figures mean little." if section["quick"] else ""
    before, after = section["load_before"], section["load_after"]
    return f" {section['threads']} threads; load average {before} before, {after} after.{quick}"


def _checks(found: Row) -> Section:
    rows = checks(found)
    verdict = {True: "holds", False: "FAILS", None: "not judged"}
    cells = tuple((row["name"], row["claim"], row["measured"], verdict[row["passed"]]) for row in rows)
    judged = [row["passed"] for row in rows if row["passed"] is not None]
    text = f"{sum(judged)} of {len(judged)} claims that were judged hold."
    table = Table("Claims and what was measured", ("section", "claim", "measured", ""), cells, names=4, prose=True)
    return Section("Checks", text, tables=(table,))


def _speed(result: Row, how: str) -> list[Section]:
    designs, seconds, tokens = result["designs"], result["seconds"], result["tokens"]
    words = {
        "one": f"{result['negatives']} random negatives, 1 policy",
        "eleven": f"{result['negatives']} random negatives, {result['policies']} policies",
        "balanced": "balanced, 1 negative each, 1 policy",
    }
    keys = ("pairs", "distinct_pairs", "tokens_pair_by_pair", "tokens_padded", "tokens_ours")
    counts = tuple(
        (words[arm], *(plain(row[key], 0) for key in keys))
        for arm, row in designs.items()
    )  # fmt: skip
    ratios = tuple(
        (
            "random, 1 policy / balanced" if arm == "balanced" else words[arm],
            plain(row["tokens"], 1),
            times(row["unpadded"]),
            times(row["padded"]),
        )
        for arm, row in result["ratios"].items()
    )
    measured = tuple(
        (
            "pair by pair" if arm == "pairwise" else f"ours, {words[arm]}",
            plain(len(taken), 0),
            plain(sum(tokens[arm]), 0),
            plain(sum(taken), 1),
            plain(1000 * sum(taken) / sum(tokens[arm]), 3),
        )
        for arm, taken in seconds.items()
    )
    whole = {
        f"pair by pair, {words[arm]}": sum(seconds["pairwise"]) / sum(tokens["pairwise"]) * row["tokens_pair_by_pair"]
        for arm, row in designs.items()
        if arm != "balanced"
    } | {
        f"ours, {words[arm]}": sum(seconds[arm]) / sum(tokens[arm]) * row["tokens_ours"] for arm, row in designs.items()
    }
    error = result["equal_error"]
    text = (
        f"Reference and policies over {result['contexts']} contexts, designs as they are drawn. Pair by pair: batches "
        f"of {result['batch']} in the order of the draw, padded, logits at every position, stock transformers in "
        f"float32 with torch's default kernels; {result['pairs_by_pair_sampled']} pairs of the first design, drawn at "
        f"random. Ours: {result['contexts_measured']['one']} whole contexts, {result['contexts_measured']['eleven']} "
        "with all policies. Ratios are of whole designs, by seconds per token measured here and exact numbers of "
        "tokens; intervals are 95% over blocks (the range where there are two)."
    )
    tables = [
        Table(
            "Times faster, whole designs", ("design", "fewer tokens", "padding not counted", "padded as drawn"), ratios
        ),
        Table("Tokens, exact", ("design", "pairs", "distinct", "pair by pair", "padded", "ours"), counts),
        Table("Measured", ("arm", "blocks", "tokens run", "seconds", "ms per token"), measured),
        Table(
            "Seconds of a whole design, extrapolated by its tokens",
            ("arm", "seconds"),
            tuple((name, plain(value, 0)) for name, value in whole.items()),
        ),
    ]
    if error is not None:
        text += (
            f" Standard errors over draws of the pairs come from all pairs of {error['n']} contexts scored here. "
            f"Counting the draw of the contexts too, {error['items_m1']} of these {error['n']} with one balanced "
            f"negative are as certain as all of them with {error['random_pairs']} random pairs: "
            f"{error['fewer_tokens_m1']:.0f} times fewer tokens."
        )
        rows = (
            (f"{error['random_pairs']} random pairs, drawn for each", plain(error["se_random"], 2)),
            (f"{error['random_pairs']} random pairs, drawn once", plain(error["se_shared"], 2)),
            *((f"balanced, m = {m}", plain(se, 2)) for m, se in enumerate(error["se_m"], 1)),
            ("draw of the contexts", plain(error["sampling"], 2)),
        )
        tables.append(Table(f"Standard error of R-EMI, {error['policy']}, nats per response", ("design", "nats"), rows))
    blocks = list(range(1, len(seconds["pairwise"]) + 1))
    per_token = [
        line(
            "pair by pair" if arm == "pairwise" else f"ours, {words[arm]}",
            blocks,
            [1000 * s / t for s, t in zip(taken, tokens[arm], strict=True)],
            k,
        )
        for k, (arm, taken) in enumerate(seconds.items())
    ]
    layout = {
        "xaxis": {"title": {"text": "block"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "ms per token run"}},
    }
    figure = Figure(tuple(per_token), layout, "Milliseconds per token by block, per arm; the table has the sums.")
    gap = result["largest_difference_nats_per_response"]
    if gap is not None:
        text += f" {result['pairs_compared']} pairs were scored both ways: at most {gap:.1e} nats per response apart."
    return [Section("Against the paper's design, pair by pair", text + how, (figure,), tuple(tables))]


def _exact(result: Row, how: str) -> list[Section]:
    columns = (
        "way",
        "responses",
        "tokens",
        "same bits",
        "largest, a token",
        "mean, a token",
        "largest, |sum| / tokens",
        "mean",
    )

    numbers = ("largest_per_token", "mean_per_token", "largest_per_response_token", "mean_per_response_token")

    def cells(rows: list[Row]) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (
                row["way"],
                plain(row["responses"], 0),
                plain(row["tokens"], 0),
                plain(row["tokens_same_bits"], 0),
                *(f"{row[key]:.1e}" for key in numbers),
            )
            for row in rows
        )  # fmt: skip

    text = (
        f"{result['pairs']} random pairs under {result['contexts']} neighbouring contexts "
        f"({result['prompt_tokens_shared']} of {result['prompt_tokens']} prompt tokens shared), layout "
        f"{result['layout']}, passes of {result['packing']['rows']} rows, blocks of {result['packing']['block']}. "
        f"Differences in nats. Another process gives "
        f"{'the same' if result['same_bytes_in_another_process'] else 'OTHER'} bytes."
    )
    tables = (
        Table("Ours against one at a time; both against float64", columns, cells(result["against"])),
        Table("Ours in other ways against ours", columns, cells(result["same"])),
    )
    return [Section("Are the numbers the same?", text + how, tables=tables)]


def _harness(result: Row, how: str) -> list[Section]:
    taken, tokens = result["seconds"], result["tokens"]
    rows = tuple(
        (name, plain(len(taken[arm]), 0), plain(result["pairs"], 0), plain(tokens[arm], 0), plain(sum(taken[arm]), 1))
        for arm, name in (("harness", "lm-evaluation-harness"), ("ours", "ours"))
    )
    trials = ", ".join(f"{size}: {taken:.1f} s" for size, taken in result["trial_seconds"].items())
    text = (
        f"lm-evaluation-harness {result['version']}, HFLM around the model as transformers loads it, float32, its "
        f"own order and cache of logits; batch size {result['batch']}, the fastest on a context that does not count "
        f"({trials}). Pairs of a run, {result['negatives']} negatives, each distinct pair once, on exactly the same "
        f"ids. Ours is {times(result['ratio'])}. Largest difference "
        f"{result['largest_difference_nats_per_response']:.1e} nats per response, mean "
        f"{result['mean_difference_nats_per_response']:.1e}."
    )
    columns = ("arm", "contexts", "pairs", "tokens run", "seconds")
    return [Section("Against lm-evaluation-harness", text + how, tables=(Table("Measured", columns, rows),))]


def _stage(result: Row, how: str) -> list[Section]:
    runs, profile = result["runs"], result["profile"]
    rows = tuple(
        (
            f"{run['threads']} threads",
            plain(run["useful"]["tokens"], 0),
            plain(run["useful"]["total"] / 1e12, 2),
            _spread(run["tokens_per_second"], 0),
            _spread(run["flops_per_second"], 0, 1e-9),
            " / ".join(f"{rate['best'] / 1e9:.0f}" for rate in run["rates"]),
            _spread(run["share"], 0, 100) + "%",
            _spread(run["share_by_processor_time"], 0, 100) + "%",
            plain(run["useful"]["total"] / run["executed"]["total"], 3),
        )
        for run in runs
    )
    columns = (
        "", "tokens", "useful TFLOP", "tokens/s", "GFLOP/s", "products' GFLOP/s over time", "share of it",
        "share by processor time", "useful / executed",
    )  # fmt: skip
    kinds = runs[0]
    split = tuple(
        (name, *(plain(kinds[what][key] / 1e12, 3) for what in ("useful", "executed")))
        for name, key in (("layers", "body"), ("last layer", "last"), ("attention", "attention"), ("all", "total"))
    )
    parts = sorted(profile["parts"].items(), key=lambda item: -item[1])
    shares = tuple(
        (
            name,
            plain(seconds, 2),
            f"{100 * seconds / profile['seconds']:.1f}%",
            ""
            if name not in profile["products"]
            else f"{100 * (profile['products'][name]['share_of_rate'] or 0):.0f}%",
        )
        for name, seconds in parts
    )
    text = (
        f"{kinds['prompts']} prompts, {kinds['responses']} responses with controls, on a fresh store: messages to "
        "ids, planning, passes, last layer, every score written; the model was loaded before "
        f"({kinds['repeats'][0]['seconds_load']:.1f} s with the probe). Useful operations: two per weight and token, "
        "the last layer where it is read, attention over keys that are seen; nothing else counts. Products: 2048 x "
        "2048, float32, the faster of oneDNN and torch.mm, before, between and after the repeats. Median [least to "
        "largest]."
    )
    more = (
        f"torch.profiler on {profile['contexts']} contexts, {profile['threads']} threads: {profile['seconds']:.2f} s, "
        f"{profile['seconds_without_profiler']:.2f} s without the profiler. Seconds are of operators themselves. The "
        "last column is what products achieve of the rate of large ones, masked and padded work included."
    )
    tables = (Table("The stage", columns, rows), Table("Operations, TFLOP", ("", "useful", "executed"), split))
    below = Table("Where the time goes", ("", "seconds", "share", "of the products' rate"), shares)
    return [
        Section("Against the machine's own matrix products", text + how, tables=tables),
        Section("Where the rest goes", more, tables=(below,)),
    ]


def _growth(result: Row, how: str) -> list[Section]:
    made = []
    for axis, part in result["axes"].items():
        rows = part["rows"]
        columns = (
            axis,
            "tokens",
            "seconds",
            "processor s",
            "TFLOP",
            "peak, MB",
            "of it libraries",
            "by the formula, MB",
            "peak less libraries / formula",
        )
        cells = tuple(
            (
                plain(row["size"], 0),
                plain(row["tokens"], 0),
                plain(row["seconds"], 2),
                plain(row["processor_seconds"], 2),
                plain(row["flop"] / 1e12, 2),
                plain(row["bytes_peak"] / 1e6, 0),
                plain(row["bytes_libraries"] / 1e6, 0),
                plain(row["formula"]["total"] / 1e6, 0),
                plain((row["bytes_peak"] - row["bytes_libraries"]) / row["formula"]["total"], 2),
            )
            for row in rows
        )
        time, peak = part["time"], part["peak"]
        text = (
            f"Time: {1000 * time['slope']:.1f} ms each and {time['at_zero']:.2f} s at none; at most "
            f"{100 * time['largest_off']:.0f}% of the largest off that line; against operations at most "
            f"{100 * part['time_by_flop']['largest_off']:.0f}%. Peak: {peak['slope'] / 1e6:+.3f} MB each."
        )
        sizes = [row["size"] for row in rows]
        gigabytes = [row["bytes_peak"] / 1e9 for row in rows]
        figure = Figure(
            (line("seconds", sizes, [row["seconds"] for row in rows], 0), line("peak, GB", sizes, gigabytes, 1)),
            {
                "xaxis": {"title": {"text": axis}},
                "yaxis": {"rangemode": "tozero", "title": {"text": "seconds; gigabytes"}},
            },
            f"Seconds and gigabytes against {axis}; the table has the numbers.",
        )
        made.append(Section(f"Growth: {axis}", text + how, (figure,), (Table(f"By {axis}", columns, cells, names=0),)))
    parts = next(iter(result["axes"].values()))["rows"][-1]["formula"]
    formula = tuple((name, plain(value / 1e6, 1)) for name, value in parts.items())
    text = (
        "docs/engine.md states the formula; here for the last row of the first table. Each size ran in its own process."
    )
    made.append(Section("Memory by the formula", text, tables=(Table("Megabytes", ("part", "MB"), formula),)))
    return made


def _ray(result: Row, how: str) -> list[Section]:
    rows = tuple(
        (arm, plain(result["median_seconds"][arm], 2), plain(result["tokens_per_second"][arm], 0))
        for arm in result["seconds"]
    )
    text = (
        f"{result['contexts']} contexts, {result['continuations']} continuations, {result['tokens']} tokens in "
        f"{result['tasks']} tasks; workers of one thread. Two workers over one: {result['two_over_one']:.2f}; one "
        f"worker over this process with one thread: {result['one_over_here']:.2f}. {result['script']}"
    )
    return [Section("Ray", text + how, tables=(Table("Medians", ("arm", "seconds", "tokens/s"), rows),))]


def _kills(result: Row, how: str) -> list[Section]:
    rows = tuple((name, plain(value, 0)) for name, value in result.items() if isinstance(value, int))
    text = f"Processes killed at random moments and gone on with ({result['script']})."
    return [Section("Kills", text + how, tables=(Table("Counts", ("", ""), rows),))]


def _spread(row: Row, places: int, scale: float = 1.0) -> str:
    low, middle, high = (plain(scale * row[key], places) for key in ("min", "median", "max"))
    return f"{middle} [{low} to {high}]" if row["n"] > 1 else middle


_SHOWN: dict[str, Callable[[Any, str], list[Section]]] = {
    "speed": _speed,
    "exact": _exact,
    "harness": _harness,
    "stage": _stage,
    "growth": _growth,
    "ray": _ray,
    "kills": _kills,
}
