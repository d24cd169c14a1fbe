"""One table from all metrics: does synthesis help, whom, by how much, and is it more than noise?"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import plots
from lib.core.params import REAL_ONLY, Params
from lib.core.runtime import write_json, write_text
from lib.metrics.intervals import mean_std, paired_difference

# The columns of the tables: the key in the detection metrics, and its name in the field.
COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "pixel_iou_max": "pixel IoU",
    "aupro": "AUPRO",
}


@dataclass(frozen=True)
class Arm:
    """The detection metrics of one detector, trained with one generator's samples or without any, on one category."""

    detector: str
    name: str
    category: str
    seeds: dict[str, dict[str, float | None]]
    per_type: dict[str, dict[str, dict[str, float | None]]]  # defect type: mean and std: metric

    def values(self, metric: str) -> list[float]:
        """The metric of every seed, in the order of the seeds; nan where it is not defined."""
        found = (self.seeds[seed].get(metric) for seed in sorted(self.seeds, key=int))
        return [float("nan") if value is None else float(value) for value in found]


def read_arms(params: Params, folder: Path) -> list[Arm]:
    """Read `<folder>/<detector>.json` of all detectors, and of it the categories and arms that params.yaml names."""
    arms = []
    for detector in params.detectors:
        found = _json(folder / f"{detector}.json")
        for category in params.dataset.categories:
            for name in params.arms:
                scores = found[category][name]
                arms.append(Arm(detector, name, category, scores["seeds"], scores["per_type"]))
    return arms


def summary(params: Params, arms: Sequence[Arm]) -> dict[str, Any]:
    """Mean over categories and seeds, and spread over seeds, per detector and arm: what metrics diff shows."""
    tree: dict[str, Any] = {}
    for detector in params.detectors:
        for name in params.arms:
            rows = [arm for arm in arms if (arm.detector, arm.name) == (detector, name)]
            entry = {metric: _all_categories(rows, metric) for metric in COLUMNS}
            tree.setdefault(detector, {})[name] = {
                **{metric: _number(mean) for metric, (mean, _) in entry.items()},
                "pixel_ap_std": _number(entry["pixel_ap"][1]),
            }
    return tree


def write_report(params: Params, metrics: Path) -> str:
    """Write `summary.json` and the folder `report/` below `metrics`; returns the table for the terminal.

    The folder gets report.md, arms.csv and training/ for DVC's plots, and the same as pictures for people who have
    no connection to the content network that DVC's own page needs.
    """
    arms = read_arms(params, metrics / "detection")
    out = metrics / "report"
    table = _arms_table(params, arms)
    parts = [
        "# Does synthesis help?",
        "Mean ± standard deviation over seeds, on the untouched test part. Every arm has the same real defects and the "
        "same training budget.",
        table,
        "## Difference from real defects alone",
        _differences(params, arms),
        "## Pixel AP by defect type",
        _types_table(params, arms),
        "## Synthetic samples",
        _samples_table(params, metrics),
        "## Masks against the exact truth",
        _truth_table(metrics / "mask_truth.json"),
        "## Pictures",
        _pictures(params),
    ]
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
    write_json(metrics / "summary.json", summary(params, arms) | _labels(params, metrics))
    means = [(f"{arm.name} {arm.category} {arm.detector}", mean_std(arm.values("pixel_ap"))[0]) for arm in arms]
    _write_csv(out / "arms.csv", ("arm", "pixel_ap"), means)
    curves = {
        f"{generator} {category}": points
        for generator in params.generators
        for category in params.dataset.categories
        if (points := _loss_curve(metrics / "finetune" / generator / category))
    }
    for arm, points in curves.items():
        _write_csv(out / "training" / f"{arm.replace(' ', '-')}.csv", ("step", "loss"), points)
    plots.learning_curve(out / "training.png", curves)
    for metric in ("pixel_ap", "aupro"):
        heights = {
            f"{name}\n{detector}": _all_categories(
                [arm for arm in arms if (arm.detector, arm.name) == (detector, name)], metric
            )
            for detector in params.detectors
            for name in params.arms
        }
        plots.bars(out / f"{metric}.png", heights, f"{COLUMNS[metric]}, mean over categories")
    return table


def _labels(params: Params, metrics: Path) -> dict[str, Any]:
    """Share of synthetic samples that the gate accepted, mean over categories, and the masks' IoU with the truth."""
    rates = {}
    for generator in params.generators:
        gate = _json(metrics / "masks" / f"{generator}.json")
        found = [gate[category]["acceptance_rate"] for category in params.dataset.categories]
        rates[generator] = round(float(np.mean(found)), 4)
    return {"acceptance_rate": rates, "mask_iou": _json(metrics / "mask_truth.json").get("all", {})}


def _all_categories(arms: Sequence[Arm], metric: str) -> tuple[float, float]:
    """Mean over categories for each seed, then mean and sample standard deviation over seeds."""
    return mean_std(np.mean([arm.values(metric) for arm in arms], axis=0).tolist())


