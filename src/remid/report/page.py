"""result.json and details.json -> one HTML file that needs no network and runs no script but its own.

What keeps hostile data from running: jinja2 escapes every text it places; the data reach the browser in JSON blocks
without a raw <, > or &; our JavaScript puts text in with textContent only; and should all of that fail, the
Content-Security-Policy lets exactly three scripts run, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remid.errors import StoreError
from remid.report import text
from remid.report.agreement import estimator_view
from remid.report.verdict import confidence, make_verdict

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
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
#: The stylesheets, in order of precedence.
_STYLES = ("base.css", "parts.css")

# < > & would let text end the block or start a comment; U+2028/9 end a line in older engines; a lone surrogate cannot
# be written as UTF-8.
_UNSAFE_IN_JSON = re.compile("[<>&\u2028\u2029\ud800-\udfff]")

#: What the controls are, in the order in which they are shown.
CONTROLS = {
    "reference": (
        "The reference (golden) responses themselves.",
        "Its R-EMI is 0 by definition: everything is measured from here. It is left out of the plots.",
    ),
    "shuffled": (
        "Reference responses that belong to other samples: fluent, but blind to the input.",
        "Should lie far below 0. If it does not, the estimator does not see whether a response belongs to its input.",
    ),
    "generic": (
        "Answers that would fit almost any input.",
        "Should lie below 0. A model near it ignores who it talks to and whom it plays.",
    ),
    "parrot": (
        "Repeats the user's own words.",
        "Usually lies above 0, for a copy betrays its input. It is no good role-player: above 0, higher is not better.",
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
    from plotly.offline import get_plotlyjs

    scripts = {
        "theme": _script((_TEMPLATES / "theme.js").read_text("utf-8")),
        "plotly": _script(get_plotlyjs()),
        "ours": _script(_ours()),
    }
    hashes = " ".join(f"'sha256-{_sha256(code)}'" for code in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    env = _environment()
    return env.get_template("page.html").render(
        result=result,
        verdict=make_verdict(result),
        estimators=estimator_view(result),
        confidence=confidence(result),
        csp=policy,
        css="\n".join((_TEMPLATES / name).read_text("utf-8") for name in _STYLES),
        scripts=scripts,
        controls=CONTROLS,
        n_samples=sum(row["n"] for row in result["subsets"]),
        n_models=sum(row["kind"] == "model" for row in result["policies"]),
        manifest=list(_flat(result.get("manifest", {}))),
        data={"result": _block(_drawn(result)), "details": _block(details), "controls": _block(CONTROLS)},
        kind_of=lambda part: type(part).__name__,
    )


def _drawn(result: dict[str, Any]) -> dict[str, Any]:
    """What the scripts need: other estimators stand in the page already, and their rows are many."""
    return {key: rows for key, rows in result.items() if key not in {"estimators", "agreement", "disagreements"}}


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        # A line must not end within "R-EMI"; the mark-up keeps the plain hyphen, so that searching the page finds it.
        return re.sub(r"R-EMID?", r'<span class="nb">\g<0></span>', (_TEMPLATES / name).read_text("utf-8"))

    # StrictUndefined: a misspelt key must fail in our tests, not print nothing.
    env = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        nb=_unbroken, visible=lambda value: text.visible(str(value)), short=text.short, percent=text.percent
    )
    return env


def _unbroken(value: str) -> Markup:
    """Text of ours, escaped, with each "R-EMI" kept on one line."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"R-EMID?", r'<span class="nb">\g<0></span>', str(escape(value))))


def _ours() -> str:
    """Our scripts as one: a function of its own, so that nothing of ours is global."""
    body = "\n".join((_TEMPLATES / name).read_text("utf-8") for name in _SCRIPTS)
    return f"(() => {{\n'use strict';\n{body}\n}})();"


def _script(code: str) -> Markup:
    """Code fit to stand between script tags unchanged, so that its hash holds.

    A parser turns CR LF into LF before hashing; "</script" and "<!--" would end or hide the code. Ours has neither, and
    of plotly.js it is checked, not assumed.
    """
    from markupsafe import Markup

    code = code.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\\0")
    if re.search(r"</script|<script|<!--", code, re.IGNORECASE):
        raise AssertionError("an inlined script holds markup that would end it early")
    return Markup(code)


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")


def _block(value: Any) -> Markup:
    """The value as JSON that can stand between script tags whatever its texts hold."""
    from markupsafe import Markup

    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", plain))


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as text) of every leaf of a nested dict, in order."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _flat(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, str):
        return [(path, value)]
    return [(path, "n/a" if value is None else json.dumps(value, ensure_ascii=False))]
