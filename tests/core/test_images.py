"""Pictures: every usual kind of file reads right, every broken one is named, windows and pasting keep their word."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lib.core import images
from lib.core.errors import UserError
from lib.core.geometry import (
    Box,
    Window,
    box_mask,
    crop,
    feathered,
    paste_back,
    resize,
    scaled,
    shift_window,
    window_around,
)
from lib.core.images import (
    Depth,
    contact_sheet,
    in_grey,
    is_deep,
    is_grey,
    outlined,
    png_bytes,
    read_image,
    read_mask,
    read_pixels,
    read_shape,
    recent,
    stored_orientation,
    turned,
    write_png,
)

RAMP = np.arange(0, 240, dtype=np.uint8).reshape(10, 8, 3)  # every value once, so that nothing can be mistaken
GREY = RAMP[..., 0]


def saved(folder: Path, name: str, picture: Image.Image, **options: Any) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def on_all_channels(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


# Reading pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_a_lossless_file_reads_as_it_was_written(tmp_path: Path, suffix: str):
    assert np.array_equal(read_image(saved(tmp_path, f"a{suffix}", Image.fromarray(RAMP))), RAMP)


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str, suffix: str):
    path = saved(tmp_path, f"grey{suffix}", Image.fromarray(GREY).convert(mode))
    assert np.array_equal(read_image(path), on_all_channels(GREY))


def test_one_bit_becomes_black_and_white(tmp_path: Path):
    bits = GREY > 100
    path = saved(tmp_path, "bits.png", Image.fromarray(bits))
    assert np.array_equal(read_image(path), on_all_channels(bits * np.uint8(255)))


def test_alpha_is_dropped_not_blended(tmp_path: Path):
    rgba = np.dstack([RAMP, GREY])
    assert np.array_equal(read_image(saved(tmp_path, "alpha.png", Image.fromarray(rgba))), RAMP)


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes([0, 128, 255])}])
@pytest.mark.filterwarnings("error")
def test_a_palette_is_resolved_with_or_without_transparency(tmp_path: Path, options: dict):
    picture = Image.fromarray(np.arange(3, dtype=np.uint8).repeat(4).reshape(3, 4)).convert("P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    seen = read_image(saved(tmp_path, "palette.png", picture, **options))
    assert np.array_equal(seen[:, 0], [[10, 20, 30], [200, 0, 0], [0, 0, 250]])


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_divided_by_257_whatever_their_range(tmp_path: Path, name: str):
    deep = np.array([[0, 257, 128 * 257], [65535, 385, 386]], dtype=np.uint16)
    path = saved(tmp_path, name, Image.fromarray(deep))
    assert np.array_equal(read_image(path), on_all_channels(np.array([[0, 1, 128], [255, 1, 2]])))


@pytest.mark.parametrize(("depth", "highest"), [(10, 1023), (12, 4095), (14, 16383), (16, 65535), ("unit", 1.0)])
def test_values_of_any_depth_are_scaled_by_it(tmp_path: Path, depth: Depth, highest: float):
    values = np.linspace(0, highest, 80).reshape(8, 10)
    picture = Image.fromarray(values.astype(np.float32 if depth == "unit" else np.uint16))
    seen = read_image(saved(tmp_path, "deep.tif", picture), depth)
    assert np.abs(seen - np.rint(values / highest * 255)[..., None]).max() <= 1 and seen.max() == 255


@pytest.mark.parametrize(
    ("values", "depth"),
    [
        (np.uint16([[0, 4095]]), 8),
        (np.uint16([[0, 65535]]), 12),
        (np.int32([[0, 70000]]), 16),
        (np.int32([[-1, 9]]), 8),
        (np.float32([[0, 1.5]]), "unit"),
        (np.float32([[0, 1]]), 8),
        (np.float32([[0, 0.5]]), 16),
        (np.float32([[np.nan, 0.5]]), "unit"),
        (np.float32([[0, np.inf]]), 16),
    ],
)
def test_values_of_another_depth_are_refused_with_their_range(tmp_path: Path, values: np.ndarray, depth: Depth):
    path = saved(tmp_path, "deep.tif", Image.fromarray(values))
    with pytest.raises(
        UserError, match=rf"values from .*, but the depth in training was {depth}, with values from 0 to"
    ):
        read_image(path, depth)


@pytest.mark.parametrize(("values", "depth"), [(np.uint16([[0, 255]]), 8), (np.float32([[0, 255]]), 8)])
def test_values_of_8_bits_in_a_deeper_file_stay_as_they_are(tmp_path: Path, values: np.ndarray, depth: Depth):
    assert read_image(saved(tmp_path, "deep.tif", Image.fromarray(values)), depth)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_colours_of_sixteen_bits_keep_their_lower_bits_until_they_are_scaled(tmp_path: Path, name: str):
    values = RAMP.astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / name), values[..., ::-1])
    assert is_deep(tmp_path / name) and np.array_equal(read_pixels(tmp_path / name), values)
    assert np.abs(read_image(tmp_path / name, 12).astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_pictures(orientation: int):
    method = images.TURNS[orientation]
    picture = Image.fromarray(RAMP)
    expected = picture if method is None else picture.transpose(method)
    assert np.array_equal(turned(RAMP, orientation), np.asarray(expected))


def test_odd_tags_beside_the_one_that_turns_do_no_harm(tmp_path: Path):
    def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack("<HHI", number, kind, count) + value

    entries = tag(0x112, 3, 1, struct.pack("<HH", 6, 0)) + tag(0x11A, 10, 1, struct.pack("<I", 38))
    blob = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<Iii", 0, -5, 2)
    path = saved(tmp_path, "odd.jpg", Image.fromarray(RAMP), exif=blob)
    assert read_image(path).shape == (8, 10, 3) and stored_orientation(path) == 6


def with_late_tags(data: bytes, tags: Image.Exif) -> bytes:
    """A PNG with its EXIF after the pixels, as some cameras write it."""
    body = b"eXIf" + tags.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:-12] + chunk + data[-12:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "late.png", "jpg", "tif", "bmp"])
def test_the_shape_of_a_file_is_that_of_its_picture_and_needs_no_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, orientation: int
):
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {} if kind in ("late.png", "bmp") else {"exif": tags}
    path = saved(tmp_path, f"a.{kind}", Image.fromarray(RAMP), **options)
    if kind == "late.png":
        path.write_bytes(with_late_tags(path.read_bytes(), tags))
    shape = read_image(path).shape[:2]
    assert shape == ((8, 10) if orientation >= 5 and kind != "bmp" else (10, 8))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert read_shape(path) == shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_upright_as_its_tag_says(tmp_path: Path, mode: str, orientation: int, compression: str):
    """Pillow maps uncompressed pixels of some modes into memory."""
    grey = np.arange(70 * 110, dtype=np.float32).reshape(70, 110) // 31
    picture = Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.uint8))
    picture = picture if mode == "I;16" else picture.convert(mode)
    path = saved(tmp_path, "a.tiff", picture, tiffinfo={0x0112: orientation}, compression=compression)
    upright = saved(tmp_path, "b.tiff", picture)
    turns = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
    turns |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90}
    np.testing.assert_array_equal(read_pixels(path), turns.get(orientation, lambda a: a)(read_pixels(upright)))
    assert read_shape(path) == read_pixels(path).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright_as_its_tag_says(tmp_path: Path, orientation: int):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # the bright quarter is at the upper left
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = saved(tmp_path, "turned.jpg", Image.fromarray(np.ascontiguousarray(back)), exif=tags, quality=95)
    assert np.abs(read_image(path).astype(int) - upright).max() < 30


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def told_in_a_png(place: str, orientation: int) -> bytes:
    """One of the chunks in which a PNG may say how it is to be turned."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    blob = tags.tobytes()
    profile = f"\nexif\n{len(blob):8}\n{blob.hex()}\n".encode()  # as ImageMagick writes it
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    return {
        "eXIf": chunk(b"eXIf", blob.removeprefix(b"Exif\0\0")),
        "text": chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        "zipped text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "another text": chunk(b"tEXt", b"Software\0orientation 6"),
        "no tags": chunk(b"eXIf", b"MM\0*"),
        "too long a text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2 * 2**20))),
    }[place]


