"""Pictures for people: what is drawn where, and equal bytes for equal input."""

from math import nan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from lib import plots
from lib.core.images import read_image, write_png
from lib.plots import (
    CAPTION,
    GAP,
    Bar,
    Overlay,
    bars,
    comparison_sheet,
    heat_map,
    learning_curve,
    overlay_sheet,
    trade_offs,
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, as matplotlib's own objects."""
    saved: list[Figure] = []
    save = plots._save

    def recorded(figure: Figure, path: Path) -> None:
        save(figure, path)
        saved.append(figure)

    monkeypatch.setattr(plots, "_save", recorded)
    return saved


def overlay(caption="hex_nut/crack/003"):
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 30), bool)
    truth[10:20, 5:15] = True
    return Overlay(caption, rng.integers(0, 256, (40, 30, 3)).astype(np.uint8), truth, truth * np.float32(0.9), truth)


def test_a_sheet_has_a_row_of_four_panels_and_a_caption_per_overlay():
    sheet = overlay_sheet([overlay(), overlay()], tile=60)
    assert sheet.shape == (2 * (CAPTION + 80 + 8), 4 * 84 + 4, 3), "30 x 40 px are shown with 60 x 80"


def test_a_wide_picture_is_shown_wide_and_leaves_no_white_below():
    wide = Overlay(
        "",
        np.zeros((20, 100, 3), np.uint8),
        np.zeros((20, 100), bool),
        np.zeros((20, 100), np.float32),
        np.zeros((20, 100), bool),
    )
    sheet = overlay_sheet([wide, wide], tile=50)
    assert sheet.shape == (2 * (CAPTION + 24 + 8), 4 * 124 + 4, 3)
    assert (sheet[-5] == 0).all(axis=-1).any(), "the last row but the gap is picture"


def test_the_caption_is_written_above_its_row():
    named, unnamed = (overlay_sheet([overlay(caption)], tile=60) for caption in ("crack/003", ""))
    assert (named[:CAPTION] != unnamed[:CAPTION]).any()
    np.testing.assert_array_equal(named[CAPTION:], unnamed[CAPTION:])


def test_a_sheet_of_nothing_can_still_be_written(tmp_path):
    write_png(tmp_path / "none.png", overlay_sheet([]))
    assert read_image(tmp_path / "none.png").min() == 255


