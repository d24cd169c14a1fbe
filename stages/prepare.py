"""Read the categories of the data set in any layout, validate all of them and split each without leaks.

Writes data/prepared/<category>/: samples.jsonl, one record per picture, and split.json, how the parts came about; and
pictures of more than 8 bits once more, with 8, and the masks of regions that the data set gives as polygons or boxes.
Any problem in the data set is printed with all others, and then nothing is written.
"""

import sys
from pathlib import Path

from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import write_records
from lib.core.runtime import write_json
from lib.dataset.conversion import converted
from lib.dataset.splitting import split_categories
from lib.dataset.survey import taken_for


def main() -> None:
    params = load()
    split, depth, looks = split_categories(params.dataset, params.split)
    for line in taken_for(looks):
        print(line)
    if depth != 8:
        print(f"all pictures: values of depth {depth}, scaled to 8 bits alike (dataset.depth)")
    final = Path("data/prepared")
    with owned_folder(final) as folder:
        for category, (samples, summary) in split.items():
            samples = converted(samples, depth, folder / category, final / category, looks[category].drawn)
            for warning in summary["warnings"]:
                print(f"WARNING: {warning}", file=sys.stderr)
            counts = summary["counts"]
            for name in sorted({name for part in counts.values() for name in part}):
                print(f"{category}, {name}: " + ", ".join(f"{part.get(name, 0)} {of}" for of, part in counts.items()))
            write_records(folder / category / "samples.jsonl", samples)
            write_json(folder / category / "split.json", summary)


if __name__ == "__main__":
    run(main, __doc__)
