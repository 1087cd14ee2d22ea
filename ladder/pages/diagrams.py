"""Drawings of wirings, made by running the wiring table: a compute lane, a communication lane, and who reads whom.

Times are in units: attention 1, MLP 1.5, an all-reduce 1; the two-resource schedule of the benchmark places them.
"""

from functools import cached_property

from ladder.looks import COMMUNICATION, look, order
from ladder.markup import escape
from ladder.pages.words import listing
from ladder.schedule import length, timeline
from ladder.wiring import PATTERNS, Wiring, split_name, table

EXAMPLES = ["ladder-2", "ladder@1-2", "dtp-1", "desync-2x", "desync-4x"]  # of numbered families and of hybrids
DRAWN = sorted([*PATTERNS, *EXAMPLES], key=lambda w: (order(split_name(w)[0]), w))
LAYERS = 3
RANKS = 2  # of the wirings whose rows depend on it
SECONDS = (1.0, 1.5)  # of attention and MLP
REDUCE = 1.0
UNIT, LEFT, HEIGHT = 36, 58, 32  # pixels; left of it stand the lanes' names
COMPUTE, LINK = 60, 128  # tops of the lanes
# Arrows: what a module reads -> (dashes, opacity)
ARROWS = {"reduced": ("", 0.75), "own": ("5 3", 0.75), "signal": ("1.5 2.5", 1)}


def name_of(module: int) -> str:
    return f"{('attention', 'MLP')[module % 2]} {module // 2}"


def short(module: int) -> str:
    return f"{'AM'[module % 2]}{module // 2}"


class Drawing:
    """A wiring's first layers: what its modules read, what its all-reduces carry, and when both happen."""

    def __init__(self, wiring: str, layers: int = LAYERS):
        self.wiring = wiring
        self.rows = table(wiring, layers, RANKS)
        self.reads = {e.index: (e.modules, e.own) for e in self.rows.events if e.kind == "compute"}
        self.carried = {launch.index: launch.modules for launch in self.rows.launches}
        self.spans = timeline(self.rows, lambda n: SECONDS[n % 2], REDUCE)
        self.modules = [span for span in self.spans if span["lane"] == "compute"]
        self.end = length(self.spans)

    @cached_property
    def waits(self) -> list[float]:
        """Time that the compute lane stands still before each module, and at the end."""
        ends = [0.0, *(m["end"] for m in self.modules)]
        starts = [*(m["start"] for m in self.modules), self.end]
        return [start - end for start, end in zip(starts, ends, strict=True)]

    def finding(self) -> str:
        """Who waits for what, in a sentence or two."""
        late = [name_of(n) for n, wait in enumerate(self.waits[:-1]) if wait]
        if not self.carried:
            text = "Nothing is sent, so nothing waits"
        elif not late:
            text = "No module waits for the link; only the end does" if self.waits[-1] else "Nothing waits for the link"
        elif len(late) == len(self.modules) - 1:
            text = "Every module but the first waits for an all-reduce"
        else:
            text = f"{late[0][0].upper()}{listing(late)[1:]} wait{'s' * (len(late) == 1)} for an all-reduce"
        text += f": {self.end:g} time units, {f'{sum(self.waits):g}' if any(self.waits) else 'none'} of them waiting."
        if any(own for _, own in self.reads.values()):
            text += " Of what has not landed, each rank reads its own un-reduced share"
            text += "; the ranks' streams end apart." if self.rows.ends_apart else "."
        return text

    def words(self) -> str:
        """The drawing for who cannot see it."""
        parts = []
        for module, (seen, own) in self.reads.items():
            unseen = listing(name_of(m) for m in range(module) if m not in seen | own)
            sources = ["the embedding"]
            if own:
                sources.append(f"its own share of {listing(name_of(m) for m in sorted(own))}")
            if seen:
                every = f"every {'other ' * bool(own)}output before it"
                sources.append(f"{every} except that of {unseen}" if unseen else every)
            if self.rows[module].signal:
                sources.append(f"{name_of(0)} a second time")
            lost = f", not the output of {unseen}" if unseen and not seen else ""
            parts.append(f"{name_of(module)} reads {listing(sources)}{lost}")
        count = len(self.carried)
        sums = f"{count} all-reduce{'s' * (count > 1)}" if count else "No all-reduce"
        return f"{'; '.join(parts)}. {sums}; {self.end:g} time units."

    def svg(self) -> str:
        """Boxes to scale, dotted lines from a module to its all-reduce, reads as arrows above the compute lane."""
        identity = f"wiring-{self.wiring.replace('@', '-at-').replace(',', '-').replace('+', '-plus')}"
        width = LEFT + 4 + UNIT * longest(len(self.rows) // 2)
        bottom = (LINK if self.carried else COMPUTE) + HEIGHT + 4
        title = f"Wiring {self.wiring}: {summary(self.wiring)}"
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {bottom}" width="{width:g}" '
            f'height="{bottom}" role="img" aria-labelledby="t-{identity} d-{identity}" '
            'font-family="system-ui, sans-serif" font-size="13">',
            f'<title id="t-{identity}">{escape(title)}</title>',
            f'<desc id="d-{identity}">{escape(self.words())}</desc>',
            f'<defs><marker id="{identity}-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>',
        ]
        lanes = [("modules", COMPUTE)] + [("link", LINK)] * bool(self.carried)
        out += [f'<text x="0" y="{top + HEIGHT / 2 + 4:g}" fill="currentColor">{lane}</text>' for lane, top in lanes]
        colour = look(split_name(self.wiring)[0]).colour
        reductions = [span for span in self.spans if span["lane"] == "communication"]
        out += [box(m, COMPUTE, colour, (0.28, 0.5)[m["index"] % 2], short(m["index"])) for m in self.modules]
        out += [box(r, LINK, COMMUNICATION, 0.4, joined(self.carried[r["index"]])) for r in reductions]
        out += [leads(self.modules[max(self.carried[r["index"]])], r) for r in reductions]
        for module, (seen, own) in self.reads.items():
            sources = {"reduced": max(seen, default=None), "own": max(own, default=None)}
            sources |= {"signal": 0} if self.rows[module].signal else {}
            for kind, source in sources.items():
                if source is not None:
                    out.append(arrow(self.modules[source], self.modules[module], kind, identity))
        x, y = LEFT + UNIT * self.end + 6, COMPUTE + HEIGHT / 2 + 4
        return "\n".join([*out, f'<text x="{x:g}" y="{y:g}" fill="currentColor">{self.end:g}</text>', "</svg>"])


