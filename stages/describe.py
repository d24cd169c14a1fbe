"""Stage describe: say in words where each real defect of the train and val parts lies: data/descriptions/<c>.jsonl."""

import argparse
import sys
from pathlib import Path

from lib import language
from lib import params as parameters
from lib.boxes import real_components
from lib.records import Description, Sample, read_records, write_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    category = parser.parse_args().category
    params = parameters.load()

    samples = read_records(Path("data/prepared", category, "samples.jsonl"), Sample)
    descriptions = []
    for sample, number, component in real_components(samples, params.boxes.margin, params.boxes.min_area):
        location = language.location_of(component.centroid, *sample.size)
        captions = language.captions(sample.defect_type, category, location)
        descriptions.append(Description(sample.id, number, location, captions))
    write_records(Path("data/descriptions", f"{category}.jsonl"), descriptions)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
