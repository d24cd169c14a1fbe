import numpy as np

from lib.core.images import read_image, write_png
from lib.plots import CAPTION, Overlay, bars, heat_map, learning_curve, overlay_sheet


def overlay(caption="hex_nut/crack/003"):
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 30), bool)
    truth[10:20, 5:15] = True
    return Overlay(caption, rng.integers(0, 256, (40, 30, 3)).astype(np.uint8), truth, truth * np.float32(0.9))


def test_a_sheet_has_a_row_of_four_panels_and_a_caption_per_overlay():
    sheet = overlay_sheet([overlay(), overlay()], threshold=0.5, tile=60)
    assert sheet.shape == (2 * (CAPTION + 80 + 8), 4 * 84 + 4, 3), "30 x 40 px are shown with 60 x 80"


def test_a_wide_picture_is_shown_wide_and_leaves_no_white_below():
    wide = Overlay("", np.zeros((20, 100, 3), np.uint8), np.zeros((20, 100), bool), np.zeros((20, 100), np.float32))
    sheet = overlay_sheet([wide, wide], threshold=0.5, tile=50)
    assert sheet.shape == (2 * (CAPTION + 24 + 8), 4 * 124 + 4, 3)
    assert (sheet[-5] == 0).all(axis=-1).any(), "the last row but the gap is picture"


def test_the_caption_is_written_above_its_row():
    named, unnamed = (overlay_sheet([overlay(caption)], 0.5, tile=60) for caption in ("crack/003", ""))
    assert (named[:CAPTION] != unnamed[:CAPTION]).any()
    np.testing.assert_array_equal(named[CAPTION:], unnamed[CAPTION:])


def test_a_sheet_of_nothing_can_still_be_written(tmp_path):
    write_png(tmp_path / "none.png", overlay_sheet([], 0.5))
    assert read_image(tmp_path / "none.png").min() == 255


def test_heat_maps_share_one_scale_whatever_the_picture_holds():
    assert heat_map(np.zeros((2, 2), np.float32)).max() < 10
    faint = heat_map(np.array([[0, 0.1]], np.float32))
    strong = heat_map(np.array([[0, 0.1, 1]], np.float32))
    np.testing.assert_array_equal(faint, strong[:, :2])
    assert (np.diff(heat_map(np.array([[0, 0.5, 1]], np.float32)).astype(int).sum(axis=2)) > 0).all()


def test_learning_curves_and_bars_are_png_with_equal_bytes_twice(tmp_path):
    draw = {
        "learning": lambda path: learning_curve(path, {"loss": [(1, 0.9), (2, 0.5)], "pixel AP": []}),
        "bars": lambda path: bars(path, {"none": (0.4, 0.05), "perlin": (0.5, 0.02)}, "pixel AP"),
    }
    for name, function in draw.items():
        function(tmp_path / f"{name}-1.png")
        function(tmp_path / f"{name}-2.png")
        image = read_image(tmp_path / f"{name}-1.png")
        assert image.shape == (400, 640, 3) and np.unique(image).size > 2
        assert (tmp_path / f"{name}-1.png").read_bytes() == (tmp_path / f"{name}-2.png").read_bytes()


def test_a_loss_above_one_stays_inside_of_the_drawing(tmp_path):
    for name, end in (("falls", 1.1), ("stays", 1.6)):
        learning_curve(tmp_path / name, {"loss": [(1, 1.6), (2, end)]})
    assert (tmp_path / "falls").read_bytes() != (tmp_path / "stays").read_bytes()
