"""Anomalies from foreign pictures, for detectors that learn on pseudo anomalies.

Two routes, as in PAGMFR's description: Perlin-shaped patches of foreign texture for surfaces, regions cut out of other
pictures for objects. They are made on windows, each with its exact mask, and change nothing outside of it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, paste_back, resize
from lib.core.images import read_image, recent
from lib.core.params import Detect
from lib.detectors import Example
from lib.placement.foreground import foreground_mask
from lib.vision.pseudo import blend
from lib.vision.shapes import blob
from lib.vision.tiles import resized
from lib.vision.windows import good_window

Route = Literal["auto", "texture", "object"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
ANOMALOUS = 0.5  # of the windows get an anomaly, as in DRAEM
BOX_SIDE = (0.15, 1.0)  # of the window: sides of the box that a patch of texture lies in
AREA = (0.005, 0.25)  # of the window: that a region cut out of another picture covers
OVERLAP = 0.5  # of such a region must lie on the product
TRIES = 20  # places drawn for a region until it does
OPACITY = (0.2, 1.0)  # as of the patches of texture
FEATHER = 2  # pixels over which a region's edge fades in, inside of it
CHANGED = 6  # of 255 grey levels, in any channel: a pixel that changed less is no part of the anomaly
PHOTO_SIDE = 512  # pixels of the longer side at which a photo is cut: no region in a window has more
GROUNDS = 256  # pictures of which is kept where the product is
VERDICT_PICTURES = 9  # good pictures that decide whether the category is an object or a texture


def _fitted(path: Path) -> RGB:
    photo = read_image(path)
    height, width = photo.shape[:2]
    scale = min(1.0, PHOTO_SIDE / max(height, width))
    return photo if scale == 1 else resize(photo, max(1, round(width * scale)), max(1, round(height * scale)))


_photo = recent(_fitted)


def pictures_in(folder: str, key: str) -> list[Path]:
    """The pictures in a folder and in the folders below it, in the order of their names.

    One that cannot be read is left out with a warning that names it. Raises UserError, which names the `key` of
    params.yaml, where the folder is missing or holds no picture.
    """
    root, pictures = Path(folder), []
    for file in sorted(root.rglob("*")) if root.is_dir() else []:
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            try:
                read_image(file)
            except UserError as error:
                warnings.warn(f"{key}: {error}; it is left out", stacklevel=2)
            else:
                pictures.append(file)
    if not pictures:
        what = "holds no picture" if root.is_dir() else "is no folder"
        raise UserError(f"{key}: {folder} {what}; expected a folder of pictures, or null for the category's own")
    return pictures


@dataclass(frozen=True)
class Foreign:
    """Good windows of a category, half of them with an anomaly.

    good: the pictures that anomalies are put on. photos: pictures that they are taken from, or None for other ones of
    `good`. ground: of a good picture, by its number, where the product is, (H, W) bool; None on the texture route.
    """

    good: Sequence[Example]
    photos: Sequence[Path] | None
    ground: Callable[[int], Mask] | None
    detect: Detect

    @classmethod
    def of(
        cls, good: Sequence[Example], route: Route, textures: str | None, objects: str | None, detect: Detect
    ) -> "Foreign":
        """route "auto" is told from the good pictures: an object where most of them show one before a background.

        textures, objects: folders of pictures, or None. Raises UserError without good pictures, and for such a folder
        that is missing or empty.
        """
        if not good:
            raise UserError("the train part holds no good picture to put pseudo anomalies on: see split in params.yaml")
        if route == "auto":
            objects_seen = [not foreground_mask(example.image).all() for example in good[:VERDICT_PICTURES]]
            route = "object" if 2 * sum(objects_seen) > len(objects_seen) else "texture"
        folder = textures if route == "texture" else objects
        photos = pictures_in(folder, f"pagmfr.{route}s") if folder else None
        ground = lru_cache(GROUNDS)(lambda number: foreground_mask(good[number].image)) if route == "object" else None
        return cls(good, photos, ground, detect)

    def window(self, rng: np.random.Generator) -> tuple[RGB, Mask, RGB]:
        """A window, the mask of its anomaly, empty in one of two, and the same window without it.

        (window, window, 3) uint8, (window, window) bool, (window, window, 3) uint8.
        """
        number = int(rng.integers(len(self.good)))
        ground = self.ground(number) if self.ground else None
        clean, on_product, counting = good_window(self.good[number], ground, self.detect, rng)
        if rng.random() >= ANOMALOUS:
            return clean, np.zeros(clean.shape[:2], bool), clean
        if self.photos is not None:
            photo = _photo(self.photos[int(rng.integers(len(self.photos)))])
        else:
            photo = resized(self.good[int(rng.integers(len(self.good)))].image, self.detect.scale)
        if ground is None:
            image, mask = patched(clean, photo, rng)
        else:
            image, mask = pasted(clean, *cut(photo, self.photos is not None, rng), on_product, rng)
        mask = mask & counting
        return paste_back(image, clean, mask), mask, clean


def patched(window: RGB, photo: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """The texture route: a Perlin-shaped patch of the photo's texture, altered, in a random box of the window.

    The mask is that part of the patch which really changed, so that it may be empty.
    """
    height, width = window.shape[:2]
    sides = [max(1, round(extent * rng.uniform(*BOX_SIDE))) for extent in (width, height)]
    left, top = (int(rng.integers(extent - side + 1)) for extent, side in zip((width, height), sides, strict=True))
    mixed, _ = blend(window, photo, (left, top, left + sides[0], top + sides[1]), rng)
    return _where_seen(window, mixed)


def cut(photo: RGB, has_object: bool, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """A region of a photo: its object, where it has one that stands out, or else a random blob somewhere in it.

    Returns (h, w, 3) uint8 and (h, w) bool, the region's bounding box.
    """
    region = foreground_mask(photo) if has_object else np.ones(photo.shape[:2], bool)
    if region.all():
        size = tuple(int(rng.integers(extent // 4, extent // 2 + 1)) or 1 for extent in photo.shape[1::-1])
        left, top = (
            int(rng.integers(extent - side + 1)) for extent, side in zip(photo.shape[1::-1], size, strict=True)
        )
        return photo[top : top + size[1], left : left + size[0]], blob((size[0], size[1]), rng)
    left, top, wide, high = cv2.boundingRect(region.astype(np.uint8))
    part = slice(top, top + high), slice(left, left + wide)
    return photo[part], region[part]


def pasted(window: RGB, piece: RGB, region: Mask, on_product: Mask, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """The object route: a region, turned, scaled, mirrored and with another exposure, on the product in the window.

    window: (H, W, 3) uint8; piece: (h, w, 3) uint8; region: (h, w) bool, not empty; on_product: (H, W) bool. At least
    OVERLAP of the region lies on the product, of AREA of the window; where no such place is found in TRIES, nothing is
    pasted. The mask is that part of the region which really changed, so that it may be empty.
    """
    height, width = window.shape[:2]
    nothing = np.zeros((height, width), bool)
    places = np.flatnonzero(on_product)
    if not len(places):
        return window, nothing
    area = height * width * np.exp(rng.uniform(*np.log(AREA)))
    scale, angle, mirror = np.sqrt(area / region.sum()), rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [mirror, 1]
    centre = np.argwhere(region).mean(axis=0)[::-1]
    exposed = np.clip(piece.astype(np.float32) * rng.uniform(0.7, 1.4) + rng.uniform(-40, 40), 0, 255)
    opacity = np.float32(rng.uniform(*OPACITY))
    for place in rng.choice(places, TRIES):
        y, x = divmod(int(place), width)
        move = np.hstack([turn, (np.array([x, y]) - turn @ centre)[:, None]])
        mask = cv2.warpAffine(region.astype(np.uint8), move, (width, height), flags=cv2.INTER_NEAREST) > 0
        if mask.mean() >= AREA[0] and (mask & on_product).sum() >= OVERLAP * mask.sum():
            break
    else:
        return window, nothing
    painted = cv2.warpAffine(exposed, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mixed = paste_back(window + opacity * (painted - window.astype(np.float32)), window, mask, FEATHER)
    return _where_seen(window, mixed)


def _where_seen(window: RGB, mixed: RGB) -> tuple[RGB, Mask]:
    """The mixed picture where it differs enough to be seen, else the window; and where that is."""
    changed = np.abs(mixed.astype(np.int16) - window).max(axis=2) >= CHANGED
    return np.where(changed[..., None], mixed, window), changed
