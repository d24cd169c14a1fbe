"""Compare the accepted synthetic defects of a generator with the real ones: distance, diversity, copies."""

from pathlib import Path

from lib.core.command import run
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import Synthetic, read_records
from lib.core.runtime import write_json
from lib.generators import read_real
from lib.metrics.fidelity import compare


def main(generator: str, category: str) -> None:
    params, arm = load(), f"{generator}/{category}"
    records = read_records(Path(f"data/masks/{arm}/manifest.jsonl"), Synthetic)
    accepted = [record for record in records if record.accepted]
    scores, sheet = compare(read_real(category), accepted, params.window, params.fidelity.neighbours)
    write_json(Path(f"metrics/fidelity/{arm}.json"), scores)
    write_png(Path(f"metrics/fidelity/{arm}.png"), sheet)


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
