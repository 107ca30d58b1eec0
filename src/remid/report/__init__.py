"""Tables, a terminal summary and one self-contained HTML page, made from the plain dicts of a finished run.

The input is docs/result.md and nothing else: no model, no estimator and no file of the benchmark is read here. jinja2,
plotly, rich and pyarrow are imported where they are used, so that importing this package costs next to nothing.
"""

from remid.report.page import render_page
from remid.report.tables import console_summary, write_tables

__all__ = ["console_summary", "render_page", "write_tables"]
