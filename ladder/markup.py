"""What values become in files that a browser or a spreadsheet interprets: text, and nothing that runs."""

import html
import json
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import pandas as pd

from ladder.files import atomic_write
from ladder.redact import redact

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that spreadsheets execute


def escape(value: object) -> str:
    """Text for an element or a quoted attribute of HTML or SVG."""
    return html.escape(str(value))


def link(address: str, label: object) -> str:
    """A link to a web page; only the label if ``address`` is none (javascript:, data:, a path)."""
    if urlsplit(address).scheme not in ("http", "https"):
        return escape(label)
    return f'<a href="{escape(redact(address))}">{escape(label)}</a>'


def segment(value: object) -> str:
    """``value`` as one segment of a URL's path."""
    return quote(str(value), safe="")


def slug(value: object) -> str:
    """``value`` as part of a file's name and of an element's id."""
    return re.sub(r"[^\w.@,+-]+", "-", str(value), flags=re.ASCII)


def script(identity: str, content: object) -> str:
    """One line of HTML that holds ``content`` as JSON, in which no text can end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json" id="{escape(identity)}">{text}</script>\n'


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write ``frame`` with its columns as narrow as their values allow. A text that a spreadsheet would execute gets
    an apostrophe in front, which makes it a text there; numbers, also those written as text, stay as they are."""
    frame = frame.convert_dtypes()
    for column in frame.select_dtypes(exclude="number"):
        frame[column] = frame[column].map(harmless, na_action="ignore")
    with atomic_write(path) as part:
        frame.rename(columns=harmless).to_csv(part, index=False, lineterminator="\n")


def harmless(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
