"""Every synthetic sample as data and small pictures for the report's page, as many as fit into a bound of bytes."""

import base64
import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from lib.core.geometry import RGB, Mask, Window, crop, resize_defects, shrunk, window_around
from lib.core.images import read_image, read_mask, recent
from lib.core.params import Params, WindowParams
from lib.core.records import Sample, Synthetic, by_id, read_records
from lib.core.runtime import progress

THUMB = 128  # px; a window up to this side is its own thumbnail
VIEW = 512  # px; larger windows are shrunk to it, and the page says by how much
QUALITY = (
    90  # of WebP: pixels that good and painted picture share then differ by 1.5 of 255, mean of cutpaste's samples
)
SAFE = 2**53 - 1  # the largest integer up to which JavaScript's numbers are exact
VERDICTS = ("accepted", "rejected", "failed")

Answers = Mapping[str, Mapping[str, list[Synthetic]]]  # by generator and category


def read_answers(params: Params) -> dict[str, dict[str, list[Synthetic]]]:
    """The judged samples of every generator and category that params.yaml names, in the order of their placements."""
    return {
        generator: {
            category: sorted(
                read_records(Path(f"data/masks/{generator}/{category}/manifest.jsonl"), Synthetic),
                key=lambda record: record.placement,
            )
            for category in params.dataset.categories
        }
        for generator in params.generators
    }


def outcome(record: Synthetic) -> str:
    """One of VERDICTS: a request without a picture failed, whatever else its record says."""
    if record.image is None:
        return "failed"
    return "accepted" if record.accepted else "rejected"


def outcomes(answers: Answers) -> pd.DataFrame:
    """Requests by generator, category and defect type: how many, and what became of them, with reasons."""
    rows = []
    for generator, of_category in answers.items():
        for category, records in of_category.items():
            for name in sorted({record.defect_type for record in records}):
                of_type = [record for record in records if record.defect_type == name]
                counts = Counter(map(outcome, of_type))
                reasons = Counter(record.reason for record in of_type if record.reason)
                rows.append(
                    {
                        "generator": generator,
                        "category": category,
                        "type": name,
                        "asked": len(of_type),
                        **{verdict: counts[verdict] for verdict in VERDICTS},
                        "because": "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "-",
                    }
                )
    return pd.DataFrame(rows)


class Pictures:
    """Pictures as Base64 of WebP, each once: a good window serves all generators that painted into it."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.bytes = 0  # that they take on the page
        self._places: dict[str, int] = {}

    def add(self, image: RGB) -> int:
        """Where an (H, W, 3) uint8 picture stands in the list."""
        text = base64.b64encode(webp_bytes(image, QUALITY)).decode()
        if text not in self._places:
            self._places[text] = len(self.encoded)
            self.encoded.append(text)
            self.bytes += len(text) + 3  # quotes and comma
        return self._places[text]

    def keep(self, count: int) -> None:
        """Forget all but the first `count`."""
        for text in self.encoded[count:]:
            del self._places[text]
            self.bytes -= len(text) + 3
        del self.encoded[count:]


def webp_bytes(image: RGB, quality: int) -> bytes:
    """(H, W, 3) uint8 as lossy WebP."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()


def outline_in(mask: Mask, place: Window, side: int) -> str:
    """The `outline` of what lies of a mask in a window that is shown with `side` px; thin lines stay whole."""
    return outline(resize_defects(crop(mask, place), side, side))


