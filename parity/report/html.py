"""A record as one HTML file that opens offline: no request, no `eval`, no library but the one that draws the plots.

    Record --view--> what a person reads (page/*.j2, autoescaped)     the verdict is there without JavaScript
           --data--> JSON per result, in inert <script> elements      read when the result is opened
    page/*.js, Vega-Lite                                              the tree and the plots, drawn when they are seen

The content security policy names the two scripts and the style sheet by their hashes and forbids everything else, so
that nothing a model says of itself can run, were the escaping ever to fail. Vega would compile expressions with `eval`;
vega-embed's interpreter of syntax trees (`ast: true`) is used instead. The libraries come from vl-convert, which has
them compiled in, so that nothing is fetched and nothing minified lies in the repository.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.record import Record
from isomorph.parity.report.html_data import embedded
from isomorph.parity.report.html_view import page_view
from isomorph.parity.report.texts import plain

__all__ = ["render"]

# In this order in the page's one script.
SCRIPTS = ("core.js", "theme.js", "overview.js", "model.js", "tree.js", "module.js", "plots.js", "main.js")
MISSING = "a report in HTML needs jinja2 and vl-convert-python: pip install 'isomorph[report]'"


def render(record: Record, folder: Path | None = None) -> str:
    """The page. The same record gives the same text, with the same versions of the libraries.

    folder: where the page will lie; files of a result (`Result.artifacts`) that exist there become links.

    Raises:
        UsageError: the libraries that draw it are not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise UsageError(MISSING) from None
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, program, vega = _asset("style.css"), _program(), _vega()
    text = environment.get_template("page.j2").render(
        page=page_view(record, folder),
        data=[embedded(result.verdict, len(record.results)) for result in record.results],
        style=style,
        program=program,
        vega=vega,
        policy=_policy(style, program, vega),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a name cannot be written


def _shown(value: Any) -> Any:
    """What a name says, in signs that a page can show; not what is markup or code."""
    return plain(value) if type(value) is str else value


@cache
def _asset(name: str) -> str:
    return (resources.files("isomorph.parity.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _program() -> str:
    return '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, about 0.9 MB, which sets `vegaEmbed`."""
    try:
        import vl_convert
    except ImportError:
        raise UsageError(MISSING) from None
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Inside an HTML script element only these two would be read as markup; in JavaScript the backslash changes nothing.
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, *scripts: str) -> str:
    """The content security policy: these scripts, this style sheet, images that stand in the page."""
    allowed = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
