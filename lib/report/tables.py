"""The report: one table of all metrics that says whether synthesis helps, where, by how much, and beyond chance."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib import plots
from lib.core.params import PLACEBO, REAL_ONLY, Params
from lib.core.records import Sample, of_split, read_records
from lib.core.runtime import write_json, write_text
from lib.report.scores import COLUMNS, LEVEL, differences, over_categories, over_pictures, read_scores, spread
from lib.report.verdict import harvest, headline, interval, signed, verdict

ALARMS = ("defects_alarmed", "good_alarmed")  # what a line stops for: the first columns of the table of arms
BARS = ("pixel_ap", "aupro")  # the metrics with bars of their own
MASK_METHODS = {
    "measured": "measured",
    "cosine_rgb_otsu": "cosine_rgb_otsu (published)",
    "grey_difference": "grey difference, Otsu",
}

ARMS_NOTE = f"""Mean ± standard deviation over seeds, on the untouched test part. Defects found and false alarms: \
shares of the pictures with a defect, and of the good ones, that are an alarm at the threshold from val. F1-max \
and IoU-max are taken at the threshold that suits the test part best, a bound from above; *IoU at val* is taken at the \
threshold from val, as in use. Every arm has the same real defects and the same training budget; `{PLACEBO}` is \
`{REAL_ONLY}` once more under other seeds."""

# The verdict rests on the pooled spread: three pairs have 2 degrees of freedom, and six seeds of one arm on photographs
# lay 0.1 of pixel AP apart, so that an interval over three pairs that leaves out 0 is easily had among many.
DIFFERENCES_NOTE = f"""Arm minus `{REAL_ONLY}`, mean over categories and seeds.

