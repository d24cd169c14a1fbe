"""Pseudo anomalies from other pictures, for detectors that train on them.

Two routes, as in the description of PAGMFR: Perlin-shaped patches of another texture for surfaces, regions cut out of
other pictures for objects. They are pasted into windows, with their exact masks; nothing changes outside a mask.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, paste_back, rescale, shrunk
from lib.core.images import SUFFIXES, in_grey, is_deep, is_grey, read_image, read_mask, recent
from lib.core.params import Detect
from lib.placement.foreground import foreground_mask
from lib.vision.examples import Example
from lib.vision.pseudo import blend
from lib.vision.shapes import blob
from lib.vision.windows import good_window

Route = Literal["auto", "texture", "object"]

ANOMALOUS = 0.5  # share of windows with an anomaly, as in DRAEM
BOX_SIDE = (0.15, 1.0)  # sides of the box around a patch of texture, as shares of the window
AREA = (0.005, 0.25)  # area of a region from another picture, as a share of the window
OVERLAP = 0.5  # share of such a region that must lie on the product
TRIES = 20  # places that are tried for that
OPACITY = (0.2, 1.0)  # as for patches of texture
GAIN, OFFSET = (0.7, 1.4), (-40, 40)  # random exposure of a region: factor, and grey levels added
FEATHER = 2  # pixels over which a region's edge fades in, inside the region
CHANGED = 6  # of 255 grey levels, in any channel: pixels that change less are not part of the anomaly
PHOTO_SIDE = 512  # pixels of the longer side to which photos are shrunk: regions in windows are smaller
VERDICT_PICTURES = 9  # good pictures that decide whether the category is an object or a texture, and has colour


def _fitted(path: Path) -> RGB:
    return shrunk(read_image(path), PHOTO_SIDE)


_photo = recent(_fitted)
_unreadable: set[Path] = set()  # known ones are not decoded again


def pictures_in(folder: str, key: str) -> list[Path]:
    """The pictures in a folder and its subfolders, sorted by name.

    What is no picture by its header is skipped with a warning; pixels are not read, which in a large folder would take
    minutes. Raises UserError, which names the `key` of params.yaml, if the folder is missing or holds no picture.
    """
    root, pictures = Path(folder), []
    for file in sorted(root.rglob("*")) if root.is_dir() else []:
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            try:
                is_deep(file)  # reads the header
            except UserError as error:
                warnings.warn(f"{key}: {error}; it is left out", stacklevel=2)
            else:
                pictures.append(file)
    if not pictures:
        what = f"holds no picture ({', '.join(SUFFIXES)})" if root.is_dir() else "is no folder"
        raise UserError(f"{key}: {folder} {what}; expected a folder of pictures, or null for the category's own")
    return pictures


def drawn(photos: Sequence[Path], rng: np.random.Generator) -> RGB:
    """A random one of the photos, shrunk: (H, W, 3) uint8, at most PHOTO_SIDE px long.

    In place of one that cannot be read to its end, told once in a warning, stands the next one that can: so a draw
    depends on nothing that was drawn before. Raises UserError if none can be read.
    """
    first = int(rng.integers(len(photos)))
    for photo in (*photos[first:], *photos[:first]):
        if photo not in _unreadable:
            try:
                return _photo(photo)
            except UserError as error:
                _unreadable.add(photo)
                warnings.warn(f"{error}; it is left out", stacklevel=2)
    raise UserError(f"{photos[0].parent}: none of {len(photos)} pictures can be read, such as {photos[0].name}")


@dataclass(frozen=True)
class Foreign:
    """Good windows of a category, half of them with a pseudo anomaly.

    good: the pictures that get anomalies. photos: the pictures that anomalies are taken from; None: those of `good`.
    ground: by the number of a good picture, where the product is, (H, W) bool; None for the texture route. has_colour:
    whether the good pictures have any; if not, anomalies have none either.
    """

    good: Sequence[Example]
    photos: Sequence[Path] | None
    ground: Callable[[int], Mask] | None
    detect: Detect
    has_colour: bool = True

    @classmethod
    def of(
        cls, good: Sequence[Example], route: Route, textures: str | None, objects: str | None, detect: Detect
    ) -> "Foreign":
        """route: "auto" decides from the good pictures: object, if most of them show one on a background.

        textures, objects: folders of pictures, or None. Raises UserError without good pictures, and for a folder that
        is missing or empty.
        """
        if not good:
            raise UserError("the train part holds no good picture to put pseudo anomalies on: see split in params.yaml")
        if route == "auto":
            objects_seen = [not _product(example).all() for example in good[:VERDICT_PICTURES]]
            route = "object" if 2 * sum(objects_seen) > len(objects_seen) else "texture"
        folder = textures if route == "texture" else objects
        photos = pictures_in(folder, f"pagmfr.{route}s") if folder else None
        has_colour = not all(is_grey(example.image) for example in good[:VERDICT_PICTURES])
        return cls(good, photos, _grounds(good) if route == "object" else None, detect, has_colour)

    def window(self, rng: np.random.Generator) -> tuple[RGB, Mask, RGB]:
        """A window, the mask of its anomaly, which half of the windows lack, and the window without the anomaly.

        (window, window, 3) uint8, (window, window) bool, (window, window, 3) uint8.
        """
        number = int(rng.integers(len(self.good)))
        ground = self.ground(number) if self.ground else None
        clean, on_product, counting = good_window(self.good[number], ground, self.detect, rng)
        if rng.random() >= ANOMALOUS:
            return clean, np.zeros(clean.shape[:2], bool), clean
        if self.photos is not None:
            photo = drawn(self.photos, rng)
            photo = photo if self.has_colour else in_grey(photo)
        else:
            photo = rescale(self.good[int(rng.integers(len(self.good)))].image, self.detect.scale)
        if ground is None:
            image, mask = patched(clean, photo, rng)
        else:
            image, mask = pasted(clean, *cut(photo, self.photos is not None, rng), on_product, rng)
        mask = mask & counting
        return paste_back(image, clean, mask), mask, clean


def _grounds(good: Sequence[Example]) -> Callable[[int], Mask]:
    return recent(lambda number: _product(good[number]))


def _product(example: Example) -> Mask:
    """(H, W) bool: the product in a picture, as a person drew it, else as detected; all True if none is."""
    return foreground_mask(example.image) if example.foreground is None else read_mask(example.foreground)


def patched(window: RGB, photo: RGB, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """The texture route: blend an altered, Perlin-shaped patch of the photo into a random box of the window.

    Returns the window and the mask of pixels that visibly changed, which may be empty.
    """
    height, width = window.shape[:2]
    sides = [max(1, round(extent * rng.uniform(*BOX_SIDE))) for extent in (width, height)]
    left, top = (int(rng.integers(extent - side + 1)) for extent, side in zip((width, height), sides, strict=True))
    mixed, _ = blend(window, photo, (left, top, left + sides[0], top + sides[1]), rng)
    return _where_seen(window, mixed)


def cut(photo: RGB, has_object: bool, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """A region of a photo: its object, if one is detected, else a random blob at a random place.

    Returns the region's bounding box, (h, w, 3) uint8, and the region in it, (h, w) bool.
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
    """The object route: paste a region, rotated, scaled, mirrored and with another exposure, onto the product.

    window: (H, W, 3) uint8; piece: (h, w, 3) uint8; region: (h, w) bool, not empty; on_product: (H, W) bool. The region
    covers AREA of the window, and at least OVERLAP of it lies on the product; if TRIES places all fail, nothing is
    pasted. Returns the window and the mask of pixels that visibly changed, which may be empty.
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
    exposed = np.clip(piece.astype(np.float32) * rng.uniform(*GAIN) + rng.uniform(*OFFSET), 0, 255)
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
    """The mixed picture where it visibly differs from the window, else the window; and the mask of where it differs."""
    changed = np.abs(mixed.astype(np.int16) - window).max(axis=2) >= CHANGED
    return np.where(changed[..., None], mixed, window), changed
