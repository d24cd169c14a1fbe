"""Pictures for people: overlay sheets of predictions, learning curves, bars. Equal input gives equal bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Mask, Scores
from lib.core.images import contact_sheet, outlined
from lib.core.runtime import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = 18  # height of the caption strip, in pixels
GAP = 4  # between the pictures of a sheet

PANEL = 4.0  # inches, at 100 pixels an inch: side of one panel of a drawing
LEGEND = 1.6  # inches beside the panels
BAR = 0.45  # inches for a bar and its gap
MAX_COLUMNS = 3  # of panels, before the next row begins
# (256, 3) uint8, from black over red to pale yellow.
HEAT_COLOURS: RGB = np.array(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1])
MARKED = 50  # a curve of more points is a line without markers
LEVEL: dict[str, Any] = {"colors": "black", "linestyles": "--", "linewidth": 1}
BAND: dict[str, Any] = {"color": "black", "alpha": 0.18, "linewidth": 0, "zorder": 2}  # above the bars


@dataclass(frozen=True)
class Overlay:
    """One row of a sheet. image: (H, W, 3) uint8; truth, marks: (H, W) bool; scores: (H, W) float in [0, 1]."""

    caption: str
    image: RGB
    truth: Mask
    scores: Scores
    marks: Mask


def heat_map(scores: Scores) -> RGB:
    """Scores in [0, 1] as colours, (H, W, 3) uint8, on one scale for all pictures: 0 is black, 1 is pale yellow."""
    return HEAT_COLOURS[heat_levels(scores)]


def heat_levels(scores: Scores) -> NDArray[np.uint8]:
    """Scores in [0, 1] as the numbers of their colours in HEAT_COLOURS."""
    return np.rint(np.clip(scores, 0, 1) * np.float32(255)).astype(np.uint8)


def overlay_sheet(overlays: Sequence[Overlay], tile: int = 200) -> RGB:
    """Rows of picture, outline of the truth, score map, outline of the marks, each under its caption.

    The shorter side of a picture has `tile` px, or less if the longer side is more than 2.4 times as long.
    """
    shapes = [sorted(overlay.image.shape[:2]) for overlay in overlays]
    side = round(tile * min(max((longer / shorter for shorter, longer in shapes), default=1), 2.4))
    strips = []
    for overlay in overlays:
        row = contact_sheet(
            [
                [
                    overlay.image,
                    outlined(overlay.image, overlay.truth),
                    heat_map(overlay.scores),
                    outlined(overlay.image, overlay.marks, (40, 200, 255)),
                ]
            ],
            side,
            GAP,
        )
        strips += [_caption(overlay.caption, row.shape[1]), row]
    return np.concatenate(strips) if strips else np.full((CAPTION, side, 3), 255, np.uint8)


def comparison_sheet(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[RGB | None]]], tile: int = 144) -> RGB:
    """A table of pictures (H, W, 3) uint8: rows with captions, columns with heads; None leaves a place empty."""
    width = tile + GAP  # of a column, without the gap before the first one
    strip = np.concatenate([_caption(head, width) for head in heads], axis=1)
    strips = [np.pad(strip, ((0, 0), (0, GAP), (0, 0)), constant_values=255)]
    empty = np.full((tile, tile, 3), 255, np.uint8)
    for caption, pictures in rows:
        row = contact_sheet([[empty if picture is None else picture for picture in pictures]], tile, GAP)
        strips += [_caption(caption, row.shape[1]), row]
    return np.concatenate(strips)


def _caption(text: str, width: int) -> RGB:
    strip = np.full((CAPTION, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def learning_curve(path: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw curves of (step, value) points as PNG.

    A name consists of quantity and run, such as "loss, seed 0": each quantity has its own panel, and a run has the same
    colour in all panels. A curve without points is left out.
    """
    panels: dict[str, dict[str, Sequence[Sequence[float]]]] = {}
    for name, points in curves.items():
        quantity, _, run = name.partition(", ")
        if points:
            panels.setdefault(quantity, {})[run] = points
    colours = _colours([run for panel in panels.values() for run in panel])
    columns = max(min(len(panels), MAX_COLUMNS), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = _figure(PANEL * columns, PANEL * rows)
    handles: dict[str, Any] = {}
    for place, (quantity, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place, xlabel="step", title=quantity)
        for run, points in panel.items():
            marker = "o" if len(points) <= MARKED else ""
            x, y = zip(*points, strict=True)
            handles[run] = axes.plot(x, y, color=colours[run], linewidth=1.2, marker=marker, markersize=4)[0]
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)  # after drawing: before it, the upper end would stay at 1
        axes.grid(alpha=0.3)
    _legend(figure, {run: handle for run, handle in handles.items() if run})
    _save(figure, path)