def outline(mask: Mask) -> str:
    """The contours of a mask (H, W) bool, those of holes, too, as the `d` of an SVG path in quarters of a pixel.

    It runs a quarter of a pixel inside of the mask's border, so that a single pixel has an outline, too. Empty when
    the mask is.
    """
    twice = np.pad(mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    paths = []
    for contour in contours:
        points = (
            2 * contour[:, 0].astype(int) - 1
        )  # pixel n of `twice`, padded by 1, has its middle at 2 n - 1 quarters
        steps = np.diff(points, axis=0)
        paths.append("M{},{}l".format(*points[0]) + " ".join(f"{x},{y}" for x, y in steps) + "z")
    return "".join(paths)


def gallery(params: Params, answers: Answers, room: int) -> tuple[dict[str, Any], str]:
    """What the page's script shows, fit for JSON and at most `room` bytes of it, and a sentence on what it leaves out.

    Placements are taken in turns of category and defect type, each through all generators, until the room is full: so
    every type and generator has as many as the others. Keys: `samples`, each with its whole `record`, `verdict`,
    `like_part`, in which the real defect is that its placement was drawn from,
    numbers of its `good`, `painted` and `thumb` in `pictures` (None where there is none), `side` of the window in px,
    `zoom` at which it is embedded, `outline` of the mask in quarters of an embedded pixel.
    """
    pictures, samples, size = Pictures(), [], 0
    total = sum(len(records) for of_category in answers.values() for records in of_category.values())
    real = {
        category: by_id(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample))
        for category in params.dataset.categories
    }
    read = recent(read_image)
    for requests in progress(_in_turns(answers), "thumbnails"):
        count, entries = len(pictures.encoded), []
        for record in requests:
            entries.append(_entry(record, real[record.category], params.window, pictures, read))
        size += sum(len(htmlsafe_json_dumps(entry)) + 1 for entry in entries)
        if size + pictures.bytes > room:
            pictures.keep(count)
            break
        samples += entries
    content = {"samples": samples, "pictures": pictures.encoded}
    if len(samples) == total:
        return content, f"All {total} samples are here."
    each = Counter(entry["record"]["generator"] for entry in samples)
    return content, (
        f"{len(samples)} of {total} samples are here, at most {max(each.values(), default=0)} of each generator, since "
        "the page has a bound on its size: the first placements of every defect type. Counts and distributions are of "
        "all of them."
    )


def _in_turns(answers: Answers) -> Iterator[list[Synthetic]]:
    """The answers to one placement at a time, the first of each category and defect type, then the second ones."""
    groups: dict[tuple[str, str], dict[str, list[Synthetic]]] = {}
    for of_category in answers.values():
        for category, records in of_category.items():
            for record in records:
                group = groups.setdefault((category, record.defect_type), {})
                group.setdefault(record.placement, []).append(record)
    queues = [[group[name] for name in sorted(group)] for _, group in sorted(groups.items())]
    for turn in zip_longest(*queues):
        yield from (requests for requests in turn if requests is not None)


def _entry(
    record: Synthetic,
    real: Mapping[str, Sample],
    window: WindowParams,
    pictures: Pictures,
    read: Callable[[Path], RGB],
) -> dict[str, Any]:
    """One sample as the page's script reads it; its pictures are put among the others."""
    painted = None if record.image is None else read_image(Path(record.image))
    good = _good(record, real, read)
    entry: dict[str, Any] = {"record": _exact(dataclasses.asdict(record)), "verdict": outcome(record)}
    entry["like_part"] = real[record.like].split
    entry |= {"good": None, "painted": None, "thumb": None, "side": 0, "zoom": 1.0, "outline": ""}
    images = [image for image in (painted, good) if image is not None]
    if not images:
        return entry
    place = window_around(record.box, images[0].shape, window.context, window.min_side)
    side = min(place.side, VIEW)
    entry |= {"side": place.side, "zoom": round(side / place.side, 4)}
    for name, image in (("good", good), ("painted", painted)):
        if image is not None:
            entry[name] = pictures.add(shrunk(crop(image, place), side))
    if side > THUMB:
        entry["thumb"] = pictures.add(shrunk(crop(images[0], place), THUMB))
    else:
        entry["thumb"] = entry["good"] if painted is None else entry["painted"]
    if record.mask is not None:
        entry["outline"] = outline_in(read_mask(Path(record.mask)), place, side)
    return entry


def _exact(value: Any) -> Any:
    """The same JSON with integers that a browser would round, such as seeds, as text."""
    if isinstance(value, dict):
        return {key: _exact(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(one) for one in value]
    return str(value) if isinstance(value, int) and abs(value) > SAFE else value


def _good(record: Synthetic, real: Mapping[str, Sample], read: Callable[[Path], RGB]) -> RGB | None:
    """The good picture, or the twin that a generator with a background of its own made; None if there is none."""
    if record.normal is not None:
        return read(Path(real[record.normal].image))
    twin = Path(f"data/synth/{record.generator}/{record.category}/normals/{record.placement}.png")
    return read_image(twin) if twin.exists() else None
