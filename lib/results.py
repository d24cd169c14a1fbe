"""Write the results of `lib.predict`: masks, outlines, heat maps, boxes, a table; refuse to overwrite other files."""

import csv
import io
import json
import math
import operator
import os
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import filelock
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Scores
from lib.core.images import outlined, png_bytes
from lib.core.runtime import write_bytes, write_json, write_text
from lib.intake import TABLE, Picture, Signature, signature
from lib.metrics.boxes import ScoredBox
from lib.plots import HEAT_COLOURS, heat_levels

OUTLINE = (255, 40, 40)
SUFFIXES = ("_mask.png", "_found.png", "_heat.png")  # behind the name of each picture
BOXES = "boxes.json"
RUN = "run.json"
LOCK = ".lib.predict.lock"  # hidden files are no pictures
TABLES = 9  # times as long as tables take to write, other work is done
# Run-length compression and one filter for all rows: half the time of the usual settings, and about the same size.
QUICK_PNG = (
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_SUB,
)
OLD_SUFFIXES = SUFFIXES[:2]  # of tables of three columns, which had no other files beside them


@dataclass(frozen=True)
class Row:
    """A line of the table. result: the name of the picture's files. Empty: not looked at yet, or nothing to say."""

    picture: str
    anomaly_score: str = ""
    defect_pixels: str = ""
    alarm: str = ""
    error: str = ""
    result: str = ""


COLUMNS = tuple(field.name for field in fields(Row))
CELLS = operator.attrgetter(*COLUMNS)  # dataclasses' astuple copies each value, which takes ten times as long


def heat_range(threshold: float) -> tuple[float, float]:
    """The scores that are black and pale yellow in a heat map: as far from the threshold, which has the colour in the
    middle, as that is from 0. A scale of the model, so that all pictures share it; every detector's scores start at 0.

    >>> heat_range(0.3), heat_range(-2.0), heat_range(0.0)
    ((0.0, 0.6), (-4.0, 0.0), (-1.0, 1.0))
    """
    reach = abs(threshold) or 1.0
    return threshold - reach, threshold + reach


