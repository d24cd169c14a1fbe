"""Stage evaluate: judge a trained detector on the test part, which nothing before this stage has seen."""

import argparse
import sys
from pathlib import Path

from lib import params as parameters
from lib.detectors import detector, evaluate
from lib.records import Sample, of_split, read_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", required=True, help="name in params.detectors")
    parser.add_argument("--generator", required=True, help="name in params.generators: what the detector learned from")
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    args = parser.parse_args()
    params = parameters.load()

    arm = Path(args.detector, args.generator, args.category)
    samples = of_split(read_records(Path("data/prepared", args.category, "samples.jsonl"), Sample), "test")
    evaluate(detector(args.detector), "models/detectors" / arm, samples, params.evaluate, "metrics/detection" / arm)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