def png_with(before: bytes, behind: bytes) -> bytes:
    """A PNG of two chunks of pixels with other chunks before and behind them."""
    data = encoded("PNG")
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    pixels = data[start + 8 : end - 4]
    parts = b"".join(chunk(b"IDAT", part) for part in (pixels[:100], pixels[100:]))
    return data[:start] + before + parts + behind + data[end:]


TELLING, SILENT = ("eXIf", "text", "zipped text", "XMP"), ("another text", "no tags", "too long a text")


def as_pillow_says(path: Path) -> int:
    with Image.open(path) as picture:
        return images.orientation_of(picture)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".bmp", ".png"])
def test_the_stored_orientation_is_the_one_that_a_file_is_turned_by(tmp_path: Path, suffix: str, orientation: int):
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = saved(tmp_path, f"a{suffix}", Image.fromarray(RAMP), **({} if suffix == ".bmp" else {"exif": tags}))
    expected = 1 if suffix == ".bmp" or not orientation else orientation
    assert stored_orientation(path) == as_pillow_says(path) == expected


@pytest.mark.parametrize("place", TELLING + SILENT)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_may_tell_its_orientation_in_many_ways_and_is_not_decoded_for_it(
    tmp_path: Path, place: str, orientation: int, monkeypatch: pytest.MonkeyPatch
):
    behind, without_end = tmp_path / "behind.png", tmp_path / "without_end.png"
    behind.write_bytes(png_with(b"", told_in_a_png(place, orientation)))
    without_end.write_bytes(behind.read_bytes()[:-12])
    expected = orientation if place in TELLING else 1
    assert as_pillow_says(behind) == as_pillow_says(without_end) == expected
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert stored_orientation(behind) == stored_orientation(without_end) == expected