class Bar(NamedTuple):
    """One bar: mean, standard deviation, and its largest distance from the reference by chance; NaN is not drawn."""

    mean: float
    deviation: float
    chance: float = nan


def bars(path: Path, groups: Mapping[str, Mapping[str, Bar]], label: str, references: Sequence[str]) -> None:
    """Draw the bars of each group side by side with their deviations, as PNG; `label` names the axis.

    A bar has the same colour in every group. Those in `references` are grey, all except the first of them hatched. The
    first one, which every group has, is the reference: its mean is a line through the group, and a bar that ends in the
    band around that line differs from it no more than by chance.
    """
    styles: dict[str, dict[str, Any]] = {references[0]: {"color": "#757575"}}
    styles |= {name: {"color": "#c8c8c8", "hatch": "////"} for name in references[1:]}
    others = [name for group in groups.values() for name in group if name not in styles]
    styles |= {name: {"color": colour} for name, colour in _colours(others).items()}
    figure = _figure(max(PANEL, BAR * sum(len(group) + 1 for group in groups.values())), PANEL)
    axes = figure.add_subplot(ylabel=label)
    handles: dict[str, Any] = {}
    centres, left = [], 0
    for group in groups.values():
        level, right = group[references[0]].mean, left + len(group) - 1
        for place, (name, (mean, deviation, chance)) in enumerate(group.items(), start=left):
            handles[name] = axes.bar(place, mean, 0.85, yerr=deviation, capsize=3, edgecolor="white", **styles[name])
            band = axes.fill_between([place - 0.5, place + 0.5], level - chance, level + chance, **BAND)
        handles[f"mean of {references[0]}"] = axes.hlines(level, left - 0.5, right + 0.5, **LEVEL)
        centres.append((left + right) / 2)
        left = right + 2
    axes.set(xticks=centres, xticklabels=list(groups), xlim=(-1, left - 1), axisbelow=True)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    _legend(figure, {**handles, "equal arms, 95 %": band})
    _save(figure, path)


def trade_offs(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    x: str,
    y: str,
    references: Sequence[str],
) -> None:
    """Draw stairs of (x, y) points as PNG, one panel for each key, on one scale; x and y name the axes.

    A name has the same colour in all panels; those in `references` are grey, all except the first of them dashed.
    """
    others = [name for panel in panels.values() for name in panel if name not in references]
    styles: dict[str, dict[str, Any]] = {name: {"color": colour} for name, colour in _colours(others).items()}
    styles |= {name: {"color": "#757575", "linestyle": "--"} for name in references}
    styles[references[0]] = {"color": "#757575", "linewidth": 2}
    columns = max(min(len(panels), MAX_COLUMNS), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = _figure(PANEL * columns, PANEL * rows)
    handles: dict[str, Any] = {}
    for place, (title, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place, xlabel=x, ylabel=y, title=title)
        for name, points in panel.items():
            handles[name] = axes.plot(*zip(*points, strict=True), drawstyle="steps-post", **styles[name])[0]
        axes.margins(x=0)
        axes.grid(alpha=0.3)
    highest = max((axes.get_ylim()[1] for axes in figure.axes), default=1)
    for axes in figure.axes:
        axes.set_ylim(0, highest)
    _legend(figure, handles)
    _save(figure, path)


def _colours(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each distinct name: of ten strong ones, or of twenty where ten are too few."""
    from matplotlib import colormaps

    distinct = list(dict.fromkeys(names))
    palette = colormaps["tab10" if len(distinct) <= 10 else "tab20"]
    return {name: palette(number % palette.N) for number, name in enumerate(distinct)}


def _legend(figure: "Figure", handles: Mapping[str, Any]) -> None:
    """Beside the panels, where it hides no curve."""
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)


def _figure(width: float, height: float) -> "Figure":
    """Panels of width x height inches in all, and room for the legend beside them."""
    from matplotlib.figure import Figure  # half a second to import, and only drawing needs it

    return Figure(figsize=(width + LEGEND, height), dpi=100, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})  # the version would change the bytes
    write_bytes(path, data.getvalue())
