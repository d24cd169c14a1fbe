"""Compare the accepted synthetic defects of a generator with the real ones: distance, diversity, copies."""

from pathlib import Path

from lib.core.command import run
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import DefectBox, Synthetic, read_records, read_train
from lib.core.runtime import write_json
from lib.metrics.fidelity import compare


def main(generator: str, category: str) -> None:
    params, arm = load(), f"{generator}/{category}"
    records = read_records(Path(f"data/masks/{arm}/manifest.jsonl"), Synthetic)
    accepted = [record for record in records if record.accepted]
    samples, boxes = read_train(category), read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
    known = [box for box in boxes if box.sample in samples]
    scores, sheet = compare(samples, known, accepted, params.window, params.fidelity.neighbours)
    write_json(Path(f"metrics/fidelity/{arm}.json"), scores)
    write_png(Path(f"metrics/fidelity/{arm}.png"), sheet)


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