@given(*[st.lists(st.tuples(st.sampled_from(TELLING + SILENT[:2]), st.integers(0, 9)), max_size=3)] * 2)
def test_of_several_orientations_the_same_one_counts(tmp_path_factory: pytest.TempPathFactory, before, behind):
    path = tmp_path_factory.mktemp("turned") / "a.png"
    path.write_bytes(png_with(*(b"".join(told_in_a_png(*one) for one in some) for some in (before, behind))))
    assert stored_orientation(path) == as_pillow_says(path)


def test_a_cmyk_jpeg_reads_as_rgb(tmp_path: Path):
    picture = Image.new("RGB", (16, 16), (200, 40, 40))
    seen = read_image(saved(tmp_path, "print.jpg", picture.convert("CMYK"), quality=95))
    assert seen.shape == (16, 16, 3) and np.abs(seen.astype(int) - (200, 40, 40)).max() < 12


# Refusing files


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.png", encoded("PNG")[:500]),
        ("truncated.jpg", encoded("JPEG")[:400]),
        ("truncated.bmp", encoded("BMP")[:500]),
        ("truncated.tif", encoded("TIFF")[:500]),
        ("header-only.png", encoded("PNG")[:20]),
        ("empty.png", b""),
        ("text.png", b"path,defect\na.png,scratch\n"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, read: Any, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as a picture"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, read_mask, read_pixels, read_shape, stored_orientation, is_deep])
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
@pytest.mark.parametrize("name", ["pages.tif", "animated.png"])
def test_a_file_of_several_pictures_is_refused_with_their_number(tmp_path: Path, read: Any, mode: str, name: str):
    first, second, third = (
        Image.fromarray(RAMP[::-1] if mode == "RGB" else GREY.astype(np.uint16) + number) for number in range(3)
    )
    first.putpixel((0, 0), 0)
    third.putpixel((1, 1), 0)
    path = saved(tmp_path, name, first, save_all=True, append_images=[second, third])
    with pytest.raises(UserError, match=rf"{name}: .* holds 3 pictures, .*; save each as a file of its own"):
        read(path)


def test_a_tiff_may_hold_its_picture_once_more_in_small(tmp_path: Path):
    small = Image.fromarray(RAMP[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = saved(tmp_path, "a.tif", Image.fromarray(RAMP), save_all=True, append_images=[small])
    with Image.open(path) as file:
        assert file.n_frames == 2
    assert np.array_equal(read_image(path), RAMP)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_tiff_of_one_page_may_end_in_rubbish(tmp_path: Path):
    path = saved(tmp_path, "a.tif", Image.fromarray(RAMP))
    data = bytearray(path.read_bytes())
    [start] = struct.unpack_from("<I", data, 4)
    [entries] = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * entries, len(data) - 3)
    path.write_bytes(data)
    assert np.array_equal(read_image(path), RAMP)


def test_a_phone_may_add_a_second_shot_to_its_jpeg(tmp_path: Path):
    bright, dark = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    path = saved(tmp_path, "phone.jpg", bright, format="MPO", save_all=True, append_images=[dark])
    with Image.open(path) as file:
        assert file.n_frames == 2
    assert read_image(path).min() > 250 and read_mask(path).all() and stored_orientation(path) == 1


def test_a_kind_of_file_outside_of_the_four_is_refused_even_under_another_name(tmp_path: Path):
    path = saved(tmp_path, "really-a-gif.png", Image.fromarray(RAMP), format="GIF")
    with pytest.raises(ValueError, match=r"really-a-gif\.png: cannot be read as a picture"):
        read_image(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"absent\.png"):
        read_image(tmp_path / "absent.png")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path, "large.png", Image.fromarray(RAMP))
    monkeypatch.setattr(images, "MAX_PIXELS", 80)
    assert read_image(path).shape == (10, 8, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 79)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"large\.png: cannot be read as a picture: 8 x 10 pixels, at most 79"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")  # pillow says what it skips
@settings(max_examples=40)
@given(kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]), data=st.data())
def test_damage_is_a_value_error_or_a_picture_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
):
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "MAX_PIXELS", 100_000)  # a damaged size could ask for a lot of memory
            seen = read_image(path)
    except ValueError as error:
        assert "damaged.png" in str(error)
    else:
        assert seen.ndim == 3 and seen.dtype == np.uint8


