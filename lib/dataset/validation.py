"""Opens every picture and mask of a category and tells all that is wrong with them, in one go."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.images import decode, read_image, read_mask
from lib.core.records import GOOD
from lib.core.runtime import progress
from lib.dataset.layouts import Findings, Picture, shortlist

THREADS = 8  # more would gain little, and each may hold a picture of a hundred million pixels


@dataclass(frozen=True)
class Examination:
    """What opening a picture, its mask and its twin told; only `problems` counts when there are any."""

    picture: Picture
    problems: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # width, height in px, upright
    sha256: str = ""  # of the file's bytes
    mask_sha256: str | None = None
    twin_sha256: str | None = None
    pixels: str = ""  # digest of the decoded picture: equal for equal pictures in different files
    perceptual_hash: int = 0
    graded_mask: bool = False  # holds values between 0 and 255
    covering_mask: bool = False  # marks more than half of the picture


def validate(pictures: Sequence[Picture], findings: Findings) -> list[Examination]:
    """Examine all pictures, on several threads, and add to the findings what is wrong with them, alone and together.

    Looks for unreadable files, masks that do not fit or mark nothing, ids that clash, the same picture twice, and too
    few pictures of a kind.
    """
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        examinations = list(progress(pool.map(examine, pictures), "pictures", total=len(pictures)))
    findings.problems += [problem for one in examinations for problem in one.problems]
    _note_repetitions(examinations, findings)
    _note_doubtful_masks(examinations, findings)
    _note_scarcity(pictures, findings)
    return examinations


def _note_repetitions(examinations: Sequence[Examination], findings: Findings) -> None:
    """Note ids and pictures that occur twice."""
    for first, second in _repetitions((one.picture.id.casefold(), one.picture) for one in examinations):
        findings.problems.append(
            f"{first.path} and {second.path}: names that differ only in their ending, in upper and lower case or in "
            f"their dashes would give both the id {second.id}; rename one"
        )
    for first, second in _repetitions((one.pixels, one.picture) for one in examinations if one.pixels):
        findings.problems.append(f"{first.path} and {second.path}: the same picture twice; remove one")


def _note_doubtful_masks(examinations: Sequence[Examination], findings: Findings) -> None:
    """Warn of masks with grey values, and of masks that may be inverted."""
    if graded := [str(one.picture.mask) for one in examinations if one.graded_mask]:
        findings.warnings.append(
            f"{len(graded)} mask(s) hold values other than 0 and 255; every value but 0 counts as defect (in a JPEG, "
            f"every value above 127), even where it looks black: {shortlist(graded)}"
        )
    if covering := [str(one.picture.mask) for one in examinations if one.covering_mask]:
        findings.warnings.append(
            f"{len(covering)} mask(s) mark more than half of their picture; every value but 0 counts as defect, so if "
            f"the defect is black in them, invert them: {shortlist(covering)}"
        )


def _note_scarcity(pictures: Sequence[Picture], findings: Findings) -> None:
    """Note kinds of pictures that are missing, or too few to be split."""
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


def examine(picture: Picture) -> Examination:
    """Open a picture, its mask and its twin. Anything wrong is reported in `problems`, never raised."""
    try:
        image = read_image(picture.path)
        sha256 = _sha256(picture.path)
    except (OSError, UserError) as error:
        return Examination(picture, (f"{error}; replace or remove the file",))
    height, width = image.shape[:2]
    result = Examination(
        picture,
        size=(width, height),
        sha256=sha256,
        pixels=hashlib.sha256(f"{width}x{height}".encode() + image.tobytes()).hexdigest(),
        perceptual_hash=perceptual_hash(image),
    )
    if picture.mask is not None:
        result = _with_mask(result, picture.mask, image)
    return result if picture.twin is None else _with_twin(result, picture.twin)


def _with_mask(result: Examination, path: Path, image: RGB) -> Examination:
    """The examination of a picture with that of its mask."""
    try:
        mask = read_mask(path)
        return replace(
            result,
            problems=(*result.problems, *_mask_problems(path, mask, image)),
            mask_sha256=_sha256(path),
            graded_mask=_is_graded(path),
            covering_mask=bool(mask.mean() > 0.5),
        )
    except (OSError, UserError) as error:
        return replace(result, problems=(*result.problems, f"{error}; replace the file"))


def _with_twin(result: Examination, path: Path) -> Examination:
    """The examination of a picture with that of its twin."""
    try:
        height, width = read_image(path).shape[:2]
        result = replace(result, twin_sha256=_sha256(path))
    except (OSError, UserError) as error:
        return replace(result, problems=(*result.problems, f"{error}; replace or remove the file"))
    if (width, height) == result.size:
        return result
    problem = (
        f"{path}: the twin is {width} x {height} px, its picture {result.size[0]} x {result.size[1]} px; it has to be "
        f"the same picture without the defect, or not be there"
    )
    return replace(result, problems=(*result.problems, problem))


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
    left, top, wide, high = cv2.boundingRect((image != image[0, 0]).any(axis=2).astype(np.uint8))
    if not mask[top : top + high, left : left + wide].any():
        return [
            f"{path}: the mask touches nothing: it lies wholly in the picture's one-coloured margin, outside of "
            f"x {left} to {left + wide}, y {top} to {top + high}; is it the mask of another picture?"
        ]
    return []


def _is_graded(path: Path) -> bool:
    """Whether an 8-bit mask holds values other than 0 and 255; a palette's numbers are names and not grey values."""
    mask = decode(path)
    return mask.mode in {"L", "RGB"} and bool(np.reshape(mask.histogram(), (-1, 256))[:, 1:255].any())


def _repetitions(pairs: Iterable[tuple[str, Picture]]) -> list[tuple[Picture, Picture]]:
    """Pictures whose key an earlier one has, too, each behind the first one with that key."""
    first: dict[str, Picture] = {}
    return [(first[key], picture) for key, picture in pairs if first.setdefault(key, picture) is not picture]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
