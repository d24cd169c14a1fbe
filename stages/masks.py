"""Measure the mask of every synthetic picture from what changed, and let the quality gate accept or reject it.

Verdicts of people in data/review override both: they reject samples and correct masks.
"""

from pathlib import Path
from typing import Any

from lib.core.command import run
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import Sample, Synthetic, by_id, of_split, read_records, write_records
from lib.core.runtime import atomic_folder, write_json
from lib.labels.labelling import label_all
from lib.labels.review import read_verdicts, rejected_corrections


def main(generator: str) -> None:
    params, numbers = load(), dict[str, Any]()
    arms = {
        category: read_records(Path(f"data/synth/{generator}/{category}/manifest.jsonl"), Synthetic)
        for category in params.dataset.categories
    }
    verdicts, sentence = read_verdicts(generator, arms)
    for category, records in arms.items():
        final = Path(f"data/masks/{generator}/{category}")
        real = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "train", "val")
        with atomic_folder(final) as folder:
            labelled, numbers[category], sheet = label_all(
                params, by_id(real), records, folder, final, verdicts[category]
            )
            write_records(folder / "manifest.jsonl", labelled)
        sentence += rejected_corrections(labelled)
        write_png(Path(f"metrics/masks/{generator}/{category}.png"), sheet)
    write_json(Path(f"metrics/masks/{generator}.json"), numbers)
    if sentence:
        print(sentence)


if __name__ == "__main__":
    run(main, __doc__, "generator")