# Masks

BLOB = np.zeros((12, 10), dtype=bool)
BLOB[3:7, 2:6] = True


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(BLOB.astype(np.uint8)),
        Image.fromarray(BLOB.astype(np.uint8) * 255),
        Image.fromarray(BLOB),
        Image.fromarray(BLOB.astype(np.uint16)),
        Image.fromarray(BLOB.astype(np.uint16) * 65535),
        Image.fromarray(on_all_channels(BLOB.astype(np.uint8))),
        Image.fromarray(np.dstack([BLOB, 0 * BLOB, 0 * BLOB]).astype(np.uint8) * 255),
        Image.fromarray(np.dstack([BLOB, BLOB, BLOB, np.ones_like(BLOB)]).astype(np.uint8) * 255),
        Image.fromarray(np.dstack([BLOB, np.ones_like(BLOB)]).astype(np.uint8) * 255),
    ],
    ids=["0/1", "0/255", "one bit", "16 bit 0/1", "16 bit", "RGB 0/1", "red on black", "RGBA", "grey with alpha"],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_value_but_zero_is_defect(tmp_path: Path, picture: Image.Image, suffix: str):
    assert np.array_equal(read_mask(saved(tmp_path, f"mask{suffix}", picture)), BLOB)


@pytest.mark.parametrize(
    ("palette", "numbers"),
    [([0, 0, 0, 128, 0, 0], BLOB), ([255, 255, 255, 0, 0, 0], ~BLOB), ([0, 0, 0, 0, 0, 0], BLOB)],
    ids=["black first", "white first", "all black"],
)
def test_a_palette_mask_shows_its_defect_as_people_see_it(tmp_path: Path, palette: list[int], numbers: np.ndarray):
    picture = Image.fromarray(numbers.astype(np.uint8)).convert("P")
    picture.putpalette(palette)
    assert np.array_equal(read_mask(saved(tmp_path, "palette.png", picture)), BLOB)


