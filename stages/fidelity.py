"""Compare the accepted synthetic defects of a generator with the real ones: distance, diversity, copies."""

import argparse
from pathlib import Path

from lib.generators import read_real
from lib.images import write_png
from lib.metrics.fidelity import compare
from lib.params import load
from lib.records import Synthetic, read_records
from lib.runtime import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", required=True, help="a name from params.generators")
    parser.add_argument("--category", required=True, help="a name from params.dataset.categories")
    args = parser.parse_args()
    params, arm = load(), f"{args.generator}/{args.category}"
    records = read_records(Path(f"data/masks/{arm}/manifest.jsonl"), Synthetic)
    accepted = [record for record in records if record.accepted]
    scores, sheet = compare(read_real(args.category), accepted, params.window, params.fidelity.neighbours)
    write_json(Path(f"metrics/fidelity/{arm}.json"), scores)
    write_png(Path(f"metrics/fidelity/{arm}.png"), sheet)


if __name__ == "__main__":
    main()
