"""What the page needs for a person's word: the good pictures to draw on, and the tables as they are."""

import base64
import hashlib
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lib.core.forms import MAX_NOTE, REQUESTS, REVIEW, Form, read_form, refuse
from lib.core.geometry import shrunk
from lib.core.images import read_image
from lib.core.params import Params
from lib.core.records import GOOD, DefectBox, Sample, read_records, read_train
from lib.core.runtime import progress
from lib.report.gallery import Answers, webp_bytes

SIDES = (512, 256)  # px; longer side of an embedded good picture; the smaller where not all of them fit
QUALITY = 80  # of WebP


def good_pictures(params: Params, room: int) -> tuple[dict[str, Any], str]:
    """The good pictures of the train part, fit for JSON and at most `room` bytes, and a sentence on what is left out.

    Keys: `pictures`, each with `category`, `id`, `size` in px of the file and `image`, Base64 of WebP; `types` of
    defects that each category knows. Where not all fit, categories take turns.
    """
    train = {category: read_train(category) for category in params.dataset.categories}
    types: dict[str, list[str]] = {}
    for category, samples in train.items():
        boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
        types[category] = sorted({box.defect_type for box in boxes if box.sample in samples})
    goods = [[one for one in samples.values() if one.defect_type == GOOD] for samples in train.values()]
    turns = [sample for turn in zip_longest(*goods) for sample in turn if sample is not None]
    for side in SIDES:
        entries = _fitting(turns, side, room)
        if len(entries) == len(turns):
            break
    content = {"pictures": sorted(entries, key=lambda entry: (entry["category"], entry["id"])), "types": types}
    if len(entries) == len(turns):
        return content, f"All {len(turns)} good pictures of the train part are here."
    return content, (
        f"{len(entries)} of {len(turns)} good pictures of the train part are here, since the page has a bound on its "
        "size; for the others data/requests/requests.csv is written by hand."
    )


def _fitting(samples: list[Sample], side: int, room: int) -> list[dict[str, Any]]:
    """The first samples whose pictures, shrunk to `side`, fit into `room` bytes."""
    entries = []
    for sample in progress(samples, "good pictures"):
        image = shrunk(read_image(Path(sample.image)), side)
        text = base64.b64encode(webp_bytes(image, QUALITY)).decode()
        entry = {"category": sample.category, "id": sample.id, "size": list(sample.size), "image": text}
        room -= len(json.dumps(entry)) + 1
        if room < 0:
            break
        entries.append(entry)
    return entries


def forms(answers: Answers) -> dict[str, Any]:
    """The tables as they are, so that the page goes on from them, and `run`, under which a browser keeps what is not
    saved yet: another one as soon as any picture or table is.

    Raises UserError where a table cannot be read.
    """
    tables = {"review": _table(REVIEW), "requests": _table(REQUESTS)}
    painted = [
        [record.generator, record.category, record.placement, record.painted_sha256]
        for of_category in answers.values()
        for records in of_category.values()
        for record in records
    ]
    run = hashlib.sha256(json.dumps([painted, tables]).encode()).hexdigest()[:16]
    return {"run": run, "note": MAX_NOTE, **tables}


def _table(form: Form) -> dict[str, Any]:
    rows, problems = read_form(form)
    refuse(problems)
    return {"path": form.path.as_posix(), "columns": list(form.columns), "rows": [row.values for row in rows]}
