"""Reads one category of the data set in any layout, validates all of it and splits it without leaks.

Writes data/prepared/<category>/: samples.jsonl, one record per picture, and split.json, how the parts came about.
Any problem in the data set is printed with all others, and then nothing is written.
"""

import argparse
import sys
from pathlib import Path

from lib import params
from lib.dataset.layouts import DatasetProblems
from lib.dataset.splitting import split_category
from lib.records import write_records
from lib.runtime import atomic_folder, write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", required=True, help="folder of dataset.path to read, such as brushed_metal")
    category = parser.parse_args().category
    try:
        settings = params.load()
        samples, summary = split_category(settings.dataset, settings.split, category)
    except DatasetProblems as error:
        number = len(error.problems)
        print(f"{category}: {number} problem(s) in the data set, nothing is written:\n{error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for warning in summary["warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    with atomic_folder(Path("data/prepared") / category) as folder:
        write_records(folder / "samples.jsonl", samples)
        write_json(folder / "split.json", summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
