"""Train detectors per seed on every arm, and choose their thresholds on val.

Beside what its method wrote, the folder of a trained seed holds `detector.json`, which method it is and what it was
trained for, `threshold.json`, a `lib.alarms.Decision` and on what it was chosen, `history.json`, its curves, and, where
the same pixels of all pictures never count, IGNORED_PIXELS.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from lib import plots
from lib.alarms import Decision, alarm_level, areas_within, balanced_threshold, refuse_small, threshold_for
from lib.core.errors import UserError
from lib.core.images import is_grey, write_png
from lib.core.params import PLACEBO, PLACEBO_SEED, REAL_ONLY, Detect, Params
from lib.core.pipeline import part_key
from lib.core.records import GOOD, RegionMap, Sample, Synthetic, TypeMap, by_id, of_split, read_records
from lib.core.regions import ignored_pixels
from lib.core.runtime import (
    atomic_folder,
    device,
    fingerprint,
    on_cores,
    threads_each,
    work_folder,
    write_json,
)
from lib.detectors import find
from lib.scoring import diverged, predictions, rank_parts
from lib.vision.examples import Example

Place = TypeVar("Place", TypeMap, RegionMap)

IGNORED_PIXELS = "ignored.png"  # in a trained seed's folder: pixels that never count, if they are the same everywhere
PROVENANCE = "detector.json"
THRESHOLDS = "threshold.json"
LEARNING = "learning.png"  # in an arm's folder: the curves of all seeds
NO_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)  # in messages about values


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
        seen = record if isinstance(record, Sample) else normal
        examples.append(
            Example(
                picture,
                mask,
                isinstance(record, Synthetic),
                record.defect_type,
                twin,
                _absolute(record.type_map) if isinstance(record, Sample) else None,
                _absolute(seen.regions) if seen else None,
                Path(seen.foreground).absolute() if seen and seen.foreground else None,
            )
        )
    return examples


def _absolute(place: Place | None) -> Place | None:
    return place and replace(place, path=Path(place.path).absolute().as_posix())


def train_arm(params: Params, detector: str, arm: str, category: str, accepted: Sequence[Synthetic], key: str) -> None:
    """Train one detector per seed on the train part and the accepted synthetic defects, into its place in `models`.

    One that learns from good pictures alone sees these alone. The placebo is trained under other seeds. key: the
    fingerprint of what a training reads (`training_key`). As long as it stays the same, trained seeds outlive a kill,
    and lie outside of the outputs from one run to the next, so that more seeds or other thresholds train nothing twice.
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
    areas = _areas(params.detect, [*train, *val])
    if module.LEARNS_FROM == "good":
        train = [example for example in train if example.defect_type == GOOD]

    colours = colours_of(train)
    # Those of single pictures say nothing about new ones.
    kinds = {sample.regions for sample in samples}
    (shared,) = kinds if len(kinds) == 1 else (None,)
    # Files of 8 bits may lie among deep ones.
    depth = next((sample.depth for sample in samples if sample.depth != 8), 8)

    def train_seed(seed: int, out: Path) -> None:
        try:
            history = module.fit(train, val, params, settings, seed, out)
            write_json(out / "history.json", history.curves)
        except ValueError as error:  # of whatever met such numbers first: the loss, the scores on val, the curves
            if isinstance(error, UserError) or not NO_NUMBER.search(str(error)):
                raise
            raise diverged(module) from error
        if shared is not None:
            write_png(out / IGNORED_PIXELS, ignored_pixels(shared))
        method = {"detector": detector, "category": category, "arm": arm, "seed": seed}
        method |= {"depth": depth, "colours": colours}
        write_json(out / PROVENANCE, method | {"content": _content(out)})

    def decide(folder: Path) -> None:
        decision = choose_thresholds(module, module.load(folder), val, areas, params.detect.false_alarm_rate, work)
        write_json(folder / THRESHOLDS, decision)

    seeds = [seed + PLACEBO_SEED * (arm == PLACEBO) for seed in params.detect.seeds]
    work = work_folder(f"detect-{detector}-{category}-{arm}", f"{key}-{threads_each(device(), len(seeds))}")
    folders = [work / f"seed-{seed}" for seed in seeds]
    for folder in folders:
        if folder.exists() and not _is_as_trained(folder):
            shutil.rmtree(folder)
    train_seeds(train_seed, seeds, work)
    with atomic_folder(Path(f"models/detectors/{detector}/{category}/{arm}")) as out:
        shutil.copy(work / LEARNING, out)
        for folder in folders:
            shutil.copytree(folder, out / folder.name, copy_function=_linked)
        on_cores(device(), decide, [out / folder.name for folder in folders])


