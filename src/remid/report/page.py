"""result.json and details.json -> one HTML file that needs no network and runs no script but its own.

What keeps hostile data from running: jinja2 escapes every text it places; the data reach the browser in JSON blocks
without a raw <, > or &; our JavaScript puts text in with textContent only; and should all of that fail, the
Content-Security-Policy lets exactly three scripts run, named by their hashes.
"""

from __future__ import annotations

from typing import Any

from remid.errors import StoreError
from remid.report.agreement import estimator_view
from remid.report.components import components_view
from remid.report.gap import gap_view
from remid.report.html import TEMPLATES, block, environment, flat, frame
from remid.report.surface import surface_view
from remid.report.verdict import confidence, make_verdict

#: In the order in which they share one scope: the helpers first, what starts the page last.
_SCRIPTS = (
    "core.js",
    "table.js",
    "plot.js",
    "heatmap.js",
    "forest.js",
    "bound.js",
    "bounds.js",
    "samples.js",
    "sample.js",
    "main.js",
)

#: What the controls are, in the order in which they are shown.
CONTROLS = {
    "reference": (
        "The reference (golden) responses themselves.",
        "Its R-EMI is 0 by definition: everything is measured from here. It is left out of the plots.",
    ),
    "shuffled": (
        "Reference responses that belong to other samples: fluent, but blind to the input.",
        "Should lie far below 0, with a gap that is all missing. If not, the estimator does not see whether a response "
        "belongs to its input.",
    ),
    "generic": (
        "Answers that would fit almost any input.",
        "Should lie below 0, with a gap that is all missing. A model near it ignores whom it talks to and plays.",
    ),
    "parrot": (
        "Repeats the user's own words.",
        "Usually lies above 0, for a copy betrays its input. It is no good role-player, and the largest gap says so.",
    ),
}


def render_page(result: dict[str, Any], details: list[dict[str, Any]]) -> str:
    """The report as one HTML document.

    result, details: the content of result.json (schema 1) and details.json, see docs/result.md.
    Raises StoreError for another schema, ValueError for a number that is not finite (the schema has null for those).
    """
    if result.get("schema_version") != 1:
        raise StoreError(
            f"result.json: schema_version is {result.get('schema_version')!r}, this remid reads 1. "
            "Run `remid report` with the version that made the run (see its manifest), or measure again."
        )
    return (
        environment()
        .get_template("page.html")
        .render(
            result=result,
            gap=gap_view(result),
            verdict=make_verdict(result),
            estimators=estimator_view(result),
            surface=surface_view(result),
            components=components_view(result),
            confidence=confidence(result),
            **frame(_ours()),
            controls=CONTROLS,
            n_samples=sum(row["n"] for row in result["subsets"]),
            n_models=sum(row["kind"] == "model" for row in result["policies"]),
            manifest=list(flat(result.get("manifest", {}))),
            data={"result": block(_drawn(result)), "details": block(details), "controls": block(CONTROLS)},
            kind_of=lambda part: type(part).__name__,
        )
    )


def _drawn(result: dict[str, Any]) -> dict[str, Any]:
    """What the scripts need: these tables stand in the page already, and their rows are many."""
    written = {"estimators", "agreement", "disagreements", "surface", "components"}
    written |= {"gap", "gap_change", "gap_contrasts"}
    return {key: rows for key, rows in result.items() if key not in written}


def _ours() -> str:
    """Our scripts as one: a function of its own, so that nothing of ours is global."""
    body = "\n".join((TEMPLATES / name).read_text("utf-8") for name in _SCRIPTS)
    return f"(() => {{\n'use strict';\n{body}\n}})();"