def _arms_table(params: Params, arms: Sequence[Arm]) -> str:
    rows = []
    for detector in params.detectors:
        for category in [*params.dataset.categories, "all"]:
            for name in params.arms:
                chosen = [
                    arm
                    for arm in arms
                    if (arm.detector, arm.name) == (detector, name) and category in (arm.category, "all")
                ]
                cells = ["{:.3f} ± {:.3f}".format(*_all_categories(chosen, metric)) for metric in COLUMNS]
                rows.append([detector, category, name, *cells])
    return markdown(["detector", "category", "arm", *COLUMNS.values()], rows)


def _differences(params: Params, arms: Sequence[Arm]) -> str:
    """Paired by category and seed, with an interval over those pairs."""
    values = {(arm.detector, arm.name, arm.category): arm for arm in arms}
    rows = []
    for detector in params.detectors:
        for generator in params.generators:
            cells = []
            for metric in COLUMNS:
                with_it, without = (
                    [
                        value
                        for category in params.dataset.categories
                        for value in values[detector, name, category].values(metric)
                    ]
                    for name in (generator, REAL_ONLY)
                )
                mean, low, high = paired_difference(with_it, without)
                cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
            rows.append([detector, generator, *cells])
    note = (
        "95 % intervals (Student's t) over pairs of equal category and seed; one that holds 0 shows no clear effect. "
        "Seeds vary the detector's training, neither the split nor the synthetic samples."
    )
    return markdown(["detector", "arm", *COLUMNS.values()], rows) + f"\n\n{note}"


def _types_table(params: Params, arms: Sequence[Arm]) -> str:
    """One row for each defect type: over all types together a large kind of defect hides the small ones."""
    values = {(arm.detector, arm.name, arm.category): arm for arm in arms}
    rows = []
    for detector in params.detectors:
        for category in params.dataset.categories:
            for name in values[detector, REAL_ONLY, category].per_type:
                found = [values[detector, arm, category].per_type[name] for arm in params.arms]
                cells = [f"{_short(one['mean']['pixel_ap'])} ± {_short(one['std']['pixel_ap'])}" for one in found]
                rows.append([detector, category, name, *cells])
    note = "Mean ± standard deviation over seeds, each type's pictures beside the good ones."
    return markdown(["detector", "category", "defect type", *params.arms], rows) + f"\n\n{note}"


def _samples_table(params: Params, metrics: Path) -> str:
    rows, fidelity = [], _json(metrics / "fidelity.json")
    for generator in params.generators:
        gates = _json(metrics / "masks" / f"{generator}.json")
        for category in params.dataset.categories:
            gate = gates[category]
            likeness = fidelity[generator][category]
            reasons = ", ".join(f"{count} {reason}" for reason, count in gate["rejected"].items())
            rows.append(
                [
                    generator,
                    category,
                    str(gate["samples"]),
                    f"{gate['acceptance_rate']:.0%}",
                    "-" if gate["real_acceptance_rate"] is None else f"{gate['real_acceptance_rate']:.0%}",
                    reasons or "-",
                    str(gate["pixels_changed_outside"]),
                    *(_short(likeness[name]) for name in ("kid", "diversity", "diversity_real", "memorised_share")),
                ]
            )
    heads = ["generator", "category", "samples", "accepted", "real ones accepted", "rejected because"]
    heads += ["pixels changed outside of the box", "kernel distance x 1000"]
    heads += ["diversity", "of the real ones", "memorised"]
    note = (
        "Real ones accepted: the share of the known real defects that pass the gate, each compared with the others; "
        "where it is low, the gate is too narrow. Kernel distance and diversity are taken on a classic descriptor "
        "(gradients, binary patterns, colour); they rank generators on one data set and are not Inception KID."
    )
    return markdown(heads, rows) + f"\n\n{note}"


def _truth_table(path: Path) -> str:
    truth = _json(path)
    if not truth:
        return "The data set has no twins (the same picture without its defect), so there is no exact truth to hold."
    rows = [
        [name, *(f"{scores[method]:.3f}" for method in ("measured", "cosine_rgb_otsu", "grey_difference"))]
        for name, scores in truth.items()
    ]
    note = "Mean IoU of masks taken from autoencoder round trips of a defect picture and its defect-free twin."
    return f"{note}\n\n" + markdown(
        ["category and type", "measured", "cosine_rgb_otsu (published)", "grey difference, Otsu"], rows
    )


def _pictures(params: Params) -> str:
    lines = ["- `metrics/report/`: this page, bars and training curves"]
    for generator in params.generators:
        lines.append(f"- `metrics/synth/{generator}/`, `metrics/masks/{generator}/`, `metrics/fidelity/{generator}/`")
    lines += [
        f"- `metrics/detection/{detector}/<category>/<arm>/best.png`, `worst.png`" for detector in params.detectors
    ]
    return "\n".join(lines)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded, so that it reads well as plain text too."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _loss_curve(folder: Path) -> list[tuple[float, float]]:
    """(step, loss) points that DVCLive wrote; none for generators that learn nothing."""
    path = folder / "plots" / "metrics" / "loss.tsv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(file, delimiter="\t")]


def _write_csv(path: Path, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
