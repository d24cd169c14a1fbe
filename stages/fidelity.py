"""Compare the accepted synthetic defects of every generator with the real ones: distance, diversity, copies.

And show the same placements through every generator, side by side: metrics/fidelity/<category>.png.
"""

from pathlib import Path
from typing import Any

from lib import plots
from lib.core.command import run
from lib.core.defects import whole_defects
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import DefectBox, Synthetic, read_records, read_train
from lib.core.runtime import atomic_folder, write_json
from lib.metrics.fidelity import Comparison, load_describer, same_placements


def main() -> None:
    params = load()
    backbone = load_describer()
    scores: dict[str, dict[str, Any]] = {generator: {} for generator in params.generators}
    with atomic_folder(Path("metrics/fidelity")) as folder:
        for category in params.dataset.categories:
            samples = read_train(category)
            boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
            real = whole_defects([box for box in boxes if box.sample in samples])
            answers = {
                generator: read_records(Path(f"data/masks/{generator}/{category}/manifest.jsonl"), Synthetic)
                for generator in params.generators
            }
            comparison = Comparison(samples, real, params.window, backbone)
            for generator, records in answers.items():
                accepted = [record for record in records if record.accepted]
                scores[generator][category], sheet = comparison.of(accepted, params.fidelity.neighbours)
                write_png(folder / generator / f"{category}.png", sheet)
            heads, rows = same_placements(samples, answers, params.window, params.fidelity.placements)
            write_png(folder / f"{category}.png", plots.comparison_sheet(heads, rows))
    write_json(Path("metrics/fidelity.json"), scores)


if __name__ == "__main__":
    run(main, __doc__)
