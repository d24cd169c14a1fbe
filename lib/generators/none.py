"""No synthesis at all: the arm that trains detectors on the few real defects alone."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.core.params import Params
from lib.core.records import Placement
from lib.generators import Made, RealData, write_training_free


def finetune(params: Params, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Nothing is learnt."""
    write_training_free("none", out, curves)


def synthesize(params: Params, real: RealData, model: Path, batches: Iterable[list[Placement]]) -> Iterator[list[Made]]:
    """No pictures, for any batch."""
    return ([] for _ in batches)
