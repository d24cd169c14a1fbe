"""Pseudo anomalies: Perlin-shaped pieces of another texture (DRAEM, Zavrtanik et al. 2021).

The generator `perlin` and detectors that learn from good pictures use them.
"""

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Box, Mask, crop, paste_back, resize, window_around

THRESHOLD = 0.5  # of the noise, relative to its largest absolute value; in DRAEM absolute, for noise in [-1, 1]
OPACITY = (0.2, 1.0)  # beta of DRAEM's section 3.3, drawn uniformly
GAIN, OFFSET = (0.5, 1.5), (-80, 80)  # random contrast and brightness of the texture: factor, and grey levels added


def blend(normal: RGB, source: RGB, box: Box, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """Blend altered texture of `source` into `normal` where Perlin noise inside the box is high.

    normal, source: (H, W, 3) uint8, sizes may differ. Returns the picture and its exact mask, a subset of the box.
    """
    height, width = box[3] - box[1], box[2] - box[0]
    cells = 2 ** rng.integers(0, 4, size=2)
    noise = perlin_noise(height, width, int(cells[0]), int(cells[1]), rng)
    patch = noise > THRESHOLD * np.abs(noise).max()
    if not patch.any():  # all of the noise was negative
        patch = noise >= np.quantile(noise, 0.8)
    place = window_around(_somewhere(source, box, rng), source.shape, context=1.0, min_side=1)
    texture = resize(_altered(crop(source, place), rng), width, height)

    mask = np.zeros(normal.shape[:2], dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = patch
    painted = normal.astype(np.float32)
    region = painted[box[1] : box[3], box[0] : box[2]]
    region += np.float32(rng.uniform(*OPACITY)) * (texture - region)
    image = paste_back(painted, normal, mask)
    return image, mask & (image != normal).any(axis=2)


def perlin_noise(height: int, width: int, cells_y: int, cells_x: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gradient noise (height, width) float32 in about [-1, 1] on a grid of cells (Perlin 1985, fade curve of 2002)."""
    angles = rng.uniform(0, 2 * np.pi, (cells_y + 1, cells_x + 1))
    slopes = np.stack([np.sin(angles), np.cos(angles)])
    y, x = (
        (np.arange(extent, dtype=np.float64) + 0.5) * cells / extent
        for extent, cells in ((height, cells_y), (width, cells_x))
    )
    row, column = y.astype(int), x.astype(int)
    y, x = (y - row)[:, None], (x - column)[None, :]

    def corner(down: int, right: int) -> NDArray[np.float64]:
        slope = slopes[:, (row + down)[:, None], (column + right)[None, :]]
        return slope[0] * (y - down) + slope[1] * (x - right)

    fade_y, fade_x = (part**3 * (part * (part * 6 - 15) + 10) for part in (y, x))
    top = corner(0, 0) + fade_x * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade_x * (corner(1, 1) - corner(1, 0))
    return (np.sqrt(2) * (top + fade_y * (bottom - top))).astype(np.float32)


def _somewhere(source: RGB, box: Box, rng: np.random.Generator) -> Box:
    """A box of at most the given one's size at a random place of the source."""
    width, height = min(box[2] - box[0], source.shape[1]), min(box[3] - box[1], source.shape[0])
    x0, y0 = (int(rng.integers(extent + 1)) for extent in (source.shape[1] - width, source.shape[0] - height))
    return x0, y0, x0 + width, y0 + height


def _altered(texture: RGB, rng: np.random.Generator) -> NDArray[np.float32]:
    """The texture, rotated and perhaps inverted, with permuted channels, another brightness and contrast: (H, W, 3)."""
    altered = np.rot90(texture, int(rng.integers(4))).astype(np.float32)
    if rng.random() < 0.5:
        altered = 255 - altered
    altered = altered[..., rng.permutation(3)] * rng.uniform(*GAIN) + rng.uniform(*OFFSET)
    return np.ascontiguousarray(np.clip(altered, 0, 255), dtype=np.float32)
