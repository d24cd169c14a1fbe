"""Choose where new defects shall appear on good pictures: boxes drawn from the real ones, on the object."""

from pathlib import Path

from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import DefectBox, Sample, read_records, write_records
from lib.placement import place_boxes


def main() -> None:
    params = load()
    with owned_folder(Path("data/placements")) as folder:
        for category in params.dataset.categories:
            samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
            boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
            placements = place_boxes(samples, boxes, params.placements.per_type, params.placements.jitter, params.seed)
            write_records(folder / f"{category}.jsonl", placements)


if __name__ == "__main__":
    run(main, __doc__)
