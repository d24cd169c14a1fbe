"""Training windows: pools of examples, balanced batches, augmentation that keeps labels exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.defects import Labels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Window, crop, resize, stay_defect
from lib.core.images import recent
from lib.core.params import Detect
from lib.core.records import GOOD, RegionMap
from lib.core.regions import ignored_pixels
from lib.vision.examples import Example

MOST_PIXELS = 4096  # pixels of a picture, evenly sampled, around which windows are placed


@dataclass(frozen=True)
class Source:
    """An example with the pixels of its defects of one type: (N,) flat indices, at most MOST_PIXELS, none if it is
    good. An example with several types is a source of each.

    The example's arrays are read again for each window, since thousands of pictures do not fit into memory.
    """

    example: Example
    pixels: NDArray[np.int64]
    defect_type: str = GOOD

    @classmethod
    def of(cls, example: Example) -> "list[Source]":
        def source(name: str) -> Source:
            pixels = np.flatnonzero(example.mask_of([name])) if example.has_defect else np.zeros(0, np.int64)
            return cls(example, _some(pixels), name)

        return [source(name) for name in example.types]


@dataclass(frozen=True)
class Pools:
    """The sources of windows: good pictures, and for each type the real and the synthetic defect pictures.

    The list of a type may be empty.
    """

    good: list[Source]
    real: list[list[Source]]
    synthetic: list[list[Source]]
    types: list[str]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Pools":
        """Raises UserError without any defect. Synthetic samples with an empty mask are left out."""
        sources = [source for example in examples for source in Source.of(example)]
        defects = [source for source in sources if source.pixels.size]
        if not defects:
            raise UserError("the train part holds no defect to learn from: see split in params.yaml")
        types = sorted({source.defect_type for source in defects})
        real, synthetic = (
            [[s for s in defects if s.defect_type == name and s.example.synthetic == is_synthetic] for name in types]
            for is_synthetic in (False, True)
        )
        return cls([source for source in sources if source.defect_type == GOOD], real, synthetic, types)


class Windows(NamedTuple):
    """images: (B, side, side, 3) uint8; labels: (B, side, side) uint8, 0 without a defect, k for the k-th of the
    requested types, or 1 for any type if none were requested.

    clean: like images, the same windows without their defects, if requested and known, else equal to images. known:
    (B,) bool, whether they are known.
    """

    images: NDArray[np.uint8]
    labels: Labels
    clean: NDArray[np.uint8]
    known: NDArray[np.bool_]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(B, side, side): the pixels with a defect of any type."""
        return np.asarray(self.labels > 0)


