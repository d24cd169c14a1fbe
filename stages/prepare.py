"""Read one category of the data set in any layout, validate all of it and split it without leaks.

Writes data/prepared/<category>/: samples.jsonl, one record per picture, and split.json, how the parts came about.
Any problem in the data set is printed with all others, and then nothing is written.
"""

import sys
from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import write_records
from lib.core.runtime import atomic_folder, write_json
from lib.dataset.splitting import split_category


def main(category: str) -> None:
    params = load()
    samples, summary = split_category(params.dataset, params.split, category)
    for warning in summary["warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    counts = summary["counts"]
    for name in sorted({name for part in counts.values() for name in part}):
        print(f"{category}, {name}: " + ", ".join(f"{part.get(name, 0)} {of}" for of, part in counts.items()))
    with atomic_folder(Path(f"data/prepared/{category}")) as folder:
        write_records(folder / "samples.jsonl", samples)
        write_json(folder / "split.json", summary)


if __name__ == "__main__":
    run(main, __doc__, "category")
