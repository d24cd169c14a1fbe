"""The metrics of all detectors as rows, their spread over seeds, and each arm beside real defects alone."""

import json
from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core.params import PLACEBO, REAL_ONLY, Params
from lib.core.records import RESAMPLED
from lib.metrics.intervals import chance_difference, paired_difference

# The columns of the tables: the key in the detection metrics, and its name in the field. What is shown first; the
# verdict's metric leads.
MAIN = {
    "pixel_ap": "pixel AP",
    "image_auroc": "image AUROC",
    "pixel_iou_at_val_threshold": "pixel IoU at val",
    "aupro": "AUPRO",
    "box_ap50": "box AP50",
    "defects_alarmed": "defects found",
    "good_alarmed": "false alarms",
    "box_map50": "box mAP50",
    "type_miou": "mIoU of types",
    "type_accuracy": "type accuracy",
}
COLUMNS = MAIN | {
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1_max": "pixel F1-max",
    "pixel_iou_max": "pixel IoU-max",
    "box_ap": "box AP",
    "box_map": "box mAP",
}
MEANINGS = {  # on the page, beside the numbers; docs/report.md says more
    "pixel_ap": "area under precision and recall over all pixels; large defects rule it",
    "image_auroc": "the chance that a picture with a defect scores higher than a good one; 0.5 is guessing",
    "pixel_iou_at_val_threshold": "overlap of found and true pixels at the thresholds from val, as in use",
    "aupro": "share of each defect's pixels that is found, averaged over defects, however small, up to a share of "
    "false pixels of evaluate.fpr_limit",
    "box_ap50": "average precision of boxes that overlap the true ones by half (COCO)",
    "defects_alarmed": "share of the pictures with a defect that are an alarm at the thresholds from val",
    "good_alarmed": "share of the good pictures that are an alarm at the thresholds from val; 0 is best",
    "box_map50": "box AP50 of each defect type, averaged over types: a box of the wrong type is a false alarm",
    "type_miou": "overlap of found and true pixels of each defect type, averaged over types",
    "type_accuracy": "share of the defect pictures whose highest scores are of the right type",
    "image_ap": "area under precision and recall over pictures",
    "image_f1_max": "F1 over pictures at the threshold that suits the test part best",
    "pixel_auroc": "the chance that a pixel of a defect scores higher than another one",
    "pixel_f1_max": "F1 over pixels at the threshold that suits the test part best",
    "pixel_iou_max": "overlap of found and true pixels at the threshold that suits the test part best",
    "box_ap": "as box AP50, averaged over overlaps from 0.5 to 0.95",
    "box_map": "as box mAP50, averaged over overlaps from 0.5 to 0.95",
}
SELDOM = ("box_map50", "type_miou", "type_accuracy", "box_map")  # told by detectors alone that tell types apart
ALL = "all categories"  # the row of their mean; a blank keeps it apart from every category's name
NO_SAMPLES = "no samples"  # the verdict of an arm that had none to learn from
LEVEL = 0.95  # of all intervals
UNCHANGED = ((0.0, 0.0), (0.0, 0.0))  # for `chance_difference`: the arms of a category are one training


def read_scores(params: Params, folder: Path) -> pd.DataFrame:
    """One row for each value in `<folder>/<detector>.json`, of the categories and arms that params.yaml names.

    Columns: detector, category, arm, metric (categoricals in the order of params.yaml and COLUMNS), seed (its rank
    among the arm's seeds, from 0, since a placebo's are other numbers), value (NaN where the metric is not defined).
    A metric of SELDOM that no detector has is left out.
    """
    rows = []
    for detector in params.detectors:
        scores = read_json(folder / f"{detector}.json")
        for category in params.dataset.categories:
            for arm in params.arms(detector):
                seeds = scores[category][arm]["seeds"]
                rows += [
                    (
                        detector,
                        category,
                        arm,
                        metric,
                        rank,
                        seeds[seed].get(metric) if metric in SELDOM else seeds[seed][metric],
                    )
                    for rank, seed in enumerate(sorted(seeds, key=int))
                    for metric in COLUMNS
                ]
    has_types = any(row[3] in SELDOM and row[5] is not None for row in rows)
    metrics = [metric for metric in COLUMNS if has_types or metric not in SELDOM]
    rows = [row for row in rows if row[3] in metrics]
    names = ["detector", "category", "arm", "metric", "seed", "value"]
    orders = {
        "detector": list(params.detectors),
        "category": [*params.dataset.categories, ALL],
        "arm": list(dict.fromkeys(arm for detector in params.detectors for arm in params.arms(detector))),
        "metric": metrics,
    }
    kinds = {name: pd.CategoricalDtype(order, ordered=True) for name, order in orders.items()}
    return pd.DataFrame(rows, columns=names).astype({**kinds, "value": float})


