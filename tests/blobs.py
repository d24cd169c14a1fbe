"""The smallest task for a detector: bright discs on noise, and a budget of a few steps."""

import numpy as np

from lib.core.params import Detect
from lib.core.records import GOOD
from lib.vision.examples import Example

BUDGET = Detect(
    on_synthetic=(),
    seeds=(0, 1),
    scale=1.0,
    window=32,
    encoder="none",
    steps=4,
    batch_size=4,
    learning_rate=0.01,
    synthetic_share=0.5,
    validate_every=2,
    false_alarm_rate=None,
    min_area=1,
)


def blobs(count: int, seed: int, side: int = 64, synthetic: bool = False, good: int = 2) -> list[Example]:
    """Bright discs on noise; the first `good` pictures have none."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    examples = []
    for n in range(count):
        y, x = rng.integers(6, side - 6, 2)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < rng.integers(3, 6) ** 2
        mask &= n >= good
        image = np.clip(rng.normal(100, 25, (side, side, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        examples.append(Example(image, mask, synthetic, "blob" if n >= good else GOOD))
    return examples
