"""A toy category of drawn pictures, whose object and defects are known."""

from pathlib import Path

import cv2
import numpy as np

from lib.boxes import real_defects
from lib.core.geometry import box_mask
from lib.core.images import write_png
from lib.core.records import Sample


def toy_category(folder, texture=False, goods=5, size=(160, 120)):
    """Samples and boxes of a toy category: a bright disc on a dark ground, or a texture, with small defects.

    The train part has two scratches on the object and two chips at its right edge, the val and test parts one huge
    defect each, which no placement may resemble.
    """
    rng = np.random.default_rng(0)
    width, height = size

    def picture():
        image = rng.normal(60, 3, (height, width, 3))
        if texture:
            image += rng.normal(0, 40, (height, width, 1))
        else:
            disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), 45, 1, -1)
            image[disc > 0] += 130
        return np.clip(image, 0, 255).astype(np.uint8)

    def sample(name, defect_type, split, box=None):
        write_png(folder / f"{name}.png", picture())
        mask = None
        if box is not None:
            mask = f"{folder.as_posix()}/{name}_mask.png"
            write_png(Path(mask), box_mask(box, width, height))
        image = f"{folder.as_posix()}/{name}.png"
        return Sample(name, "toy", defect_type, image, mask, name, split, size, name)

    edge = width // 2 + 45
    samples = [sample(f"good-{number}", "good", "train") for number in range(goods)]
    samples += [
        sample("good-val", "good", "val"),
        sample("scratch-0", "scratch", "train", (60, 50, 75, 54)),
        sample("scratch-1", "scratch", "train", (90, 70, 96, 82)),
        sample("chip-0", "chip", "train", (edge - 9, 52, edge + 7, 64)),
        sample("chip-1", "chip", "train", (edge - 8, 56, edge + 6, 66)),
        sample("scratch-val", "scratch", "val", (0, 0, 150, 110)),
        sample("scratch-test", "scratch", "test", (0, 0, 150, 110)),
    ]
    boxes = [
        component.record(sample.id, number, sample.defect_type)
        for sample, number, _, component in real_defects(samples, 0.15, 4)
    ]
    return samples, boxes
