"""Distributions as inline SVG: equal input gives equal text, in the colours of the page that holds it."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import fill
from typing import Any

import numpy as np

WIDTH, ROW, FOOT = 3.6, 0.75, 0.6  # inches: of a drawing, the height of a row, of the axis below the last one
ACROSS = 55  # characters of a label that fit below a drawing
BINS = 24
WIDE = 20.0  # a ratio of largest to smallest value from which the axis is logarithmic
DECADES = 200.0  # a ratio from which such an axis names powers of ten alone
INK = "#010203"  # stands for the colour of the page's text until the drawing is done
COLOURS = {"real boxes": "#8a8a8a", "placements": "#1f77b4", "accepted": "#2e9e4f", "rejected": "#d1495b"}
TICKS = "real boxes"  # few, so that shares of them in bins would be spikes

Rows = Mapping[str, Mapping[str, Sequence[float]]]


def histograms(name: str, rows: Rows, label: str, limits: Sequence[float] = ()) -> str:
    """Rows of histograms over one axis, as an `<svg>` element; `name` makes its ids its own on the page.

    rows: by their names, the values of each series, whose names are keys of COLOURS; those of TICKS are drawn one by
    one. limits: dashed lines through all rows, as far as the axis has them. Where all values are equal, a sentence says
    so.
    """
    values = np.array([value for series in rows.values() for numbers in series.values() for value in numbers], float)
    if not values.size:
        return f"<p>{label}: no sample has it.</p>"
    low, high = values.min(), values.max()
    if low == high:
        return f"<p>{label}: {low:g} in all {values.size}.</p>"
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    logarithmic = low > 0 and high > WIDE * low
    edges = np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not put the ends outside
    ink = dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK)
    settings: dict[Any, Any] = {"svg.hashsalt": name, "svg.fonttype": "none", "svg.id": name, "font.size": 8, **ink}
    with rc_context(settings):
        figure = Figure(figsize=(WIDTH, ROW * len(rows) + FOOT), layout="constrained")
        panels = figure.subplots(len(rows), sharex=True, squeeze=False)[:, 0]
        for panel, (row, series) in zip(panels, rows.items(), strict=True):
            for kind, numbers in series.items():
                if kind == TICKS:
                    across = panel.get_xaxis_transform()
                    panel.vlines(numbers, 0, 0.3, COLOURS[kind], linewidth=1.2, transform=across, zorder=3)
                    continue
                heights = np.histogram(numbers, edges)[0]
                panel.stairs(heights, edges, color=COLOURS[kind], fill=True, alpha=0.3)
                panel.stairs(heights, edges, color=COLOURS[kind], linewidth=1.2)
            for limit in limits:
                if low <= limit <= high:
                    panel.axvline(limit, color=INK, linewidth=0.8, linestyle="--")
            panel.set_title(row, fontsize=8, loc="left", pad=2)
            panel.set_facecolor("none")
            panel.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            panels[-1].set_xscale("log")
            panels[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < DECADES * low else (1,)))
            panels[-1].xaxis.set_major_formatter("{x:g}")
            panels[-1].xaxis.set_minor_formatter(NullFormatter())
        panels[-1].set_xlabel(fill(label, ACROSS))
        text = io.StringIO()
        nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    return _inline(text.getvalue(), label)


def _inline(document: str, label: str) -> str:
    """The `<svg>` element of a document without what HTML has no use for: prologue, namespaces, size, rules for all of
    the page, names of groups."""
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", element, count=1, flags=re.S)
    element = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", element).replace("xlink:href", "href")
    element = re.sub(r'<g id="[^"]*"', "<g", element).replace(INK, "currentColor")
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
