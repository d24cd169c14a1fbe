"""The report: one table of all metrics that says whether synthesis helps, where, by how much, and beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import plots
from lib.core.params import PLACEBO, REAL_ONLY, Params
from lib.core.runtime import write_json, write_text
from lib.report.cells import Part, as_text, markdown, mean_and_std
from lib.report.line import LINE_NOTE, RATES, line_table, on_the_line, sizes_of_test
from lib.report.missed import LIST_NOTE, SIZES_NOTE, most_missed, read_found, sizes_table
from lib.report.samples import SAMPLES_NOTE, empty_arms, gates, memorised, samples_table, truth
from lib.report.scores import (
    COLUMNS,
    LEVEL,
    MAIN,
    differences,
    over_categories,
    over_pictures,
    read_json,
    read_scores,
    spread,
)
from lib.report.tradeoff import DRAWN, SHOWN, TRADE_NOTE, read_trade, trade_curves, trade_table
from lib.report.verdict import harvest, headline, interval, signed, verdict

ALARMS = tuple(RATES.values())  # what a line stops for, which has a table of its own
BARS = ("pixel_ap", "aupro")  # the metrics with bars of their own
ARMS_NOTE = f"""Mean ± standard deviation over seeds, on the untouched test part; the verdict is about pixel AP. Every \
arm has the same real defects and the same training budget. `{REAL_ONLY}` learns from real defects alone, \
`{PLACEBO}` is `{REAL_ONLY}` once more under other seeds, the others learn from the samples of the generator of that \
name, too."""

ALL_NOTE = """The table of arms with every metric. Defects found and false alarms are shares of the pictures with a \
defect, and of the good ones. F1-max and IoU-max are taken at the threshold that suits the test part best, a bound \
from above for every single one; *IoU at val* is taken at the thresholds from val, as in use: only pieces count that \
give an alarm, so that it may even be higher."""

# The verdict rests on the pooled spread: three pairs have 2 degrees of freedom, and six seeds of one arm on photographs
# lay 0.1 of pixel AP apart, so that an interval over three pairs that leaves out 0 is easily had among many.
DIFFERENCES_NOTE = f"""Arm minus `{REAL_ONLY}`, mean over categories and seeds. More is better, but of \
false alarms.

