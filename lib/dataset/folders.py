"""Folders of pictures, one per defect type, and of their masks, as in MVTec AD and in plain folders.

Good pictures are in a folder `good`, `ok` or `normal`. A mask is named `<stem>_mask` or, in a folder of masks or next
to a JPEG, also `<stem>`. Names of types and pictures may be any: ids have ones that resemble them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.core.errors import shortlist
from lib.core.images import SUFFIXES
from lib.core.records import GOOD
from lib.dataset.findings import Findings, natural_key
from lib.dataset.pictures import TEST, TRAIN, Picture, TypeNames, distinct, fits, fitted, is_good

TWINS = "twins"
MASK_FOLDERS = ("ground_truth", "masks")
MASK_ENDING = "_mask"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Folders(NamedTuple):
    """The folders of one category: of pictures, each with its part (`train`, `test` or nothing), and of masks."""

    base: Path
    pictures: tuple[tuple[str, Path], ...]
    defects: Path  # holds a folder of pictures for each defect type
    masks: tuple[Path, ...]  # each holds a folder of masks for each defect type
    others: tuple[Path, ...] = ()  # folders that nothing reads

    def masks_of(self, defect_type: str) -> list[Path]:
        """Where masks of a defect type may lie."""
        return [folder / defect_type for folder in self.masks]


def read_folders(layout: Folders, findings: Findings) -> list[Picture]:
    """The pictures of a category's folders, in natural order within each folder.

    Adds problems that the names show to the findings: pictures without masks, masks without pictures, files that are
    not read; and which names are other ones in ids.
    """
    layout = layout._replace(
        pictures=tuple((part, folder) for part, folder in layout.pictures if folder not in findings.apart),
        others=tuple(folder for folder in layout.others if folder not in findings.apart),
    )
    _report_unread(layout, findings)
    pictures: list[Picture] = []
    type_name = TypeNames({folder.name for _, folder in layout.pictures if fits(folder.name)})
    for part, folder in layout.pictures:
        if part == TRAIN and not is_good(folder.name):
            findings.problems.append(f"{folder}: defects in train/; move them to {layout.defects / folder.name}")
        else:
            defect_type = GOOD if is_good(folder.name) else type_name(folder.name)
            pictures += _read_folder(layout, part, folder, defect_type, findings)
    _report_masks_without_pictures(layout, findings)
    type_name.warn(findings)
    if renamed := [f"{one.path.name!r} is {one.name}" for one in pictures if one.name]:
        findings.warnings.append(
            f"{layout.base}: {len(renamed)} picture(s) have names unfit for an id: {shortlist(renamed)}"
        )
    return pictures


def defects_with_masks(folder: Path, masks: Path, defect_type: str, part: str, findings: Findings) -> list[Picture]:
    """The pictures of a folder of defects, each with the mask of its name, or of `<stem>_mask`, in a folder of masks.

    Adds one problem to the findings for all that have none.
    """
    files = picture_files(masks, findings) if masks.is_dir() else []
    by_stem: dict[str, Path] = {}
    for one in files:
        if (first := by_stem.setdefault(one.stem.removesuffix(MASK_ENDING), one)) is not one:
            findings.problems.append(f"{one}: a second mask beside {first.name}; remove one of them")
    images = picture_files(folder, findings) if folder.is_dir() else []
    note_without_mask([image for image in images if image.stem not in by_stem], masks, findings)
    return [Picture(defect_type, part, image, by_stem.get(image.stem)) for image in images]


def note_without_mask(images: Sequence[Path], place: Path, findings: Findings, named: str = "") -> None:
    """One problem for all pictures whose masks are missing at a place; named: what their masks are to be called."""
    if images:
        names = shortlist([image.name for image in images])
        findings.problems.append(
            f"{images[0].parent}: {len(images)} picture(s) without a mask: {names}; add masks to {place}{named}"
        )


def _report_unread(layout: Folders, findings: Findings) -> None:
    """Warn of pictures that lie beside the folders that are read."""
    above = {layout.base, *(folder.parent for _, folder in layout.pictures)}
    above |= {layout.base / part for part in (TRAIN, TEST) if (layout.base / part).is_dir()}
    for folder in sorted(above):
        files = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file()]
        if strays := sorted((one.name for one in files if not one.name.startswith(".")), key=natural_key):
            findings.warnings.append(
                f"{folder}: not read: {len(strays)} picture(s) that lie in no folder of a type: {shortlist(strays)}"
            )
    if others := [folder.name for folder in layout.others]:
        findings.warnings.append(
            f"{layout.base}: not read: the folder(s) {shortlist(others)}; beside {TRAIN} and {TEST}, pictures belong "
            f"into {TRAIN}/{GOOD}, {TEST}/{GOOD} and {TEST}/<type>, masks into {MASK_FOLDERS[0]}/<type>"
        )


def _read_folder(layout: Folders, part: str, folder: Path, defect_type: str, findings: Findings) -> list[Picture]:
    """The pictures of one folder, each with its mask and its twin; notes what is wrong with their names."""
    files = picture_files(folder, findings)
    masks = [] if part else _masks_beside(files)
    are_masks = set(masks)
    images = [file for file in files if file not in are_masks]
    for place in layout.masks_of(folder.name):
        if part != TRAIN and place.is_dir():
            masks += picture_files(place, findings)
    if not images:
        findings.warnings.append(f"{folder}: no picture in it; nothing is read from this folder")
    if defect_type != GOOD and len(images) > 1 and not masks:
        findings.problems.append(_all_masks_missing(layout, folder, images))
        return [Picture(defect_type, part, image) for image in images]
    mask_of = _match_masks(folder, images, masks, findings)
    for image in images if defect_type != GOOD else []:
        if image not in mask_of:
            advice = f"add a mask named {image.stem}{MASK_ENDING}.png, or move the picture to the good ones"
            findings.problems.append(f"{image}: a defect picture without a mask; {advice}")
    twin_of = _twins_of(layout, part, folder.name, images)
    name_of = _names(images)
    return [
        Picture(defect_type, part, image, mask_of.get(image), twin_of.get(image), name=name_of.get(image))
        for image in images
    ]


def _names(images: Sequence[Path]) -> dict[Path, str]:
    """Names for the ids of those pictures of a folder whose own ones do not fit."""
    fit = {image.stem.casefold() for image in images if FILE_NAME.fullmatch(image.name)}
    names: dict[Path, str] = {}
    for image in images:
        if not FILE_NAME.fullmatch(image.name):
            names[image] = distinct(fitted(image.stem), fit)
            fit.add(names[image].casefold())
    return names


def _masks_beside(files: Sequence[Path]) -> list[Path]:
    """The masks among the pictures of a folder: `<stem>_mask`, or a PNG that has the stem of a JPEG or a BMP."""
    others = {file.stem for file in files if file.suffix.lower() in (".jpg", ".jpeg", ".bmp")}
    return [
        file
        for file in files
        if file.stem.endswith(MASK_ENDING) or (file.suffix.lower() == ".png" and file.stem in others)
    ]


def _all_masks_missing(layout: Folders, folder: Path, images: Sequence[Path]) -> str:
    """One problem for a whole folder, instead of one for each of its pictures."""
    places = " or ".join(map(str, layout.masks_of(folder.name)))
    unread = f" (not read: {shortlist([other.name for other in layout.others])})" if layout.others else ""
    return (
        f"{folder}: {len(images)} defect pictures and not one mask; add masks to {places}, named like "
        f"{images[0].stem}{MASK_ENDING}.png, or move the pictures to the good ones{unread}"
    )


def _match_masks(folder: Path, images: Sequence[Path], masks: Sequence[Path], findings: Findings) -> dict[Path, Path]:
    """The mask of each picture of a folder, by their names; notes masks that have no picture, or a picture twice."""
    if is_good(folder.name) and masks:
        findings.warnings.append(f"{masks[0].parent}: {len(masks)} masks of good pictures are ignored")
        return {}
    by_stem = {image.stem: image for image in images}
    mask_of: dict[Path, Path] = {}
    for mask in masks:
        stem = mask.stem.removesuffix(MASK_ENDING)
        image = by_stem.get(mask.stem) or by_stem.get(stem)
        if image is None:
            findings.problems.append(
                f"{mask}: a mask without a picture; add {stem}.png (or .jpg, ...) to {folder} or remove the mask"
            )
        elif image in mask_of:
            findings.problems.append(f"{mask}: a second mask of {image}, beside {mask_of[image]}; remove one of them")
        else:
            mask_of[image] = mask
    return mask_of


def _twins_of(layout: Folders, part: str, folder: str, images: Sequence[Path]) -> dict[Path, Path]:
    """The defect-free twins that pictures of a folder in `test` may have, by the pictures."""
    twins = layout.base / TWINS / folder
    if part != TEST or is_good(folder) or not twins.is_dir():
        return {}
    return {image: twins / image.name for image in images if (twins / image.name).exists()}


def _report_masks_without_pictures(layout: Folders, findings: Findings) -> None:
    """Note the masks of defect types that have no folder of pictures."""
    types = {folder.name for part, folder in layout.pictures if part != TRAIN}
    for masks in layout.masks:
        for folder in folders(masks) if masks.is_dir() else []:
            if folder.name not in types and folder not in layout.masks:
                _match_masks(layout.defects / folder.name, [], picture_files(folder, findings), findings)


def folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in natural order."""
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: natural_key(entry.name),
    )


def picture_files(folder: Path, findings: Findings) -> list[Path]:
    """The visible pictures in a folder, in natural order; a dangling link counts, so that it is read and refused."""
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: natural_key(e.name))
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    pictures = set(files)
    if ignored := [entry.name for entry in entries if entry not in pictures]:
        findings.warnings.append(f"{folder}: not read, since no {', '.join(SUFFIXES)} file: {shortlist(ignored)}")
    return files
