"""All of params.yaml, checked before anything runs: `lib.core.params` knows no method, and does not import torch."""

from pathlib import Path

from lib import detectors, generators
from lib.core.params import Params, load


def load_all(path: Path = Path("params.yaml")) -> Params:
    """`lib.core.params.load`, and the sections of all methods in use. Raises UserError for what is invalid."""
    params = load(path)
    for kind, names in ((generators, params.generators), (detectors, params.detectors)):
        for name in names:
            params.section(name, kind.find(name).Settings)
    return params
