"""Pictures in and out: safe decoding, PNG, contact sheets."""

import contextlib
import hashlib
import struct
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

import cv2
import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, rescale
from lib.core.runtime import write_bytes

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Allows a line-scan picture of 5,000 x 20,000 px, but no decompression bombs. Pillow only warns above its limit, and
# raises above twice that; `decode` raises above the limit.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 100_000_000
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `decode` raises instead
# What Pillow raises for broken files.
BROKEN = (OSError, ValueError, SyntaxError, struct.error, OverflowError)
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TAGS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG from which Pillow reads an orientation
NEW_SUBFILE_TYPE, REDUCED, TRANSPARENCY = 254, 1, 4  # a TIFF tag, and two of its bits
MIDDLE = 127  # threshold for masks with grey values
LABELS = 18  # background, 16 numbered types, and 255 for "ignore"; a smoothed mask has more values
CLUSTERED = 0.9  # least share of a smoothed mask's pixels with values in about the lowest or highest quarter
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3)

Depth = Literal[8, 10, 12, 14, 16, "unit"]  # bits of the values in a file; unit: floats from 0 to 1

Key = TypeVar("Key", bound=Hashable)
Pixels = TypeVar("Pixels", bound=NDArray)


def decode(path: Path) -> Image.Image:
    """Open and fully decode a picture, rotated upright according to its EXIF tag.

    Raises UserError, with the file's name, unless it is a complete PNG, JPEG, BMP or TIFF file with one picture of at
    most MAX_PIXELS pixels.
    """
    with _opened(path) as picture:
        turns = orientation_of(picture)
        if isinstance(picture, TiffImageFile):
            picture.filename = ""  # or Pillow maps uncompressed pixels into memory by the size after its rotation
        picture.load()
        # Pillow rotates TIFFs itself. ImageOps.exif_transpose would rewrite all tags, and fails for invalid ones.
        method = None if picture.format == "TIFF" else TURNS[turns]
        upright = picture if method is None else picture.transpose(method)
        upright.format = picture.format
        return upright


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture and read its header; errors from here on become a UserError with the file's name."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise ValueError("it is no file")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels, at most {MAX_PIXELS:,} are read")
            if (number := _pictures_in(picture)) > 1:
                raise ValueError(f"it holds {number} pictures, such as pages; save each as a file of its own")
            yield picture
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: cannot be read as a picture: it is no {', '.join(FORMATS)}") from error
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


def _pictures_in(picture: Image.Image) -> int:
    """The number of pictures in an opened file: frames of a PNG, pages of a TIFF.

    A JPEG counts as one, even if a phone added a thumbnail, a depth map or a second shot (MPO). So does a TIFF whose
    other pages are the same picture at a lower resolution, or its mask, according to the tag NewSubfileType.
    """
    if picture.format == "PNG":
        return getattr(picture, "n_frames", 1)
    if picture.format != "TIFF" or not getattr(picture, "is_animated", False):
        return 1
    number = 0
    with contextlib.suppress(EOFError, TypeError, *BROKEN):  # data after the last complete page is ignored
        while True:
            number += not getattr(picture, "tag_v2", {}).get(NEW_SUBFILE_TYPE, 0) & (REDUCED | TRANSPARENCY)
            picture.seek(picture.tell() + 1)
    picture.seek(0)
    return number


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 (upright) if there is no valid tag. Decodes a PNG."""
    return _turns(picture.getexif)


def stored_orientation(path: Path) -> int:
    """`orientation_of` a file, whose pixels are not decoded."""
    with _opened(path) as picture:
        return _undecoded_turns(picture)


def _undecoded_turns(picture: Image.Image) -> int:
    return _turns(lambda: _undecoded_tags(picture))


def _turns(tags: Callable[[], Image.Exif]) -> int:
    try:
        value = tags().get(ExifTags.Base.Orientation, 1)
    except (*BROKEN, TypeError, KeyError):
        return 1
    return value if value in TURNS else 1


def _undecoded_tags(picture: Image.Image) -> Image.Exif:
    """The EXIF tags of a picture that was just opened; do not decode it afterwards.

    A PNG may have tags, and texts that count as such, behind its pixels: to get there Pillow decodes them, which takes
    a hundred times as long as to step over them. The chunks are read by Pillow, within its bounds of size.
    """
    if not isinstance(picture, PngImageFile) or "exif" in picture.info:
        return picture.getexif()
    chunks, file = picture.png, picture.fp
    if chunks is None or file is None or not picture.tile:
        raise ValueError("it has no pixels")
    file.seek(picture.tile[0].offset - 8)  # the head of the first chunk of pixels
    with contextlib.suppress(struct.error, SyntaxError):  # the file may end without its last chunk
        while (head := chunks.read())[0] != b"IEND":
            if head[0] in TAGS:
                chunks.call(*head)
            file.seek(head[1] + head[2] + 4)  # behind the checksum
    return Image.Image.getexif(picture)  # not PngImageFile's, which decodes


def read_shape(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_image` would return; its pixels are not decoded."""
    with _opened(path) as picture:
        # Pillow gives the size of a TIFF upright.
        is_on_its_side = picture.format != "TIFF" and _undecoded_turns(picture) >= 5
        return picture.size if is_on_its_side else (picture.height, picture.width)