def test_a_mask_that_went_through_a_jpeg_is_cut_in_the_middle(tmp_path: Path):
    line = np.zeros((256, 256), np.uint8)
    for x in range(40, 216):
        line[x // 2 + 20 : x // 2 + 22, x] = 255
    data = io.BytesIO()
    Image.fromarray(line).save(data, "JPEG", quality=75)
    read = read_mask(saved(tmp_path, "line.png", Image.open(data)))
    assert 0.8 < read.sum() / (line > 0).sum() < 1.25


def test_a_mask_of_numbered_types_counts_every_number(tmp_path: Path):
    numbers = np.zeros((20, 20), np.uint8)
    numbers[5:9, 2:18] = np.arange(1, 17)
    assert np.array_equal(read_mask(saved(tmp_path, "types.png", Image.fromarray(numbers))), numbers > 0)
    numbers[0, 0] = 255
    assert np.array_equal(read_mask(saved(tmp_path, "ignore.png", Image.fromarray(numbers))), numbers > 0)


def test_the_noise_of_a_jpeg_is_no_defect(tmp_path: Path):
    blob = np.kron(BLOB, np.ones((8, 8), dtype=bool))
    path = saved(tmp_path, "mask.jpg", Image.fromarray(blob.astype(np.uint8) * 255), quality=40)
    assert np.array_equal(read_mask(path), blob)


# Writing


@settings(max_examples=30)
@given(width=st.integers(1, 20), height=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_png_keeps_every_pixel_and_equal_pixels_are_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, seed: int
):
    folder = tmp_path_factory.getbasetemp()
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = picture[..., 0] > 127
    write_png(folder / "p.png", picture)
    write_png(folder / "m.png", mask)
    assert np.array_equal(read_image(folder / "p.png"), picture) and np.array_equal(read_mask(folder / "m.png"), mask)
    assert set(np.unique(read_image(folder / "m.png"))) <= {0, 255}
    assert png_bytes(np.asfortranarray(picture)) == png_bytes(picture.copy()) == (folder / "p.png").read_bytes()


# Windows


@st.composite
def pictures_with_boxes(draw: st.DrawFn, largest: int = 80) -> tuple[int, int, Box]:
    """(width, height, box inside of the picture with at least one pixel)."""
    width, height = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))


@given(pictures_with_boxes(), st.floats(1, 16), st.integers(1, 100))
def test_a_window_contains_its_box_and_lies_in_the_picture_where_it_fits(
    picture: tuple[int, int, Box], context: float, min_side: int
):
    width, height, box = picture
    window = window_around(box, (height, width), context, min_side)
    x0, y0, x1, y1 = window.inside(box)
    assert 0 <= x0 < x1 <= window.side and 0 <= y0 < y1 <= window.side
    longer = max(box[2] - box[0], box[3] - box[1])
    assert window.side == min(max(int(np.ceil(context * longer)), min_side), max(width, height))
    for start, extent in ((window.x0, width), (window.y0, height)):
        if window.side <= extent:
            assert 0 <= start <= extent - window.side
        else:
            assert abs(-start - (start + window.side - extent)) <= 1, "centred over the shorter side"


def test_a_box_in_the_middle_is_in_the_middle_of_its_window():
    assert window_around((40, 40, 60, 50), (100, 100), 2, 8) == Window(30, 25, 40)


@given(pictures_with_boxes(), st.floats(1, 4), st.integers(1, 90), st.integers(-99, 99), st.integers(-99, 99))
def test_a_moved_window_keeps_its_box_and_stays_where_it_was_or_in_the_picture(picture, context, min_side, right, down):
    width, height, box = picture
    window = window_around(box, (height, width), context, min_side)
    shifted = shift_window(window, (right, down), box, (height, width))
    x0, y0, x1, y1 = shifted.inside(box)
    assert shifted.side == window.side and 0 <= x0 < x1 <= window.side and 0 <= y0 < y1 <= window.side
    for start, before, by, extent in (
        (shifted.x0, window.x0, right, width),
        (shifted.y0, window.y0, down, height),
    ):
        assert min(before, before + by) <= start <= max(before, before + by)
        if window.side <= extent:
            assert 0 <= start <= extent - window.side


def test_a_window_at_the_border_is_moved_into_the_picture():
    assert window_around((0, 90, 10, 100), (100, 100), 2, 8) == Window(0, 80, 20)


windows = st.builds(Window, st.integers(-60, 60), st.integers(-60, 60), st.integers(1, 70))


