"""Stage boxes: put a box around each real defect of the train and val parts: data/boxes/<category>.jsonl."""

import argparse
import sys
from pathlib import Path

from lib import params as parameters
from lib.boxes import real_components
from lib.records import DefectBox, Sample, read_records, write_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    category = parser.parse_args().category
    params = parameters.load()

    samples = read_records(Path("data/prepared", category, "samples.jsonl"), Sample)
    boxes = [
        DefectBox(sample.id, number, sample.defect_type, component.box, component.area)
        for sample, number, component in real_components(samples, params.boxes.margin, params.boxes.min_area)
    ]
    write_records(Path("data/boxes", f"{category}.jsonl"), boxes)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
