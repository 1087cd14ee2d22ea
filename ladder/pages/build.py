"""All pages of the site, from the derived tables."""

from pathlib import Path

import pandas as pd

from ladder.pages import speed
from ladder.pages.charts import save
from ladder.pages.page import Sources

PAGES = (speed.PAGE,)


def write(tables: dict[str, pd.DataFrame], out: Path) -> list[Path]:
    """Every page's fragments and drawings, and Vega itself for the browser."""
    import vl_convert

    written = [path for page in PAGES for path in page.write(Sources(tables), out)]
    written.append(out / "vega.js")
    save(written[-1], f"(() => {{{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();\n")
    return written
