"""What every page of ours is made with: escaping templates, scripts with hashes, data as safe JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remid.report import text

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"

# < > & would let text end the block or start a comment; U+2028/9 end a line in older engines; a lone surrogate cannot
# be written as UTF-8.
_UNSAFE_IN_JSON = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


#: The stylesheets, in order of precedence.
_STYLES = ("base.css", "parts.css")


def frame(ours: str) -> dict[str, Any]:
    """What every page's head and foot are rendered with: csp, css, and the only three scripts that may run.

    ours: the page's own JavaScript. The Content-Security-Policy names the scripts by their hashes.
    """
    from plotly.offline import get_plotlyjs

    scripts = {
        "theme": _script((TEMPLATES / "theme.js").read_text("utf-8")),
        "plotly": _script(get_plotlyjs()),
        "ours": _script(ours),
    }
    hashes = " ".join(f"'sha256-{_sha256(code)}'" for code in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    css = "\n".join((TEMPLATES / name).read_text("utf-8") for name in _STYLES)
    return {"csp": policy, "css": css, "scripts": scripts}


def environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        # A line must not end within "R-EMI"; the mark-up keeps the plain hyphen, so that searching the page finds it.
        return re.sub(r"R-EMID?", r'<span class="nb">\g<0></span>', (TEMPLATES / name).read_text("utf-8"))

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


def block(value: Any) -> Markup:
    """The value as JSON that can stand between script tags whatever its texts hold."""
    from markupsafe import Markup

    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", plain))


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as text) of every leaf of a nested dict, in order."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in flat(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, str):
        return [(path, value)]
    return [(path, "n/a" if value is None else json.dumps(value, ensure_ascii=False))]
