"""A category with every kind of picture and mask that an export meets, and the pixels that must come back."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.geometry import RGB, Mask
from lib.core.images import write_png
from lib.core.records import GOOD, MIXED, Sample, Synthetic, TypeMap, write_records

CATEGORY = "slab"
SIZE = (48, 40)
GENERATORS = ("cutpaste", "mvp_diff")


@dataclass
class Truth:
    """By the name of the exported picture: subset, pixels, mask by type."""

    subset: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, RGB] = field(default_factory=dict)
    masks: dict[str, dict[str, Mask]] = field(default_factory=dict)

    def add(self, name: str, subset: str, pixels: RGB, masks: dict[str, Mask]) -> None:
        self.subset[name], self.pixels[name], self.masks[name] = subset, pixels, masks

    def types(self) -> list[str]:
        return sorted({name for masks in self.masks.values() for name in masks})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shapes(width: int, height: int) -> list[Mask]:
    """A ring with a speck within and holes that meet, single pixels at corners, a frame along the border, noise."""
    ring, specks, frame = (np.zeros((height, width), bool) for _ in range(3))
    ring[5:20, 8:30] = True
    ring[8:16, 12:20] = False
    ring[11, 15] = True
    ring[9, 24] = ring[10, 25] = False
    specks[0, 0] = specks[-1, -1] = specks[0, -1] = specks[20, 20] = True
    frame[[0, -1]] = frame[:, [0, -1]] = True
    return [ring, specks, frame, np.random.default_rng(0).random((height, width)) < 0.25]


@pytest.fixture
def truth(inside: Path) -> Truth:
    """Write the records and pictures of a category below the working folder; what an export of it all must hold."""
    truth, samples, rng = Truth(), [], np.random.default_rng(1)
    folder = Path("data/mine") / CATEGORY

    def real(
        key: str, defect_type: str, part: str, masks: dict[str, Mask], exif: int = 1, suffix: str = ".png"
    ) -> None:
        stored = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        image = folder / part / f"{key}{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        tags = Image.Exif()
        tags[0x0112] = exif
        Image.fromarray(stored).save(image, exif=tags)
        upright = np.rot90(stored, -1) if exif == 6 else stored
        size = (upright.shape[1], upright.shape[0])
        mask, type_map = None, None
        if masks:
            mask = folder / "masks" / f"{key}.png"
            write_png(mask, np.logical_or.reduce(list(masks.values())))
        if defect_type == MIXED:
            numbers = sum(number * one.astype(np.uint8) for number, one in enumerate(masks.values(), start=1))
            path = folder / "types" / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.astype(np.uint8)).save(path)
            type_map = TypeMap(path.as_posix(), digest(path), tuple(masks))
        place = None if mask is None else mask.as_posix()
        sha256 = None if mask is None else digest(mask)
        samples.append(
            Sample(
                *(key, CATEGORY, defect_type, image.as_posix(), place, key, part, size, digest(image), sha256),
                type_map=type_map,
            )
        )
        if part != "test":
            truth.add(f"{part}-{key}", part, upright, masks)

    ring, specks, frame, noise = shapes(*SIZE)
    for number, part in enumerate(("train", "train", "val", "test")):
        real(f"good-{number}", GOOD, part, {}, suffix=".bmp" if number == 1 else ".png")
    real("dent-1", "dent", "train", {"dent": ring})
    real("dent-10", "dent", "train", {"dent": specks})  # whose name begins as that of another one
    real("crack-0", "crack", "val", {"crack": frame})
    real("crack-1", "crack", "test", {"crack": frame})
    real("turned", "crack", "train", {"crack": shapes(*SIZE[::-1])[3]}, exif=6)
    real("both", MIXED, "train", {"scratch": ring & ~specks & ~frame, "dent": specks | frame})
    write_records(Path(f"data/prepared/{CATEGORY}/samples.jsonl"), samples)

    for generator in GENERATORS:
        records = []
        for number, accepted in enumerate((True, False, None, True)):
            key = f"{CATEGORY}-dent-{number:05d}"
            image, mask = Path(f"data/synth/{generator}/{key}.png"), Path(f"data/masks/{generator}/{key}.png")
            pixels, label = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8), noise if number else ring
            write_png(image, pixels)
            write_png(mask, label)
            made = accepted is not None
            records.append(
                Synthetic(
                    placement=key,
                    category=CATEGORY,
                    defect_type="dent",
                    normal="good-0" if number else None,
                    box=(0, 0, *SIZE),
                    like="dent-1",
                    component=0,
                    generator=generator,
                    model="a procedure",
                    prompt="a dent",
                    seed=2**60 + number,
                    knobs={},
                    image=image.as_posix() if made else None,
                    sha256=digest(image) if made else None,
                    mask=mask.as_posix() if made else None,
                    mask_sha256=digest(mask) if made else None,
                    scores={"contrast": 7.5} if made else {},
                    accepted=bool(accepted),
                    reason=None if accepted else "faint",
                )
            )
            if accepted:
                truth.add(f"{generator}-{key}", generator, pixels, {"dent": label})
        write_records(Path(f"data/masks/{generator}/{CATEGORY}/manifest.jsonl"), records)
    return truth