- *pairs*: {LEVEL:.0%} interval (Student's t) over pairs of equal category and seed. `{PLACEBO}` has other seeds: its \
pairs go by the seeds' rank.
- *test pictures*: {LEVEL:.0%} interval of the bootstrap over test pictures, whole capture groups at a time, of pixel \
AP and image AUROC, averaged over seeds: how far another draw of test pictures would move the difference.
- *equal arms*: the range that holds {LEVEL:.0%} of the differences of two arms that differ in nothing but the seeds. \
The spread over seeds is pooled, category by category, over `{REAL_ONLY}`, `{PLACEBO}` and the arm itself; other \
generators have no part in it, so that one that fails hides no effect of another.
- *verdict*: *beyond* where the difference is larger than that range, else *within*, whatever its pairs say; *no \
samples* where none was accepted, and the arm is `none`.
- Generators share their seeds with `{REAL_ONLY}`. Where a seed acts alike in both arms, equal arms differ by less \
than that: the verdict *within* is then too careful, and the pairs are the sharper view.
- `{PLACEBO}` and `{REAL_ONLY}` share data and split, and every generator has one set of samples: the verdict \
is about the noise of training seeds alone. Another split, other test pictures or newly drawn samples would add to \
it."""

TYPES_NOTE = "Mean ± standard deviation over seeds, each type's pictures beside the good ones."

IOUS_NOTE = """Of detectors that tell types apart, at the threshold from val, over all test pictures: a defect \
under the name of another type counts against both. Their mean is the mIoU above. The type of a picture is that of its \
highest scores; its accuracy is over the defect pictures that show one type alone (`type_pictures` in \
`metrics/detection`)."""

SAMPLES_NOTE = """Requests = accepted + rejected + failed. Masks are known where the generator tells them, else \
measured from the change. Real ones accepted: the share of the real defects that pass the gate, each compared with the \
others; where it is low, the gate is too narrow. Kernel distance: about 0 for samples that spread as the real ones do, \
2 at most; it rises where they lie elsewhere, and where they are too much alike. It and diversity are taken on \
features of EfficientNet-Lite0, which learned from ImageNet; they rank generators on one data set and are not \
Inception KID. Memorised: the share of samples that lie much nearer to a real defect than two real ones of a type \
usually lie to each other; `-` where no type has defects in two pictures."""


class Part(NamedTuple):
    """A table of the report under its title, and what it means, in Markdown; without a table the note says why."""

    title: str
    table: pd.DataFrame | None
    note: str


def summary(params: Params, metrics: Path, scores: pd.DataFrame) -> dict[str, Any]:
    """What `dvc metrics diff` compares: for each detector and arm the mean of every metric over categories and seeds,
    and the spread of pixel AP over seeds; the share of samples that the gate accepted; the masks' IoU with the truth.
    """
    tree: dict[str, Any] = {}
    for row in spread(over_categories(scores)).reset_index().to_dict("records"):
        entry = tree.setdefault(row["detector"], {}).setdefault(row["arm"], {})
        entry[row["metric"]] = _number(row["mean"])
        if row["metric"] == "pixel_ap":
            entry["pixel_ap_std"] = _number(row["std"])
    rates = tree["acceptance_rate"] = {}
    for generator, of_category in gates(params, metrics).items():
        shares = [gate["acceptance_rate"] for gate in of_category.values()]
        rates[generator] = _number(float(np.mean(shares)))
    return tree | {"mask_iou": _json(metrics / "mask_truth.json").get("all", {})}


def write_report(params: Params, metrics: Path) -> str:
    """Write `summary.json` and the folder `report/` below `metrics`; returns verdict and table for the terminal.

    The folder gets report.md, differences.csv, arms.csv and training/ for DVC's plots, and the same as pictures, since
    DVC's own page needs a network.
    """
    out, scores = metrics / "report", read_scores(params, metrics / "detection")
    contrasts = over_pictures(params, differences(params, scores, empty_arms(params, metrics)), metrics / "detection")
    told = "\n\n".join(
        [
            headline(contrasts, scores, count_test(params)),
            verdict(contrasts),
            harvest(gates(params, metrics), memorised(params, metrics)),
        ]
    )
    terminal = f"{told}\n\n{markdown(_arms_table(scores))}"
    texts = [f"# Does synthesis help?\n\n{terminal}\n\n{ARMS_NOTE}"]
    texts += [_as_text(part) for part in parts(params, metrics, scores, contrasts)[1:]]
    texts.append("## Pictures\n\n" + "\n".join(f"- {line}" for line in pictures(params)))
    write_text(out / "report.md", "\n\n".join(texts) + "\n")
    write_text(out / "differences.csv", _csv(contrasts))
    write_json(metrics / "summary.json", summary(params, metrics, scores))
    _write_plots(params, metrics, scores, contrasts)
    return terminal


def count_test(params: Params) -> int:
    """How many real pictures the test part has, over all categories."""
    return sum(
        len(of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "test"))
        for category in params.dataset.categories
    )


def memorised(params: Params, metrics: Path) -> dict[str, dict[str, float | None]]:
    """The share in [0, 1] of accepted samples that copy a real defect, by generator and category; None if unknown."""
    fidelity = _json(metrics / "fidelity.json")
    return {
        generator: {name: fidelity[generator][name]["memorised_share"] for name in params.dataset.categories}
        for generator in params.generators
    }


def empty_arms(params: Params, metrics: Path) -> frozenset[str]:
    """Generators of whose samples none was accepted: their arms learn from real defects alone."""
    counts = gates(params, metrics)
    return frozenset(name for name, of in counts.items() if not any(gate["accepted"] for gate in of.values()))


def parts(params: Params, metrics: Path, scores: pd.DataFrame, contrasts: pd.DataFrame) -> list[Part]:
    """The tables of the report, that of all arms first. scores: of `read_scores`; contrasts: of `over_pictures`."""
    ious = _types_table(params, metrics / "detection", "type_iou")
    return [
        Part("All arms", _arms_table(scores), ARMS_NOTE),
        Part("Difference from real defects alone", _differences_table(contrasts), DIFFERENCES_NOTE),
        Part("Pixel AP by defect type", _types_table(params, metrics / "detection", "pixel_ap"), TYPES_NOTE),
        *([Part("IoU by defect type", ious, IOUS_NOTE)] if len(ious) else []),
        Part("Synthetic samples", _samples_table(params, metrics), SAMPLES_NOTE),
        _truth(metrics / "mask_truth.json"),
    ]


def _write_plots(params: Params, metrics: Path, scores: pd.DataFrame, contrasts: pd.DataFrame) -> None:
    """Tables for DVC's plots, and pictures."""
    out = metrics / "report"
    means = spread(scores)["mean"].xs("pixel_ap", level="metric").reset_index()
    names = means[["arm", "category", "detector"]].astype(str).agg(" ".join, axis="columns")
    write_text(out / "arms.csv", _csv(pd.DataFrame({"arm": names, "pixel_ap": means["mean"]})))
    curves = {}
    for generator in params.generators:
        for category in params.dataset.categories:
            path = metrics / "finetune" / generator / category / "plots" / "metrics" / "loss.tsv"  # DVCLive's
            if path.exists():  # a generator that learns nothing has none
                points = pd.read_csv(path, sep="\t")[["step", "loss"]]
                write_text(out / "training" / f"{generator}-{category}.csv", _csv(points))
                curves[f"loss of {generator}, {category}"] = points.to_numpy().tolist()
    plots.learning_curve(out / "training.png", curves)
    heights = spread(over_categories(scores)).reset_index()
    chance = contrasts.set_index(["detector", "metric", "arm"])["equal_arms"].to_dict()
    for metric in BARS:
        groups: dict[str, dict[str, plots.Bar]] = {}
        for row in heights[heights["metric"] == metric].to_dict("records"):
            bar = plots.Bar(row["mean"], row["std"], chance.get((row["detector"], metric, row["arm"]), np.nan))
            groups.setdefault(row["detector"], {})[row["arm"]] = bar
        plots.bars(out / f"{metric}.png", groups, f"{COLUMNS[metric]}, mean over categories", (REAL_ONLY, PLACEBO))


def _arms_table(scores: pd.DataFrame) -> pd.DataFrame:
    table = spread(pd.concat([scores, over_categories(scores)]))
    table["cell"] = [_mean_and_std(mean, std) for mean, std in zip(table["mean"], table["std"], strict=True)]
    wide = table.pivot_table(index=["detector", "category", "arm"], columns="metric", values="cell", aggfunc="first")
    order = [*ALARMS, *(metric for metric in wide.columns if metric not in ALARMS)]
    return wide[order].rename(columns=COLUMNS).reset_index()


def _differences_table(contrasts: pd.DataFrame) -> pd.DataFrame:
    """The placebo stands above the generators, metric by metric: the yardstick beside what it measures."""
    cells = {
        "detector": contrasts["detector"],
        "metric": contrasts["metric"].map(COLUMNS),
        "arm": contrasts["arm"],
        "difference": contrasts["difference"].map(signed),
        "pairs": [interval(low, high) for low, high in zip(contrasts["low"], contrasts["high"], strict=True)],
        "test pictures": [
            interval(low, high) for low, high in zip(contrasts["pictures_low"], contrasts["pictures_high"], strict=True)
        ],
        "equal arms": contrasts["equal_arms"].map(lambda half: "-" if pd.isna(half) else f"±{half:.3f}"),
        "verdict": contrasts["verdict"],
    }
    return pd.DataFrame(cells)


def _types_table(params: Params, folder: Path, metric: str) -> pd.DataFrame:
    """One row for each defect type: over all types together a large kind of defect hides the small ones.

    A detector without the metric has no rows.
    """
    rows = []
    for detector in params.detectors:
        scores = _json(folder / f"{detector}.json")
        for category in params.dataset.categories:
            arms = {arm: scores[category][arm]["per_type"] for arm in params.arms(detector)}
            for name, of_type in arms[REAL_ONLY].items():
                if metric not in of_type["mean"]:
                    continue
                cells = {
                    arm: _mean_and_std(types[name]["mean"][metric], types[name]["std"][metric])
                    for arm, types in arms.items()
                }
                rows.append({"detector": detector, "category": category, "defect type": name, **cells})
    return pd.DataFrame(rows).fillna("-")


def _samples_table(params: Params, metrics: Path) -> pd.DataFrame:
    """Raises ValueError where a request is neither accepted nor rejected nor failed."""
    rows, fidelity = [], _json(metrics / "fidelity.json")
    for generator, of_category in gates(params, metrics).items():
        for category, gate in of_category.items():
            likeness = fidelity[generator][category]
            accepted, rejected = gate["accepted"], sum(gate["rejected"].values())
            if (outcomes := accepted + rejected + gate["failed"]) != gate["samples"]:
                raise ValueError(f"{generator}, {category}: {gate['samples']} requests, {outcomes} with an outcome")
            reasons = [f"{count} {reason}" for reason, count in (gate["rejected"] | gate["failures"]).items()]
            rows.append(
                {
                    "generator": generator,
                    "category": category,
                    "requests": gate["samples"],
                    "accepted": f"{accepted} ({gate['acceptance_rate']:.0%})",
                    "rejected": rejected,
                    "failed": gate["failed"],
                    "real ones accepted": _share(gate["real_acceptance_rate"]),
                    "masks": gate["masks"],
                    "pixels changed outside of the box": gate["pixels_changed_outside"],
                    "kernel distance": _short(likeness["kernel_distance"]),
                    "diversity": _short(likeness["diversity"]),
                    "diversity of real ones": _short(likeness["diversity_real"]),
                    "memorised": _share(likeness["memorised_share"]),
                    "rejected or failed because": ", ".join(reasons) or "-",
                }
            )
    return pd.DataFrame(rows)


def _truth(path: Path) -> Part:
    title, truth = "Masks against the exact truth", _json(path)
    if not truth:
        none = "The data set has no twins (the same picture without its defect), so there is no exact truth to hold."
        return Part(title, None, none)
    rows = [
        {"category and type": name, **{head: _short(scores[key]) for key, head in MASK_METHODS.items()}}
        for name, scores in truth.items()
    ]
    note = "Mean IoU of masks taken from autoencoder round trips of a defect picture and its defect-free twin."
    return Part(title, pd.DataFrame(rows), note)


def pictures(params: Params) -> list[str]:
    """Where which pictures lie, one line for each place, in Markdown."""
    lines = ["`metrics/report/index.html`: this report with every sample, to be filtered and compared; opens offline"]
    lines.append("`metrics/report/`: this page, bars and training curves")
    for name in params.generators:
        lines.append(f"`metrics/synth/{name}/`, `metrics/masks/{name}/`, `metrics/fidelity/{name}/`")
    lines.append("`metrics/fidelity/<category>.png`: the same placements through every generator")
    return lines + [f"`metrics/detection/{name}/<category>/<arm>/best.png`, `worst.png`" for name in params.detectors]


def _as_text(part: Part) -> str:
    table = [] if part.table is None else [markdown(part.table)]
    return "\n\n".join([f"## {part.title}", *table, part.note])


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of the cells as they are, padded, so that it reads well as plain text too."""
    return frame.astype(str).to_markdown(index=False, disable_numparse=True)


def gates(params: Params, metrics: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The gate's numbers by generator and category."""
    told = {name: _json(metrics / "masks" / f"{name}.json") for name in params.generators}
    return {name: {category: of[category] for category in params.dataset.categories} for name, of in told.items()}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)


def _short(value: float | None) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if pd.isna(value) else f"{value:.0%}"


def _mean_and_std(mean: float | None, std: float | None) -> str:
    return _short(mean) if pd.isna(std) else f"{_short(mean)} ± {_short(std)}"
