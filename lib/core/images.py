"""Pictures in and out: safe decoding, windows at native scale, pasting back, PNG, contact sheets."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lib.core.records import Box
from lib.core.runtime import write_bytes

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# A line-scan picture of 5,000 x 20,000 px passes, a decompression bomb does not: pillow warns above its limit, refuses
# above twice that, and `decode` refuses from the limit on.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 100_000_000

RGB = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Pixels = TypeVar("Pixels", bound=NDArray)


def decode(path: Path) -> Image.Image:
    """Open and fully decode a picture, turned upright as its EXIF tag says.

    Raises ValueError, with the file's name, for anything that is no whole PNG, JPEG, BMP or TIFF of at most
    MAX_PIXELS pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels, at most {MAX_PIXELS:,} are read")
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            upright.format = opened.format
            return upright
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error


def read_image(path: Path) -> RGB:
    """Read any supported picture as (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, palettes are resolved, alpha is dropped, 16-bit grey is divided by 257 (a fixed
    scale: stretching each picture by its own range would destroy the brightness that defects are seen by).
    """
    picture = decode(path)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture).astype(np.float32)
        grey = np.clip(np.rint(values / (1 if picture.mode == "F" else 257)), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "P":  # with a transparent colour, a palette needs the detour that pillow asks for
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def recent(read: Callable[[Path], Pixels], room: int = 256 * 2**20) -> Callable[[Path], Pixels]:
    """`read` with a memory of its latest results: as many as fit into `room` bytes, and the very last one anyway.

    By bytes, not by number as functools has it: 64 pictures are 10 MB of one data set and 4 GB of another.
    """
    kept: dict[Path, Pixels] = {}  # oldest first

    def remembered(path: Path) -> Pixels:
        kept[path] = found = kept.pop(path) if path in kept else read(path)
        held = sum(pixels.nbytes for pixels in kept.values())
        while held > room and len(kept) > 1:
            held -= kept.pop(next(iter(kept))).nbytes
        return found

    return remembered


def read_mask(path: Path) -> Mask:
    """Read a mask as (H, W) bool: every value but 0 is defect; palette masks count by index, not by colour.

    In a JPEG, whose compression blurs borders, values above 127 count.
    """
    picture = decode(path)
    if picture.mode not in {"P", "L", "1"} and not picture.mode.startswith(("I", "F")):
        picture = picture.convert("RGB")
    values = np.asarray(picture)
    if values.ndim == 3:
        values = values.max(axis=2)
    return np.asarray(values > (127 if picture.format == "JPEG" else 0))


def png_bytes(image: RGB | Mask) -> bytes:
    """Encode (H, W, 3) uint8 RGB, or (H, W) bool as 0/255, as PNG: equal pixels give equal bytes."""
    pixels: NDArray[np.uint8] = image.astype(np.uint8) * 255 if image.dtype == bool else image[..., ::-1]  # type: ignore[assignment]
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"a picture of shape {image.shape} and type {image.dtype} cannot be written as PNG")
    return data.tobytes()


def write_png(path: Path, image: RGB | Mask) -> str:
    """Write a picture or a mask as PNG, whole or not at all; returns the SHA-256 of the file."""
    data = png_bytes(image)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Window:
    """A square cut-out in pixels of the picture; it may reach over the picture's border."""

    x0: int
    y0: int
    side: int

    def inside(self, box: Box) -> Box:
        """The box in coordinates of this window."""
        return box[0] - self.x0, box[1] - self.y0, box[2] - self.x0, box[3] - self.y0


def window_around(box: Box, shape: Sequence[int], context: float, min_side: int) -> Window:
    """The square window around a box in a picture of shape (H, W, ...): `context` times the box's longer side, at least
    `min_side` px.

    It is moved into the picture where it fits. It is never larger than the picture's longer side, and where it is
    larger than the shorter one it lies centred over it.
    """
    height, width = shape[:2]
    longer = max(box[2] - box[0], box[3] - box[1])
    side = min(max(math.ceil(context * longer), min_side, longer), max(width, height))

    def start(low: int, high: int, extent: int) -> int:
        centred = (low + high - side) // 2
        return min(max(centred, 0), extent - side) if side <= extent else (extent - side) // 2

    return Window(start(box[0], box[2], width), start(box[1], box[3], height), side)


def moved(window: Window, by: Sequence[int], box: Box, shape: Sequence[int]) -> Window:
    """The window moved by (x, y) px within a picture of shape (H, W, ...), as far as all of the box stays in view."""

    def start(at: int, step: int, low: int, high: int, extent: int) -> int:
        least, most = max(min(0, at), high - window.side), min(max(extent - window.side, at), low)
        return min(max(at + step, least), most)

    return Window(
        start(window.x0, by[0], box[0], box[2], shape[1]),
        start(window.y0, by[1], box[1], box[3], shape[0]),
        window.side,
    )


