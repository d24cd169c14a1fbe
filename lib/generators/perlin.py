"""Procedural anomalies: a thresholded Perlin mask blends a foreign texture into the box (DRAEM, Zavrtanik et al. 2021).

DRAEM takes its textures from a separate data set; here they are strongly altered pieces of the category's good
pictures, so that nothing has to be downloaded. The mask is known, not measured.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lib.core.images import read_image, recent
from lib.core.params import Params, Section
from lib.core.records import GOOD, Placement
from lib.core.runtime import seed_for
from lib.generators import Answer, Made, RealData
from lib.vision.pseudo import blend

SHARED = ()


class Settings(Section):
    """No settings: the constants stand in `lib/vision/pseudo.py`."""


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Blend one Perlin-shaped piece of foreign texture into the box of every placement."""
    read = recent(read_image)
    goods = sorted(Path(sample.image) for sample in real.samples.values() if sample.defect_type == GOOD)

    def answer(placement: Placement) -> Answer:
        rng = np.random.default_rng(seed_for(placement.seed, "perlin"))
        normal = read(Path(real.samples[placement.normal].image))
        return Made(*blend(normal, read(goods[rng.integers(len(goods))]), placement.box, rng))

    for batch in batches:
        yield [answer(placement) for placement in batch]