def _content(folder: Path) -> str:
    """The fingerprint of what a training wrote."""
    return fingerprint(*sorted(file for file in folder.iterdir() if file.name != PROVENANCE))


def _is_as_trained(folder: Path) -> bool:
    """Whether nobody changed weights, curves or scores that a training wrote, as one can through the links of
    `_linked`; its provenance itself is not compared."""
    try:
        return bool(json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["content"] == _content(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _linked(source: str, target: str) -> None:
    """Copy a file as a hard link, which takes no room, or where there are none, such as on other disks, as it is."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def training_key(stage: str, **item: str) -> str:
    """The fingerprint of what the trainings of a stage read: all that `input_key` counts but which seeds there are, and
    how thresholds are chosen."""
    return part_key(stage, {}, ("detect.seeds", "detect.false_alarm_rate", "detect.min_area"), **item)


def colours_of(examples: Iterable[Example]) -> str:
    """`grey` or `colour`, as all of the pictures are; `both` where some are the one and some the other."""
    kinds = {"grey" if is_grey(example.image) else "colour" for example in examples if not example.synthetic}
    return kinds.pop() if len(kinds) == 1 else "both"


def train_seeds(train_seed: Callable[[int, Path], None], seeds: Sequence[int], folder: Path) -> None:
    """Call `train_seed(seed, out)` for each seed, side by side on the cores, whose `out` becomes `folder/seed-<n>`.

    What already lies there is whole and stays as it is. Also draws the curves of all seeds, LEARNING.
    """
    for unfinished in (*folder.glob("*.tmp-*"), *folder.glob("maps-*")):  # of a run that was killed
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
    plots.learning_curve(folder / LEARNING, curves)


def _areas(detect: Detect, examples: Iterable[Example]) -> tuple[int, ...]:
    """The values of min_area to choose from: the one that is set, or those that no real defect falls below."""
    if detect.min_area is not None:
        return (detect.min_area,)
    return areas_within(example.mask for example in examples if example.has_defect and not example.synthetic)


def choose_thresholds(
    module: ModuleType, model: Any, val: Sequence[Example], areas: Sequence[int], rate: float | None, folder: Path
) -> dict[str, Any]:
    """The Decision that suits val, and on what it was chosen; fit for JSON.

    The threshold of masks is that of the best F1 over all pixels of val. That of alarms is where val has the smallest
    sum of misses and false alarms, as shares (`balanced_threshold`), or, with a rate of false alarms, the lowest at
    which no more than that share of good val pictures is an alarm. `min_area` is the first of `areas`, in pixels, at
    which that sum, or with a rate the misses, are fewest. Where val holds no good picture the threshold of alarms is
    that of masks, with a warning, and there is one where no threshold tells val's pictures apart. Where val holds no
    defect, both are the lowest at which no good picture is an alarm, with a warning if no rate is asked for. Score maps
    lie in `folder` meanwhile. Raises UserError without any picture in val, without a good one for a rate, and for one
    that is smaller than the first area.
    """
    if not val:
        raise UserError("the val part holds no picture to choose a threshold on: raise split.val_fraction")
    is_good = np.array([not example.has_defect for example in val])
    rate = _rate_on(is_good, rate)
    with predictions(module, model, val, folder) as predicted:
        pixels = [np.load(prediction.file, mmap_mode="r").size for prediction in predicted]
        for example, size in zip(val, pixels, strict=True):
            name = example.picture if isinstance(example.picture, Path) else "a picture"
            refuse_small(size, areas[0], "detect.min_area", name)
        judged = is_good.any() and not is_good.all()  # else nothing says which area is the best
        areas = [area for area in areas if area <= min(pixels)] if judged else areas[:1]
        levels = np.array(on_cores(device(), lambda one: [alarm_level(one.scores, area) for area in areas], predicted))
        (ranking,) = rank_parts(val, predicted, [{name for example in val for name in example.types}])
    _, of_masks = ranking.f1_max()
    good, defects = levels[is_good], levels[~is_good]
    if not len(good):
        number, of_alarms = 0, of_masks
    else:
        number, of_alarms, errors = _fewest_errors(defects, good, rate)
        if rate is None and errors >= 1:
            warnings.warn(
                "no threshold tells defect pictures of val from good ones: this detector is of no use there, and every "
                "picture may be an alarm",
                stacklevel=2,
            )
    decision = Decision(of_masks if len(defects) else of_alarms, of_alarms, areas[number])
    chosen = {"chosen_on": "val", "good_pictures": len(good), "defect_pictures": len(defects)}
    missed, false = (defects[:, number] < of_alarms).sum(), (good[:, number] >= of_alarms).sum()
    return asdict(decision) | chosen | {"missed": int(missed), "false_alarms": int(false), "false_alarm_rate": rate}


def _rate_on(is_good: np.ndarray, rate: float | None) -> float | None:
    """The rate of false alarms to keep to on val, None for the fewest errors; is_good: (V,) bool, of its pictures.

    It is 0 where val holds no defect and none is asked for. Warns of that, and of what val cannot tell. Raises
    UserError for a rate without a good picture.
    """
    good = int(is_good.sum())
    if rate is not None and not good:
        raise UserError(
            "detect.false_alarm_rate: the val part holds no good picture to count false alarms on: raise "
            "split.val_fraction, or set it to null"
        )
    if rate is None and good == len(is_good):
        warnings.warn(
            "the val part holds no defect: thresholds are the lowest at which no good picture there is an alarm; set "
            "detect.false_alarm_rate, raise split.val_fraction or add defects",
            stacklevel=3,
        )
        return 0.0
    if rate is None and not good:
        warnings.warn(
            "the val part holds no good picture to count false alarms on: a picture with any mask is an alarm; raise "
            "split.val_fraction",
            stacklevel=3,
        )
    elif rate is not None and 0 < rate < 1 / good:
        warnings.warn(
            f"detect.false_alarm_rate: {rate} is less than one of the {good} good val pictures, so that none may be an "
            "alarm",
            stacklevel=3,
        )
    return rate


def _fewest_errors(defects: np.ndarray, good: np.ndarray, rate: float | None) -> tuple[int, float, float]:
    """The number of the first area with the fewest errors on val, its threshold of alarms, and these errors.

    defects: (D, A) alarm levels of the pictures with a defect, at each of A areas; good: (G, A). rate: of false alarms
    that is allowed; then misses are the errors, else the sum of the shares of misses and of false alarms.
    """
    best = 0, 0.0, float("inf")
    for number, (of_defects, of_good) in enumerate(zip(defects.T, good.T, strict=True)):
        threshold = balanced_threshold(of_defects, of_good) if rate is None else threshold_for(of_good, rate)
        errors = float((of_defects < threshold).sum() / max(1, len(of_defects)))
        if rate is None:
            errors += float(np.mean(of_good >= threshold))
        if errors < best[2]:
            best = number, threshold, errors
    return best