def longest(layers: int) -> float:
    """Time units of the slowest wiring, so that all drawings have one scale, and room for the total."""
    return layers * (sum(SECONDS) + 2 * REDUCE) + 0.9


def joined(modules: frozenset[int]) -> str:
    """The text of an all-reduce: {0, 1} -> A0+M0, {0, 1, 2, 3} -> A0–M1."""
    if len(modules) > 2:
        return f"{short(min(modules))}–{short(max(modules))}"
    return "+".join(short(m) for m in sorted(modules))


def box(span: dict, top: int, fill: str, strength: float, text: str) -> str:
    x, wide = LEFT + UNIT * span["start"], UNIT * (span["end"] - span["start"])
    small = ' font-size="10"' if len(text) > 3 else ""
    return (
        f'<rect x="{x:g}" y="{top}" width="{wide - 1:g}" height="{HEIGHT}" rx="3" fill="{fill}" '
        f'fill-opacity="{strength}" stroke="{fill}"/><text x="{x + wide / 2:g}" y="{top + HEIGHT / 2 + 4:g}" '
        f'text-anchor="middle" fill="currentColor"{small}>{escape(text)}</text>'
    )


def leads(module: dict, reduction: dict) -> str:
    """From the end of a module down to its all-reduce."""
    x, to = LEFT + UNIT * module["end"] - 2, LEFT + UNIT * reduction["start"] + 2
    path = f"M{x:g} {COMPUTE + HEIGHT} L{to:g} {LINK}"
    return f'<path d="{path}" stroke="currentColor" stroke-opacity=".6" stroke-dasharray="3 3" fill="none"/>'


def arrow(source: dict, target: dict, kind: str, identity: str) -> str:
    """From a module to one that reads its output, in the manner of its ``kind``."""
    dashes, opacity = ARROWS[kind]
    start, end = (LEFT + UNIT * (b["start"] + b["end"]) / 2 for b in (source, target))
    rise = COMPUTE - 10 - min(44 if kind == "signal" else 34, 9 * (end - start) / UNIT)
    dashed = f'stroke-dasharray="{dashes}" ' if dashes else ""
    return (
        f'<path d="M{start:g} {COMPUTE - 1} C{start:g} {rise:g} {end:g} {rise:g} {end:g} {COMPUTE - 2}" fill="none" '
        f'{dashed}stroke="currentColor" stroke-opacity="{opacity}" marker-end="url(#{identity}-head)"/>'
    )


def summary(wiring: str) -> str:
    chosen = split_name(wiring)[1]
    return Wiring.parse(wiring).summary + (f", in layers {chosen} only" if chosen else "")


def gallery(wirings: list[str] = DRAWN) -> str:
    """The drawings of these wirings, for a page."""
    parts = []
    for wiring in wirings:
        drawing = Drawing(wiring)
        parts.append(
            f'<figure class="chart wiring">\n<div class="panels"><div class="panel">{drawing.svg()}</div></div>\n'
            f"<figcaption><strong><code>{escape(wiring)}</code></strong>: {escape(summary(wiring))}. "
            f"{escape(drawing.finding())}</figcaption>\n</figure>"
        )
    return "\n".join(['<div class="wirings">', *parts, "</div>"])


def picture() -> str:
    """The README's: standard over ladder on white, since it is shown outside our pages."""
    parts, top = [], 0
    for wiring in ("standard", "ladder"):
        drawing = Drawing(wiring).svg()
        width, height = (float(drawing.split(f'{key}="')[1].split('"')[0]) for key in ("width", "height"))
        label = f'<text x="8" y="{top + 22}" font-family="system-ui, sans-serif" font-size="15">{wiring}: {{}}</text>'
        parts += [
            label.format(escape(summary(wiring).partition(" (")[0])),
            drawing.replace("<svg ", f'<svg x="8" y="{top + 24}" ', 1),
        ]
        top += int(height) + 40
    size = f'width="{width + 16:g}" height="{top}" viewBox="0 0 {width + 16:g} {top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="#222" fill="#222">'
    return "\n".join([head, f'<rect width="100%" height="{top}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture(), end="")