@given(st.integers(1, 20), st.integers(1, 20), windows)
def test_a_crop_equals_slicing_inside_and_mirrors_outside(width: int, height: int, window: Window):
    picture = np.arange(width * height).reshape(height, width)
    pad = 140
    mirrored = np.pad(picture, pad, mode="reflect")
    y, x = window.y0 + pad, window.x0 + pad
    assert np.array_equal(crop(picture, window), mirrored[y : y + window.side, x : x + window.side])


def test_a_crop_of_a_picture_keeps_its_channels():
    assert np.array_equal(crop(RAMP, Window(2, 3, 4)), RAMP[3:7, 2:6])
    assert not np.shares_memory(crop(RAMP, Window(2, 3, 4)), RAMP)
    assert np.array_equal(crop(RAMP[:1, :1], Window(-3, 5, 4)), np.broadcast_to(RAMP[0, 0], (4, 4, 3)))


@given(pictures_with_boxes(), st.floats(0.1, 4))
def test_a_scaled_box_covers_the_box_and_is_less_than_a_pixel_larger(picture: tuple[int, int, Box], factor: float):
    box = picture[2]
    for at, low in enumerate((True, True, False, False)):
        exact = box[at] * factor
        assert 0 <= (exact - scaled(box, factor)[at]) * (1 if low else -1) < 1


@given(st.integers(1, 20), st.integers(1, 20), st.tuples(*[st.integers(-10, 30)] * 4))
def test_a_box_mask_holds_the_pixels_of_the_box_that_lie_in_the_picture(width: int, height: int, box: Box):
    y, x = np.mgrid[:height, :width]
    expected = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    assert np.array_equal(box_mask(box, width, height), expected)


def test_a_mask_stays_a_mask_when_resized():
    assert np.array_equal(resize(BLOB, 20, 24), np.kron(BLOB, np.ones((2, 2), dtype=bool)))
    assert resize(BLOB, 5, 6).dtype == bool


def test_shrinking_averages_so_that_fine_grain_cannot_alias():
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 4))
    assert (resize(on_all_channels(stripes), 4, 4) == 100).all()


# Pasting


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    density = draw(st.sampled_from([0, 0.1, 0.9, 1]))
    return np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < density


@given(masks(), st.integers(0, 6))
def test_feathering_is_nothing_outside_and_something_inside(mask: np.ndarray, feather: int):
    opacity = feathered(mask, feather)
    assert opacity.dtype == np.float32 and opacity.shape == mask.shape
    assert (opacity[~mask] == 0).all() and (opacity[mask] > 0).all() and opacity.max(initial=0) <= 1


def test_the_ramp_rises_over_its_pixels_to_one():
    opacity = feathered(box_mask((10, 0, 30, 40), 40, 40), 3)
    assert opacity[20, 9:15].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    assert opacity[20, 26:31].tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_the_border_of_the_picture_is_no_edge_of_the_mask():
    assert (feathered(box_mask((0, 0, 20, 40), 40, 40), 3)[:, :17] == 1).all()
    assert (feathered(np.ones((5, 5), dtype=bool), 3) == 1).all()


@given(masks(), st.integers(0, 4), st.booleans())
def test_outside_of_the_mask_the_picture_is_the_normal_one_bit_for_bit(mask: np.ndarray, feather: int, floats: bool):
    rng = np.random.default_rng(1)
    normal = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    generated: np.ndarray = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    if floats:
        generated = generated.astype(np.float32) * 3 - 200
    pasted = paste_back(generated, normal, mask, feather)
    assert pasted.dtype == np.uint8 and np.array_equal(pasted[~mask], normal[~mask])
    if feather == 0:
        assert np.array_equal(pasted[mask], np.clip(generated, 0, 255).astype(np.uint8)[mask])
    if not mask.any():
        assert np.array_equal(pasted, normal)


@given(masks(), st.integers(0, 4))
def test_pasting_a_picture_onto_itself_changes_nothing(mask: np.ndarray, feather: int):
    normal = np.random.default_rng(2).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    assert np.array_equal(paste_back(normal, normal, mask, feather), normal)


