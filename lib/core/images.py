"""Pictures in and out: safe decoding, PNG, contact sheets."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar

import cv2
import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, resize
from lib.core.runtime import write_bytes

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# A line-scan picture of 5,000 x 20,000 px passes, a decompression bomb does not: pillow warns above its limit, refuses
# above twice that, and `decode` refuses from the limit on.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 100_000_000

Pixels = TypeVar("Pixels", bound=NDArray)


def decode(path: Path) -> Image.Image:
    """Open and fully decode a picture, turned upright as its EXIF tag says.

    Raises UserError, with the file's name, for anything that is no whole PNG, JPEG, BMP or TIFF of at most
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
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


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
    """`read` with a memory of its latest results: as many as fit into `room` bytes. Callers do not change them.

    By bytes, not by number: 64 pictures are 10 MB of one data set and 4 GB of another.
    """
    return cached(LRUCache(room, getsizeof=lambda pixels: pixels.nbytes), lock=Lock())(read)


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
