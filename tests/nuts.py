"""Drawn parts on a ground, whose outlines and defects are known: for tests of where new defects go."""

from pathlib import Path

import cv2
import numpy as np

from lib.boxes import mask_boxes
from lib.core.images import write_png
from lib.core.records import Sample

SIZE = (200, 160)
KINDS = ("one part", "two parts", "six parts", "profile from border to border")
GROUNDS = {"dark ground": (30, 170), "bright ground": (225, 90), "little contrast": (60, 100)}


def outline(kind, rng):
    """Where the parts of a picture are, (160, 200) bool; their places vary a little."""
    where = np.zeros(SIZE[::-1], np.uint8)

    def off(most):
        return int(rng.integers(-most, most + 1))

    if kind == "one part":
        cv2.circle(where, (100 + off(9), 80 + off(8)), 48, 1, -1)
    elif kind == "two parts":
        cv2.ellipse(where, (55 + off(6), 80 + off(8)), (38, 24), 90 + off(20), 0, 360, 1, -1)
        cv2.circle(where, (145 + off(6), 80 + off(8)), 30, 1, -1)
    elif kind == "six parts":
        for place in range(6):
            cv2.circle(where, (40 + 60 * (place % 3) + off(6), 45 + 70 * (place // 3) + off(6)), 20, 1, -1)
    else:
        left = 60 + off(5)
        cv2.rectangle(where, (left, 0), (left + 80, SIZE[1]), 1, -1)
    return where > 0


def scene(kind, levels, seed, pit=False):
    """A picture (160, 200, 3), the mask of its pit, and where its parts are."""
    rng = np.random.default_rng(seed)
    where = outline(kind, rng)
    ground, metal = levels
    image = rng.normal(ground, 3, (*where.shape, 1))
    image[where] = rng.normal(metal, 6, (int(where.sum()), 1))
    mask = np.zeros(where.shape, np.uint8)
    if pit:
        rows, columns = np.nonzero(cv2.erode(where.astype(np.uint8), np.ones((17, 17)), borderValue=0))
        one = int(rng.integers(len(rows)))
        cv2.circle(mask, (int(columns[one]), int(rows[one])), 6, 1, -1)
        image[mask > 0] += 70 if metal < 130 else -70
    return np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2), mask > 0, where


def nut(angle, seed, chip=False, marked=True, sides=6, size=160):
    """A nut with `sides` corners, turned by an angle in degrees, and the direction of its corner number 0 in radians.

    A chip occurs at that corner alone, which a groove marks: without it, all corners look alike.
    """
    rng = np.random.default_rng(seed)
    centre = np.array([size / 2, size / 2]) + rng.uniform(-6, 6, 2)
    turn = np.deg2rad(angle)
    angles = turn + 2 * np.pi * np.arange(sides) / sides
    corners = centre + 0.36 * size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    where = np.zeros((size, size), np.uint8)
    cv2.fillPoly(where, [np.rint(corners * 16).astype(np.int32)], 1, shift=4)
    cv2.circle(where, tuple(np.rint(centre * 16).astype(int).tolist()), round(0.15 * size * 16), 0, -1, shift=4)
    image = np.full((size, size, 1), 40.0)
    image[where > 0] = 170
    if marked:
        start = centre + 0.2 * size * np.array([np.cos(turn), np.sin(turn)])
        stop = centre + 0.27 * size * np.array([np.cos(turn), np.sin(turn)])
        ends = [tuple(int(value) for value in np.rint(one)) for one in (start, stop)]
        cv2.line(image, *ends, 110, max(size // 40, 2))
    mask = np.zeros((size, size), np.uint8)
    if chip:
        tip = np.rint(corners[0] - 0.03 * size * np.array([np.cos(turn), np.sin(turn)])).astype(int)
        cv2.circle(mask, tuple(tip.tolist()), round(0.04 * size), 1, -1)
        image[mask > 0] = 60
    image = image + rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2), mask > 0, (centre, turn)


def category(folder, good, defects, defect_type):
    """Samples and boxes of a category in the train part; good: pictures, defects: pictures and masks of defects."""
    samples, boxes = [], []
    for number, image in enumerate(good):
        samples.append(_sample(folder, f"good-{number:02d}", "good", image, None))
    for number, (image, mask) in enumerate(defects):
        name = f"{defect_type}-{number:02d}"
        samples.append(_sample(folder, name, defect_type, image, mask))
        boxes += [one.record(name, k, defect_type) for k, one in enumerate(mask_boxes(mask, 0.15, 4))]
    return samples, boxes


def _sample(folder, name, defect_type, image, mask):
    path = Path(folder) / f"{name}.png"
    write_png(path, image)
    drawn = None
    if mask is not None:
        drawn = (Path(folder) / f"{name}_mask.png").as_posix()
        write_png(Path(drawn), mask)
    size = image.shape[1], image.shape[0]
    return Sample(name, "part", defect_type, path.as_posix(), drawn, name, "train", size, name)


def screw(angle, seed, chip=False, size=(240, 200)):
    """A screw that covers a few per cent of its picture, turned by an angle in degrees, and the frame (centre, turn) of
    its head. A chip occurs at the far end of its shaft alone."""
    rng = np.random.default_rng(seed)
    turn = np.deg2rad(angle)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    centre = np.array(size) / 2 + rng.uniform(-15, 15, 2)

    def block(start, stop, half):
        ends = [
            centre + along * a + across * b for a, b in ((start, -half), (stop, -half), (stop, half), (start, half))
        ]
        return [np.rint(np.array(ends) * 16).astype(np.int32)]

    where, mask = np.zeros(size[::-1], np.uint8), np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(where, block(-45, 45, 5), 1, shift=4)
    cv2.fillPoly(where, block(-58, -44, 13), 1, shift=4)
    image = np.full((*size[::-1], 1), 215.0)
    image[where > 0] = 90
    if chip:
        cv2.circle(mask, tuple(np.rint(centre + 38 * along).astype(int).tolist()), 4, 1, -1)
        image[mask > 0] = 30
    image = image + rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2), mask > 0, (centre, turn), where > 0
