"""Sheets of places and of errors for the page, shrunk, as many as fit into a bound of bytes."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib.core.geometry import rescale
from lib.core.images import read_image
from lib.core.params import Params
from lib.report.gallery import webp_bytes
from lib.report.line import sizes_of_test

WIDTHS = (820, 640)  # px; of an embedded sheet; the smaller where not all of them fit
QUALITY = 80  # of WebP


class Sheet(NamedTuple):
    """A picture as a data URI, under its category and its name."""

    category: str
    name: str
    image: str


def error_sheets(params: Params, metrics: Path, scores: pd.DataFrame, room: int) -> tuple[list[Sheet], str]:
    """The worst predictions of every arm's first seed, and a sentence on what `room` bytes leave out.

    Names say how many pictures of the test part that seed missed, and of how many good ones it gave an alarm.
    scores: of `read_scores`.
    """
    first = scores[scores["seed"] == 0].set_index(["detector", "category", "arm", "metric"])["value"]

    def places() -> Iterator[tuple[str, str, Path]]:
        for category, sizes in sizes_of_test(params).items():
            for detector in params.detectors:
                for arm in params.arms(detector):
                    found, alarms = (first[detector, category, arm, m] for m in ("defects_alarmed", "good_alarmed"))
                    counts = [_of("missed", 1 - found, sizes.defects), _of("false alarms on", alarms, sizes.good)]
                    name = ", ".join([detector, arm, *filter(None, counts)])
                    yield category, name, metrics / "detection" / detector / category / arm / "worst.png"

    return _fitting(list(places()), room)


def place_sheets(params: Params, metrics: Path, room: int) -> tuple[list[Sheet], str]:
    """Where real defects lie and where new ones do, by category, and a sentence on what `room` bytes leave out."""
    files = [(name, name, metrics / "placements" / f"{name}.png") for name in params.dataset.categories]
    return _fitting(files, room)


def uri(kind: str, data: bytes) -> str:
    """The bytes of a picture as an address that holds it; kind: png or webp."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _of(what: str, share: float, count: int) -> str:
    """A share in [0, 1] as a count; empty where it is not known, or there is nothing to count."""
    return "" if pd.isna(share) or not count else f"{what} {round(share * count)} of {count}"


def _fitting(places: list[tuple[str, str, Path]], room: int) -> tuple[list[Sheet], str]:
    for width in WIDTHS:
        sheets = _at_width(places, width, room)
        if len(sheets) == len(places):
            return sheets, ""
    left = len(places) - len(sheets)
    return sheets, f"{left} of {len(places)} sheets are left out, since the page has a bound on its size."


def _at_width(places: list[tuple[str, str, Path]], width: int, room: int) -> list[Sheet]:
    """The first sheets that fit into `room` bytes, at most `width` px wide."""
    sheets: list[Sheet] = []
    for category, name, file in places:
        image = read_image(file)
        image = rescale(image, min(1.0, width / image.shape[1]))
        data = uri("webp", webp_bytes(image, QUALITY))
        room -= len(data)
        if room < 0:
            break
        sheets.append(Sheet(category, name, data))
    return sheets