def batch_of(
    pools: Pools, params: Detect, rng: np.random.Generator, twins: bool = False, types: Sequence[str] = ()
) -> Windows:
    """The windows of one step, of `params.window` px; twins: also without their defects; types: to be labelled.

    Half of the windows contain a defect, a quarter lies anywhere on pictures with defects, a quarter on good pictures;
    of an odd half the good pictures have the larger part.
    All arms get the same numbers of each, so that they differ in what they see, not in how much. The type of a window
    is uniform, independent of the number of pictures. `synthetic_share` of a type's windows show synthetic defects;
    fewer, in proportion, if the gate accepted fewer samples than there are real ones, so that a single sample does not
    make up half of the windows. That share is rounded up or down at random, so that it holds on average.
    """
    around = max(1, params.batch_size // 2)  # a single window, the rest of another batch, shows a defect
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
        views, labels, known = _view(source, params.window, params.scale, n < around, rng, twins, types)
        windows.append((*_augmented(views, labels, rng), known))
    images, labels = np.stack([views[0] for views, _, _ in windows]), np.stack([labels for _, labels, _ in windows])
    clean = np.stack([views[-1] for views, _, _ in windows]) if twins else images
    return Windows(images, labels, clean, np.array([known for _, _, known in windows]))


def good_batch(
    examples: Sequence[Example], params: Detect, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Windows of good pictures, half of them mirrored: (B, window, window, 3) uint8, and the pictures' indices (B,)."""
    numbers = rng.integers(len(examples), size=params.batch_size)
    nowhere = np.zeros(0, np.int64)
    windows = [_view(Source(examples[n], nowhere), params.window, params.scale, False, rng)[0][0] for n in numbers]
    return np.stack([view[:, ::-1] if rng.integers(2) else view for view in windows]), numbers


def good_window(
    example: Example, ground: Mask | None, params: Detect, rng: np.random.Generator
) -> tuple[RGB, Mask, Mask]:
    """An augmented window of a good picture, (window, window, 3) uint8, and two masks (window, window) bool: its
    product pixels, and its pixels that count; pixels that never count are no product pixels.

    ground: (H, W) bool, the product in the whole picture; None: all of it.
    """
    image, ignored = example.image, example.ignored
    place = _window(image.shape, _counting(example), round(params.window / params.scale), rng)
    view = crop(image, place)
    product = np.ones(view.shape[:2], bool) if ground is None else crop(ground, place)
    hidden = None if ignored is None else crop(ignored, place)
    areas = {1: product} if hidden is None else {1: product & ~hidden, 2: hidden}
    if params.scale != 1:
        view = resize(view, params.window, params.window)
    labels = _labels(areas, params.window)
    (view,), labels = _augmented([view], labels, rng)
    return view, labels == 1, labels != 2


def _pool(pools: Pools, is_synthetic: bool, rng: np.random.Generator) -> list[Source]:
    """The sources of a random type: real, or, if asked for, synthetic ones in proportion to their number."""
    kind = rng.integers(len(pools.real))
    real, synthetic = pools.real[kind], pools.synthetic[kind]
    if not synthetic:
        return real
    return synthetic if not real or (is_synthetic and rng.random() < len(synthetic) / len(real)) else real


def _view(
    source: Source,
    side: int,
    scale: float,
    on_defect: bool,
    rng: np.random.Generator,
    twin: bool = False,
    types: Sequence[str] = (),
) -> tuple[list[RGB], Labels, bool]:
    """A window of `side` px after scaling, (side, side, 3) uint8, its labels (side, side), and whether the window
    without its defects is known. With `twin` a second window follows: the one without its defects, if known."""
    example = source.example
    image, clean = example.image, example.clean if twin else None
    window = _window(image.shape, source.pixels if on_defect else _counting(example), round(side / scale), rng)
    views = [crop(picture, window) for picture in ((image, image if clean is None else clean) if twin else (image,))]
    if scale != 1:
        views = [resize(view, side, side) for view in views]
    known = example.twin is not None or not example.has_defect
    if not source.pixels.size:
        return views, np.zeros((side, side), np.uint8), known
    # Not in `types`: a type without pixels in the train part, since others cover them or none of them counts.
    numbers = {types.index(name) + 1: name for name in example.types if name in types}
    masks = {k: example.mask_of([name]) for k, name in numbers.items()} if types else {1: example.mask}
    return views, _labels({k: crop(mask, window) for k, mask in masks.items()}, side), known


def _labels(masks: Mapping[int, Mask], side: int) -> Labels:
    """One label map (side, side) from the masks (S, S) of several labels; the largest share decides each pixel."""
    shares = np.stack([mask.astype(np.float32) for mask in masks.values()])
    if shares.shape[-1] != side:
        shares = np.stack([resize(share, side, side) for share in shares])
    numbers = np.array(list(masks), np.uint8)
    return np.where(stay_defect(shares.sum(axis=0)), numbers[shares.argmax(axis=0)], np.uint8(0))


def _counting(example: Example) -> NDArray[np.int64] | None:
    """Pixels to place windows around where some of a picture never count: anywhere, most might show none that does.
    None where all count, or none."""
    pixels = None if example.regions is None else _places(example.regions)
    return pixels if pixels is not None and pixels.size else None


def _some(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most MOST_PIXELS of the pixels, evenly sampled."""
    return pixels[:: max(1, -(-pixels.size // MOST_PIXELS))].copy()


def _read_places(regions: RegionMap) -> NDArray[np.int64]:
    return _some(np.flatnonzero(~ignored_pixels(regions)))


_places = recent(_read_places, 16 * 2**20)  # each training window asks for them


def _window(shape: Sequence[int], pixels: NDArray | None, side: int, rng: np.random.Generator) -> Window:
    """A window with a random one of the pixels in its central half, or anywhere; inside the picture if it fits."""
    height, width = shape[:2]
    if pixels is not None:
        y, x = divmod(int(pixels[rng.integers(pixels.size)]), width)
        y, x = (centre - side // 2 + int(rng.integers(-side // 4, side // 4 + 1)) for centre in (y, x))
    else:
        y, x = (int(rng.integers(max(extent - side, 0) + 1)) for extent in (height, width))

    def fitted(start: int, extent: int) -> int:
        return min(max(start, 0), extent - side) if side <= extent else (extent - side) // 2

    return Window(fitted(x, width), fitted(y, height), side)


def _augmented(views: Sequence[RGB], labels: Labels, rng: np.random.Generator) -> tuple[list[RGB], Labels]:
    """The views and labels, rotated by quarter turns and flipped, which keeps labels exact, with another exposure and
    some sensor noise.

    All views of a window are changed alike: pixels that were equal stay equal.
    """
    turns, flips = int(rng.integers(4)), bool(rng.integers(2))
    labels, *views = (np.rot90(one, turns)[:, :: -1 if flips else 1] for one in (labels, *views))
    levels = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.15, 0.15))
    levels = (levels - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.06, 0.06)
    grain = rng.standard_normal(views[0].shape, np.float32) * np.float32(rng.uniform(0, 4))
    exposed = [(levels * 255).astype(np.float32)[view] + grain for view in views]
    return [np.clip(np.rint(one), 0, 255).astype(np.uint8) for one in exposed], labels


def evenly_by_type(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` examples, taken in turn from each defect type and the good pictures, with defects first."""
    turns: dict[str, int] = {}
    keyed = []
    for example in examples:
        turns[example.defect_type] = turns.get(example.defect_type, -1) + 1
        keyed.append((turns[example.defect_type], not example.has_defect, example))
    return [example for _, _, example in sorted(keyed, key=lambda item: item[:2])[:count]]
