"""Label synthetic pictures: measure each one's mask, judge it, and count what was rejected and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.geometry import RGB, crop, window_around
from lib.core.images import contact_sheet, outlined, read_image, read_mask, recent, write_png
from lib.core.params import Params
from lib.core.records import Sample, Synthetic
from lib.core.runtime import progress
from lib.labels.gate import Traits, judge, measure, real_acceptance
from lib.labels.masks import METHODS

ACCEPTED, REJECTED = (40, 220, 80), (255, 40, 40)  # outlines on the contact sheet
SHEET = 12  # samples of each type on the contact sheet


def label_all(
    params: Params,
    real: Mapping[str, Sample],
    records: list[Synthetic],
    folder: Path,
    final: Path,
) -> tuple[list[Synthetic], dict[str, Any], RGB]:
    """Write each sample's mask into `folder`, which will be `final`; returns the records with mask, scores and verdict,
    the gate's numbers, and a contact sheet. `real`: the samples of the train and val parts by their ids, since the
    gate selects and does not train.

    A mask that the generator knows exactly is taken as it is; the gate judges it all the same.
    """
    known = _measured(real)
    read = recent(read_image)
    labelled, tiles = [], []
    shown: Counter[str] = Counter()
    for record in progress(records, "measure masks"):
        image, normal = read_image(Path(record.image)), read(Path(real[record.normal].image))
        if record.mask is not None:
            mask = read_mask(Path(record.mask))
        else:
            mask = METHODS[params.masks.method](image, normal, record.box, params.masks.component_ratio)
        scores, accepted, reason = judge(image, normal, mask, record.box, params.gate, known[record.defect_type])
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
    return labelled, gate_numbers(labelled, [real_acceptance(traits, params.gate) for traits in known.values()]), sheet


def gate_numbers(records: list[Synthetic], of_real: list[list[bool]]) -> dict[str, Any]:
    """How many samples were accepted, overall and per type, why the others were not, and pixels changed outside.

    of_real: for each type, whether each real defect would pass beside the others: a gate that refuses real defects is
    too narrow.
    """
    passed = [verdict for verdicts in of_real for verdict in verdicts]
    verdicts: dict[str, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record.defect_type, []).append(bool(record.accepted))
    return {
        "samples": len(records),
        "acceptance_rate": round(float(np.mean([bool(r.accepted) for r in records])), 6),
        "acceptance_rate_per_type": {name: round(float(np.mean(v)), 6) for name, v in sorted(verdicts.items())},
        "real_acceptance_rate": round(float(np.mean(passed)), 6) if passed else None,
        "rejected": dict(sorted(Counter(record.reason for record in records if record.reason).items())),
        "pixels_changed_outside": int(sum(record.scores["outside"] for record in records)),
    }


def _measured(real: Mapping[str, Sample]) -> dict[str, list[Traits]]:
    """The traits of all real defects, by their type."""
    traits: dict[str, list[Traits]] = {}
    for sample in progress(real.values(), "measure real defects"):
        if sample.mask is not None:
            found = measure(read_image(Path(sample.image)), read_mask(Path(sample.mask)))
            traits.setdefault(sample.defect_type, []).append(found)
    return traits