def is_deep(path: Path) -> bool:
    """Whether a file's values have more than 8 bits; reads only the header."""
    with _opened(path) as picture:
        return picture.mode.startswith(("I", "F")) or _has_deep_colours(picture)


def _has_deep_colours(picture: Image.Image) -> bool:
    """Whether Pillow would reduce the values of a picture with several channels to 8 bits; call it before loading."""
    return picture.mode in {"RGB", "RGBA", "LA"} and any(";16" in str(tile[3]) for tile in getattr(picture, "tile", []))


def read_pixels(path: Path) -> NDArray:
    """Read any supported picture as (H, W, 3): uint8 if the file has 8 bits, else its own integers or floats.

    Grey becomes three equal channels, palettes become colours, alpha is dropped.
    """
    with _opened(path) as picture:
        deep = _has_deep_colours(picture)
        turns = _undecoded_turns(picture) if deep else 1
    if deep:
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
        if pixels is None or pixels.ndim != 3:
            raise UserError(f"{path}: cannot be read as a picture: its 16-bit colours are not whole")
        return np.ascontiguousarray(turned(pixels[..., 2::-1], turns))
    picture = decode(path)
    if picture.mode.startswith(("I", "F")):
        return np.repeat(np.asarray(picture)[..., None], 3, axis=2)
    if picture.mode == "P":  # Pillow asks for RGBA if a palette has a transparent colour
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def turned(pixels: NDArray, orientation: int) -> NDArray:
    """(H, W, ...) as stored, rotated upright for an EXIF orientation from 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def eight_bits(pixels: NDArray, depth: Depth) -> RGB:
    """Values of `depth` bits, or in [0, 1] if depth is `unit`, as uint8; 8-bit pictures are not changed.

    The scale is fixed: stretching each picture by its own range would destroy the brightness by which defects are seen.
    """
    if pixels.dtype == np.uint8:
        return pixels
    return np.clip(np.rint(pixels.astype(np.float64) * (255 / top(depth))), 0, 255).astype(np.uint8)


def top(depth: Depth) -> float:
    """The highest value of a depth."""
    return 1.0 if depth == "unit" else 2.0**depth - 1


def read_image(path: Path, depth: Depth = 16) -> RGB:
    """Read any supported picture as (H, W, 3) uint8 RGB; depth: of the values of a file with more than 8 bits.

    Also raises UserError if the values do not match the depth: negative, too high, NaN, or floats up to 1 although
    depth is not `unit`. Such a picture would become all white or all black without notice.
    """
    pixels = read_pixels(path)
    if pixels.dtype != np.uint8:
        lowest, highest = float(pixels.min()), float(pixels.max())
        fits = 0 <= lowest <= highest <= top(depth)  # False with NaN
        if not fits or (pixels.dtype.kind == "f" and depth != "unit" and 0 < highest <= 1):
            raise UserError(
                f"{path}: holds values from {lowest:g} to {highest:g}, but the depth in training was {depth}, with "
                f"values from 0 to {top(depth):g}: save it in the format of the training pictures, or train on "
                "pictures like this one"
            )
    return eight_bits(pixels, depth)


def is_grey(image: RGB) -> bool:
    """Whether red, green and blue are equal in every pixel, as in what a camera without colour took."""
    return bool((image == image[..., :1]).all())


def in_grey(image: RGB) -> RGB:
    """The picture with the mean of red, green and blue in each pixel, as a camera without colour might see it; the same
    array if it has no colour."""
    return image if is_grey(image) else np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8).repeat(3, axis=2)


def recent(read: Callable[[Key], Pixels], room: int = 256 * 2**20) -> Callable[[Key], Pixels]:
    """`read` with a cache (LRU) of `room` bytes for its results, which callers must not modify.

    Limited by bytes, not by number: 64 pictures take 10 MB in one data set and 4 GB in another.
    """
    return cached(LRUCache(room, getsizeof=lambda pixels: pixels.nbytes), lock=Lock())(read)


def read_mask(path: Path) -> Mask:
    """Read a mask as (H, W) bool: all values except 0, and all colours of a palette except black, are defect.

    In a JPEG, and in masks that were saved as JPEG before or have smoothed edges (many values, most of them near 0 and
    255), only values above 127 are defect. If all colours of a palette are black, its indices count. Transparent pixels
    are no defect; if all visible pixels are black, they are the defect. Raises UserError if colours and transparency
    contradict each other.
    """
    with _opened(path) as opened:
        if opened.mode == "RGB" and _has_deep_colours(opened):  # of their two bytes Pillow keeps the higher one
            return np.asarray(read_pixels(path).any(axis=2))
    picture = decode(path)
    if picture.mode in {"LA", "RGBA", "PA"} or (picture.mode in {"L", "RGB", "P"} and "transparency" in picture.info):
        pixels = np.asarray(picture.convert("RGBA"))
        if pixels[..., 3].min() != pixels[..., 3].max():
            return _see_through(path, pixels)
    if picture.mode == "P":
        colours = np.asarray(picture.convert("RGB"))
        return np.asarray((colours.max(axis=2) if colours.any() else np.asarray(picture)) > 0)
    if picture.mode not in {"L", "1"} and not picture.mode.startswith(("I", "F")):
        picture = picture.convert("RGB")
    values = np.asarray(picture).reshape(picture.height, picture.width, -1).max(axis=2)
    return np.asarray(values > (MIDDLE if picture.format == "JPEG" or is_smoothed(values) else 0))


def _see_through(path: Path, pixels: NDArray[np.uint8]) -> Mask:
    """The mask of a picture (H, W, 4) with transparent parts."""
    colours, alpha = pixels[..., :3].max(axis=2), pixels[..., 3]
    if not (values := ((colours.astype(np.uint16) * alpha + 254) // 255).astype(np.uint8)).any():
        if colours.any():
            raise UserError(
                f"{path}: a mask that is black where it is visible, and has colours where it is transparent; save it "
                f"without transparency"
            )
        values = alpha
    return np.asarray(values > (MIDDLE if is_smoothed(values) else 0))


def is_smoothed(values: NDArray) -> bool:
    """Whether a mask (H, W) has smoothed edges: many values, most of them near 0 and 255."""
    if values.dtype != np.uint8:
        return False
    counts = np.bincount(values.ravel(), minlength=256)
    near_ends = counts[: MIDDLE // 2].sum() + counts[-MIDDLE // 2 :].sum()
    return bool((counts > 0).sum() > LABELS and counts[-MIDDLE // 2 :].any() and near_ends >= CLUSTERED * values.size)


def png_bytes(image: RGB | Mask | NDArray[np.uint8], options: Sequence[int] = PNG) -> bytes:
    """Encode (H, W, 3) or (H, W) uint8, or (H, W) bool as 0/255, as PNG; equal pixels give equal bytes.

    options: pairs of OpenCV's flags and their values.
    """
    if image.dtype == bool:
        pixels: NDArray = np.uint8(255) * image
    elif image.ndim == 3:  # a view in the other order of colours would be encoded a third more slowly
        pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    else:
        pixels = image
    done, data = cv2.imencode(".png", pixels, options)
    if not done:
        raise ValueError(f"a picture of shape {image.shape} and type {image.dtype} cannot be written as PNG")
    return data.tobytes()


def write_png(path: Path, image: RGB | Mask) -> str:
    """Write a picture or a mask as PNG, atomically; returns the SHA-256 of the file."""
    data = png_bytes(image)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def outlined(image: RGB, mask: Mask, colour: tuple[int, int, int] = (255, 40, 40)) -> RGB:
    """A copy of the picture with the mask's outline, drawn outside the mask so that the defect stays visible."""
    inside = mask.astype(np.uint8)
    drawn = image.copy()
    drawn[cv2.dilate(inside, np.ones((3, 3), np.uint8)) > inside] = colour
    return drawn


def contact_sheet(rows: Sequence[Sequence[RGB]], tile: int = 160, gap: int = 4) -> RGB:
    """Arrange pictures in rows on white, each resized so that its longer side has `tile` px.

    Columns are `tile` px wide, rows as high as their highest picture.
    """
    width = max((len(row) for row in rows), default=1) * (tile + gap) + gap
    strips = [np.full((gap, width, 3), 255, np.uint8)]
    for row in rows:
        tiles = [rescale(image, tile / max(image.shape[:2])) for image in row]
        strip = np.full((max((image.shape[0] for image in tiles), default=0) + gap, width, 3), 255, np.uint8)
        for x, image in enumerate(tiles):
            left = gap + x * (tile + gap)
            strip[: image.shape[0], left : left + image.shape[1]] = image
        strips.append(strip)
    return np.concatenate(strips)
