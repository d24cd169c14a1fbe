"""Export placements as the rows that MvP-Diff's published `inpaint.py` reads, for a comparison on equal tasks.

Run as `python -m lib.export.published_rows --category NAME --out FOLDER` from the root of the repository, after the
stage random_boxes. Each line of FOLDER/rows.jsonl has the keys `good` (a normal picture), `mask` (a box mask, whose
folder is named like the defect type) and `text`; paths hold from the folder in which the command is run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import write_png
from lib.core.pipeline import refuse_outputs
from lib.core.records import Placement, Sample, by_id, read_records
from lib.core.runtime import write_text


def published_rows(placements: Sequence[Placement], samples: Sequence[Sample], folder: Path) -> list[dict[str, str]]:
    """Write FOLDER/<defect_type>/<id>.png, a mask of 0 and 255 per placement, and FOLDER/rows.jsonl; return the rows.

    Raises UserError when a placement names a picture that is not among the samples.
    """
    sample_of, rows = by_id(samples), []
    for placement in placements:
        if placement.normal not in sample_of:
            raise UserError(f"placement {placement.id}: no sample {placement.normal}; run the stage random_boxes again")
        good = sample_of[placement.normal]
        mask = folder / placement.defect_type / f"{placement.id}.png"
        write_png(mask, box_mask(placement.box, *good.size))
        rows.append({"good": good.image, "mask": mask.as_posix(), "text": placement.prompt})
    write_text(folder / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    parser.add_argument("--out", required=True, type=Path, help="folder for the masks and rows.jsonl")
    args = parser.parse_args()
    refuse_outputs(args.out)
    placements = read_records(Path("data/placements", f"{args.category}.jsonl"), Placement)
    samples = read_records(Path("data/prepared", args.category, "samples.jsonl"), Sample)
    published_rows(placements, samples, args.out)


if __name__ == "__main__":
    end_with(main)
