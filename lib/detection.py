"""Train detectors per seed on every arm, and judge them on the untouched test part."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib import plots
from lib.core.geometry import Mask, Scores
from lib.core.images import read_image, read_mask, write_png
from lib.core.params import Detect, Evaluate
from lib.core.params import load as load_params
from lib.core.records import GOOD, Sample, Synthetic, of_split, read_records
from lib.core.runtime import (
    atomic_folder,
    device,
    fingerprint,
    on_cores,
    progress,
    replace_folder,
    source,
    work_folder,
    write_text,
)
from lib.detectors import Example, find
from lib.metrics.intervals import mean_std
from lib.metrics.ranking import average_precision, iou_at, pixel_and_image_metrics

PR_POINTS = 200  # of the precision-recall curve


def read_examples(records: Iterable[Sample | Synthetic]) -> list[Example]:
    """Load pictures and masks into memory. Raises ValueError where a mask is missing or of another size."""
    examples = []
    for record in progress(records, "read pictures"):
        image, synthetic = read_image(Path(record.image)), isinstance(record, Synthetic)
        if record.mask is None and record.defect_type != GOOD:
            raise ValueError(f"{record.image}: a picture of type {record.defect_type!r} needs a mask")
        mask = read_mask(Path(record.mask)) if record.mask else np.zeros(image.shape[:2], bool)
        if mask.shape != image.shape[:2]:
            raise ValueError(f"{record.mask}: size {mask.shape[::-1]}, its picture has {image.shape[1::-1]}")
        examples.append(Example(image, mask, synthetic, record.defect_type))
    return examples


def train_arm(name: str, arm: str, category: str, accepted: Sequence[Synthetic]) -> None:
    """Train one detector per seed on the real defects of the train part and the accepted synthetic ones.

    Finished seeds outlive a kill, as long as code, settings and pictures, known by their digests, stay the same.
    """
    module, settings = find(name), load_params().detect
    prepared = Path(f"data/prepared/{category}/samples.jsonl")
    samples = read_records(prepared, Sample)
    train, val = of_split(samples, "train"), of_split(samples, "val")
    read = source("lib.core", "lib.detectors", "lib.metrics", "lib.squeezenet", "lib.tiles")
    read += [Path(settings.encoder)] if settings.encoder else []
    key = fingerprint(settings.model_dump(), prepared, [asdict(record) for record in accepted], *read)
    work = work_folder(f"detect-{name}-{category}-{arm}", key)
    fit_seeds(module, read_examples([*train, *accepted]), read_examples(val), settings, work)
    replace_folder(work, Path(f"models/detectors/{name}/{category}/{arm}"))


def fit_seeds(
    module: ModuleType, train: Sequence[Example], val: Sequence[Example], params: Detect, folder: Path
) -> None:
    """Train one detector per seed into `folder/seed-<n>`; what already lies there is whole and stays as it is.

    Also draws the learning curves of all seeds: `learning.png`.
    """
    for unfinished in folder.glob("*.tmp-*"):  # of a run that was killed
        shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()

    def fit_seed(seed: int) -> None:
        with atomic_folder(folder / f"seed-{seed}") as out:
            module.fit(train, val, params, seed, out)

    left = [seed for seed in params.seeds if not (folder / f"seed-{seed}").exists()]
    on_cores(device(), fit_seed, left, out_of=len(params.seeds))
    curves = {}
    for seed in params.seeds:
        history = json.loads((folder / f"seed-{seed}" / "history.json").read_text(encoding="utf-8"))
        curves[f"loss, seed {seed}"] = list(enumerate(history["loss"], start=1))
        curves[f"pixel AP on val, seed {seed}"] = history["val_pixel_ap"]
    plots.learning_curve(folder / "learning.png", curves)


def image_score(score_map: Scores) -> float:
    """The anomaly score of a picture: the mean of the highest 0.1 % of its pixels, of at least one.

    A maximum that one odd pixel cannot raise, and that a defect of some dozen pixels still can.
    """
    count = max(1, score_map.size // 1000)
    return float(np.partition(score_map, -count, axis=None)[-count:].mean())


def precision_recall(maps: Sequence[Scores], masks: Sequence[Mask]) -> NDArray[np.float64]:
    """(PR_POINTS, 2): recall, evenly spread, and the precision at the pixel threshold that reaches it."""
    truth = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([score_map.ravel() for score_map in maps])
    positives, negatives = np.sort(scores[truth]), np.sort(scores[~truth])
    wanted = np.arange(1, PR_POINTS + 1) / PR_POINTS
    thresholds = positives[positives.size - np.ceil(wanted * positives.size).astype(int)]
    tp = positives.size - np.searchsorted(positives, thresholds)
    fp = negatives.size - np.searchsorted(negatives, thresholds)
    return np.column_stack([wanted, tp / (tp + fp)])


def evaluate(
    module: ModuleType, arms: Mapping[str, Path], samples: Sequence[Sample], params: Evaluate, out: Path
) -> dict[str, Any]:
    """Judge every arm's detectors, one folder of seeds for each, on the samples of the test part.

    Returns for each arm what `judge` returns, fit for JSON, and writes below `out` what it writes. Raises ValueError
    without samples, defects among them, or trained seeds.
    """
    examples = read_examples(samples)
    if not any(example.mask.any() for example in examples):
        raise ValueError("the test part holds no defect, so there is nothing to measure: change split in params.yaml")
    return _rounded({arm: judge(module, folder, samples, examples, params, out / arm) for arm, folder in arms.items()})


def judge(
    module: ModuleType,
    folder: Path,
    samples: Sequence[Sample],
    examples: Sequence[Example],
    params: Evaluate,
    out: Path,
) -> dict[str, Any]:
    """Judge every seed in `folder` on the samples, whose pictures are `examples`.

    Returns mean and sample standard deviation over seeds, each seed, each defect type beside the good pictures, and
    counts. Writes into `out`: pr.csv, the mean curve of the seeds, and best.png and worst.png of the first seed.
    Nothing is scaled per picture.
    """
    trained = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    if not trained:
        raise ValueError(f"{folder}: holds no trained seeds, run the stages baseline and detect first")
    masks = [example.mask for example in examples]
    types = sorted({example.defect_type for example in examples} - {GOOD})
    seeds: dict[str, dict[str, float]] = {}
    by_type: dict[str, list[dict[str, float]]] = {name: [] for name in types}
    curves, first = [], None
    for path in trained:
        model = module.load(path)
        threshold = json.loads((path / "threshold.json").read_text(encoding="utf-8"))["threshold"]
        maps = [
            module.predict(model, example.image) for example in progress(examples, f"predict {out.name} {path.name}")
        ]
        of_images = [image_score(score_map) for score_map in maps]
        scores = pixel_and_image_metrics(maps, masks, of_images, threshold, params.fpr_limit)
        seeds[path.name.removeprefix("seed-")] = scores
        for name in types:
            part = [i for i, example in enumerate(examples) if example.defect_type in {name, GOOD}]
            truth = np.concatenate([masks[i].ravel() for i in part])
            values = np.concatenate([maps[i].ravel() for i in part])
            by_type[name].append(
                {
                    "pixel_ap": average_precision(values, truth),
                    "pixel_iou_at_val_threshold": iou_at(values, truth, threshold),
                }
            )
        curves.append(precision_recall(maps, masks))
        first = first or (maps, threshold)
    assert first is not None
    rows = "".join(f"{recall:.6f},{precision:.6f}\n" for recall, precision in np.mean(curves, axis=0))
    write_text(out / "pr.csv", f"recall,precision\n{rows}")
    _write_overlays(samples, examples, *first, params.overlays, out)
    return {
        **_mean_and_std(list(seeds.values())),
        "seeds": seeds,
        "per_type": {name: _mean_and_std(rows) for name, rows in by_type.items()},
        "counts": {
            "seeds": len(trained),
            **{name: sum(e.defect_type == name for e in examples) for name in [GOOD, *types]},
        },
    }


def _write_overlays(
    samples: Sequence[Sample],
    examples: Sequence[Example],
    maps: Sequence[Scores],
    threshold: float,
    count: int,
    out: Path,
) -> None:
    """Best and worst defect pictures by their own pixel AP; the worst begin with the loudest false alarm."""
    panels: list[tuple[float, plots.Overlay]] = []
    alarms: list[tuple[float, plots.Overlay]] = []
    for sample, example, score_map in zip(samples, examples, maps, strict=True):
        if example.mask.any():
            precision = average_precision(score_map.ravel(), example.mask.ravel())
            iou = iou_at(score_map.ravel(), example.mask.ravel(), threshold)
            caption = f"{sample.id}  AP {precision:.3f}  IoU {iou:.3f}"
            panels.append((precision, plots.Overlay(caption, example.image, example.mask, score_map)))
        else:
            score = image_score(score_map)
            caption = f"{sample.id}  good, score {score:.3f}"
            alarms.append((score, plots.Overlay(caption, example.image, example.mask, score_map)))
    panels.sort(key=lambda panel: -panel[0])
    alarms.sort(key=lambda alarm: -alarm[0])
    best = [overlay for _, overlay in panels[:count]]
    worst = [overlay for _, overlay in alarms[:1] + panels[::-1][:count]]
    write_png(out / "best.png", plots.overlay_sheet(best, threshold))
    write_png(out / "worst.png", plots.overlay_sheet(worst, threshold))


def _mean_and_std(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    pairs = {key: mean_std([row[key] for row in rows]) for key in rows[0]}
    return {
        "mean": {key: pair[0] for key, pair in pairs.items()},
        "std": {key: pair[1] for key, pair in pairs.items()},
    }


def _rounded(value: Any) -> Any:
    """Floats to 6 digits; NaN, which JSON lacks, to null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
