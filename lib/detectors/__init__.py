"""The detectors: one method, one file; the name in params.yaml is the file's name.

A method's module offers

- `Settings`: a `Section` with the types of its own section in params.yaml;
- `LEARNS_FROM`: "defects", and it is trained for every arm, or "good", and it is trained on good pictures alone;
- `fit(train, val, params, settings, seed, out)`: trains on examples, selects on val, writes weights as safetensors and
  `config.json` into the folder `out`, returns its `History`;
- `load(folder)`: the model that `fit` wrote; `predict(model, image)`: (H, W, 3) uint8 -> (H, W) float32, higher where
  a defect is likelier, on one scale for all pictures.

`lib/detection.py` drives them all: it reads examples, chooses thresholds on val, draws curves and judges on test.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.params import methods


@dataclass(frozen=True)
class Example:
    """One picture to learn from. image: (H, W, 3) uint8; mask: (H, W) bool, all False for good pictures."""

    image: RGB
    mask: Mask
    synthetic: bool
    defect_type: str


@dataclass(frozen=True)
class History:
    """The curves of one training, by name: (step, value) each. Empty where nothing is trained step by step."""

    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


def find(name: str) -> ModuleType:
    """The module of a detector, imported when it is asked for. Raises UserError with the known names for any other."""
    if name not in methods("detectors"):
        raise UserError(f"detectors: {name!r} is unknown, known are {', '.join(methods('detectors'))}")
    return importlib.import_module(f"lib.detectors.{name}")