@contextmanager
def one_at_a_time(out: Path) -> Iterator[None]:
    """Keep other processes from writing results into the folder, which is made. Raises UserError where one does, and
    where `out` is a file. A new folder that nothing was written into is removed."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the results")
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise UserError(f"{out}: nothing can be written there; change its permissions, or name another folder")
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{out}: another run writes its results there; wait for it, or name another folder") from None
    except OSError as error:  # some network drives have no locks
        warnings.warn(f"{out}: cannot be locked ({error}): see to it that no other run writes there", stacklevel=2)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not delete what is open
            (out / LOCK).unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # results are in it
                out.rmdir()


class Results:
    """The folder of results of one run.

    run: fit for JSON, what looked at the pictures. resume: go on with an earlier run, whose rows stay. Raises UserError
    where results are there to go on with that something else made.
    """

    def __init__(self, out: Path, run: dict[str, Any], resume: bool = False) -> None:
        self.out, self.run = out, run
        self.looks: dict[str, Signature] = {}  # of the pictures, as they were when they were looked at
        self.rows: dict[str, Row] = {}
        self.boxes: dict[str, list[dict[str, Any]]] = {}
        self.low, self.high = heat_range(run["threshold"])
        self.is_written = False
        self._written, self._took = -math.inf, 0.0  # seconds: when tables were written last, and how long it took
        if resume:
            self._resume()

    def _resume(self) -> None:
        there = [name for name in (TABLE, BOXES, RUN) if (self.out / name).exists()]
        if not there:
            return
        other = "of something else, or of another model"
        try:
            before = json.loads((self.out / RUN).read_text(encoding="utf-8"))
            self.looks = {name: (size, time) for name, (size, time) in before.pop("looks", {}).items()}
            before = {"types": [], "alarm_threshold": before["threshold"]} | before  # once there were neither
            same = before == self.run
            if all(before[key] == self.run[key] for key in ("detector", "weights", "types")):
                other = f"of this model with other thresholds (alarms from {before['alarm_threshold']:.6g} on)"
            answers = json.loads((self.out / BOXES).read_text(encoding="utf-8"))
            rows = read_rows(self.out)
            for answer in answers:
                self.boxes.setdefault(rows[answer["image_id"] - 1].result, []).append(answer)
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            same = False
        if not same:
            raise UserError(f"{self.out}: holds results {other}, such as {there[0]}; name another folder")
        self.rows = {row.result: row for row in rows}

    def owners(self) -> dict[str, str]:
        """The names of results, each with its picture."""
        return {name: row.picture for name, row in self.rows.items()}

    def done(self) -> dict[str, Signature]:
        """The pictures that were looked at, as they were then: they need not be looked at again unless they changed."""
        return {row.picture: self.looks[name] for name, row in self.rows.items() if row.alarm and name in self.looks}

    def expect(self, pictures: Iterable[Picture]) -> None:
        """Rows for pictures that are looked at next. Written first of all, they make the files of a run that is killed
        known as such."""
        failed = {name: f"{row.picture}/" for name, row in self.rows.items() if row.error}
        for one in pictures:
            for name in [name for name, folder in failed.items() if one.display_name.startswith(folder)]:
                self.rows.pop(name, None)  # of a folder that could not be read
            self.rows[one.name] = Row(one.display_name, result=one.name)
            self.boxes.pop(one.name, None)
            self.looks.pop(one.name, None)
            if now := signature(one.path):
                self.looks[one.name] = now

    def foreign(self, picture: Picture) -> str | None:
        """The first file of the names of a picture's results that is there and not of this run."""
        row = self.rows.get(picture.name)
        if row and not row.error:  # where a picture failed there are no files of ours
            return None
        return next((file.name for file in self._files(picture) if file.exists()), None)

    def add(
        self, picture: Picture, image: RGB, scores: Scores, mask: Mask, boxes: Sequence[ScoredBox], score: float
    ) -> None:
        """Write the files of a picture (H, W, 3) with scores and mask (H, W), and keep its row."""
        heat = heat_levels(np.asarray((scores - self.low) / (self.high - self.low), np.float32))
        heat_map = palette_png(heat, HEAT_COLOURS)
        pngs = png_bytes(mask, QUICK_PNG), png_bytes(outlined(image, mask, OUTLINE), QUICK_PNG), heat_map
        for file, data in zip(self._files(picture), pngs, strict=True):
            write_bytes(file, data)
        alarm = "yes" if mask.any() else "no"
        self.rows[picture.name] = Row(
            picture.display_name, f"{score:.6f}", str(int(mask.sum())), alarm, "", picture.name
        )
        self.boxes[picture.name] = [
            {
                "category_id": label or 1,
                "bbox": [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)],
                "score": float(certainty),
            }
            for (x0, y0, x1, y1), certainty, label in boxes
        ]

    def fail(self, picture: Picture, error: str) -> None:
        """Keep the row of a picture that could not be looked at. Files that an earlier look left are no longer true."""
        if not self.foreign(picture):
            for file in self._files(picture):
                file.unlink(missing_ok=True)
        self.boxes.pop(picture.name, None)
        self.rows[picture.name] = Row(picture.display_name, error=" ".join(error.split()), result=picture.name)

    def write(self) -> None:
        """scores.csv, boxes.json, run.json: whole, as of now.

        Raises UserError where they were removed meanwhile: the files of the rows so far went with them.
        """
        if self.is_written and not (self.out / TABLE).exists():
            raise UserError(f"{self.out}: its results were removed while this run writes them; start it again")
        started = time.monotonic()
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *map(CELLS, self.rows.values())])
        write_text(self.out / TABLE, table.getvalue())
        answers = [
            box | {"image_id": number, "file_name": row.picture}  # boxes of an earlier run have those of then
            for number, row in enumerate(self.rows.values(), start=1)
            for box in self.boxes.get(row.result, [])
        ]
        write_text(self.out / BOXES, _by_line(answers))
        write_json(self.out / RUN, self.run | {"looks": self.looks})
        self.is_written, self._written = True, time.monotonic()
        self._took = self._written - started

    def is_due(self, least: float = 0.0) -> bool:
        """Whether to write the tables again: `least` seconds are over, and nine times what it took: tables are written
        whole, and those of a day's pictures must not take all of the time."""
        return time.monotonic() - self._written >= max(least, TABLES * self._took)

    def _files(self, picture: Picture) -> list[Path]:
        return [self.out / f"{picture.name}{suffix}" for suffix in SUFFIXES]


