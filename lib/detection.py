"""Train detectors per seed on every arm, and choose their thresholds on val.

Beside what its method wrote, the folder of a trained seed holds `detector.json`, which method it is and what it was
trained for, `threshold.json`, from which score on a pixel is a defect, and on what that was chosen, `history.json`, its
curves, and, where the same pixels of all pictures never count, IGNORED_PIXELS.
"""

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lib import plots
from lib.alarms import alarm_level, refuse_small, threshold_for
from lib.core.defects import Labels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Scores
from lib.core.images import is_grey, write_png
from lib.core.params import PLACEBO, PLACEBO_SEED, REAL_ONLY, Detect, Params
from lib.core.records import GOOD, RegionMap, Sample, Synthetic, TypeMap, by_id, of_split, read_records
from lib.core.regions import ignored_pixels, silenced
from lib.core.runtime import atomic_folder, device, on_cores, progress, replace_folder, work_folder, write_json
from lib.detectors import Example, find
from lib.metrics.boxes import ScoredBox, painted, painted_labels
from lib.metrics.ranking import DefectPixels, Ranking, defect_pixels, rank_pixels

Place = TypeVar("Place", TypeMap, RegionMap)

IGNORED_PIXELS = "ignored.png"  # in a trained seed's folder: pixels that never count, if they are the same everywhere
COUNTED_BYTES = 2**25  # of score maps that are ranked in one go, since each go looks up every defect pixel
NO_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)  # in messages about values
SCORING_SHARE = 1000  # one of so many pixels, the highest ones, scores a picture


def read_examples(records: Iterable[Sample | Synthetic], normals: Mapping[str, Sample] | None = None) -> list[Example]:
    """Real pictures and accepted synthetic ones as examples, which read their files when they are asked to.

    normals: the good pictures, by their ids, that synthetic defects were painted into. Raises UserError where a mask
    is missing.
    """
    examples = []
    for record in records:
        if record.image is None:
            raise ValueError(f"{record}: has no picture, so it cannot have been accepted")
        if record.mask is None and record.defect_type != GOOD:
            raise UserError(f"{record.image}: a picture of type {record.defect_type!r} needs a mask")
        # Absolute, since the cache of files outlives a change of the working folder.
        picture, mask = Path(record.image).absolute(), Path(record.mask).absolute() if record.mask else None
        # Of a real defect the twin is not read, even where a rendered data set has it: a factory has none.
        normal = (normals or {}).get(record.normal) if isinstance(record, Synthetic) and record.normal else None
        twin = Path(normal.image).absolute() if normal else None
        if isinstance(record, Sample):
            type_map, regions = record.type_map, record.regions
        else:
            type_map, regions = None, normal.regions if normal else None
        example = Example(picture, mask, isinstance(record, Synthetic), record.defect_type, twin)
        examples.append(replace(example, type_map=_absolute(type_map), regions=_absolute(regions)))
    return examples


def _absolute(place: Place | None) -> Place | None:
    return place and replace(place, path=Path(place.path).absolute().as_posix())


def train_arm(params: Params, detector: str, arm: str, category: str, accepted: Sequence[Synthetic], key: str) -> None:
    """Train one detector per seed on the train part and the accepted synthetic defects, into its place in `models`.

    One that learns from good pictures alone sees these alone. The placebo is trained under other seeds. key: the
    fingerprint of all inputs; finished seeds outlive a kill as long as it stays the same.
    Raises UserError when a detector that learns from good pictures is to be trained on a generator's samples, and for a
    training that diverged.
    """
    module = find(detector)
    if module.LEARNS_FROM == "good" and arm not in (REAL_ONLY, PLACEBO):
        raise UserError(
            f"detect.on_synthetic: {detector} learns from good pictures alone, and synthetic defects would change "
            "nothing: take it out of this list; the stage baseline trains it"
        )
    settings = params.section(detector, module.Settings)
    samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
    real = of_split(samples, "train")
    train = read_examples([*real, *accepted], by_id(real))
    val = read_examples(of_split(samples, "val"))
    if module.LEARNS_FROM == "good":
        train = [example for example in train if example.defect_type == GOOD]

    colours = colours_of(train)
    # Those of single pictures say nothing about new ones.
    kinds = {sample.regions for sample in samples}
    (shared,) = kinds if len(kinds) == 1 else (None,)

    def train_seed(seed: int, out: Path) -> None:
        try:
            history = module.fit(train, val, params, settings, seed, out)
            write_json(out / "history.json", history.curves)
        except ValueError as error:  # of whatever met such numbers first: the loss, the scores on val, the curves
            if isinstance(error, UserError) or not NO_NUMBER.search(str(error)):
                raise
            raise diverged(module) from error
        write_json(out / "threshold.json", choose_threshold(module, module.load(out), val, params.detect, out))
        method = {"detector": detector, "category": category, "arm": arm, "seed": seed}
        write_json(out / "detector.json", method | {"depth": samples[0].depth, "colours": colours})
        if shared is not None:
            write_png(out / IGNORED_PIXELS, ignored_pixels(shared))

    work = work_folder(f"detect-{detector}-{category}-{arm}", key)
    train_seeds(train_seed, [seed + PLACEBO_SEED * (arm == PLACEBO) for seed in params.detect.seeds], work)
    replace_folder(work, Path(f"models/detectors/{detector}/{category}/{arm}"))


