"""Detectors: what they learn from, how one is trained per seed, how it is judged on the untouched test part.

A detector is a module with three functions:
`fit(examples_train, examples_val, params, seed, out)` writes its weights as safetensors, `config.json`,
`threshold.json` ({"threshold": chosen on val}) and `history.json` ({"loss": one per step, "val_pixel_ap": [step, AP]
per validation});
`load(folder)` returns a model; `predict(model, image)` maps (H, W, 3) uint8 to (H, W) float32 in [0, 1].
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from lib.core.geometry import RGB, Mask

DETECTORS = {"unet": "lib.detectors.unet"}  # names in params.yaml; imported only when used


@dataclass(frozen=True)
class Example:
    """One picture to learn from. image: (H, W, 3) uint8; mask: (H, W) bool, all False for good pictures."""

    image: RGB
    mask: Mask
    synthetic: bool
    defect_type: str


def find(name: str) -> ModuleType:
    """The module of a detector. Raises ValueError for a name that is not in DETECTORS."""
    if name not in DETECTORS:
        raise ValueError(f"detector {name!r} is unknown, expected one of {', '.join(DETECTORS)}")
    return importlib.import_module(DETECTORS[name])
