"""Recognise the layout of a data set, and locate its categories, before any picture is opened.

A category is a folder in the data set. If the whole data set is one category (for example a COCO file and its
pictures), `dataset.categories` gives its name. Each layout is a file in `lib/dataset/formats`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lib.core.errors import shortlist
from lib.core.params import Layout
from lib.core.records import GOOD
from lib.dataset.findings import DatasetProblems, Findings
from lib.dataset.folders import folders
from lib.dataset.formats import (
    btad,
    coco,
    cvat,
    deeppcb,
    kolektor_sdd2,
    label_studio,
    labelme,
    mvtec,
    mvtec_3d,
    mvtec_ad2,
    mvtec_loco,
    plain,
    table,
    visa,
    voc,
    yolo,
)
from lib.dataset.pictures import Picture, fits, fitted, is_good
from lib.dataset.reading import unreadable
from lib.dataset.validation import DEFECTS, GOODS


class Format(NamedTuple):
    """How a layout is recognised (the reason, or None), how a category is read, and, for messages, how good pictures
    and defects are marked."""

    recognises: Callable[[Path], str | None]
    read: Callable[[Path, Findings], list[Picture]]
    goods: str
    defects: str


# In the order in which they are tried, the most specific first. Each is one file.
FORMATS: dict[str, Format] = {
    module.__name__.rpartition(".")[2]: Format(
        module.recognises, module.read, getattr(module, "GOODS", GOODS), getattr(module, "DEFECTS", DEFECTS)
    )
    for module in (
        deeppcb,
        visa,
        mvtec_ad2,
        mvtec_loco,
        mvtec_3d,
        btad,
        kolektor_sdd2,
        coco,
        label_studio,
        labelme,
        cvat,
        voc,
        yolo,
        mvtec,
        table,
        plain,
    )
}


AS_TOLD = "as dataset.layout says"
ANNOTATIONS = ("coco", "cvat", "deeppcb", "label_studio", "labelme", "table", "voc", "yolo")  # of a data set as a whole
# Subfolders of a folder that is one of several categories.
CATEGORY_SIGNS = (f"train/{GOOD}", f"test/{GOOD}", "train/ok", "Data/Images/Normal")


class Place(NamedTuple):
    """The folder of a category, its layout, and the reason for it."""

    base: Path
    layout: str
    reason: str


def locate(root: Path, category: str, layout: Layout = "auto") -> Place:
    """The folder and the layout of a category, with the reason.

    Raises DatasetProblems if its name is invalid, if the folder is missing and the data set as a whole is not one
    category, and if no layout is recognised.
    """
    if not fits(category):
        raise DatasetProblems([f"the category {category!r}: no name of at most 64 letters, digits, _ and -"])
    base = root / category
    if base.is_dir():
        if layout != "auto":
            return Place(base, layout, FORMATS[layout].recognises(base) or AS_TOLD)
        for name, one in FORMATS.items():
            if reason := one.recognises(base):
                return Place(base, name, reason)
        raise DatasetProblems(
            [
                f"{base}: holds neither pictures in folders nor annotations of any known layout",
                *unreadable(base),
                *unreadable(root, depth=0),  # it may be a folder of pictures that a file above tells of
            ]
        )
    if root.is_dir() and (place := whole(root, layout)):
        return place
    names = [folder.name for folder in folders(root)] if root.is_dir() else []
    content = shortlist(names) if names else "no folders" if root.is_dir() else "nothing, it is missing too"
    raise DatasetProblems(
        [
            f"{base}: this folder is missing; {root} holds: {content}; name a category that is there, or "
            f"correct dataset.path in params.yaml, or run the stage that makes the data set",
            *unreadable(root),  # of a data set that is one category as a whole, under any name
        ]
    )


def whole(root: Path, layout: Layout = "auto") -> Place | None:
    """The layout of a data set that is one category as a whole; None if its folders are categories."""
    if layout in ANNOTATIONS:
        return Place(root, layout, FORMATS[layout].recognises(root) or AS_TOLD)
    if any((folder / sign).is_dir() for folder in folders(root) for sign in CATEGORY_SIGNS):
        return None
    for name, one in FORMATS.items():
        # Plain folders may be types, or categories of which the requested one is missing.
        # A table next to folders with good pictures may be that of their capture groups.
        sure = {
            "plain": any(is_good(folder.name) for folder in folders(root)),
            "table": not any((folder / GOOD).is_dir() for folder in folders(root)),
        }.get(name, True)
        if sure and layout in ("auto", name) and (reason := one.recognises(root)):
            return Place(root, name, reason)
    return None


def categories_of(root: Path, layout: Layout = "auto") -> list[str]:
    """The categories of a data set: its folders, or one that has the folder's own name."""
    if whole(root, layout):
        return [fitted(root.resolve().name)]
    subfolders = folders(root)
    beside = {visa.BESIDE} if any(map(visa.recognises, subfolders)) else set()
    return [folder.name for folder in subfolders if folder.name not in beside]