def colours_of(examples: Iterable[Example]) -> str:
    """`grey` or `colour`, as all of the pictures are; `both` where some are the one and some the other."""
    kinds = {"grey" if is_grey(example.image) else "colour" for example in examples if not example.synthetic}
    return kinds.pop() if len(kinds) == 1 else "both"


def diverged(module: ModuleType) -> UserError:
    """What is to be done where a method's scores are no numbers."""
    name = module.__name__.rpartition(".")[2]
    key = f"{name if 'learning_rate' in module.Settings.model_fields else 'detect'}.learning_rate"
    return UserError(f"{name}: the training diverged, and its scores are no numbers: lower {key}")


def train_seeds(train_seed: Callable[[int, Path], None], seeds: Sequence[int], folder: Path) -> None:
    """Call `train_seed(seed, out)` for each seed, side by side on the cores, whose `out` becomes `folder/seed-<n>`.

    What already lies there is whole and stays as it is. Also draws the curves of all seeds: `learning.png`.
    """
    for unfinished in folder.glob("*.tmp-*"):  # of a run that was killed
        shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()

    def train(seed: int) -> None:
        with atomic_folder(folder / f"seed-{seed}") as out:
            train_seed(seed, out)

    missing = [seed for seed in seeds if not (folder / f"seed-{seed}").exists()]
    on_cores(device(), train, missing, out_of=len(seeds))
    curves: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        history = json.loads((folder / f"seed-{seed}" / "history.json").read_text(encoding="utf-8"))
        curves |= {f"{name}, seed {seed}": points for name, points in history.items()}
    plots.learning_curve(folder / "learning.png", curves)


def choose_threshold(
    module: ModuleType, model: Any, val: Sequence[Example], detect: Detect, folder: Path
) -> dict[str, Any]:
    """From which score on a pixel is a defect, and on what that was chosen; fit for JSON.

    By default the threshold of the best F1 over all pixels of val. With `detect.false_alarm_rate` the lowest one at
    which no more than that share of good val pictures is an alarm: has `detect.min_area` px in one piece. Where val
    holds no defect and no rate is asked for, the lowest at which none is, with a warning. Score maps lie in `folder`
    meanwhile. Raises UserError without any picture in val, without a good one for a rate, and for one
    that is smaller than what counts.
    """
    if not val:
        raise UserError("the val part holds no picture to choose a threshold on: raise split.val_fraction")
    rate, good = detect.false_alarm_rate, [not example.has_defect for example in val]
    if rate is None and all(good):
        rate = 0.0
        warnings.warn(
            "the val part holds no defect: the threshold is the lowest at which no good picture there is an alarm; set "
            "detect.false_alarm_rate, raise split.val_fraction or add defects",
            stacklevel=2,
        )
    with predictions(module, model, val, folder) as predicted:
        for example, prediction in zip(val, predicted, strict=True):
            name = example.picture if isinstance(example.picture, Path) else "a picture"
            refuse_small(np.load(prediction.file, mmap_mode="r").size, detect.min_area, "detect.min_area", name)
        if rate is None:
            (ranking,) = rank_parts(val, predicted, [{name for example in val for name in example.types}])
            return {"threshold": ranking.f1_max()[1], "chosen_on": "val", "min_area": detect.min_area}
        if not any(good):
            raise UserError(
                "detect.false_alarm_rate: the val part holds no good picture to count false alarms on: raise "
                "split.val_fraction, or set it to null"
            )
        kept = [prediction for prediction, is_good in zip(predicted, good, strict=True) if is_good]
        levels = on_cores(device(), lambda prediction: alarm_level(prediction.scores, detect.min_area), kept)
    if 0 < rate < 1 / len(levels):
        warnings.warn(
            f"detect.false_alarm_rate: {rate} is less than one of the {len(levels)} good val pictures, so that none "
            "may be an alarm",
            stacklevel=2,
        )
    chosen = {"chosen_on": "good pictures of val", "false_alarm_rate": rate, "good_pictures": len(levels)}
    return {"threshold": threshold_for(levels, rate), "min_area": detect.min_area, **chosen}


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
    threshold: float | None = None,
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
            ],
            threshold,
        )
        for part in parts
    ]

    def normal_of(example: Example, prediction: Prediction) -> NDArray[np.floating]:
        scores = prediction.scores
        is_whole = not example.has_defect and example.regions is None
        return scores.ravel() if is_whole else scores[example.normal]

    def count(batch: Sequence[tuple[Example, Prediction]]) -> None:
        normal = [(example.types, normal_of(example, prediction)) for example, prediction in batch]
        for part, ranking in zip(parts, rankings, strict=True):
            of_part = [scores for types, scores in normal if not part.isdisjoint(types)]
            if of_part:
                ranking.count(np.concatenate(of_part))

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
