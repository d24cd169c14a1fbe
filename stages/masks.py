"""Measure the mask of every synthetic picture from what changed, and let the quality gate accept or reject it."""

from pathlib import Path
from typing import Any

from lib.core.command import run
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import Sample, Synthetic, by_id, of_split, read_records, write_records
from lib.core.runtime import atomic_folder, write_json
from lib.labels.labelling import label_all


def main(generator: str) -> None:
    params, numbers = load(), dict[str, Any]()
    for category in params.dataset.categories:
        arm = f"{generator}/{category}"
        records, final = read_records(Path(f"data/synth/{arm}/manifest.jsonl"), Synthetic), Path(f"data/masks/{arm}")
        real = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "train", "val")
        with atomic_folder(final) as folder:
            labelled, numbers[category], sheet = label_all(params, by_id(real), records, folder, final)
            write_records(folder / "manifest.jsonl", labelled)
        write_png(Path(f"metrics/masks/{arm}.png"), sheet)
    write_json(Path(f"metrics/masks/{generator}.json"), numbers)


if __name__ == "__main__":
    run(main, __doc__, "generator")
