"""Stage random_boxes: choose where new defects shall appear, by the real ones: data/placements/<category>.jsonl."""

import argparse
import sys
from pathlib import Path

from lib import params as parameters
from lib.boxes import place_boxes
from lib.records import DefectBox, Sample, read_records, write_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    category = parser.parse_args().category
    params = parameters.load()

    samples = read_records(Path("data/prepared", category, "samples.jsonl"), Sample)
    boxes = read_records(Path("data/boxes", f"{category}.jsonl"), DefectBox)
    placements = place_boxes(samples, boxes, params.placements.per_type, params.placements.jitter, params.seed)
    write_records(Path("data/placements", f"{category}.jsonl"), placements)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