def crop(image: NDArray, window: Window) -> NDArray:
    """Cut the window out of an (H, W) or (H, W, C) array; what lies beyond the border is mirrored."""

    def mirrored(start: int, extent: int) -> NDArray[np.int64]:
        period = max(2 * (extent - 1), 1)
        index = np.arange(start, start + window.side) % period
        return np.minimum(index, period - index) if extent > 1 else np.zeros(window.side, dtype=np.int64)

    return image[np.ix_(mirrored(window.y0, image.shape[0]), mirrored(window.x0, image.shape[1]))]


def resize(image: NDArray, width: int, height: int) -> NDArray:
    """Resize (H, W) or (H, W, C): area average when shrinking, cubic when growing. Masks: nearest, stay bool."""
    if image.dtype == bool:
        return cv2.resize(image.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def box_mask(box: Box, width: int, height: int) -> Mask:
    """(height, width) bool, True inside the box; what of the box lies outside of the picture is cut off."""
    mask = np.zeros((height, width), dtype=bool)
    mask[max(box[1], 0) : max(box[3], 0), max(box[0], 0) : max(box[2], 0)] = True
    return mask


def feathered(mask: Mask, feather: int) -> NDArray[np.float32]:
    """Opacity in [0, 1]: 0 outside of the mask, rising over `feather` pixels inside of it to 1.

    The ramp lies inside, so that nothing outside is touched; the picture's own border is no edge of the mask.
    """
    if feather <= 0 or mask.all():
        return mask.astype(np.float32)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(depth / (feather + 1), 1).astype(np.float32)


def scaled(box: Box, factor: float) -> Box:
    """The box in a picture resized by `factor`: the smallest one that covers it."""
    return (
        math.floor(box[0] * factor),
        math.floor(box[1] * factor),
        math.ceil(box[2] * factor),
        math.ceil(box[3] * factor),
    )


def paste_back(generated: NDArray, normal: RGB, mask: Mask, feather: int = 0) -> RGB:
    """Put `normal` back wherever `mask` is False, so that only the defect region changes.

    generated: (H, W, 3) uint8 or float in 0..255; normal: (H, W, 3) uint8; mask: (H, W) bool. Returns (H, W, 3)
    uint8, equal to `normal` bit for bit wherever the mask is False. Raises ValueError when the sizes differ.
    """
    if not generated.shape == normal.shape == (*mask.shape, 3):
        raise ValueError(f"sizes differ: generated {generated.shape}, normal {normal.shape}, mask {mask.shape}")
    left, top, wide, high = cv2.boundingRect(mask.astype(np.uint8))
    # One pixel more on each side: to `feathered` the crop's border is none of the mask's.
    part = slice(max(top - 1, 0), top + high + 1), slice(max(left - 1, 0), left + wide + 1)
    opacity = feathered(mask[part], feather)[..., None]
    mixed = normal[part] + opacity * (generated[part].astype(np.float32) - normal[part])
    pasted = normal.copy()
    pasted[part] = np.where(mask[part][..., None], np.clip(np.rint(mixed), 0, 255).astype(np.uint8), normal[part])
    return pasted


def outlined(image: RGB, mask: Mask, colour: tuple[int, int, int] = (255, 40, 40)) -> RGB:
    """A copy of the picture with the mask's outline drawn just outside of it, so that the defect stays visible."""
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) - mask.astype(np.uint8)
    return np.where(ring[..., None] > 0, np.array(colour, np.uint8), image)


def contact_sheet(rows: Sequence[Sequence[RGB]], tile: int = 160, gap: int = 4) -> RGB:
    """Arrange pictures in rows on a white ground, each shrunk or grown until its longer side has `tile` px.

    Columns are `tile` px wide, rows as high as the highest picture in them.
    """

    def fitted(image: RGB) -> RGB:
        scale = tile / max(image.shape[:2])
        return resize(image, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))

    width = max((len(row) for row in rows), default=1) * (tile + gap) + gap
    strips = [np.full((gap, width, 3), 255, np.uint8)]
    for row in rows:
        tiles = [fitted(image) for image in row]
        strip = np.full((max((image.shape[0] for image in tiles), default=0) + gap, width, 3), 255, np.uint8)
        for x, image in enumerate(tiles):
            left = gap + x * (tile + gap)
            strip[: image.shape[0], left : left + image.shape[1]] = image
        strips.append(strip)
    return np.concatenate(strips)
