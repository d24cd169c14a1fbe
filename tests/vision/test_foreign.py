"""Pseudo anomalies on windows: exact masks, on the product, from folders that may be untidy."""

import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from lib.core.errors import UserError
from lib.core.images import recent, write_png
from lib.core.records import GOOD
from lib.vision import foreign
from lib.vision.examples import Example
from lib.vision.foreign import AREA, CHANGED, OVERLAP, Foreign, cut, drawn, pasted, patched, pictures_in
from lib.vision.pseudo import blend
from tests.blobs import BUDGET


def plain(side: int = 64, grey: int = 120, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(grey, 6, (side, side, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def disc(side: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    y, x = centre or (side / 2, side / 2)
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def part(seed: int, side: int = 96) -> np.ndarray:
    """A dark round part on a bright ground."""
    picture = plain(side, 210, seed)
    picture[disc(side, side * 0.3)] = plain(side, 70, seed + 1)[disc(side, side * 0.3)]
    return picture


def surface(seed: int, side: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    weave = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3)
    return np.clip(weave[..., None] + np.random.default_rng(seed).normal(0, 5, (side, side, 3)), 0, 255).astype(
        np.uint8
    )


def examples(make, count: int = 4) -> list[Example]:
    return [Example(make(seed), None, False, GOOD) for seed in range(count)]


@pytest.mark.parametrize("make", [part, surface])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_outside_of_the_mask_nothing_changes_and_inside_everything_does(make, seed):
    made = Foreign.of(examples(make), "auto", None, None, BUDGET)
    image, mask, clean = made.window(np.random.default_rng(seed))
    assert image.shape == clean.shape == (32, 32, 3) and mask.shape == (32, 32) and mask.dtype == bool
    np.testing.assert_array_equal(image[~mask], clean[~mask])
    difference = np.abs(image.astype(int) - clean).max(axis=2)
    assert (difference[mask] >= CHANGED).all()
    again = made.window(np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip((image, mask, clean), again, strict=True))


def test_about_half_of_the_windows_stay_as_they_are_and_an_empty_mask_is_no_anomaly():
    made = Foreign.of(examples(surface), "texture", None, None, BUDGET)
    windows = [made.window(np.random.default_rng(n)) for n in range(300)]
    shares = np.mean([mask.any() for _, mask, _ in windows])
    assert 0.38 < shares < 0.55
    assert all(np.array_equal(image, clean) for image, mask, clean in windows if not mask.any())
    assert len({image.tobytes() for image, _, _ in windows}) == 300


def test_the_pictures_decide_the_route_and_params_may_overrule_them():
    assert Foreign.of(examples(part), "auto", None, None, BUDGET).ground is not None
    assert Foreign.of(examples(surface), "auto", None, None, BUDGET).ground is None
    assert Foreign.of(examples(surface), "object", None, None, BUDGET).ground is not None
    assert Foreign.of(examples(part), "texture", None, None, BUDGET).ground is None


def test_where_a_person_drew_the_product_that_counts_and_not_what_is_detected(tmp_path: Path):
    drawn_mask = tmp_path / "drawn.png"
    write_png(drawn_mask, disc(96, 20, (30, 30)))
    marked = [replace(one, foreground=drawn_mask) for one in examples(surface)]
    source = Foreign.of(marked, "auto", None, None, BUDGET)
    assert source.ground is not None, "the route of objects, though the pictures look like a surface"
    assert np.array_equal(source.ground(0), disc(96, 20, (30, 30)))


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (250, 300)])
def test_any_size_of_window_can_be_patched(size):
    window = np.full((*size, 3), 90, np.uint8)
    masks = [patched(window, surface(1), np.random.default_rng(n))[1] for n in range(5)]
    assert all(mask.shape == size for mask in masks) and any(mask.any() for mask in masks)


def test_fainter_patches_change_less(monkeypatch):
    window, changes = plain(), []
    for opacity in (0.2, 0.6, 1.0):  # beta of DRAEM is 1 - opacity
        monkeypatch.setattr("lib.vision.pseudo.OPACITY", (opacity, opacity))
        image, _ = blend(window, surface(1), (4, 4, 60, 60), np.random.default_rng(3))
        changes.append(np.abs(image.astype(int) - window).mean())
    assert changes == sorted(changes) and changes[0] < changes[2] / 3


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_region_lies_on_the_product_and_has_its_share_of_the_window(seed):
    window, product = plain(128), disc(128, 40)
    piece, region = cut(plain(64, 30), False, np.random.default_rng(seed))
    mask = pasted(window, piece, region, product, np.random.default_rng(seed))[1]
    if mask.sum() < 0.9 * AREA[0] * mask.size:
        return  # too faint to be seen in a part of it, or no place was found
    assert mask.mean() <= AREA[1] * 1.1
    # What changed is nearly all of the region, since the photo is much darker.
    assert (mask & product).sum() >= (OVERLAP - 0.1) * mask.sum()


def test_without_a_product_in_the_window_nothing_is_pasted():
    window = plain()
    image, mask = pasted(window, plain(16, 0), disc(16, 6), np.zeros((64, 64), bool), np.random.default_rng(0))
    assert not mask.any() and np.array_equal(image, window)


def test_the_object_of_a_photo_is_cut_along_its_outline():
    photo = part(0, 200)
    piece, region = cut(photo, True, np.random.default_rng(0))
    assert piece.shape[:2] == region.shape
    assert region.sum() == pytest.approx(np.pi * 60**2, rel=0.05)
    assert np.median(piece[region]) < 90 < 180 < np.median(piece[~region])
    assert cut(surface(0), True, np.random.default_rng(0))[1].any(), "a photo without an object gives a blob"


def test_folders_may_be_nested_and_a_broken_picture_is_named_and_left_out(tmp_path: Path):
    (tmp_path / "banded" / "deep").mkdir(parents=True)
    write_png(tmp_path / "flat.png", surface(0))
    cv2.imwrite(str(tmp_path / "banded" / "deep" / "one.JPG"), surface(1))
    (tmp_path / "banded" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.warns(UserWarning, match=r"pagmfr.textures: .*broken\.png"):
        found = pictures_in(str(tmp_path), "pagmfr.textures")
    assert [file.name for file in found] == ["one.JPG", "flat.png"]


def test_a_folder_is_listed_by_headers_and_what_the_rest_of_the_program_refuses_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_png(tmp_path / "flat.png", surface(0))
    Image.fromarray(surface(1)).save(tmp_path / "new.webp")
    monkeypatch.setattr(Image.Image, "convert", lambda *given: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [file.name for file in pictures_in(str(tmp_path), "pagmfr.textures")] == ["flat.png"]


@pytest.mark.filterwarnings("ignore:.*left out")
def test_which_photo_is_drawn_depends_on_no_earlier_draw(tmp_path: Path):
    for number in range(6):
        write_png(tmp_path / f"{number}.png", surface(number))
        if number % 2:
            (tmp_path / f"{number}.png").write_bytes((tmp_path / f"{number}.png").read_bytes()[:200])
    found = pictures_in(str(tmp_path), "pagmfr.textures")
    together = [drawn(found, np.random.default_rng(seed)) for seed in range(12)]
    for seed, photo in enumerate(together):
        foreign._unreadable.clear()
        np.testing.assert_array_equal(drawn(found, np.random.default_rng(seed)), photo)
    assert len({photo.tobytes() for photo in together}) == 3


def test_a_photo_that_breaks_off_is_named_when_it_is_drawn_and_left_out(tmp_path: Path):
    write_png(tmp_path / "flat.png", surface(0))
    whole = (tmp_path / "flat.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    found = pictures_in(str(tmp_path), "pagmfr.textures")
    with pytest.warns(UserWarning, match=r"cut\.png: cannot be read as a picture: .*it is left out"):
        seen = [drawn(found, np.random.default_rng(seed)) for seed in range(12)]
    assert all(np.array_equal(photo, surface(0)) for photo in seen)
    with pytest.raises(UserError, match=r"none of 1 pictures can be read, such as cut\.png"):
        drawn([tmp_path / "cut.png"], np.random.default_rng(0))


def test_masks_of_the_product_are_kept_within_a_bound_of_bytes(monkeypatch: pytest.MonkeyPatch):
    """Of 256 pictures of 20 MP they would take 5 GB."""
    read = []
    monkeypatch.setattr(foreign, "foreground_mask", lambda image: read.append(image) or np.ones(image.shape[:2], bool))
    monkeypatch.setattr(foreign, "recent", lambda one: recent(one, room=2 * 96 * 96))
    ground = Foreign.of(examples(part), "object", None, None, BUDGET).ground
    assert ground is not None
    for number in (0, 0, 1, 1, 2, 2, 0):
        ground(number)
    assert len(read) == 4


def test_a_folder_without_pictures_and_a_category_without_good_ones_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"pagmfr.textures: .*is no folder; expected a folder of pictures"):
        Foreign.of(examples(surface), "texture", str(tmp_path / "none"), None, BUDGET)
    with pytest.raises(UserError, match=r"pagmfr.objects: .*holds no picture"):
        Foreign.of(examples(part), "object", None, str(tmp_path), BUDGET)
    with pytest.raises(UserError, match="no good picture to put pseudo anomalies on"):
        Foreign.of([], "auto", None, None, BUDGET)


def test_photos_of_a_folder_are_what_anomalies_are_made_of(tmp_path: Path):
    red = np.zeros((80, 80, 3), np.uint8)
    red[..., 0] = 255
    write_png(tmp_path / "red.png", red)

    def colours(good: tuple[int, int, int]) -> list[float]:
        """How far apart the channels' means in the anomalies on pictures of one colour are."""
        pictures = [Example(np.full((64, 64, 3), good, np.uint8), None, False, GOOD)]
        made = Foreign.of(pictures, "texture", str(tmp_path), None, BUDGET)
        windows = [made.window(np.random.default_rng(n)) for n in range(60)]
        return [float(np.ptp(image[mask].mean(axis=0))) for image, mask, _ in windows if mask.sum() > 30]

    assert np.mean(colours((128, 128, 127))) > 20, "patches have a colour"
    assert colours((128, 128, 128)) and max(colours((128, 128, 128))) < 6, "none on pictures of a camera without any"
