"""Choose where new defects shall appear on good pictures: boxes drawn from the real ones, at places like theirs.

Writes data/placements/<category>.jsonl, and metrics/placements/<category>.png: real and synthetic places side by side.
"""

from pathlib import Path

from lib.core.command import run
from lib.core.images import write_png
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.core.records import DefectBox, Sample, read_records, write_records
from lib.placement import place_boxes
from lib.placement_sheet import placement_sheet
from lib.scenes import scene_of


def main() -> None:
    params = load()
    with owned_folder(Path("data/placements")) as folder, owned_folder(Path("metrics/placements")) as pictures:
        for category in params.dataset.categories:
            samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
            boxes = read_records(Path(f"data/boxes/{category}.jsonl"), DefectBox)
            scene = scene_of(samples, boxes)
            asked = params.placements
            placements = place_boxes(samples, boxes, asked.per_type, asked.jitter, params.seed, scene)
            write_records(folder / f"{category}.jsonl", placements)
            write_png(pictures / f"{category}.png", placement_sheet(scene, placements))


if __name__ == "__main__":
    run(main, __doc__)
