"""Label synthetic pictures: measure each one's mask, judge it, and count what was rejected and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.images import RGB, contact_sheet, crop, outlined, read_image, read_mask, recent, window_around, write_png
from lib.core.params import Params
from lib.core.records import DefectBox, Sample, Synthetic
from lib.core.runtime import progress
from lib.gate import RealRange, judge, real_range
from lib.masks import METHODS

ACCEPTED, REJECTED = (40, 220, 80), (255, 40, 40)  # outlines on the contact sheet
SHEET = 12  # samples of each type on the contact sheet


def label_all(
    params: Params,
    real: Mapping[str, Sample],
    boxes: Sequence[DefectBox],
    records: list[Synthetic],
    folder: Path,
    final: Path,
) -> tuple[list[Synthetic], dict[str, Any], RGB]:
    """Write each sample's mask into `folder`, which will be `final`; returns the records with mask, scores and verdict,
    the gate's numbers, and a contact sheet. `real`: the samples of the train part by their ids; `boxes`: those of
    all real defects.

    A mask that the generator knows exactly is taken as it is; the gate judges it all the same.
    """
    ranges = _real_ranges(real, boxes)
    read = recent(read_image)
    labelled, tiles = [], []
    shown: Counter[str] = Counter()
    for record in progress(records, "measure masks"):
        image, normal = read_image(Path(record.image)), read(Path(real[record.normal].image))
        if record.mask is not None:
            mask = read_mask(Path(record.mask))
        else:
            mask = METHODS[params.masks.method](image, normal, record.box, params.masks.component_ratio)
        scores, accepted, reason = judge(image, normal, mask, record.box, params.gate, ranges[record.defect_type])
        file = f"{record.placement}.png"
        digest = write_png(folder / "masks" / file, mask)
        scores = {name: round(value, 6) for name, value in scores.items()}
        path = (final / "masks" / file).as_posix()
        found = replace(record, mask=path, mask_sha256=digest, scores=scores, accepted=accepted, reason=reason)
        labelled.append(found)
        if shown[record.defect_type] < SHEET:
            shown[record.defect_type] += 1
            window = window_around(record.box, normal.shape, params.window.context, params.window.min_side)
            drawn = outlined(image, mask, ACCEPTED if accepted else REJECTED)
            tiles += [crop(picture, window) for picture in (normal, image, drawn)]
    sheet = contact_sheet([tiles[start : start + 12] for start in range(0, len(tiles), 12)], tile=128)
    return labelled, gate_numbers(labelled), sheet


def gate_numbers(records: list[Synthetic]) -> dict[str, Any]:
    """How many samples were accepted, overall and per type, why the others were not, and pixels changed outside."""
    verdicts: dict[str, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record.defect_type, []).append(bool(record.accepted))
    return {
        "samples": len(records),
        "acceptance_rate": round(float(np.mean([bool(r.accepted) for r in records])), 6),
        "acceptance_rate_per_type": {name: round(float(np.mean(v)), 6) for name, v in sorted(verdicts.items())},
        "rejected": dict(sorted(Counter(record.reason for record in records if record.reason).items())),
        "pixels_changed_outside": int(sum(record.scores["outside"] for record in records)),
    }


def _real_ranges(real: Mapping[str, Sample], boxes: Sequence[DefectBox]) -> dict[str, RealRange]:
    """The range of each defect type, from the real defects of the train part."""
    largest: dict[str, int] = {}
    for box in boxes:
        largest[box.sample] = max(largest.get(box.sample, 0), box.area)
    by_type: dict[str, list[tuple[str, str, int]]] = {}
    for sample in real.values():
        if sample.mask is not None:
            by_type.setdefault(sample.defect_type, []).append((sample.image, sample.mask, largest[sample.id]))
    return {
        name: real_range(
            (read_image(Path(image)) for image, *_ in known),
            (read_mask(Path(mask)) for _, mask, _ in known),
            [area for *_, area in known],
        )
        for name, known in progress(by_type.items(), "range of real defects", total=len(by_type))
    }
