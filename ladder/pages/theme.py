"""How charts look: Vega-Lite's configuration, in one ink that becomes the page's colour; shapes and dashes."""

INK, LIGHT, DARK = "#010203", "#1f2328", "#e2e4e9"
# Told apart by colour-blind readers (Okabe and Ito), for series that are no wirings.
SERIES = ("#2f7fd1", "#d55e00", "#009e73", "#b8579a", "#a67c00", "#6a6fd8", "#00929f", "#8a8a8a")
SHAPES = {"s": "square", "^": "triangle-up", "v": "triangle-down", "o": "circle", "p": "cross", "X": "diamond"}
SHAPES |= {"h": "triangle-left", "<": "triangle-left", ">": "triangle-right", "d": "diamond", "P": "cross"}
SHAPES |= {"*": "stroke", "D": "diamond"}
DASHES = {"-": [1, 0], "--": [6, 3], ":": [2, 2], "-.": [7, 2, 2, 2]}
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
CONFIG = {
    "background": None,
    "font": "Arial, Helvetica, 'Liberation Sans', sans-serif",
    "padding": {"left": 18, "top": 5, "right": 22, "bottom": 5},
    "view": {"stroke": None},
    "axis": {"domainColor": INK, "gridColor": INK, "gridOpacity": 0.12, "tickColor": INK, "labelColor": INK}
    | {"titleColor": INK, "titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11, "tickCount": 5}
    | {"titlePadding": 9, "labelOverlap": "greedy", "labelSeparation": 4},
    "header": {"labelColor": INK, "titleColor": INK},
    "legend": {"labelColor": INK, "titleColor": INK, "orient": "top", "symbolStrokeWidth": 2, "labelFontSize": 11},
    "title": {"color": INK, "fontSize": 12, "anchor": "start", "fontWeight": "bold"},
    "text": {"color": INK, "fontSize": 11},
    "point": {"size": 46, "strokeWidth": 1.6, "opacity": 1},
    "line": {"strokeWidth": 2},
}
