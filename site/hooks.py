"""What MkDocs does besides: search finds figures and tables, runs have addresses, docstrings link to each other.

An answer of the search is a heading, a figure or a table (any ``.results`` or ``figure.chart`` with an id), or a row of
the what-if page. The pages themselves exclude the tables' cells from the search, which would be found by every number.
"""

import html
import itertools
import json
import re
from pathlib import Path

import griffe

LOCAL = re.compile(r'<a href="https?://(?:127\.0\.0\.1|localhost)[^"]*/runs/(\w+)">(.*?)</a>')
SHOWN = re.compile(r'<(div|figure) class="(?:results|chart)[^"]*" id="([^"]+)"')
JOBS = "reproduce.html"  # has the table of all jobs
found: list[dict] = []


def on_pre_build(config) -> None:
    found.clear()


def on_page_content(content: str, page, config, files) -> str:
    """A run links to its row in the table of jobs; assets/js/runs.js sends readers at home to their MLflow instead."""
    if page.url == JOBS:
        row = re.compile(r'<tr>(<th scope="row"(?:(?!</tr>).)*?<td [^>]*>)(\w{32})(</td>)', re.DOTALL)
        content = row.sub(rf'<tr id="run-\2">\1<a class="run" data-run="\2" href="{JOBS}#run-\2">\2</a>\3', content)
    content = LOCAL.sub(rf'<a class="run" data-run="\1" href="{JOBS}#run-\1">\2</a>', content)
    for start, end in itertools.pairwise([*SHOWN.finditer(content), None]):
        part = content[start.start() : end.start() if end else len(content)]
        part = part[: part.find(f"</{start[1]}>\n<") + 1 or None]
        title = re.search(r"<strong>(.*?)</strong>", part, re.DOTALL)
        words = [part[title.end() :].split("</p>")[0].split("</figcaption>")[0] if title else ""]
        words += re.findall(r'<th scope="(?:row|col|colgroup)[^>]*>(.*?)</th>', part, re.DOTALL)
        kind = "Table" if start[2].startswith("table") else "Figure"
        if title:
            name = f"{kind}: {_text(title[1]).rstrip('.')}"
            found.append({"location": f"{page.url}#{start[2]}", "title": name, "text": _text(" ".join(words))})
    return content


def on_post_build(config) -> None:
    """Add figures, tables, and the models, GPUs and links of the what-if page to the index."""
    path = Path(config.site_dir) / "search" / "search_index.json"
    if not path.exists():
        return
    index = json.loads(path.read_text(encoding="utf-8"))
    index["docs"] += [*found, *_settings(Path(config.config_file_path).parent / "reports" / "whatif.html")]
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _settings(page: Path) -> list[dict]:
    tables = json.loads(re.search(r">(\{.*\})<", page.read_text(encoding="utf-8"))[1])
    rows = [
        ("model", name, f"{row['layers']} layers of width {row['hidden']}") for name, row in tables["sizes"].items()
    ]
    rows += [("hardware", name, row["words"]) for name, row in tables["devices"].items()]
    rows += [("link", name, row["words"]) for name, row in tables["links"].items()]
    return [
        {
            "location": f"whatif.html#{key}={name}",
            "title": f"What if: {name}",
            "text": f"{words} ({name.replace('-', ' ')})",
        }
        for key, name, words in rows
    ]


def _text(markup: str) -> str:
    return html.escape(html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", markup))).strip(), quote=False)


class Roles(griffe.Extension):
    """``:class:`ladder.x.Y``` of a docstring becomes a link where the page has it, else the name; so does ``code``."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r":\w+:`~?([\w.]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", obj.docstring.value
            )