def over_categories(scores: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the mean over categories, seed by seed; category is ALL. A missing value leaves none."""
    means = scores.groupby(["detector", "arm", "metric", "seed"])["value"].mean(skipna=False).reset_index()
    return means.assign(category=ALL).astype({"category": scores["category"].dtype})


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns `mean` and `std`, over seeds, by detector, category, arm and metric; NaN where a value is missing."""
    groups = scores.groupby(["detector", "category", "arm", "metric"])["value"]
    return pd.DataFrame({"mean": groups.mean(skipna=False), "std": groups.std(skipna=False)})


def differences(params: Params, scores: pd.DataFrame, empty: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """The placebo and each generator beside real defects alone: one row for each detector, metric and arm.

    Columns: detector, metric, arm; difference (mean over categories and seeds of arm minus none); low, high (its
    interval over pairs of category and seed); equal_arms (half the range of what two equal arms differ by, see
    `chance_difference`); verdict (`within` or `beyond` that range). NaN, and the verdict `-`, where it cannot be told:
    a metric that is not defined, one seed. empty: generators and categories in which none of their samples was
    accepted: there their arms are `none` under another name, and chance adds nothing to what they differ by. The
    verdict of one that is so in all categories is NO_SAMPLES.
    """
    seeds = scores.groupby(["detector", "metric", "arm", "category"])["value"].agg(list)
    rows = []
    for detector, metric in product(params.detectors, scores["metric"].cat.categories):
        arms = {
            arm: [seeds.loc[detector, metric, arm, category] for category in params.dataset.categories]
            for arm in params.arms(detector)
        }
        none, placebo = arms[REAL_ONLY], arms[PLACEBO]
        for arm, values in list(arms.items())[1:]:
            difference, low, high = paired_difference(np.concatenate(values), np.concatenate(none), LEVEL)
            equals = [none] if arm == PLACEBO else [none, placebo]
            blocks = [
                UNCHANGED if (arm, category) in empty else block
                for category, *block in zip(params.dataset.categories, values, *equals, strict=True)
            ]
            equal_arms = chance_difference(blocks, LEVEL)
            rows.append((detector, metric, arm, difference, low, high, equal_arms))
    table = pd.DataFrame(rows, columns=["detector", "metric", "arm", "difference", "low", "high", "equal_arms"])
    same = table["arm"].map(lambda arm: all((arm, category) in empty for category in params.dataset.categories))
    table["equal_arms"] = table["equal_arms"].mask(same)
    excess = table["difference"].abs() - table["equal_arms"]
    verdicts = {NO_SAMPLES: same, "beyond": excess > 0, "within": excess <= 0}
    return table.assign(verdict=np.select(list(verdicts.values()), list(verdicts), "-"))


def over_pictures(params: Params, contrasts: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The rows of `differences` with two more columns, pictures_low and pictures_high: the bootstrap's interval of the
    difference over test pictures, drawn by capture group; NaN where `<folder>/<detector>/<category>/<arm>/RESAMPLED`
    has no column of that metric.

    Resample n holds the same pictures in every arm, so the difference is taken in each of them; seeds are averaged.
    """

    def replicates(detector: str, arm: str) -> pd.DataFrame:
        tables = [pd.read_csv(folder / detector / category / arm / RESAMPLED) for category in params.dataset.categories]
        return pd.DataFrame(np.mean([table.to_numpy() for table in tables], axis=0), columns=tables[0].columns)

    bounds = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    rows = []
    for detector in params.detectors:
        none, *arms = params.arms(detector)
        base = replicates(detector, none)
        for arm in arms:
            quantiles = (replicates(detector, arm) - base).quantile(bounds)
            rows += [(detector, metric, arm, *quantiles[metric]) for metric in quantiles]
    table = pd.DataFrame(rows, columns=["detector", "metric", "arm", "pictures_low", "pictures_high"])
    return contrasts.merge(table, how="left", on=["detector", "metric", "arm"])


def read_json(path: Path) -> dict[str, Any]:
    """A file of metrics."""
    return json.loads(path.read_text(encoding="utf-8"))
