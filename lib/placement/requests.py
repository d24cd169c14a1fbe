"""Requested defects: boxes and shapes that a person drew on good pictures become placements, after the random ones.

`data/requests/requests.csv` has a row for each; `data/requests/README.md` describes the format.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib.core.defects import whole_defects
from lib.core.errors import shortlist
from lib.core.forms import REQUESTS, Row, read_form, refuse
from lib.core.geometry import Box, Polygon, borders_of
from lib.core.records import GOOD, DefectBox, Placement, Sample, by_id, of_split
from lib.core.regions import free_pixels
from lib.placement.random_boxes import placement_of

MAX_COUNT = 1_000  # samples of one request
MAX_PLACEMENTS = 100_000  # of all requests together
MAX_POINTS = 1_000  # of a shape
NEAREST = 4  # real defects that the samples of one request are drawn from, in turn
NAMES = 5  # of pictures, listed in a message

RealData = Mapping[str, tuple[Sequence[Sample], Sequence[DefectBox]]]  # samples and boxes by category


@dataclass(frozen=True)
class Request:
    """`count` defects of a type in a box of a good picture, or in a shape within it. `picture`: id of a Sample."""

    category: str
    picture: str
    defect_type: str
    box: Box
    shape: Polygon | None
    count: int

    @property
    def name(self) -> str:
        """The prefix of its placements' names, which does not depend on other rows of the table or their order.

        Eight digits identify the place. The report's page recognises these names by `asked`; names of random placements
        end in five digits.
        """
        place = repr((self.picture, self.box, self.shape)).encode()
        return f"{self.category}-{self.defect_type}-asked-{hashlib.sha256(place).hexdigest()[:8]}"


def read_requests(real: RealData) -> tuple[dict[str, list[Request]], str]:
    """The requests of every category of `real`, in the order of the table, and a message about rows of other
    categories, which are ignored, or "". Without a table there are none.

    Raises UserError with all problems at once: invalid rows, unknown types, pictures that are not good ones of the
    train part, places outside the picture, and repeated places.
    """
    rows, problems = read_form(REQUESTS)
    requests: dict[str, list[Request]] = {category: [] for category in real}
    goods = {category: _goods(samples) for category, (samples, _) in real.items()}
    types = {category: {box.defect_type for box in _train(*of)} for category, of in real.items()}
    names: dict[str, int] = {}
    others = sorted({row.values["category"] for row in rows} - goods.keys())
    for row in (row for row in rows if row.values["category"] in goods):
        request, faults = _request(row, goods, types)
        if request is not None:
            before = names.setdefault(request.name, row.line)
            if before != row.line:
                faults.append(f"the request of line {before} once more: add its number to that one's count")
            requests[request.category].append(request)
        problems += [f"{REQUESTS.path.as_posix()}, line {row.line}: {fault}" for fault in faults]
    number = sum(request.count for of in requests.values() for request in of)
    if number > MAX_PLACEMENTS:
        problems.append(f"{REQUESTS.path.as_posix()}: asks for {number:,} samples, at most {MAX_PLACEMENTS:,} are made")
    refuse(problems)
    names_of_others = shortlist([name[:60] if name and name.isprintable() else repr(name[:60]) for name in others])
    sentence = f"{REQUESTS.path.as_posix()}: no category of dataset.categories is {names_of_others}"
    return requests, f"{sentence}; rows of others wait" if others else ""


def place_requests(
    requests: Sequence[Request], samples: Sequence[Sample], boxes: Sequence[DefectBox], seed: int
) -> list[Placement]:
    """The placements of the requests of one category, `count` for each, each with its own seed.

    They are drawn in turn from the real defects of that type in the train part with the most similar size and aspect.
    """
    goods, reals = _goods(samples), whole_defects(_train(samples, boxes))
    placements = []
    for request in requests:
        of_type = [real for real in reals if real.defect_type == request.defect_type]
        like = nearest(request.box, of_type, goods[request.picture].size)
        for index in range(request.count):
            # Three digits: the names of random placements end in five.
            name, real = f"{request.name}-{index:03d}", like[index % len(like)]
            placements.append(placement_of(name, goods[request.picture], real, request.box, seed, request.shape))
    return placements


def nearest(box: Box, reals: Sequence[DefectBox], size: tuple[int, int]) -> list[DefectBox]:
    """The NEAREST real defects to a box in a picture of `size` (width, height), most similar first: by the distance of
    the logarithms of area and aspect ratio, then by name. Defects that reach borders which the box does not reach come
    last: they would look torn off."""

    def measures(of: Box) -> tuple[float, float]:
        width, height = of[2] - of[0], of[3] - of[1]
        return math.log(width * height), math.log(width / height)

    here, reached = measures(box), set(borders_of(box, size))

    def key(real: DefectBox) -> tuple[bool, float, str, int]:
        is_torn = not set(real.borders) <= reached
        return is_torn, round(math.dist(here, measures(real.box)), 9), real.sample, real.component

    return sorted(reals, key=key)[:NEAREST]


def _goods(samples: Sequence[Sample]) -> dict[str, Sample]:
    """The good pictures of the train part, by their ids."""
    return by_id(sample for sample in of_split(samples, "train") if sample.defect_type == GOOD)


def _train(samples: Sequence[Sample], boxes: Sequence[DefectBox]) -> list[DefectBox]:
    """The real defects of the train part."""
    train = by_id(of_split(samples, "train"))
    return [box for box in boxes if box.sample in train]


def _request(
    row: Row, goods: Mapping[str, Mapping[str, Sample]], types: Mapping[str, set[str]]
) -> tuple[Request | None, list[str]]:
    """The request of a row, or None if it is invalid, and all problems of the row."""
    values = row.values
    category, picture, defect_type = values["category"], values["picture"], values["type"]
    faults = []
    if defect_type not in types[category]:
        names = ", ".join(sorted(types[category]))
        faults.append(f"no real defect of the type {defect_type[:60]!r} in the train part, known are {names}")
    good = goods[category].get(picture)
    if good is None:
        some = ", ".join(sorted(goods[category])[:NAMES])
        faults.append(f"{picture[:60]!r} is no good picture of the train part, such as {some}")
    if not re.fullmatch(r"[0-9]{1,4}", values["count"]) or not 1 <= int(values["count"]) <= MAX_COUNT:
        faults.append(f"count {values['count'][:60]!r}: expected a number from 1 to {MAX_COUNT}")
    box, shape, wrong = _place(values["box"], values["polygon"], good.size if good else None)
    faults += wrong
    if box is not None and good is not None and good.regions is not None:
        x0, y0, x1, y1 = box
        if not free_pixels(good.regions)[y0:y1, x0:x1].all():
            faults.append(f"box {x0} {y0} {x1} {y1}: lies where {good.regions.path} lets no defect be placed")
    if faults or box is None:
        return None, faults
    return Request(category, picture, defect_type, box, shape, int(values["count"])), []


def _place(box: str, polygon: str, size: tuple[int, int] | None) -> tuple[Box | None, Polygon | None, list[str]]:
    """Box and shape of a row, and their problems. size: (width, height) of the picture, if known."""
    corners, points = _numbers(box), _numbers(polygon)
    if corners is None or points is None or len(corners) not in (0, 4) or not (corners or points):
        return None, None, [f"box {box[:60]!r}: expected x0 y0 x1 y1, in px of the picture"]
    shape = tuple(zip(points[::2], points[1::2], strict=False))
    if points and (len(points) % 2 or not 3 <= len(shape) <= MAX_POINTS):
        return None, None, [f"polygon {polygon[:60]!r}: expected x y x y x y ..., of 3 to {MAX_POINTS} points"]
    x0, y0, x1, y1 = corners or _around(shape)
    if size is not None and not (x0 < x1 <= size[0] and y0 < y1 <= size[1]):
        return None, None, [f"box {x0} {y0} {x1} {y1}: is empty, or leaves the picture of {size[0]} x {size[1]} px"]
    if shape and not all(x0 <= x < x1 and y0 <= y < y1 for x, y in shape):
        return (
            None,
            None,
            [f"polygon: leaves its box {x0} {y0} {x1} {y1}, whose x1 and y1 are the first pixels outside"],
        )
    return (x0, y0, x1, y1), shape or None, []


def _around(shape: Polygon) -> Box:
    columns, rows = zip(*shape, strict=True)
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def _numbers(text: str) -> list[int] | None:
    """Non-negative integers, separated by spaces; None for anything else."""
    words = text.split()
    return [int(word) for word in words] if all(re.fullmatch(r"[0-9]{1,6}", word) for word in words) else None
