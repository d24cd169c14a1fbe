"""A detector that learns nothing: bright pixels are anomalous. It tests what drives detectors in no time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.geometry import RGB, Scores
from lib.core.images import write_png
from lib.core.params import Params, Section
from lib.core.records import GOOD, Sample, write_records
from lib.core.runtime import write_json
from lib.vision.examples import Example, History

LEARNS_FROM = "defects"


class Settings(Section):
    """Those of `unet`, in whose name it stands in."""

    width: int
    encoder_rate: float
    classes: str


def fit(train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path):
    write_json(out / "config.json", {"seed": seed, "width": settings.width, "examples": len(train)})
    return History({"loss": [(1, 1.0), (2, 1 / (1 + seed))]})


def load(folder: Path) -> float:
    """How much noise the detector of this seed adds."""
    return 20.0 * (1 + json.loads((folder / "config.json").read_text())["seed"])


def predict(model: float, image: RGB) -> Scores:
    """Grey values, in 0 ... 255 and some more: a detector whose range is not [0, 1]."""
    noise = np.random.default_rng(0).normal(0, 1, image.shape[:2])
    return (image.mean(axis=2) + model * noise).astype(np.float32)


def bright_discs(count: int, seed: int, side: int = 40, good: int = 2) -> list[Example]:
    """Bright discs on noise; the first `good` pictures have none."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    examples = []
    for n in range(count):
        y, x = rng.integers(6, side - 6, 2)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < rng.integers(3, 6) ** 2) & (n >= good)
        image = np.clip(rng.normal(100, 25, (side, side, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        kind = GOOD if n < good else "blob" if n % 2 else "ring"
        examples.append(Example(image, mask if n >= good else None, False, kind))
    return examples


def write_discs(category: str, parts: dict[str, list[Example]]) -> None:
    """Write a prepared category below the working folder: train, val and test, each with its examples."""
    folder, samples = Path("data/prepared") / category, []
    for split, examples in parts.items():
        for n, example in enumerate(examples):
            name = f"{split}-{n}"
            image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
            digests: dict[str, Any] = {"sha256": write_png(image, example.image)}
            if example.has_defect:
                digests["mask_sha256"] = write_png(mask, example.mask)
            samples.append(
                Sample(
                    id=name,
                    category=category,
                    defect_type=example.defect_type,
                    image=image.as_posix(),
                    mask=mask.as_posix() if example.has_defect else None,
                    group=name,
                    split=split,
                    size=(example.image.shape[1], example.image.shape[0]),
                    **digests,
                )
            )
    write_records(folder / "samples.jsonl", samples)