- *pairs*: {LEVEL:.0%} interval (Student's t) over pairs of equal category and seed. `{PLACEBO}` has other seeds: its \
pairs go by the seeds' rank.
- *test pictures*: {LEVEL:.0%} interval of the bootstrap over test pictures, whole capture groups at a time, of pixel \
AP and image AUROC, averaged over seeds: how far another draw of test pictures would move the difference; *-* \
where all defects, or all good pictures, of a category are of one group.
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

IOUS_NOTE = """Of detectors that tell types apart, at the thresholds from val, over all test pictures: a defect \
under the name of another type counts against both. Their mean is the mIoU above. The type of a picture is that of its \
highest scores; its accuracy is over the defect pictures that show one type alone (`type_pictures` in \
`metrics/detection`)."""

TYPES_NOTE = "Mean ± standard deviation over seeds, each type's pictures beside the good ones."
TYPES = {  # tables of every defect type, by their titles: the metric and what it means
    "Pixel AP by defect type": ("pixel_ap", TYPES_NOTE),
    "Pixel IoU at val by defect type": ("pixel_iou_at_val_threshold", f"{TYPES_NOTE} At the thresholds from val."),
    "IoU by defect type": ("type_iou", IOUS_NOTE),
}


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
    return tree | {"mask_iou": read_json(metrics / "mask_truth.json").get("all", {})}


@dataclass(frozen=True)
class Evidence:
    """What the metrics of all arms say: read once, told by report.md, the terminal and the page.

    scores: of `read_scores`; contrasts: of `over_pictures`; trade: of `read_trade`, at the rates DRAWN. sections: the
    tables; first what a line stops for, at what price, and all arms.
    """

    scores: pd.DataFrame
    contrasts: pd.DataFrame
    trade: pd.DataFrame
    headline: str
    on_the_line: str
    verdict: str
    harvest: str
    sections: list[Part]


def read_evidence(params: Params, metrics: Path) -> Evidence:
    """The evidence of what the stages before the report wrote below `metrics`."""
    folder = metrics / "detection"
    scores = read_scores(params, folder)
    contrasts = over_pictures(params, differences(params, scores, empty_arms(params, metrics)), folder)
    trade = read_trade(params, folder, DRAWN)
    return Evidence(
        scores,
        contrasts,
        trade,
        headline(contrasts, scores, sum(sizes.defects + sizes.good for sizes in sizes_of_test(params).values())),
        on_the_line(params, scores, contrasts),
        verdict(contrasts),
        harvest(gates(params, metrics), memorised(params, metrics)),
        _sections(params, metrics, scores, contrasts, trade),
    )


def write_report(params: Params, metrics: Path, evidence: Evidence) -> str:
    """Write `summary.json` and the folders `report/` and `plots/` below `metrics`; returns what a terminal shows.

    `report/` gets report.md and differences.csv; `plots/`, for `dvc plots show`, bars of all arms (arms.csv) and
    curves (training/) as tables, and the same as pictures, since DVC's own page needs a network.
    """
    out, sections = metrics / "report", evidence.sections
    sentences = [evidence.headline, evidence.on_the_line, evidence.verdict, evidence.harvest]
    texts = ["# Does synthesis help?", *sentences, *map(as_text, sections)]
    texts.append("## Pictures\n\n" + "\n".join(f"- {line}" for line in pictures(params)))
    write_text(out / "report.md", "\n\n".join(texts) + "\n")
    write_text(out / "differences.csv", _csv(evidence.contrasts))
    write_json(metrics / "summary.json", summary(params, metrics, evidence.scores))
    _write_plots(params, metrics, evidence)
    return "\n\n".join([*sentences, *(markdown(part.table) for part in sections[:3] if part.table is not None)])


def _sections(
    params: Params, metrics: Path, scores: pd.DataFrame, contrasts: pd.DataFrame, trade: pd.DataFrame
) -> list[Part]:
    metrics_shown = [metric for metric in MAIN if metric not in ALARMS]
    main = contrasts["metric"].isin(MAIN)
    types = {title: _types_table(params, metrics / "detection", metric) for title, (metric, _) in TYPES.items()}
    defects = read_found(params, metrics / "detection")
    return [
        Part("On the line", line_table(params, scores, contrasts), LINE_NOTE),
        Part("Misses for false alarms", trade_table(trade[trade["false alarms"].isin(SHOWN)]), TRADE_NOTE),
        Part("All arms", _arms_table(scores, metrics_shown), ARMS_NOTE),
        Part("Difference from real defects alone", _differences_table(contrasts[main]), DIFFERENCES_NOTE),
        Part("Missed defects by size", sizes_table(defects), SIZES_NOTE),
        Part("Defects that are missed most", most_missed(defects), LIST_NOTE, folded=True),
        *(Part(title, table, TYPES[title][1]) for title, table in types.items() if len(table)),
        Part("Synthetic samples", samples_table(params, metrics), SAMPLES_NOTE),
        truth(metrics / "mask_truth.json"),
        Part("All metrics of all arms", _arms_table(scores, list(COLUMNS)), ALL_NOTE, folded=True),
        Part("Differences in the other metrics", _differences_table(contrasts[~main]), folded=True),
    ]


def _write_plots(params: Params, metrics: Path, evidence: Evidence) -> None:
    """Tables and pictures of arms and curves."""
    out, scores, contrasts = metrics / "plots", evidence.scores, evidence.contrasts
    curves_of, drawn = out / "training", out / "pictures"
    curves_of.mkdir(parents=True, exist_ok=True)  # DVC expects it, also where no generator learns
    means = spread(scores)["mean"].xs("pixel_ap", level="metric").reset_index()
    names = means[["arm", "category", "detector"]].astype(str).agg(" ".join, axis="columns")
    write_text(out / "arms.csv", _csv(pd.DataFrame({"arm": names, "pixel_ap": means["mean"]})))
    curves = {}
    for generator in params.generators:
        for category in params.dataset.categories:
            path = metrics / "finetune" / generator / category / "plots" / "metrics" / "loss.tsv"  # DVCLive's
            if path.exists():  # a generator that learns nothing has none
                points = pd.read_csv(path, sep="\t")[["step", "loss"]]
                write_text(curves_of / f"{generator}-{category}.csv", _csv(points))
                curves[f"loss of {generator}, {category}"] = points.to_numpy().tolist()
    plots.learning_curve(drawn / "training.png", curves)
    trade = trade_curves(evidence.trade)
    axes = ("false alarms, of 100 good pictures", "missed, of 100 pictures with a defect")
    plots.trade_offs(drawn / "alarms.png", trade, *axes, (REAL_ONLY, PLACEBO))
    heights = spread(over_categories(scores)).reset_index()
    chance = contrasts.set_index(["detector", "metric", "arm"])["equal_arms"].to_dict()
    for metric in BARS:
        groups: dict[str, dict[str, plots.Bar]] = {}
        for row in heights[heights["metric"] == metric].to_dict("records"):
            bar = plots.Bar(row["mean"], row["std"], chance.get((row["detector"], metric, row["arm"]), np.nan))
            groups.setdefault(row["detector"], {})[row["arm"]] = bar
        plots.bars(drawn / f"{metric}.png", groups, f"{COLUMNS[metric]}, mean over categories", (REAL_ONLY, PLACEBO))


def _arms_table(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """These metrics of every arm, of each category and, where there are several, of their mean."""
    several = len(scores["category"].unique()) > 1
    table = spread(pd.concat([scores, over_categories(scores)]) if several else scores)
    table["cell"] = [mean_and_std(mean, std) for mean, std in zip(table["mean"], table["std"], strict=True)]
    wide = table.pivot_table(index=["detector", "category", "arm"], columns="metric", values="cell", aggfunc="first")
    return wide[[metric for metric in metrics if metric in wide.columns]].rename(columns=COLUMNS).reset_index()


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
        scores = read_json(folder / f"{detector}.json")
        for category in params.dataset.categories:
            arms = {arm: scores[category][arm]["per_type"] for arm in params.arms(detector)}
            for name, of_type in arms[REAL_ONLY].items():
                if metric not in of_type["mean"]:
                    continue
                cells = {
                    arm: mean_and_std(types[name]["mean"][metric], types[name]["std"][metric])
                    for arm, types in arms.items()
                }
                rows.append({"detector": detector, "category": category, "defect type": name, **cells})
    return pd.DataFrame(rows).fillna("-")


def pictures(params: Params) -> list[str]:
    """Where which pictures lie, one line for each place, in Markdown."""
    lines = ["`metrics/report/index.html`: this report with every sample, to be filtered and compared; opens offline"]
    lines.append("`metrics/plots/pictures/`: bars of all arms, misses for false alarms, and training curves")
    for name in params.generators:
        lines.append(f"`metrics/synth/{name}/`, `metrics/masks/{name}/`, `metrics/fidelity/{name}/`")
    lines.append("`metrics/fidelity/<category>.png`: the same placements through every generator")
    return lines + [f"`metrics/detection/{name}/<category>/<arm>/best.png`, `worst.png`" for name in params.detectors]


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)
