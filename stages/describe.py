"""Say in words what each real defect of the train and val parts is and where it lies."""

from pathlib import Path

from lib.boxes import real_defects
from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import Description, Sample, read_records, write_records
from lib.language import captions, location_of


def main() -> None:
    params = load()
    with owned_folder(Path("data/descriptions")) as folder:
        for category in params.dataset.categories:
            samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
            descriptions = []
            for defect in real_defects(samples, params.boxes.margin, params.boxes.min_area):
                location = location_of(defect.component.centroid, *defect.sample.size)
                texts = captions(defect.defect_type, category, location)
                descriptions.append(Description(defect.sample.id, defect.number, location, texts))
            write_records(folder / f"{category}.jsonl", descriptions)


if __name__ == "__main__":
    run(main, __doc__)
