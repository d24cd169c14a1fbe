"""The detectors: one method, one file; the name in params.yaml is the file's name.

A method's module offers

- `Settings`: a `Section` with the types of its own section in params.yaml;
- `LEARNS_FROM`: "defects", and it is trained for every arm, or "good", and it is trained on good pictures alone;
- `fit(train, val, params, settings, seed, out)`: trains on examples, selects on val, writes weights as safetensors and
  `config.json` into the folder `out`, returns its `History`; seeds may train side by side, in threads;
- `load(folder)`: the model that `fit` wrote; `predict(model, image)`: (H, W, 3) uint8 -> (H, W) float32, higher where
  a defect is likelier, on one scale for all pictures; several calls may run at once, in threads;
- `boxes(model, image)`, if it finds boxes by itself: its scored boxes, which are then judged as such, and whose
  `painted` map `predict` gives; of the others those boxes are judged that their scores above the threshold form
  (`lib/metrics/boxes.py`);
- `predict_typed(model, image)`, if its models may tell types apart, which `model.types` then names: beside the scores,
  of which type each pixel is, (H, W) uint8, k for the k-th, whether it is a defect or not;
- `sight(model)` and `window_scores(model, images)`, if it sees windows by one network: how it looks at a whole picture
  (`lib/vision/tiles.py`), and (B, 3, H, W) float in [0, 1] -> (B, H, W); `lib/exchange.py` makes an ONNX graph of it.

`lib/detection.py` trains them all, chooses thresholds on val and draws curves; `lib/evaluation.py` judges on test.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from lib.core.defects import Labels, recent_labels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.images import read_image, read_mask, recent
from lib.core.params import methods
from lib.core.records import RegionMap, TypeMap
from lib.core.regions import blanked, ignored_pixels

# Room for decoded pictures and for as many masks: two thousand of 256 px, or the latest hundred and more of 1024 px.
_image = recent(read_image, 384 * 2**20)
_mask = recent(read_mask, 128 * 2**20)


@dataclass(frozen=True)
class Example:
    """One picture to learn from or to be judged on, in memory or, since thousands do not fit there, in its file.

    picture: (H, W, 3) uint8, or its file. truth: (H, W) bool, or its file, of which it is known that it marks a defect
    (`prepare` and the gate refuse empty masks); None where there is no defect. Files are read anew each time, through
    a cache of the latest ones that all examples share: keep the example, not its arrays, and change no array.
    twin: the same picture without its defect, (H, W, 3) uint8 or its file: the good one that a synthetic defect was
    painted into; None where nobody knows it. type_map: of a picture with defects of several types. regions: of pixels
    that never count: pictures are blank there, and masks empty.
    """

    picture: RGB | Path
    truth: Mask | Path | None
    synthetic: bool
    defect_type: str
    twin: RGB | Path | None = None
    type_map: TypeMap | None = None
    regions: RegionMap | None = None

    @property
    def ignored(self) -> Mask | None:
        """(H, W) bool: pixels that never count; None where all do."""
        return None if self.regions is None else ignored_pixels(self.regions)

    @property
    def counting(self) -> Mask:
        """(H, W) bool: pixels that count."""
        return np.ones(self.image.shape[:2], bool) if self.ignored is None else ~self.ignored

    @property
    def normal(self) -> Mask:
        """(H, W) bool: pixels that show no defect and count."""
        normal = ~self.mask
        return normal if self.ignored is None else normal & ~self.ignored

    def counts_within(self, box: Sequence[float]) -> bool:
        """Whether any pixel of a box x0, y0, x1, y1 counts; fractions of a pixel are rounded."""
        x0, y0, x1, y1 = (max(round(value), 0) for value in box)
        return self.ignored is None or not bool(self.ignored[y0:y1, x0:x1].all())

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types that it shows, or GOOD alone."""
        return self.type_map.types if self.type_map else (self.defect_type,)

    def mask_of(self, types: Collection[str]) -> Mask:
        """(H, W) bool: where it shows a defect of one of the types; nowhere if it shows none of them."""
        if self.type_map is None:
            return self.mask if self.defect_type in types else np.zeros(self.image.shape[:2], bool)
        values = [number for number, name in enumerate(self.type_map.types, start=1) if name in types]
        return self._counting(np.isin(recent_labels(self.type_map), values))

    def labels(self, types: Sequence[str]) -> Labels:
        """(H, W) uint8: k where it shows a defect of the k-th of the types, else 0, as where a type is none of them."""
        labels = np.zeros(self.image.shape[:2], np.uint8)
        for number, name in enumerate(types, start=1):
            if self.has_defect and name in self.types:
                labels[self.mask_of([name])] = number
        return labels

    @property
    def image(self) -> RGB:
        """(H, W, 3) uint8. Raises UserError where the file is no picture."""
        return self._shown(_image(self.picture) if isinstance(self.picture, Path) else self.picture)

    @property
    def mask(self) -> Mask:
        """(H, W) bool. Raises UserError where the file is no mask of the picture's size."""
        if self.truth is None:
            return np.zeros(self.image.shape[:2], bool)
        if not isinstance(self.truth, Path):
            return self._counting(self.truth)
        mask, shape = _mask(self.truth), self.image.shape[:2]
        if mask.shape != shape:
            raise UserError(f"{self.truth}: size {mask.shape[::-1]}, its picture has {shape[::-1]}")
        return self._counting(mask)

    @property
    def clean(self) -> RGB | None:
        """The picture without its defect, (H, W, 3) uint8: itself where there is none; None where it is not known.

        Raises UserError where the twin is no picture of this one's size.
        """
        if self.twin is None:
            return None if self.has_defect else self.image
        if not isinstance(self.twin, Path):
            return self._shown(self.twin)
        clean, shape = _image(self.twin), self.image.shape
        if clean.shape != shape:
            raise UserError(f"{self.twin}: size {clean.shape[1::-1]}, {self.picture} has {shape[1::-1]}")
        return self._shown(clean)

    @property
    def has_defect(self) -> bool:
        """Whether any pixel is marked; told without reading a file."""
        return self.truth is not None and (isinstance(self.truth, Path) or bool(self.truth.any()))

    def _shown(self, image: RGB) -> RGB:
        return image if self.ignored is None else blanked(image, self.ignored)

    def _counting(self, mask: Mask) -> Mask:
        return mask if self.ignored is None else mask & ~self.ignored


@dataclass(frozen=True)
class History:
    """The curves of one training, by name: (step, value) each. Empty where nothing is trained step by step."""

    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


def find(name: str) -> ModuleType:
    """The module of a detector, imported when it is asked for. Raises UserError with the known names for any other."""
    if name not in methods("detectors"):
        raise UserError(f"detectors: {name!r} is unknown, known are {', '.join(methods('detectors'))}")
    return importlib.import_module(f"lib.detectors.{name}")
