"""Open a picture with its mask and its twin, and report whatever is wrong with them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import Mask
from lib.core.images import decode, is_grey, png_bytes, read_mask, read_pixels, stored_orientation, turned
from lib.core.records import MaskSource
from lib.core.runtime import sha256_of
from lib.dataset.annotations import Annotation, BoxMasks, MaskFile, draw
from lib.dataset.pictures import Picture

BACK = {6: 8, 8: 6}  # inverse orientations; all others are their own inverse


@dataclass(frozen=True)
class Levels:
    """The range of values of a picture with more than 8 bits."""

    floats: bool
    lowest: float
    highest: float


@dataclass(frozen=True)
class Examination:
    """The result of opening a picture, its mask and its twin; if there are `problems`, other fields may be unset."""

    picture: Picture
    problems: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # width, height in px, upright
    sha256: str = ""  # of the file's bytes
    mask_sha256: str | None = None
    twin_sha256: str | None = None
    pixels: str = ""  # digest of the decoded picture: equal for equal pictures in different files
    perceptual_hash: int = 0
    grey: bool = False  # red, green and blue are equal everywhere
    levels: Levels | None = None  # of the picture's values, where they have more than 8 bits
    graded_mask: bool = False  # holds values between 0 and 255
    turned_mask: bool = False  # fits the picture as it is stored, but not after its EXIF rotation
    doubtful_turn: bool = False  # fits the picture before and after its EXIF rotation
    beside: str = ""  # where the picture has content, if the mask is completely outside of it
    covering_mask: bool = False  # marks more than half of the picture
    drawn: "Drawn | None" = None  # if the mask is drawn from an annotation

    def defect(self) -> Mask | None:
        """The mask (H, W) of a picture, from its file or drawn; None if it has none, or has problems."""
        if self.problems:
            return None
        if self.drawn:
            return self.drawn.labels() > 0
        return read_mask(self.picture.mask) if self.picture.mask else None


@dataclass(frozen=True)
class Drawn:
    """A `lib.dataset.annotations.Drawing` with its labels compressed as `png`."""

    png: bytes
    types: tuple[str, ...]
    source: MaskSource
    guessed: int
    hidden: tuple[str, ...] = ()

    def labels(self) -> NDArray[np.uint8]:
        """The labels (H, W)."""
        return np.asarray(cv2.imdecode(np.frombuffer(self.png, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def examine(picture: Picture, boxes: BoxMasks = "grabcut") -> Examination:
    """Open a picture, its mask and its twin, and draw the mask that is given as regions.

    Anything wrong is reported in `problems`, never raised.
    """
    if unfit := [path for path in (picture.path, picture.mask, picture.twin) if not _is_utf8(path)]:
        return Examination(picture, (f"{str(unfit[0])!r}: a name that is no UTF-8, as all records are; rename it",))
    try:
        image = read_pixels(picture.path)
        sha256 = sha256_of(picture.path)
    except (OSError, UserError) as error:
        return Examination(picture, (f"{error}; replace or remove the file",))
    height, width = image.shape[:2]
    levels: Levels | None = None
    problems: tuple[str, ...] = ()
    if image.dtype != np.uint8:
        levels = Levels(bool(image.dtype.kind == "f"), float(image.min()), float(image.max()))
        if not 0 <= levels.lowest <= levels.highest < np.inf:
            problems = (
                f"{picture.path}: holds values from {levels.lowest:g} to {levels.highest:g}; brightness is expected, "
                f"from 0 up: save the picture anew",
            )
    result = Examination(
        picture,
        problems,
        size=(width, height),
        sha256=sha256,
        pixels=hashlib.sha256(f"{width}x{height}".encode() + image.tobytes()).hexdigest(),
        perceptual_hash=perceptual_hash(image),
        grey=is_grey(image),
        levels=levels,
    )
    if picture.mask is not None:
        result = _with_mask(result, picture.mask, image)
    if picture.annotation is not None:
        result = _with_drawing(result, picture.annotation, image, boxes)
    return result if picture.twin is None else _with_twin(result, picture.twin)


def _with_mask(result: Examination, path: Path, image: NDArray) -> Examination:
    """The examination with the results for the mask of its picture (H, W, 3)."""
    try:
        mask, turns = read_mask(path), stored_orientation(result.picture.path)
        turns_fit = mask.shape == turned(image, turns).shape[:2] if turns >= 5 else mask.shape == image.shape[:2]
        was_turned = turns_fit and mask.shape != image.shape[:2]
        mask = turned(mask, turns) if was_turned else mask
        return replace(
            result,
            problems=(*result.problems, *_mask_problems(path, mask, image)),
            mask_sha256=sha256_of(path),
            graded_mask=_is_graded(path),
            covering_mask=bool(mask.mean() > 0.5),
            turned_mask=was_turned,
            doubtful_turn=turns > 1 and turns_fit and not was_turned and stored_orientation(path) == 1,
            beside=_place_beside(mask, image) if mask.shape == image.shape[:2] and mask.any() else "",
        )
    except (OSError, UserError) as error:
        return replace(result, problems=(*result.problems, f"{error}; replace the file"))


def _with_drawing(result: Examination, annotation: Annotation, image: NDArray, boxes: BoxMasks) -> Examination:
    """The examination with the mask that is drawn from the annotation of its picture (H, W, 3)."""
    try:
        (height, width), turns = image.shape[:2], stored_orientation(result.picture.path)
        files = [one.shape.path for one in annotation.regions if isinstance(one.shape, MaskFile)] if turns >= 5 else ()
        size = annotation.size or (read_mask(files[0]).shape[::-1] if files else None)
        as_stored = size == (height, width) != (width, height) and turns >= 5
        if size not in (None, (width, height)) and not as_stored:
            raise UserError(
                f"{annotation.source}: it was made for a picture of {size[0]} x {size[1]} px, {result.picture.path} "
                f"has {width} x {height} px; annotate the picture at its full size"
            )
        try:
            drawing = draw(annotation, turned(image, BACK.get(turns, turns)) if as_stored else image, boxes)
        except UserError as error:  # one file may be about thousands of pictures
            raise UserError(f"{result.picture.path}: {error}") from error
        labels = np.ascontiguousarray(turned(drawing.labels, turns) if as_stored else drawing.labels)
        return replace(
            result,
            problems=(*result.problems, *_mask_problems(annotation.source, labels > 0, image)),
            turned_mask=as_stored,
            doubtful_turn=turns > 1 and not as_stored and (turns < 5 or size is None or width == height),
            drawn=Drawn(png_bytes(labels), drawing.types, drawing.source, drawing.guessed, drawing.hidden),
        )
    except (OSError, UserError) as error:
        return replace(result, problems=(*result.problems, str(error)))


def _with_twin(result: Examination, path: Path) -> Examination:
    """The examination with the results for the twin of its picture."""
    try:
        height, width = read_pixels(path).shape[:2]
        result = replace(result, twin_sha256=sha256_of(path))
    except (OSError, UserError) as error:
        return replace(result, problems=(*result.problems, f"{error}; replace or remove the file"))
    if (width, height) == result.size:
        return result
    problem = (
        f"{path}: the twin is {width} x {height} px, its picture {result.size[0]} x {result.size[1]} px; replace it by "
        f"the same picture without the defect, or remove it"
    )
    return replace(result, problems=(*result.problems, problem))


def perceptual_hash(image: NDArray) -> int:
    """64 bits that change little when the picture does: the signs of its lowest frequencies about their median.

    image: (H, W, 3), of any depth. After Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", section 3.2.1: discrete cosine transform of the 32 x 32 px thumbnail, the lowest 8 x 8 coefficients that
    vary along both axes. So patterns of rows or columns alone, as stripes, are all alike, and so are even pictures.
    """
    # Thumbnail first, grey second: the other way around would touch every pixel twice.
    pixels = image if image.dtype == np.uint8 else image.astype(np.float32)
    thumbnail = cv2.cvtColor(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    lowest = cv2.dct(thumbnail.astype(np.float32))[1:9, 1:9]
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def _mask_problems(path: Path, mask: Mask, image: NDArray) -> list[str]:
    """What is wrong with the mask of a picture: (H, W) bool and (H, W, 3)."""
    (rows, columns), (height, width) = mask.shape, image.shape[:2]
    if mask.shape != (height, width):
        return [
            f"{path}: the mask is {columns} x {rows} px, its picture {width} x {height} px; draw the mask on the "
            f"picture at its full size"
        ]
    if not mask.any():
        return [f"{path}: the mask is empty; mark the defect, or move its picture to the good ones"]
    if mask.all():
        return [f"{path}: the mask marks the whole picture; mark only the defect (0 means no defect)"]
    return []


def _place_beside(mask: Mask, image: NDArray) -> str:
    """The part of the picture with content, if the mask lies wholly in its uniform margin; else ""."""
    left, top, wide, high = cv2.boundingRect((image != image[0, 0]).any(axis=2).astype(np.uint8))
    if mask[top : top + high, left : left + wide].any():
        return ""
    return f"x {left} to {left + wide}, y {top} to {top + high}"


def _is_graded(path: Path) -> bool:
    """Whether an 8-bit mask holds values other than 0 and 255; indices of a palette are not grey values."""
    mask = decode(path)
    return mask.mode in {"L", "RGB"} and bool(np.reshape(mask.histogram(), (-1, 256))[:, 1:255].any())


def _is_utf8(path: Path | None) -> bool:
    """Whether a path, if any, can be encoded as UTF-8; names from old archives may have other bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