@pytest.mark.parametrize("shapes", [((4, 5, 3), (4, 4, 3), (4, 4)), ((4, 4, 3), (4, 4, 3), (5, 4)), ((4, 4),) * 3])
def test_pasting_refuses_sizes_that_differ(shapes: tuple):
    generated, normal, mask = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match="sizes differ"):
        paste_back(generated, normal, mask.astype(bool))


def test_an_outline_lies_around_the_mask_and_leaves_the_defect_visible():
    picture = np.full((12, 10, 3), 7, np.uint8)
    drawn = outlined(picture, BLOB)
    assert (drawn[BLOB] == 7).all() and (drawn[2, 1:7] == (255, 40, 40)).all() and (drawn[0] == 7).all()


# Sheets


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=3), max_size=3))
def test_a_sheet_has_room_for_pictures_of_any_size_and_for_none(rows: list[list[tuple[int, int]]]):
    assume(sum(map(len, rows)) < 6)
    sheet = contact_sheet([[np.zeros((h, w, 3), np.uint8) for w, h in row] for row in rows], tile=20, gap=2)
    columns = max([len(row) for row in rows], default=1)
    assert sheet.shape[1:] == (columns * 22 + 2, 3) and sheet.dtype == np.uint8
    top = 2
    for row in rows:
        highest = 0
        for x, (width, height) in enumerate(row):
            scale = 20 / max(width, height)
            wide, high = max(1, round(width * scale)), max(1, round(height * scale))
            tile = sheet[top : top + high, 2 + x * 22 : 22 + x * 22]
            assert (tile[:, :wide] == 0).all() and (tile[:, wide:] == 255).all()
            highest = max(highest, high)
        top += highest + 2
    assert top == len(sheet), "no white below but the gap"
    assert (sheet[:2] == 255).all() and (sheet[:, :2] == 255).all(), "white between the tiles"


def test_the_latest_pictures_are_remembered_as_far_as_there_is_room():
    asked = []

    def read(path: Path) -> np.ndarray:
        asked.append(path.name)
        return np.zeros(40, np.uint8)

    remembered = recent(read, room=100)
    for name in "abacb":
        assert remembered(Path(name)).nbytes == 40
    assert asked == ["a", "b", "c", "b"], "a was asked for after b, so b had to go"
    assert recent(read, room=1)(Path("d")).nbytes == 40, "a picture larger than the room is read all the same"


RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def drawn(defect: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    """BLOB in one colour on another, RGBA."""
    return Image.fromarray(np.where(BLOB[..., None], defect, ground).astype(np.uint8), "RGBA")


@pytest.mark.parametrize("colour", [RED, WHITE, BLACK])
@pytest.mark.parametrize("hidden", [WHITE, BLACK])
def test_of_a_mask_on_transparent_ground_what_is_to_be_seen_counts(tmp_path, colour, hidden):
    path = saved(tmp_path, "mask.png", drawn((*colour, 255), (*hidden, 0)))
    if (colour, hidden) == (BLACK, WHITE):
        with pytest.raises(UserError, match=r"mask.png: a mask that is black where it is visible"):
            read_mask(path)
    else:
        assert np.array_equal(read_mask(path), BLOB)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_that_is_the_same_everywhere_says_nothing(tmp_path, alpha):
    assert np.array_equal(read_mask(saved(tmp_path, "mask.png", drawn((*RED, alpha), (*BLACK, alpha)))), BLOB)


@given(arrays(np.uint8, (3, 4, 3)))
def test_a_picture_in_grey_has_no_colour_and_one_without_stays_as_it_is(image):
    grey = in_grey(image)
    assert is_grey(grey) and grey.dtype == np.uint8
    assert np.array_equal(in_grey(grey), grey)
    assert np.abs(grey[..., 0] - image.mean(axis=2)).max() <= 0.5


def test_a_mask_of_16_bits_in_colour_keeps_its_low_labels(tmp_path: Path):
    labels = np.zeros((6, 8, 3), np.uint16)
    labels[1:3, 1:3], labels[4, 4:7] = 1, 300
    cv2.imwrite(str(tmp_path / "mask.png"), labels)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), labels.any(axis=2))
