"""The samples of two runs: what became of each request in both, and the pictures of those that differ."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lib.core.errors import UserError
from lib.core.geometry import RGB, Window, crop, shrunk, window_around
from lib.core.images import read_image, read_mask, recent
from lib.report.gallery import QUALITY, VERDICTS, outline_in, webp_bytes
from lib.report.runs import Run
from lib.report.sheets import uri

SIDE = 192  # px of a window on the page, at most
CONTEXT, MIN_SIDE = 1.3, 40  # of windows, where params.yaml of a run does not say

Answers = dict[tuple[str, str], dict[str, dict[str, Any]]]  # records by generator and category, then by placement


class View(NamedTuple):
    """A window on the page: its data URI, the outline of the mask in quarters of a pixel, or why it is missing."""

    title: str
    verdict: str  # one of VERDICTS, or "" for a good picture
    image: str = ""
    outline: str = ""
    side: int = 0  # px, of the picture as it is embedded
    missing: str = ""


class Pair(NamedTuple):
    """One request in both runs."""

    title: str
    change: str
    views: list[View]

    @property
    def bytes(self) -> int:
        """That it takes on the page, about."""
        return 400 + sum(len(view.image) + len(view.outline) + len(view.missing) + 400 for view in self.views)


def read_answers(run: Run) -> tuple[Answers, list[str]]:
    """The judged samples of a run, and which of its manifests nothing has any more."""
    answers, missing = Answers(), list[str]()
    for generator in run.names("generators"):
        for category in run.names("dataset.categories"):
            path = f"data/masks/{generator}/{category}/manifest.jsonl"
            text = run.text(path)
            if text is None:
                missing.append(f"{path} of {run.name}")
                continue
            try:
                records = [json.loads(line) for line in text.split("\n") if line]
                answers[generator, category] = {record["placement"]: record for record in records}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} of {run.name}: no list of samples: {error}") from error
    return answers, missing


def verdict_of(record: Mapping[str, Any]) -> str:
    """One of VERDICTS."""
    if record.get("image") is None:
        return "failed"
    return "accepted" if record.get("accepted") else "rejected"


def moved(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two requests of one name ask for different things. The box of a sample with its own background is where
    its defect came to lie, which nobody asked for."""
    box = () if a.get("normal") is None else ("box",)
    return any(a.get(key) != b.get(key) for key in ("normal", "defect_type", "like", "component", *box))


