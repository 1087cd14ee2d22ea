"""Drawings of wirings, made by running the wiring table: a compute lane, a communication lane, and who reads whom.

Times are in units: attention 1, MLP 1.5, an all-reduce 1; the two-resource schedule of the benchmark places them.
"""

import html
from pathlib import Path

from ladder.bench.schedule import length, schedule
from ladder.files import whole
from ladder.report.style import COMMUNICATION, listing, look
from ladder.wiring import pattern, table, trace

DRAWN = ["standard", "parallel", "ladder", "ladder-2", "ladder@1-2", "upper_bound"]
LAYERS = 3
SECONDS = (1.0, 1.5)  # of attention and MLP
REDUCE = 1.0
UNIT, LEFT, HEIGHT = 36, 4, 32  # pixels
COMPUTE, LINK = 54, 122  # tops of the lanes


def name_of(module: int) -> str:
    return f"{('attention', 'MLP')[module % 2]} {module // 2}"


def reads(wiring: str, layers: int = LAYERS) -> dict[int, frozenset[int]]:
    """Module -> the modules whose outputs it reads beside the embedding."""
    return {e.index: e.modules for e in trace(table(wiring, layers)) if e.kind == "compute"}


def alt(wiring: str, layers: int = LAYERS) -> str:
    """The diagram in words, from the same trace."""
    rows = table(wiring, layers)
    spans = schedule(rows, lambda n: SECONDS[n % 2], REDUCE)
    parts = []
    for module, seen in reads(wiring, layers).items():
        unseen = [name_of(m) for m in range(module) if m not in seen]
        source = "the embedding" + (" and every output before it" if not unseen and module else "")
        if unseen and seen:
            source += f" and every output before it except that of {listing(unseen)}"
        elif unseen:
            source += f", not the output of {listing(unseen)}"
        parts.append(f"{name_of(module)} reads {source}")
    launched = sum(e.kind == "launch" for e in trace(rows))
    sums = f"{launched} all-reduces" if launched else "No all-reduce"
    return f"{'; '.join(parts)}. {sums}; {length(spans):g} time units."


def draw(wiring: str, layers: int = LAYERS) -> str:
    """An SVG of ``layers`` layers: boxes to scale, waits as dotted lines, reads as arrows above the compute lane."""
    rows = table(wiring, layers)
    events = trace(rows)
    spans = schedule(rows, lambda n: SECONDS[n % 2], REDUCE)
    boxes = {(s["lane"], s["index"]): s for s in spans}
    carried = {e.index: e.modules for e in events if e.kind == "launch"}
    end = length(spans)
    width, bottom = LEFT * 2 + UNIT * longest(layers), (LINK if carried else COMPUTE) + HEIGHT + 4
    identity = f"wiring-{wiring.replace('@', '-at-').replace(',', '-')}"
    colour = look(wiring.partition("@")[0]).colour
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {bottom}" width="{width:g}" height="{bottom}" '
        f'role="img" aria-labelledby="t-{identity} d-{identity}" font-family="system-ui, sans-serif" font-size="13">',
        f'<title id="t-{identity}">Wiring {html.escape(wiring)}: {html.escape(summary(wiring))}</title>',
        f'<desc id="d-{identity}">{html.escape(alt(wiring, layers))}</desc>',
        f'<defs><marker id="{identity}-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>',
    ]
    for (lane, index), span in boxes.items():
        top = COMPUTE if lane == "compute" else LINK
        text = (
            f"{'AM'[index % 2]}{index // 2}"
            if lane == "compute"
            else "+".join(short(m) for m in sorted(carried[index]))
        )
        small = ' font-size="11"' if len(text) > 3 else ""
        fill = colour if lane == "compute" else COMMUNICATION
        strength = (0.28 if index % 2 == 0 else 0.5) if lane == "compute" else 0.4
        x, wide = LEFT + UNIT * span["start"], UNIT * (span["end"] - span["start"])
        out.append(
            f'<rect x="{x:g}" y="{top}" width="{wide - 1:g}" height="{HEIGHT}" rx="3" '
            f'fill="{fill}" fill-opacity="{strength}" '
            f'stroke="{fill}"/><text x="{x + wide / 2:g}" y="{top + HEIGHT / 2 + 4:g}" text-anchor="middle" '
            f'fill="currentColor"{small}>{text}</text>'
        )
    out += [link(boxes["compute", max(carried[i])], boxes["communication", i], identity) for i in carried]
    out += arrows(wiring, layers, boxes, identity)
    out.append(
        f'<text x="{LEFT + UNIT * end + 6:g}" y="{COMPUTE + HEIGHT / 2 + 4:g}" fill="currentColor">{end:g}</text>'
    )
    return "\n".join([*out, "</svg>"])


