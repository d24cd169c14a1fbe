"""Score maps of pictures: what a detector answers to one, and rankings over thousands, of which few fit into memory."""

import tempfile
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.alarms import Decision
from lib.core.defects import Labels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Scores
from lib.core.regions import silenced
from lib.core.runtime import device, on_cores, progress
from lib.metrics.boxes import ScoredBox, component_boxes, painted, painted_labels
from lib.metrics.ranking import DefectPixels, Ranking, defect_pixels, rank_pixels
from lib.vision.examples import Example

COUNTED_BYTES = 2**25  # of score maps that are ranked in one go, since each go looks up every defect pixel
SCORING_SHARE = 1000  # one of so many pixels, the highest ones, scores a picture


def image_score(scores: Scores) -> float:
    """The anomaly score of a picture: the mean of the highest 0.1 % of its pixels, of at least one.

    A maximum that one odd pixel cannot raise, and that a defect of some dozen pixels still can.
    """
    count = max(1, scores.size // SCORING_SHARE)
    return float(np.partition(scores, -count, axis=None)[-count:].mean())


class Answer(NamedTuple):
    """What a detector says of a picture: its score map (H, W) float32; the type of each pixel (H, W), also where there
    is no defect, None if it does not tell types apart; its boxes, None if it predicts none."""

    scores: Scores
    labels: Labels | None = None
    boxes: list[ScoredBox] | None = None


def answer(module: ModuleType, model: Any, image: RGB) -> Answer:
    """The answer of a detector to a picture (H, W, 3) uint8. One that predicts boxes gets its maps painted of these."""
    types = getattr(model, "types", ())
    if hasattr(module, "boxes"):
        boxes = module.boxes(model, image)
        return Answer(painted(boxes, image.shape), painted_labels(boxes, image.shape) if types else None, boxes)
    return Answer(*module.predict_typed(model, image)) if types else Answer(module.predict(model, image))


def marked_boxes(decision: Decision, mask: Mask, scores: Scores, labels: Labels | None = None) -> list[ScoredBox]:
    """The boxes of what a decision marks in a score map, mask and map (H, W); with labels, those of each type."""
    return component_boxes(np.where(mask, scores, -np.inf), decision.lowest, labels)


@dataclass(frozen=True)
class Prediction:
    """What is kept in memory of a picture's score map, which itself lies in a file: thousands do not fit.

    types: the file of its map of types, if the detector tells them apart. boxes: what it found, if it finds boxes.
    """

    file: Path
    defect: DefectPixels
    image_score: float
    lowest: float
    highest: float
    types: Path | None = None
    boxes: Sequence[ScoredBox] | None = None

    @property
    def scores(self) -> Scores:
        """(H, W) float32, read anew each time."""
        return np.load(self.file)

    @property
    def labels(self) -> Labels:
        """(H, W) uint8: of which type each pixel is, whether it is a defect or not; read anew each time."""
        if self.types is None:
            raise ValueError(f"{self.file}: of a detector that tells no types apart")
        return np.load(self.types)


def diverged(module: ModuleType) -> UserError:
    """What is to be done where a method's scores are no numbers."""
    name = module.__name__.rpartition(".")[2]
    key = f"{name if 'learning_rate' in module.Settings.model_fields else 'detect'}.learning_rate"
    return UserError(f"{name}: the training diverged, and its scores are no numbers: lower {key}")


@contextmanager
def predictions(
    module: ModuleType, model: Any, examples: Sequence[Example], folder: Path, what: str = "predict"
) -> Iterator[list[Prediction]]:
    """Yield the prediction of each picture; as many are made at a time as there are cores.

    The score maps lie in a new folder in `folder`, 4 bytes a pixel, that is gone when the block ends. Raises UserError
    for scores that are no numbers.
    """
    with tempfile.TemporaryDirectory(prefix="maps-", dir=folder) as spool:
        bar = progress(examples, what)  # moved on by hand, since pictures are done in any order

        def predict(number: int, example: Example) -> Prediction:
            file, types = Path(spool, f"{number}.npy"), None
            scores, labels, boxes = answer(module, model, example.image)
            if labels is not None:
                types = Path(spool, f"{number}-types.npy")
                np.save(types, labels)
            if not np.isfinite(scores).all():
                raise diverged(module)
            if example.ignored is not None:
                scores = silenced(scores, example.ignored)
            np.save(file, scores)
            defect = defect_pixels(scores, example.mask)
            bar.update()
            lowest, highest = float(scores.min()), float(scores.max())
            return Prediction(file, defect, image_score(scores), lowest, highest, types, boxes)

        with bar:
            predicted = on_cores(device(), predict, range(len(examples)), examples)
        yield predicted


def rank_parts(
    examples: Sequence[Example],
    predicted: Sequence[Prediction],
    parts: Sequence[AbstractSet[str]],
) -> list[Ranking]:
    """For each part, which is a set of types, the ranking of pixels of all pictures that show any of these types: those
    of these types' defects among the normal ones. Defects of other types in such a picture do not count."""

    def defect_of(example: Example, prediction: Prediction, part: AbstractSet[str]) -> DefectPixels:
        if part >= set(example.types):
            return prediction.defect
        return defect_pixels(prediction.scores, example.mask_of(part))

    rankings = [
        rank_pixels(
            [
                defect_of(example, one, part)
                for example, one in zip(examples, predicted, strict=True)
                if not part.isdisjoint(example.types)
            ]
        )
        for part in parts
    ]

    def normal_of(example: Example, prediction: Prediction) -> NDArray[np.floating]:
        scores = prediction.scores
        is_whole = not example.has_defect and example.regions is None
        return scores.ravel() if is_whole else scores[example.normal]

    def count(batch: Sequence[tuple[Example, Prediction]]) -> None:
        of_types: dict[frozenset[str], list[NDArray[np.floating]]] = {}
        for example, prediction in batch:
            of_types.setdefault(frozenset(example.types), []).append(normal_of(example, prediction))
        for types, scores in of_types.items():
            ascending = np.sort(np.concatenate(scores))  # once for all parts that count these pictures
            for part, ranking in zip(parts, rankings, strict=True):
                if not part.isdisjoint(types):
                    ranking.count_ascending(ascending)

    on_cores(device(), count, _batches(examples, predicted))
    return rankings


def _batches(examples: Sequence[Example], predicted: Sequence[Prediction]) -> list[list[tuple[Example, Prediction]]]:
    """Pictures in order, as many to a batch as have COUNTED_BYTES of scores, at least one."""
    batches: list[list[tuple[Example, Prediction]]] = []
    room = 0
    for pair in zip(examples, predicted, strict=True):
        size = pair[1].file.stat().st_size
        if size > room:
            batches.append([])
            room = COUNTED_BYTES
        batches[-1].append(pair)
        room -= size
    return batches