def outcomes(before: Answers, after: Answers) -> pd.DataFrame:
    """A row for each generator and category that either run has: verdicts before -> after, and what changed."""
    rows = []
    for key in dict.fromkeys((*before, *after)):
        a, b = before.get(key), after.get(key)
        counts = [None if of is None else Counter(map(verdict_of, of.values())) for of in (a, b)]
        row: dict[str, Any] = {
            "generator": key[0],
            "category": key[1],
            "asked": _arrow(*(None if of is None else len(of) for of in (a, b))),
        }
        row |= {name: _arrow(*(None if count is None else count[name] for count in counts)) for name in VERDICTS}
        shared = [(a[name], b[name]) for name in a if name in b] if a and b else []
        changes = Counter((verdict_of(one), verdict_of(other)) for one, other in shared)
        row |= {
            "now accepted": sum(n for (was, now), n in changes.items() if now == "accepted" != was),
            "no longer": sum(n for (was, now), n in changes.items() if was == "accepted" != now),
            "other picture": sum(one.get("sha256") != other.get("sha256") for one, other in shared),
            "other request": sum(moved(one, other) for one, other in shared),
            "only before": len(a or {}) - len(shared),
            "only after": len(b or {}) - len(shared),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _arrow(before: int | None, after: int | None) -> str:
    """A count in both runs, once where it is equal; a run that has none of it shows a dash."""
    a, b = ("-" if count is None else str(count) for count in (before, after))
    return a if a == b else f"{a} → {b}"


def pairs(runs: tuple[Run, Run], before: Answers, after: Answers, room: int) -> tuple[list[Pair], str]:
    """The requests that differ, those with another verdict first, and a sentence on what is left out.

    In turns of generator, category and type, as many as fit into `room` bytes.
    """
    different, equal = _different(before, after)
    reader = _Reader(runs)
    chosen: list[Pair] = []
    for a, b in different:
        pair = reader.pair(a, b)
        room -= pair.bytes
        if room < 0:
            break
        chosen.append(pair)
    left = len(different) - len(chosen)
    note = f"{len(different)} placements of both runs differ in picture, mask or verdict, {equal} do not."
    note += f" {left} of those that differ are left out, since the page has a bound on its size." if left else ""
    if reader.lost:
        note += (
            f" {reader.lost} pictures or masks are no longer to be had: neither in DVC's cache nor, unchanged, in the "
            "workspace; `dvc fetch --all-commits` brings back what a remote has."
        )
    return chosen, note


def _different(before: Answers, after: Answers) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
    """The requests of both runs whose answers differ, in the order of the page, and how many do not."""
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    equal = 0
    for key in (key for key in before if key in after):
        for name, a in sorted(before[key].items()):
            b = after[key].get(name)
            if b is None:
                continue
            turned = verdict_of(a) != verdict_of(b)
            if turned or moved(a, b) or any(a.get(of) != b.get(of) for of in ("sha256", "mask_sha256", "reason")):
                groups.setdefault((not turned, *key, str(b.get("defect_type"))), []).append((a, b))
            else:
                equal += 1
    ordered: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for calm in (False, True):
        queues = [group for key, group in groups.items() if key[0] is calm]
        ordered += [pair for turn in zip_longest(*queues) for pair in turn if pair is not None]
    return ordered, equal


class _Reader:
    """Reads pictures of both runs and counts those that nothing has any more."""

    def __init__(self, runs: tuple[Run, Run]) -> None:
        self.runs = runs
        self.lost = 0
        self._image, self._mask = recent(read_image), recent(read_mask)
        self._samples: list[dict[str, dict[str, Any]]] = [{}, {}]  # of each run, by category, by id

    def pair(self, a: dict[str, Any], b: dict[str, Any]) -> Pair:
        change = f"{verdict_of(a)} → {verdict_of(b)}" if verdict_of(a) != verdict_of(b) else verdict_of(b)
        if moved(a, b):
            change += ", another request of the same name"
        views = []
        for number, record in enumerate((a, b)):
            if record.get("normal") is not None and (number == 0 or moved(a, b)):
                views.append(self._good(number, record))
            views.append(self._painted(number, record))
        return Pair(f"{b['placement']} by {b['generator']}", change, views)

    def _good(self, number: int, record: dict[str, Any]) -> View:
        title = f"good, {self.runs[number].name}"
        sample = self._sample(number, record)
        image = None if sample is None else self._read(self._image, number, sample["image"], sample.get("sha256"))
        return self._view(number, record, title, "", image, None)

    def _painted(self, number: int, record: dict[str, Any]) -> View:
        verdict, reason = verdict_of(record), record.get("reason")
        title = f"{self.runs[number].name}: {verdict}" + (f", {reason}" if reason and verdict != "accepted" else "")
        if record.get("image") is None:
            return View(title, verdict, missing=str(reason or "no picture"))
        image = self._read(self._image, number, record["image"], record.get("sha256"))
        mask = None
        if record.get("mask") is not None:
            mask = self._read(self._mask, number, record["mask"], record.get("mask_sha256"))
        return self._view(number, record, title, verdict, image, mask)

    def _view(
        self, number: int, record: dict[str, Any], title: str, verdict: str, image: RGB | None, mask: Any
    ) -> View:
        if image is None:
            return View(title, verdict, missing="no longer in DVC's cache")
        place = self._window(number, record, image)
        side = min(place.side, SIDE)

        lines = "" if mask is None else outline_in(mask, place, side)
        data = uri("webp", webp_bytes(shrunk(crop(image, place), side), QUALITY))
        return View(title, verdict, data, lines, side)

    def _window(self, number: int, record: dict[str, Any], image: RGB) -> Window:
        window = self.runs[number].params.get("window")
        window = window if isinstance(window, dict) else {}
        box = record["box"]
        return window_around(
            (box[0], box[1], box[2], box[3]),
            image.shape,
            window.get("context", CONTEXT),
            window.get("min_side", MIN_SIDE),
        )

    def _sample(self, number: int, record: dict[str, Any]) -> dict[str, Any] | None:
        of_run, category = self._samples[number], record["category"]
        if category not in of_run:
            samples = self.runs[number].values(f"data/prepared/{category}/samples.jsonl", lines=True) or ()
            of_run[category] = {sample["id"]: sample for sample in samples}
        return of_run[category].get(record["normal"])

    def _read(self, read: Callable[[Path], Any], number: int, path: str, sha256: str | None) -> Any:
        """The pixels of a picture of a run; None, and counted, where nothing has them any more.

        A data set of the user's own is no output of DVC: what lies in the workspace counts if its digest is the same.
        """
        place = self.runs[number].file(path)
        if place is None and sha256 and Path(path).is_file():
            with open(path, "rb") as file:
                place = Path(path) if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else None
        if place is None:
            self.lost += 1
            return None
        return read(place)
