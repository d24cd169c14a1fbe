"""Which layout a data set has, by which sign, and its pictures, masks and groups before any picture is opened.

A category is a folder in the data set, or, where the whole of it is one category (a COCO file and its pictures, say),
whatever `dataset.categories` calls it. Each layout is a file in `lib/dataset/formats`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lib.core.params import Layout
from lib.dataset.findings import DatasetProblems, Findings, shortlist
from lib.dataset.folders import folders
from lib.dataset.formats import deeppcb, mvtec, plain
from lib.dataset.pictures import Picture, fits


class Format(NamedTuple):
    """How a layout is known (the reason, or None), and how a category of it is read."""

    recognises: Callable[[Path], str | None]
    read: Callable[[Path, Findings], list[Picture]]


# In the order in which they are tried: the more particular sign first. Each is one file.
FORMATS: dict[str, Format] = {
    module.__name__.rpartition(".")[2]: Format(module.recognises, module.read)
    for module in (
        deeppcb,
        mvtec,
        plain,
    )
}


class Place(NamedTuple):
    """Where a category lies, and what it is taken for."""

    base: Path
    layout: str
    reason: str


def locate(root: Path, category: str, layout: Layout = "auto") -> Place:
    """The folder and the layout of a category, with the reason why it is taken for that.

    Raises DatasetProblems when its name is unfit, when there is no such folder and the data set as a whole has no
    layout that is one category, and when its layout cannot be told.
    """
    if not fits(category):
        raise DatasetProblems([f"the category {category!r}: no name of at most 64 letters, digits, _ and -"])
    base = root / category
    if base.is_dir():
        if layout != "auto":
            return Place(base, layout, FORMATS[layout].recognises(base) or "as dataset.layout says")
        for name, one in FORMATS.items():
            if reason := one.recognises(base):
                return Place(base, name, reason)
        raise DatasetProblems([f"{base}: holds neither pictures in folders nor annotations of any known layout"])
    for name, one in FORMATS.items() if root.is_dir() else ():
        # Plain folders beside each other are categories, of which one is missing.
        if name != "plain" and layout in ("auto", name) and (reason := one.recognises(root)):
            return Place(root, name, reason)
    content = shortlist([folder.name for folder in folders(root)]) if root.is_dir() else "nothing, it is missing too"
    raise DatasetProblems(
        [
            f"{base}: this folder is missing; {root} holds: {content}; correct dataset.path or dataset.categories in "
            f"params.yaml, or run the stage that makes the data set"
        ]
    )


def read_category(root: Path, category: str, findings: Findings, layout: Layout = "auto") -> list[Picture]:
    """The pictures of one category, in the order of its layout.

    Adds to the findings what names and annotations alone tell. Raises DatasetProblems as `locate` does.
    """
    place = locate(root, category, layout)
    return FORMATS[place.layout].read(place.base, findings)
