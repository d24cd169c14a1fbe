"""Choose where new defects go on good pictures: boxes drawn from those of real defects, at similar places.

The requests of people in data/requests follow, at the places that they drew.
Writes data/placements/<category>.jsonl, and metrics/placements/<category>.png: real and synthetic places side by side.
"""

from pathlib import Path

from lib.core.command import run
from lib.core.images import write_png
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import DefectBox, Sample, read_records, write_records
from lib.placement.random_boxes import place_boxes
from lib.placement.requests import place_requests, read_requests
from lib.placement.scenes import scene_of
from lib.placement.sheet import placement_sheet


def main() -> None:
    params = load()
    real = {
        category: (
            read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample),
            read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox),
        )
        for category in params.dataset.categories
    }
    requests, sentence = read_requests(real)
    with owned_folder(Path("data/placements")) as folder, owned_folder(Path("metrics/placements")) as pictures:
        for category, (samples, boxes) in real.items():
            scene = scene_of(samples, boxes)
            settings = params.placements
            placements = place_boxes(
                samples, boxes, settings.per_type, settings.jitter, params.seed, scene, settings.on_part
            )
            placements += place_requests(requests[category], samples, boxes, params.seed)
            write_records(folder / f"{category}.jsonl", placements)
            write_png(pictures / f"{category}.png", placement_sheet(scene, placements))
    if sentence:
        print(sentence)


if __name__ == "__main__":
    run(main, __doc__)