def test_a_comparison_has_a_column_for_each_head_and_leaves_missing_pictures_empty():
    red, blue = (np.full((30, 30, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    sheet = comparison_sheet(["good", "one", "two"], [("a", [red, None, blue]), ("b", [blue, red, red])], tile=40)
    row = CAPTION + 40 + 2 * GAP
    assert sheet.shape == (CAPTION + 2 * row, 3 * 44 + GAP, 3)
    middles = [44 * column + GAP + 20 for column in range(3)]
    first, second = (sheet[CAPTION + n * row + CAPTION + GAP + 20, middles] for n in (0, 1))
    np.testing.assert_array_equal(first, [[255, 0, 0], [255, 255, 255], [0, 0, 255]])
    np.testing.assert_array_equal(second, [[0, 0, 255], [255, 0, 0], [255, 0, 0]])
    assert all((sheet[:CAPTION, m - 20 : m + 20] < 128).any() for m in middles), "each column is named"


def test_heat_maps_share_one_scale_whatever_the_picture_holds():
    assert heat_map(np.zeros((2, 2), np.float32)).max() < 10
    faint = heat_map(np.array([[0, 0.1]], np.float32))
    strong = heat_map(np.array([[0, 0.1, 1]], np.float32))
    np.testing.assert_array_equal(faint, strong[:, :2])
    assert (np.diff(heat_map(np.array([[0, 0.5, 1]], np.float32)).astype(int).sum(axis=2)) > 0).all()


GROUPS = {
    "unet": {"none": Bar(0.4, 0.05), "placebo": Bar(0.42, 0.05, 0.06), "perlin": Bar(0.5, 0.02, 0.05)},
    "patchcore": {"none": Bar(0.6, 0.01), "placebo": Bar(0.6, nan, nan)},
}

TRADES = {"unet": {"none": [(0, 50), (1, 25)], "perlin": [(0, 25), (1, 0)], "placebo": [(0, 50), (1, 0)]}}


def test_learning_curves_and_bars_are_png_with_equal_bytes_twice(tmp_path: Path):
    draw = {
        "learning": lambda path: learning_curve(path, {"loss, seed 0": [(1, 0.9), (2, 0.5)], "pixel AP, seed 0": []}),
        "bars": lambda path: bars(path, GROUPS, "pixel AP", ("none", "placebo")),
        "trade-offs": lambda path: trade_offs(path, TRADES, "false alarms", "missed", ("none", "placebo")),
    }
    for name, function in draw.items():
        function(tmp_path / f"{name}-1.png")
        function(tmp_path / f"{name}-2.png")
        image = read_image(tmp_path / f"{name}-1.png")
        assert image.shape == (400, 560, 3) and np.unique(image).size > 2
        data = (tmp_path / f"{name}-1.png").read_bytes()
        assert data == (tmp_path / f"{name}-2.png").read_bytes() and b"atplotlib" not in data, "no version either"


def test_every_quantity_has_a_panel_and_a_run_one_colour_in_all_of_them(figures: list[Figure], tmp_path: Path):
    curves = {f"{what}, seed {seed}": [(1, 0.5), (2, 0.4)] for seed in (0, 1) for what in ("loss", "pixel AP on val")}
    learning_curve(tmp_path / "curves.png", curves)
    [figure] = figures
    assert [axes.get_title() for axes in figure.axes] == ["loss", "pixel AP on val"]
    assert len({tuple(line.get_color() for line in axes.lines) for axes in figure.axes}) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 1"]


def test_the_legend_lies_beside_the_panels(figures: list[Figure], tmp_path: Path):
    learning_curve(tmp_path / "curves.png", {f"loss, category {n}": [(1, 0.5), (2, 0.4)] for n in range(15)})
    bars(tmp_path / "bars.png", GROUPS, "pixel AP", ("none", "placebo"))
    for figure in figures:
        legend = figure.legends[0].get_window_extent()
        assert all(axes.get_window_extent().x1 < legend.x0 for axes in figure.axes)
        assert legend.y0 > 0, "all names are to be read"


def test_what_arms_are_compared_with_is_grey_and_the_placebo_hatched(figures: list[Figure], tmp_path: Path):
    bars(tmp_path / "bars.png", GROUPS, "pixel AP", ("none", "placebo"))
    patches = figures[0].axes[0].patches
    assert [patch.get_height() for patch in patches] == [0.4, 0.42, 0.5, 0.6, 0.6]
    assert [patch.get_hatch() for patch in patches] == [None, "////", None, None, "////"]
    assert [len(set(patch.get_facecolor()[:3])) == 1 for patch in patches] == [True, True, False, True, True], "grey"
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert {"none", "placebo", "perlin", "mean of none"} < set(names)


def test_the_band_of_chance_lies_around_the_mean_of_the_reference(figures: list[Figure], tmp_path: Path):
    bars(tmp_path / "bars.png", {"unet": GROUPS["unet"]}, "pixel AP", ("none", "placebo"))
    axes = figures[0].axes[0]
    bands = [item.get_datalim(axes.transData) for item in axes.collections if isinstance(item, PolyCollection)]
    bands = [band for band in bands if np.isfinite(band.y1) and band.height > 0]
    assert [(band.y0, band.y1) for band in bands] == [pytest.approx(ends) for ends in ((0.34, 0.46), (0.35, 0.45))]


def test_trade_offs_are_stairs_in_a_panel_for_each_detector(figures: list[Figure], tmp_path: Path):
    panels = {**TRADES, "patchcore": {"none": TRADES["unet"]["none"]}}
    trade_offs(tmp_path / "trade.png", panels, "false alarms", "missed", ("none", "placebo"))
    [figure] = figures
    unet, patchcore = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["unet", "patchcore"]
    assert (unet.get_xlabel(), unet.get_ylabel(), unet.get_ylim()[0]) == ("false alarms", "missed", 0)
    assert unet.get_ylim() == patchcore.get_ylim(), "panels compare at a glance"
    assert [line.get_drawstyle() for line in unet.lines] == ["steps-post"] * 3
    assert [line.get_xydata().tolist() for line in patchcore.lines] == [[[0, 50], [1, 25]]]
    assert [line.get_linestyle() for line in unet.lines] == ["-", "-", "--"]
    grey, colour, placebo = (line.get_color() for line in unet.lines)
    assert grey == placebo == patchcore.lines[0].get_color() != colour


@pytest.mark.filterwarnings("error")
def test_nothing_to_draw_is_an_empty_drawing(tmp_path: Path):
    learning_curve(tmp_path / "none.png", {})
    trade_offs(tmp_path / "trades.png", {}, "false alarms", "missed", ("none", "placebo"))
    bars(tmp_path / "bars.png", {"unet": {"none": Bar(nan, nan, nan)}}, "AUPRO", ("none", "placebo"))
    assert all(read_image(tmp_path / f"{name}.png").size for name in ("none", "bars", "trades"))


def test_a_loss_above_one_stays_inside_of_the_drawing(figures: list[Figure], tmp_path: Path):
    learning_curve(tmp_path / "curves.png", {"loss, seed 0": [(1, 1.6), (2, 1.1)]})
    assert figures[0].axes[0].get_ylim()[0] == 0 and figures[0].axes[0].get_ylim()[1] >= 1.6
