"""Synthesize one picture for every placement of a category, with a contact sheet to look at."""

import argparse
from pathlib import Path

from lib.generators import read_real
from lib.params import load
from lib.records import Placement, read_records
from lib.runtime import fingerprint
from lib.synthesis import synthesize_all, write_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", required=True, help="a name from params.generators")
    parser.add_argument("--category", required=True, help="a name from params.dataset.categories")
    args = parser.parse_args()
    params, name, category = load(), args.generator, args.category
    model, placements = Path(f"models/generators/{name}/{category}"), Path(f"data/placements/{category}.jsonl")
    key = fingerprint(name, params.synth.model_dump(), params.window.model_dump(), model, placements)
    real = read_real(category)
    records = synthesize_all(
        params, real, name, model, read_records(placements, Placement), key, Path(f"data/synth/{name}/{category}")
    )
    write_sheet(records, real, params, Path(f"metrics/synth/{name}/{category}.png"))


if __name__ == "__main__":
    main()