def short(module: int) -> str:
    return f"{'AM'[module % 2]}{module // 2}"


def longest(layers: int) -> float:
    """Time units of the slowest wiring, so that all drawings have one scale, and room for the total."""
    return layers * (sum(SECONDS) + 2 * REDUCE) + 0.9


def link(module: dict, reduce: dict, identity: str) -> str:
    """From the end of a module down to its all-reduce."""
    x, to = LEFT + UNIT * module["end"] - 2, LEFT + UNIT * reduce["start"] + 2
    path = f"M{x:g} {COMPUTE + HEIGHT} L{to:g} {LINK}"
    return f'<path d="{path}" stroke="currentColor" stroke-opacity=".6" stroke-dasharray="3 3" fill="none"/>'


def arrows(wiring: str, layers: int, boxes: dict, identity: str) -> list[str]:
    """From the newest output that a module reads to the module; none for one that reads the embedding only."""
    out = []
    for module, seen in reads(wiring, layers).items():
        if not seen:
            continue
        source, target = boxes["compute", max(seen)], boxes["compute", module]
        start, end = (LEFT + UNIT * (b["start"] + b["end"]) / 2 for b in (source, target))
        rise = COMPUTE - 10 - min(34, 9 * (end - start) / UNIT)
        out.append(
            f'<path d="M{start:g} {COMPUTE - 1} C{start:g} {rise:g} {end:g} {rise:g} {end:g} {COMPUTE - 2}" '
            f'fill="none" stroke="currentColor" stroke-opacity=".75" marker-end="url(#{identity}-head)"/>'
        )
    return out


def summary(wiring: str) -> str:
    name, at, chosen = wiring.partition("@")
    return pattern(name).summary + (f", in layers {chosen} only" if at else "")


def write(folder: Path) -> list[Path]:
    """wiring-NAME.svg for every wiring drawn, and wirings.html with all of them for the page."""
    written, parts = [], []
    for wiring in DRAWN:
        path = folder / f"wiring-{wiring}.svg"
        svg = draw(wiring)
        with whole(path) as part:
            part.write_text(svg + "\n", encoding="utf-8")
        written.append(path)
        parts.append(
            '<figure class="chart wiring" data-search-exclude>\n'
            f'<div class="panels"><div class="panel">{svg}</div></div>\n'
            f"<figcaption><strong><code>{html.escape(wiring)}</code></strong>: {html.escape(summary(wiring))}. "
            f'<span class="downloads"><a href="reports/figures/{path.name}" download>SVG</a></span></figcaption>\n'
            "</figure>"
        )
    page = folder / "wirings.html"
    with whole(page) as part:
        part.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return [*written, page]


def picture() -> str:
    """The README's: standard over ladder on white, since it is shown outside our pages."""
    parts, top = [], 0
    for wiring in ("standard", "ladder"):
        drawing = draw(wiring)
        width, height = (float(drawing.split(f'{key}="')[1].split('"')[0]) for key in ("width", "height"))
        label = f'<text x="8" y="{top + 22}" font-family="system-ui, sans-serif" font-size="15">{wiring}: {{}}</text>'
        parts += [
            label.format(html.escape(summary(wiring).partition(" (")[0])),
            drawing.replace("<svg ", f'<svg x="8" y="{top + 24}" ', 1),
        ]
        top += int(height) + 40
    size = f'width="{width + 16:g}" height="{top}" viewBox="0 0 {width + 16:g} {top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="#222" fill="#222">'
    return "\n".join([head, f'<rect width="100%" height="{top}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture(), end="")
