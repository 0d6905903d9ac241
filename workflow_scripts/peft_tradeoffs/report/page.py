"""The report's page: one HTML file with script, style and data inside, that asks the network for nothing."""

import base64
import hashlib
import json
from typing import Any

import jinja2
import vl_convert
from markdown_it import MarkdownIt
from markdown_it.token import Token

from peft_tradeoffs.core.layout import REPOSITORY

PAGE = REPOSITORY / "report" / "page"
SCRIPTS = ("page.js", "charts.js", "table.js", "main.js")
# Vega, Vega-Lite and Vega-Embed with what they use, as one script. Whoever hands the page on hands on its licences.
LIBRARY = "window.vegaEmbed = vegaEmbed;"


def render(data: dict[str, Any], **shown: Any) -> str:
    """The page: `data` is what its script reads as JSON, `shown` what the template names."""
    scripts = [vl_convert.javascript_bundle(LIBRARY), "\n".join((PAGE / name).read_text("utf-8") for name in SCRIPTS)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        data=inline_json(data),
        scripts=scripts,
        hashes=[digest(script) for script in scripts],
        css=(PAGE / "page.css").read_text("utf-8"),
        licences=(PAGE / "licences.txt").read_text("utf-8"),
        **shown,
    )


def inline_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup, for a script element of type application/json."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def digest(script: str) -> str:
    """A script's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def markdown_html(text: str, label: str) -> str:
    """A Markdown table of ours with its headings, lists and notes as HTML; markup in it stays text.

    Headings become h3, tables scroll in a region that is called `label`.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink", "code"])
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
        if token.type == "th_open":
            token.attrSet("scope", "col")
    wrapped: list[Token] = []
    name = str(jinja2.filters.do_forceescape(label))
    for token in tokens:
        if token.type == "table_open":
            html = f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
            wrapped.append(Token("html_block", "", 0, content=html))
        wrapped.append(token)
        if token.type == "table_close":
            wrapped.append(Token("html_block", "", 0, content="</div>"))
    return reader.renderer.render(wrapped, reader.options, {})
