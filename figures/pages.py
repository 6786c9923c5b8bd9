"""HTML pages from figures/templates/: one file each, opened offline, with nothing in it but what it was given.

Every value is escaped as it is filled in, and data for a page's script is JSON in which `<`, `>` and `&` are escaped: a
model may write anything, a script tag included. The content policy of the pages lets them reach nothing outside the
file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """The page; a value that the template asks for and was not given is an error."""
    return TEMPLATES.get_template(template).render(values)


def as_json(value: Any) -> Markup:
    """`value` for a <script type="application/json"> element: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
