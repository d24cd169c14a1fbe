"""Judge trained detectors on the untouched test part, each arm once as long as nothing that it depends on changes.

Two passes over the pictures, one picture at a time in memory for each core: the first predicts and puts the score maps
aside on the disk, the second ranks the normal pixels among the defect pixels. Nothing is scaled per picture.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import plots
from lib.alarms import Decision
from lib.core.errors import UserError
from lib.core.images import write_png
from lib.core.params import Evaluate, Params
from lib.core.pipeline import part_key
from lib.core.records import FOUND, GOOD, LEVELS, RESAMPLED, Sample, of_split, read_records
from lib.core.runtime import device, on_cores, work_folder, write_json, write_text
from lib.detection import read_examples
from lib.detectors import find
from lib.marks import Marks, Metrics, alarm_levels, ious_of_types, mark_metrics, marked, marks_of, overlap
from lib.metrics.bootstrap import Counts, Weights, aurocs, average_precisions, counts_of, levels_of, resamples
from lib.metrics.intervals import mean_std
from lib.metrics.ranking import Ranking, average_precision, rank
from lib.scoring import Prediction, predictions, rank_parts
from lib.trained import read_decision
from lib.vision.examples import Example

RECALLS = np.arange(1, 201) / 200  # of the precision-recall curve
VERDICT = "verdict.json"  # written last: with it, the folder of an arm is whole


def judge_arm(params: Params, detector: str, category: str, arm: str, out: Path) -> dict[str, Any]:
    """Judge every seed of an arm on the test part: what `judge` returns, fit for JSON; the folder `out` gets what it
    writes.

    The verdict is kept outside of the outputs, under the fingerprint of what the arm depends on: trained seeds, test
    records, code and parameters. While that stays the same it is copied instead of made anew.
    Raises UserError without trained seeds.
    """
    trained = Path(f"models/detectors/{detector}/{category}/{arm}")
    records = Path(f"data/prepared/{category}/samples.jsonl")
    key = part_key(
        "evaluate",
        {"data/prepared": records, f"models/detectors/{detector}": trained},
        unread=("dataset.categories", "generators", "detect.on_synthetic"),  # which say what arms there are
        detector=detector,
    )
    work = work_folder(f"evaluate-{detector}/{category}-{arm}", key)
    if not (work / VERDICT).exists():
        for unfinished in work.iterdir():  # of a run that was killed
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        samples = of_split(read_records(records, Sample), "test")
        write_json(work / VERDICT, _rounded(judge(detector, trained, samples, params.evaluate, work)))
    shutil.copytree(work, out, ignore=shutil.ignore_patterns(VERDICT))
    return json.loads((work / VERDICT).read_text(encoding="utf-8"))


def judge(detector: str, trained: Path, samples: Sequence[Sample], params: Evaluate, out: Path) -> dict[str, Any]:
    """Judge every seed in the folder `trained` on the samples.

    Returns mean and sample standard deviation over seeds, each seed, each defect type beside the good pictures, and
    counts. Writes into `out`: pr.csv, the mean curve of the seeds, RESAMPLED, their mean metrics on resampled test
    parts, FOUND, which defects each seed finds, LEVELS, up to which threshold a picture is an alarm, and best.png and
    worst.png of the first seed.
    Raises UserError without trained seeds, or defects to find.
    """
    folders = sorted(trained.glob("seed-*"), key=lambda folder: int(folder.name.removeprefix("seed-")))
    if not folders:
        raise UserError(f"{trained}: holds no trained seeds, run the stages baseline and detect first")
    examples, module = read_examples(samples), find(detector)
    if not any(example.has_defect for example in examples):
        raise UserError("the test part holds no defect, so there is nothing to measure: change split in params.yaml")
    types = sorted({name for example in examples for name in example.types} - {GOOD})
    groups = [sample.group for sample in samples]
    draws = resamples(samples[0].category, groups, [example.has_defect for example in examples])
    replicates = []
    defects: pd.DataFrame | None = None
    levels = pd.DataFrame(
        {"picture": [sample.id for sample in samples], "defect": [int(example.has_defect) for example in examples]}
    )
    seeds: dict[str, Metrics] = {}
    by_type: dict[str, list[Metrics]] = {name: [] for name in types}
    curves = []
    for folder in folders:
        decision = read_decision(folder)
        what = f"predict {trained.parent.name} {trained.name} {folder.name}"
        model = module.load(folder)
        with predictions(module, model, examples, out, what) as predicted:
            parts = [{GOOD, *types}, *({GOOD, name} for name in types)]
            pixels, *of_types = rank_parts(examples, predicted, parts)
            if folder == folders[0]:
                _write_overlays(samples, examples, predicted, decision, params.overlays, out)
            model_types = _types_told(getattr(model, "types", ()), types)
            marks = on_cores(
                device(), marks_of, examples, predicted, [decision] * len(examples), [model_types] * len(examples)
            )
            replicates.append(_replicates(draws, pixels, examples, predicted))
        pictures = rank([one.image_score for one in predicted], [example.has_defect for example in examples])
        seeds[folder.name.removeprefix("seed-")] = _metrics(pictures, pixels, params.fpr_limit)
        seeds[folder.name.removeprefix("seed-")] |= mark_metrics(marks, decision, model_types)
        levels[folder.name] = alarm_levels(marks)
        defects = _defects(samples, marks) if defects is None else defects
        defects[folder.name] = [int(pixels > 0) for one in marks for pixels in one.hits.values()]
        ious = ious_of_types(marks, model_types)
        for name, ranking in zip(types, of_types, strict=True):
            of_type = {"pixel_ap": ranking.average_precision(), "pixel_iou_at_val_threshold": overlap(marks, name)}
            by_type[name].append(of_type | ({"type_iou": ious[name]} if name in ious else {}))
        curves.append(pixels.precision_at(RECALLS))
    assert defects is not None
    curve = pd.DataFrame({"recall": RECALLS, "precision": np.mean(curves, axis=0)})
    resampled = pd.DataFrame(np.mean(replicates, axis=0), columns=["pixel_ap", "image_auroc"])
    tables = {"pr.csv": (curve, "%.6f"), RESAMPLED: (resampled, "%.6f"), FOUND: (defects, None)}
    for name, (table, digits) in (tables | {LEVELS: (levels, "%.9g")}).items():
        write_text(out / name, table.to_csv(index=False, lineterminator="\n", float_format=digits, na_rep="nan"))
    numbers = {name: sum(name in example.types for example in examples) for name in [GOOD, *types]}
    return {
        **_mean_and_std(list(seeds.values())),
        "seeds": seeds,
        "per_type": {name: _mean_and_std(of_seeds) for name, of_seeds in by_type.items()},
        "counts": {"seeds": len(folders), **numbers},
    }


def _metrics(pictures: Ranking, pixels: Ranking, fpr_limit: float) -> Metrics:
    """The metrics of one seed that know no threshold. F1-max and IoU-max share one that is chosen on these very
    pictures: an upper bound for one threshold, not a forecast, which those at the thresholds from val are."""
    f1, _ = pixels.f1_max()
    return {
        "image_auroc": pictures.auroc(),
        "image_ap": pictures.average_precision(),
        "image_f1_max": pictures.f1_max()[0],
        "pixel_auroc": pixels.auroc(),
        "pixel_ap": pixels.average_precision(),
        "pixel_f1_max": f1,
        "pixel_iou_max": f1 / (2 - f1),
        "aupro": pixels.aupro(fpr_limit),
    }


def _types_told(of_model: Sequence[str], of_pictures: Sequence[str]) -> Sequence[str]:
    """The types that a detector knows, then those of the test part that it does not, which it must miss; none of one
    that does not tell types apart."""
    return [*of_model, *(name for name in of_pictures if name not in of_model)] if of_model else []


def _defects(samples: Sequence[Sample], marks: Sequence[Marks]) -> pd.DataFrame:
    """The defects of the pictures: all pixels of one type in a picture are one. Columns picture, type and area, px."""
    rows = [
        (sample.id, name, area) for sample, one in zip(samples, marks, strict=True) for name, area in one.areas.items()
    ]
    return pd.DataFrame(rows, columns=["picture", "type", "area"])


def _replicates(
    draws: Weights, pixels: Ranking, examples: Sequence[Example], predicted: Sequence[Prediction]
) -> NDArray[np.float64]:
    """(R, 2): pixel AP and image AUROC of one seed on every resample of the test part."""
    levels = levels_of(pixels.positives)

    def count(example: Example, one: Prediction) -> Counts:
        return counts_of(one.defect.scores, one.scores[example.normal], levels)

    counts = on_cores(device(), count, examples, predicted)
    auroc = aurocs(draws, [one.image_score for one in predicted], [example.has_defect for example in examples])
    return np.stack([average_precisions(draws, counts), auroc], axis=1)


def _write_overlays(
    samples: Sequence[Sample],
    examples: Sequence[Example],
    predicted: Sequence[Prediction],
    decision: Decision,
    count: int,
    out: Path,
) -> None:
    """Best and worst defect pictures by their own pixel AP; the worst begin with the loudest false alarm."""

    def measure(example: Example, prediction: Prediction) -> tuple[float, str]:
        """What a picture is sorted by, and how that is told."""
        if not example.has_defect:
            return prediction.image_score, f"good, score {prediction.image_score:.3f}"
        scores, truth = prediction.scores, example.mask
        marks = marked(example, scores, decision)
        precision = average_precision(scores[example.counting], truth[example.counting])
        return precision, f"AP {precision:.3f}  IoU {(marks & truth).sum() / (marks | truth).sum():.3f}"

    measured = on_cores(device(), measure, examples, predicted)
    downwards = sorted(range(len(examples)), key=lambda number: -measured[number][0])
    best = [number for number in downwards if examples[number].has_defect]
    loudest = [number for number in downwards if not examples[number].has_defect][:1]
    # Colours are on one scale for both sheets, whatever the range of the detector.
    lowest = np.float32(min(prediction.lowest for prediction in predicted))
    extent = np.float32(max(prediction.highest for prediction in predicted)) - lowest or np.float32(1)

    def overlay(number: int) -> plots.Overlay:
        example, caption = examples[number], f"{samples[number].id}  {measured[number][1]}"
        scores = predicted[number].scores
        heat, marks = (scores - lowest) / extent, marked(example, scores, decision)
        return plots.Overlay(caption, example.image, example.mask, heat, marks)

    for name, chosen in (("best", best[:count]), ("worst", [*loudest, *best[::-1][:count]])):
        write_png(out / f"{name}.png", plots.overlay_sheet([overlay(number) for number in chosen]))


def _mean_and_std(rows: Sequence[Metrics]) -> dict[str, Metrics]:
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
