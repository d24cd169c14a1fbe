"""Put a box with a margin around each real defect of the train and val parts."""

from pathlib import Path

from lib.boxes import real_defects
from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import Sample, read_records, write_records


def main() -> None:
    params = load()
    with owned_folder(Path("data/boxes")) as folder:
        for category in params.dataset.categories:
            samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
            boxes = [
                component.record(sample.id, number, defect_type)
                for sample, number, defect_type, component in real_defects(
                    samples, params.boxes.margin, params.boxes.min_area
                )
            ]
            write_records(folder / f"{category}.jsonl", boxes)


if __name__ == "__main__":
    run(main, __doc__)
