"""Pictures for people: overlay sheets of predictions, learning curves, bars. Equal input gives equal bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lib.core.geometry import RGB, Mask, Scores
from lib.core.images import contact_sheet, outlined
from lib.core.runtime import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = 18  # height of the caption strip, in pixels
GAP = 4  # between the pictures of a sheet


@dataclass(frozen=True)
class Overlay:
    """One row of a sheet. image: (H, W, 3) uint8; truth: (H, W) bool; scores: (H, W) float in [0, 1]."""

    caption: str
    image: RGB
    truth: Mask
    scores: Scores


def heat_map(scores: Scores) -> RGB:
    """Scores in [0, 1] as colours, (H, W, 3) uint8, on one scale for all pictures: 0 is black, 1 is pale yellow."""
    levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def overlay_sheet(overlays: Sequence[Overlay], threshold: float, tile: int = 200) -> RGB:
    """Rows of picture, outline of the truth, score map, outline of `scores >= threshold`, each under its caption.

    The shorter side of a picture is shown with `tile` px, of one that is longer than 2.4 times as much with fewer.
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
                    outlined(overlay.image, overlay.scores >= threshold, (40, 200, 255)),
                ]
            ],
            side,
            GAP,
        )
        caption = np.full((CAPTION, row.shape[1], 3), 255, np.uint8)
        cv2.putText(caption, overlay.caption, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        strips += [caption, row]
    return np.concatenate(strips) if strips else np.full((CAPTION, side, 3), 255, np.uint8)


def learning_curve(path: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw curves of (step, value) points, one per name, as PNG."""
    figure = _figure()
    axes = figure.add_subplot(xlabel="step")
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="" if len(points) > 50 else "o")
    axes.set_ylim(bottom=0)  # after drawing: before it, the upper end would stay at 1
    if any(curves.values()):
        axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    _save(figure, path)


def bars(path: Path, values: Mapping[str, tuple[float, float]], label: str) -> None:
    """Draw one bar per name with its error bar, (mean, standard deviation), as PNG; `label` names the axis."""
    figure = _figure()
    axes = figure.add_subplot(ylabel=label)
    means, deviations = zip(*values.values(), strict=True)
    axes.bar(list(values), means, yerr=deviations, capsize=4, color="#4c78a8")
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _figure() -> "Figure":
    from matplotlib.figure import Figure  # half a second to import, and only drawing needs it

    return Figure(figsize=(6.4, 4), dpi=100, layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})  # the version would change the bytes
    write_bytes(path, data.getvalue())
