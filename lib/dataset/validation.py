"""Opens every picture and mask of a category and finds all that is wrong with them, in one go."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lib.core.geometry import RGB, Mask
from lib.core.images import decode, read_image, read_mask
from lib.core.records import GOOD
from lib.core.runtime import progress
from lib.dataset.layouts import Findings, Picture, listed

THREADS = 8  # more would gain little, and each may hold a picture of a hundred million pixels


@dataclass(frozen=True)
class Examined:
    """What opening a picture and its mask told; only `problems` counts when there are any."""

    picture: Picture
    problems: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # width, height in px, upright
    sha256: str = ""  # of the file's bytes
    mask_sha256: str | None = None
    twin_sha256: str | None = None
    pixels: str = ""  # digest of the decoded picture: equal for equal pictures in different files
    perceptual_hash: int = 0
    graded_mask: bool = False
    covering_mask: bool = False  # marks more than half of the picture


def validate(pictures: Sequence[Picture], findings: Findings) -> list[Examined]:
    """Examine all pictures, on several threads, and add to the findings what is wrong with them, alone and together.

    Looks for unreadable files, masks that do not fit or mark nothing, ids that clash, the same picture twice, and too
    few pictures of a kind.
    """
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        examined = list(progress(pool.map(examine, pictures), "pictures", total=len(pictures)))
    findings.problems += [problem for one in examined for problem in one.problems]
    for first, second in _twice((picture.id.casefold(), picture) for picture in pictures):
        findings.problems.append(
            f"{first.path} and {second.path}: names that differ only in their ending, in upper and lower case or in "
            f"their dashes would give both the id {second.id}; rename one"
        )
    for first, second in _twice((one.pixels, one.picture) for one in examined if one.pixels):
        findings.problems.append(f"{first.path} and {second.path}: the same picture twice; remove one")
    if graded := [str(one.picture.mask) for one in examined if one.graded_mask]:
        findings.warnings.append(
            f"{len(graded)} mask(s) hold values other than 0 and 255; every value but 0 counts as defect (in a JPEG, "
            f"every value above 127), even where it looks black: {listed(graded)}"
        )
    if covering := [str(one.picture.mask) for one in examined if one.covering_mask]:
        findings.warnings.append(
            f"{len(covering)} mask(s) mark more than half of their picture; every value but 0 counts as defect, so if "
            f"the defect is black in them, invert them: {listed(covering)}"
        )
    number = Counter(picture.defect_type for picture in pictures)
    if not number[GOOD]:  # first, since it may be why so many have no mask
        findings.problems.insert(0, "no good pictures; add them to the folder `good` (`train/good` and `test/good`)")
    if not number.keys() - {GOOD}:
        findings.problems.append("no defect pictures; add them to a folder named like the type of defect")
    findings.problems += [
        f"the defect type {defect_type} has one picture; two are the least that training and test can share, and "
        f"three give selection one, too: add some, or remove the type"
        for defect_type, count in sorted(number.items())
        if defect_type != GOOD and count < 2
    ]
    return examined


def examine(picture: Picture) -> Examined:
    """Open a picture, its mask and its twin. Anything wrong is reported in `problems`, never raised."""
    try:
        image = read_image(picture.path)
        sha256 = hashlib.sha256(picture.path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        return Examined(picture, (f"{error}; replace or remove the file",))
    height, width = image.shape[:2]
    problems, graded, covering, mask_sha256, twin_sha256 = [], False, False, None, None
    if picture.mask is not None:
        try:
            mask = read_mask(picture.mask)
            problems, covering = _mask_problems(picture.mask, mask, image), bool(mask.mean() > 0.5)
            graded = _graded(picture.mask)
            mask_sha256 = hashlib.sha256(picture.mask.read_bytes()).hexdigest()
        except ValueError as error:
            problems = [f"{error}; replace the file"]
    if picture.twin is not None:
        try:
            high, wide = read_image(picture.twin).shape[:2]
            twin_sha256 = hashlib.sha256(picture.twin.read_bytes()).hexdigest()
            if (high, wide) != (height, width):
                problems.append(
                    f"{picture.twin}: the twin is {wide} x {high} px, its picture {width} x {height} px; it has to be "
                    f"the same picture without the defect, or not be there"
                )
        except (OSError, ValueError) as error:
            problems.append(f"{error}; replace or remove the file")
    pixels = hashlib.sha256(f"{width}x{height}".encode() + image.tobytes()).hexdigest()
    return Examined(
        picture,
        tuple(problems),
        (width, height),
        sha256,
        mask_sha256,
        twin_sha256,
        pixels,
        perceptual_hash(image),
        graded,
        covering,
    )


def perceptual_hash(image: RGB) -> int:
    """64 bits that change little when the picture does: the signs of its lowest frequencies about their median.

    image: (H, W, 3) uint8. After Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    section 3.2.1: discrete cosine transform of the 32 x 32 px thumbnail, 8 x 8 coefficients without the constant one.
    """
    # Thumbnail first, grey second: the other way around would touch every pixel twice.
    thumbnail = cv2.cvtColor(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    lowest = cv2.dct(thumbnail.astype(np.float32))[1:9, 1:9]
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def _mask_problems(path: Path, mask: Mask, image: RGB) -> list[str]:
    """What is wrong with the mask of a picture: (H, W) bool and (H, W, 3) uint8."""
    (rows, columns), (height, width) = mask.shape, image.shape[:2]
    if mask.shape != (height, width):
        turned = (
            "; turned by 90 degrees it would fit: the picture's EXIF tag turns it upright, so turn the mask too"
            if (columns, rows) == (height, width)
            else "; draw the mask on the picture at its full size"
        )
        return [f"{path}: the mask is {columns} x {rows} px, its picture {width} x {height} px{turned}"]
    if not mask.any():
        return [f"{path}: the mask is empty; mark the defect, or move its picture to the good ones"]
    if mask.all():
        return [f"{path}: the mask marks the whole picture; mark only the defect (0 means no defect)"]
    content = cv2.boundingRect((image != image[0, 0]).any(axis=2).astype(np.uint8))
    left, top, wide, high = content
    if not mask[top : top + high, left : left + wide].any():
        return [
            f"{path}: the mask touches nothing: it lies wholly in the picture's one-coloured margin, outside of "
            f"x {left} to {left + wide}, y {top} to {top + high}; is it the mask of another picture?"
        ]
    return []


def _graded(path: Path) -> bool:
    """Whether an 8-bit mask holds values other than 0 and 255; a palette's numbers are names and not grey values."""
    mask = decode(path)
    return mask.mode in {"L", "RGB"} and bool(np.reshape(mask.histogram(), (-1, 256))[:, 1:255].any())


def _twice(keyed: Iterable[tuple[str, Picture]]) -> list[tuple[Picture, Picture]]:
    """Pictures whose key was seen before, each behind the first one with that key."""
    first: dict[str, Picture] = {}
    return [(first[key], picture) for key, picture in keyed if first.setdefault(key, picture) is not picture]
