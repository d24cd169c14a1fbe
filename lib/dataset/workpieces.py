"""The embedded dataset: three categories of rendered workpieces in MVTec AD layout, from one seed."""

from collections.abc import Callable
from dataclasses import replace
from math import cos, pi, radians, sin
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.random import Generator

from lib.core.errors import UserError
from lib.core.images import write_png
from lib.core.records import GOOD
from lib.core.runtime import progress
from lib.dataset.surfaces import (
    Camera,
    Light,
    Pair,
    Scene,
    brushed,
    cast,
    develop,
    expose,
    exposure_for,
    part,
    radiance,
    render_pair,
    sensor_grain,
    woven,
)

SCENES = 20  # tries for one visible defect

# What one picture of a category needs: the scene, where its defect may be, and the lamp.
Station = tuple[Scene, tuple[float, float], Light]


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    """A size between low and high, small ones as frequent as large ones on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _brushed_metal(rng: Generator, defect_type: str) -> Station:
    """Brushed stainless sheet, brushed along the horizontal, under a lamp at the upper left."""
    colour = 0.27 * np.array([0.985, 1.0, 1.03]) * rng.normal(1, 0.04)
    scene = brushed(rng, (256, 256), colour, rng.normal(0, 0.02), 1.0, 90, rng.uniform(0.2, 0.28), 0.5, 26)
    light = Light(radians(-128 + rng.normal(0, 5)), radians(48 + rng.normal(0, 2.5)), 0.35, 1.8)
    return scene, tuple(rng.uniform(45, 211, 2)), light


def _woven_fabric(rng: Generator, defect_type: str) -> Station:
    """Plain-woven blue-green cloth with lighter weft, under flat light that lets the yarns stand out."""
    tone = rng.normal(1, 0.05)
    warp, weft = tone * np.array([0.055, 0.17, 0.2]), tone * np.array([0.1, 0.26, 0.28])
    angle = rng.normal(0, 0.035)
    scene = woven(rng, (256, 256), warp, weft, angle, rng.normal(10.4, 0.15), 1, 0.93, 0.27, 0.09, 0.07)
    light = Light(radians(-60 + rng.normal(0, 6)), radians(50 + rng.normal(0, 3)), 0.4, 2.6)
    return scene, tuple(rng.uniform(45, 211, 2)), light


def _hex_nut(rng: Generator, defect_type: str) -> Station:
    """A zinc-plated hexagonal nut, lying anyhow on a dark conveyor; the lamp moves between pictures."""
    belt = cast(rng, (256, 288), np.array([0.05, 0.052, 0.056]) * rng.normal(1, 0.08), 7, 0.3, 0.22, 0.3, 0.02, False)
    centre = (144 + rng.normal(0, 9), 128 + rng.normal(0, 7))
    radius, angle = 84 * rng.normal(1, 0.03), rng.uniform(0, pi / 3)
    scene = part(
        rng, belt, np.array([0.3, 0.295, 0.275]) * rng.normal(1, 0.04), centre, radius, angle, 6, 0.58,
        thread=0.15, thickness=15, bevel=2.2, chamfer=0.55, finish=0.14, turned=0.35,
        gloss=0.45, shininess=22,
    )  # fmt: skip
    polar = rng.uniform(0, 2 * pi)
    side = radius / cos((polar + pi / 6) % (pi / 3) - pi / 6)
    away = side if defect_type == "chipped_edge" else rng.uniform(0.7 * radius, 0.9 * side)
    target = (centre[0] + away * cos(polar + angle), centre[1] + away * sin(polar + angle))
    light = Light(rng.uniform(0, 2 * pi), radians(rng.uniform(42, 62)), rng.uniform(0.28, 0.42), 2.0)
    return scene, target, light


# Category: what builds it, its surface noun, its mean picture value, and of each defect type the least and
# the greatest extent in px.
Ranges = dict[str, tuple[float, float]]
STATIONS: dict[str, tuple[Callable[[Generator, str], Station], str, float, Ranges]] = {
    "brushed_metal": (
        _brushed_metal, "brushed metal", 0.6, {"scratch": (18, 180), "dent": (12, 52), "stain": (9, 54)},
    ),
    "woven_fabric": (
        _woven_fabric, "woven fabric", 0.45, {"hole": (16, 62), "thread": (22, 100), "stain": (14, 60)},
    ),
    "hex_nut": (
        _hex_nut, "metal nut", 0.58, {"scratch": (12, 60), "chipped_edge": (14, 60), "crack": (16, 60)},
    ),
}  # fmt: skip


def workpiece(category: str, defect_type: str, seed: int, index: int) -> Pair:
    """Picture `index` of a category and its twin; types "train/good" and "test/good" have no defect.

    Depends on nothing but the arguments. Without a defect both pictures are the same and the mask is empty.
    Raises ValueError for an unknown category or defect type.
    """
    if category not in STATIONS:
        raise ValueError(f"unknown category {category!r}, expected one of {sorted(STATIONS)}")
    build, surface, level, sizes = STATIONS[category]
    good = defect_type in ("train/good", "test/good")
    if not good and defect_type not in sizes:
        raise ValueError(f"unknown defect type {defect_type!r} for {category}, expected one of {sorted(sizes)}")
    rng = np.random.default_rng([seed, crc32(category.encode()), crc32(defect_type.encode()), index])
    camera = Camera(vignetting=0.12, blur=0.65, read=0.8, shot=1.8)
    for _ in range(SCENES):
        scene, target, light = build(rng, defect_type)
        bright = level * rng.normal(1, 0.035)
        if good:
            return _without_defect(rng, scene, light, camera, surface, bright)
        extent = _log_uniform(rng, *sizes[defect_type])
        strength = _log_uniform(rng, 0.45, 1.5)
        pair = render_pair(scene, light, camera, rng, defect_type, target, extent, strength, surface, bright)
        if pair is not None:
            return pair
    raise RuntimeError(f"{SCENES} scenes of {category} in a row had no visible {defect_type}")


def _without_defect(rng: Generator, scene: Scene, light: Light, camera: Camera, surface: str, bright: float) -> Pair:
    """A good picture of the mean value `bright`, which is its own twin."""
    incoming = radiance(scene, light)
    camera = replace(camera, exposure=exposure_for(incoming, scene.foreground, bright))
    picture = expose(develop(incoming, camera), camera, sensor_grain(rng, incoming.shape[:2]))
    return Pair(picture, picture, np.zeros(picture.shape[:2], bool), scene.foreground, surface, GOOD)


def write_category(
    folder: Path, category: str, seed: int, train_good: int = 24, test_good: int = 16, per_defect: int = 18
) -> None:
    """Write a category in MVTec AD layout into the folder, byte for byte the same for the same seed.

    train/good, test/good, test/<type> and ground_truth/<type> hold 000.png (000_mask.png, 0 or 255) and on;
    twins/<type> holds each defect picture as it would be without the defect. More pictures change none of the others.
    Raises UserError for an unknown category.
    """
    if category not in STATIONS:
        raise UserError(
            f"dataset.categories: {category} cannot be rendered, only {', '.join(sorted(STATIONS))}; correct it, or "
            "set dataset.path to the folder of your own pictures"
        )
    counts = {"train/good": train_good, "test/good": test_good, **dict.fromkeys(STATIONS[category][3], per_defect)}
    jobs = [(defect_type, index) for defect_type, count in counts.items() for index in range(count)]
    for defect_type, index in progress(jobs, f"render {category}"):
        pair, name = workpiece(category, defect_type, seed, index), f"{index:03d}"
        if pair.defect_type == GOOD:
            write_png(folder / defect_type / f"{name}.png", pair.normal)
            continue
        write_png(folder / "test" / defect_type / f"{name}.png", pair.defect)
        write_png(folder / "ground_truth" / defect_type / f"{name}_mask.png", pair.mask)
        write_png(folder / "twins" / defect_type / f"{name}.png", pair.normal)