def _by_line(records: Iterable[dict[str, Any]]) -> str:
    """A JSON list with a record a line: indented, it would take Python itself ten times as long."""
    lines = (json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False) for record in records)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def palette_png(numbers: NDArray[np.uint8], colours: RGB) -> bytes:
    """Encode indices (H, W) of `colours` (256, 3) as a palette PNG: a third of the size, in half the time."""
    picture, data = Image.fromarray(numbers).copy(), io.BytesIO()
    picture.putpalette(colours.tobytes())
    picture.save(data, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return data.getvalue()


def refuse_loss(pictures: Iterable[Picture], out: Path) -> None:
    """Raise UserError where `out` holds files of the results' names that are not of an earlier run, or an earlier run
    had other pictures, too, whose results would be taken for this one's."""
    results = {TABLE, BOXES, RUN}
    for one in pictures:
        refuse_clash(one)
        results |= {f"{one.name}{suffix}" for suffix in SUFFIXES}
    before = earlier(out)
    if others := before - results:
        raise UserError(f"{out}: holds results of other pictures, such as {min(others)}; name another folder")
    if foreign := {name for name in results - before if (out / name).exists()}:
        raise UserError(f"{out / min(foreign)}: exists and is not from an earlier run; name another folder")


def refuse_clash(picture: Picture) -> None:
    """Raise UserError where a folder of a picture is called like files of results, which may stand in its way."""
    for part in Path(picture.name).parent.parts:
        if part.endswith(SUFFIXES) or part in (TABLE, BOXES, RUN):
            raise UserError(
                f"{picture.display_name}: lies in a folder {part}, as files of results are called; rename it"
            )


def earlier(out: Path) -> set[str]:
    """The names of all files of an earlier run in the folder; empty where there was none."""
    try:
        rows = read_rows(out)
    except (OSError, ValueError):
        return set()
    old = all(not row.result for row in rows)
    if old and rows:
        return {TABLE, *(f"{Path(row.picture).stem}{suffix}" for row in rows for suffix in OLD_SUFFIXES)}
    return {TABLE, BOXES, RUN, *(f"{row.result}{suffix}" for row in rows if not row.error for suffix in SUFFIXES)}


def read_rows(out: Path) -> list[Row]:
    """The table of an earlier run, of three columns as they once were, too. Raises ValueError where it is none."""
    with open(out / TABLE, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) not in (COLUMNS, COLUMNS[:3]):
            raise ValueError(f"{out / TABLE}: no table of lib.predict")
        return [Row(**{name: value or "" for name, value in row.items() if name in COLUMNS}) for row in table]


def summary(rows: Iterable[Row]) -> str:
    """How many pictures, alarms and failures, in a line."""
    rows = list(rows)
    alarms, failed = sum(row.alarm == "yes" for row in rows), sum(bool(row.error) for row in rows)
    unseen = sum(not row.alarm and not row.error for row in rows)
    parts = [f"{len(rows)} pictures", f"{alarms} with an alarm", f"{failed} that cannot be read"]
    return ", ".join(parts + [f"{unseen} not looked at"] * (unseen > 0))
