"""Training windows at native scale: pools of examples, balanced batches, augmentation that keeps labels exact."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Window, crop, resize
from lib.core.params import Detect
from lib.core.records import GOOD
from lib.detectors import Example

MOST_PIXELS = 4096  # defect pixels that are remembered of a picture, evenly taken, to lay windows around
STAYS_DEFECT = 0.25  # of a pixel, after scaling: with more, lines thinner than a pixel would vanish from the mask


@dataclass(frozen=True)
class Source:
    """An example, and where its defect is: (N,) flat indices of at most MOST_PIXELS of its pixels, none if it is good.

    The example's arrays are read anew for each window: thousands of pictures do not fit into memory.
    """

    example: Example
    pixels: NDArray[np.int64]

    @classmethod
    def of(cls, example: Example) -> "Source":
        pixels = np.flatnonzero(example.mask) if example.has_defect else np.zeros(0, np.int64)
        return cls(example, pixels[:: max(1, -(-pixels.size // MOST_PIXELS))].copy())


@dataclass(frozen=True)
class Pools:
    """Where windows come from: good pictures, and defect pictures, real and synthetic apart, of one type after another.

    A type without any real ones, or without any synthetic ones, has an empty list there.
    """

    good: list[Source]
    real: list[list[Source]]
    synthetic: list[list[Source]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Pools":
        """Raises UserError without any defect. A synthetic mask that is empty teaches nothing and is left out."""
        sources = [Source.of(example) for example in examples]
        defects = [source for source in sources if source.pixels.size]
        if not defects:
            raise UserError("the train part holds no defect to learn from: see split in params.yaml")
        types = sorted({source.example.defect_type for source in defects})
        real, synthetic = (
            [
                [s for s in defects if s.example.defect_type == name and s.example.synthetic == is_synthetic]
                for name in types
            ]
            for is_synthetic in (False, True)
        )
        return cls([source for source in sources if source.example.defect_type == GOOD], real, synthetic)


def batch_of(pools: Pools, params: Detect, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Windows of one step: (B, window, window, 3) uint8 and (B, window, window) bool.

    Half of them lie around a defect, a quarter lies anywhere on pictures with defects, a quarter on good ones. Every
    arm gets the same numbers, so that arms differ in what they see and not in how much. Types take turns by chance,
    whatever their number of pictures. Of a type's windows `synthetic_share` show synthetic defects, and fewer, in
    proportion, where the gate left fewer of them than there are real ones: a single one must not be half of what is
    seen. Where a share is no whole number of windows, chance rounds it up or down, so that it holds on average.
    """
    around = params.batch_size // 2
    anywhere = (params.batch_size - around) // 2 if pools.good else params.batch_size - around
    share = params.synthetic_share if any(pools.synthetic) else 0  # real defects alone do not depend on it
    synthetic, synthetic_anywhere = (
        int(share * count + chance) for count, chance in zip((around, anywhere), rng.random(2), strict=True)
    )
    windows = []
    for n in range(params.batch_size):
        if n < around + anywhere:
            is_synthetic = n < synthetic if n < around else n - around < synthetic_anywhere
            sources = _pool(pools, is_synthetic, rng)
        else:
            sources = pools.good
        source = sources[rng.integers(len(sources))]
        windows.append(_augmented(*_view(source, params.window, params.scale, n < around, rng), rng))
    images, masks = zip(*windows, strict=True)
    return np.stack(images), np.stack(masks)


def good_batch(
    examples: Sequence[Example], params: Detect, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Windows of good pictures, half of them mirrored: (B, window, window, 3) uint8, and the pictures' numbers (B,)."""
    numbers = rng.integers(len(examples), size=params.batch_size)
    nowhere = np.zeros(0, np.int64)
    windows = [_view(Source(examples[n], nowhere), params.window, params.scale, False, rng)[0] for n in numbers]
    return np.stack([view[:, ::-1] if rng.integers(2) else view for view in windows]), numbers


def _pool(pools: Pools, is_synthetic: bool, rng: np.random.Generator) -> list[Source]:
    """Pictures of a random type; the synthetic ones, where so asked, in proportion to their number."""
    kind = rng.integers(len(pools.real))
    real, synthetic = pools.real[kind], pools.synthetic[kind]
    if not synthetic:
        return real
    return synthetic if not real or (is_synthetic and rng.random() < len(synthetic) / len(real)) else real


def _view(source: Source, side: int, scale: float, on_defect: bool, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """A window of `side` px after scaling: (side, side, 3) uint8 and (side, side) bool."""
    image = source.example.image
    window = _window(image.shape, source.pixels if on_defect else None, round(side / scale), rng)
    view = crop(image, window)
    mask = crop(source.example.mask, window) if source.pixels.size else np.zeros(view.shape[:2], bool)
    if scale == 1:
        return view, mask
    return resize(view, side, side), resize(mask.astype(np.float32), side, side) > STAYS_DEFECT


def _window(shape: Sequence[int], pixels: NDArray | None, side: int, rng: np.random.Generator) -> Window:
    """A window with one of the pixels in its central half, or anywhere; inside the picture if it fits."""
    height, width = shape[:2]
    if pixels is not None:
        y, x = divmod(int(pixels[rng.integers(pixels.size)]), width)
        y, x = (centre - side // 2 + int(rng.integers(-side // 4, side // 4 + 1)) for centre in (y, x))
    else:
        y, x = (int(rng.integers(max(extent - side, 0) + 1)) for extent in (height, width))

    def fitted(start: int, extent: int) -> int:
        return min(max(start, 0), extent - side) if side <= extent else (extent - side) // 2

    return Window(fitted(x, width), fitted(y, height), side)


def _augmented(image: RGB, mask: Mask, rng: np.random.Generator) -> tuple[RGB, Mask]:
    """Turned and flipped, which keeps the label exact, with another exposure and a little sensor noise."""
    turns, flips = int(rng.integers(4)), bool(rng.integers(2))
    image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    if flips:
        image, mask = image[:, ::-1], mask[:, ::-1]
    levels = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.15, 0.15))
    levels = (levels - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.06, 0.06)
    exposed = (levels * 255).astype(np.float32)[image]
    exposed += rng.standard_normal(exposed.shape, np.float32) * np.float32(rng.uniform(0, 4))
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8), mask


def evenly_by_type(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` examples; good pictures and defect types take turns, those with a defect come first."""
    turns: dict[str, int] = {}
    keyed = []
    for example in examples:
        turns[example.defect_type] = turns.get(example.defect_type, -1) + 1
        keyed.append((turns[example.defect_type], not example.has_defect, example))
    return [example for _, _, example in sorted(keyed, key=lambda item: item[:2])[:count]]


def resized(image: NDArray, scale: float) -> NDArray:
    """A whole picture (H, W) or (H, W, C) at `scale`, at least one pixel on each side."""
    height, width = (max(1, round(extent * scale)) for extent in image.shape[:2])
    return image if scale == 1 else resize(image, width, height)
