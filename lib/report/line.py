"""What a line stops for: defects that give no alarm, good pictures that give one, at the thresholds from val."""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib.core.params import PLACEBO, REAL_ONLY, Params
from lib.core.records import GOOD, Sample, of_split, read_records
from lib.report.cells import tenths, tenths_and_std
from lib.report.scores import ALL, LEVEL, NO_SAMPLES, over_categories, spread

RATES = {"missed": "defects_alarmed", "false alarms": "good_alarmed"}  # told of 100, by the metric behind each

LINE_NOTE = f"""Of 100 pictures with a defect, how many give no alarm, anywhere in the picture; of 100 good ones, how \
many give one: mean ± standard deviation over seeds, at the thresholds from val. Change: against `{REAL_ONLY}`, \
*beyond* where it is larger than what other seeds alone do, else *within*.

- A lower threshold buys fewer misses with more false alarms. An arm that moves both in opposite ways may have another \
threshold and see no better: the next table and image AUROC know no threshold.
- Where errors are many and the next table shows a threshold with few, the detector is good and its threshold is not: \
few val pictures had to settle it. By default it is where misses and false alarms, as shares of the val pictures with \
and without a defect, have the smallest sum. `detect.false_alarm_rate` bounds false alarms instead, and `python -m \
lib.recalibrate` sets the threshold of a trained model anew from good pictures.
- Specks with fewer connected pixels than `min_area` give no alarm. Unless `detect.min_area` sets it, each seed \
chooses it on val, up to the size of the smallest known defect; its `threshold.json` tells it."""


class Sizes(NamedTuple):
    """How many pictures of the test part show a defect, how many are good, and of how many capture groups."""

    defects: int
    good: int
    defect_groups: int
    good_groups: int


def sizes_of_test(params: Params) -> dict[str, Sizes]:
    """The pictures of the test part, by category."""
    counts = {}
    for category in params.dataset.categories:
        test = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "test")
        good = [sample.group for sample in test if sample.defect_type == GOOD]
        defects = [sample.group for sample in test if sample.defect_type != GOOD]
        counts[category] = Sizes(len(defects), len(good), len(set(defects)), len(set(good)))
    return counts


def line_table(params: Params, scores: pd.DataFrame, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Misses and false alarms of every arm, of 100, and how far each moves them.

    The mean over categories comes first, then each category by itself, of which no verdict is told. A column that
    would name the only detector or category is left out. scores: of `read_scores`; contrasts: of `differences`.
    """
    rates = spread(_of_hundred(pd.concat([over_categories(scores), scores]))).to_dict("index")
    verdicts = contrasts.set_index(["detector", "metric", "arm"])["verdict"]
    categories = list(params.dataset.categories)
    judged, *others = [ALL, *categories] if len(categories) > 1 else categories
    rows = []
    for category, detector in product((judged, *others), params.detectors):
        for arm in params.arms(detector):
            row = {"detector": detector, "category": category, "arm": arm}
            for head, metric in RATES.items():
                mean, std = rates[detector, category, arm, metric].values()
                change = mean - rates[detector, category, REAL_ONLY, metric]["mean"]
                text = tenths(change, "+")
                if category == judged and arm != REAL_ONLY:
                    text += f" {verdicts[detector, metric, arm]}"
                row[f"{head}, of 100"] = tenths_and_std(mean, std)
                row[f"change of {head}"] = "-" if arm == REAL_ONLY else text
            rows.append(row)
    alone = {"detector": params.detectors, "category": categories}
    return pd.DataFrame(rows).drop(columns=[name for name, names in alone.items() if len(names) == 1])


def on_the_line(params: Params, scores: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """Misses and false alarms with real defects alone, what the generators change of them beyond chance, and how
    little the number of test pictures tells of either."""
    rates = spread(_of_hundred(over_categories(scores)))["mean"]
    judged = contrasts[contrasts["metric"].isin(RATES.values())]
    beyond = judged[judged["verdict"] == "beyond"]
    learners = set(contrasts[contrasts["arm"] != PLACEBO]["detector"])
    sentences = ["At the thresholds from val:"]
    for detector in [name for name in params.detectors if name in learners] or params.detectors:
        missed, false = (tenths(rates[detector, ALL, REAL_ONLY, metric]) for metric in RATES.values())
        sentences.append(
            f"{detector} with real pictures alone misses {missed} of 100 pictures with a defect and gives a false "
            f"alarm on {false} of 100 good ones."
        )
        moved = beyond[beyond["detector"] == detector]
        phrases = [
            f"{arm} makes it {tenths(rates[detector, ALL, arm, metric])} {head}"
            for head, metric in RATES.items()
            for arm in moved[moved["metric"] == metric]["arm"]
        ]
        if set(moved["arm"]) - {PLACEBO}:
            sentences.append(f"Beyond chance: {', '.join(phrases)}.")
        elif detector in learners and set(judged[judged["detector"] == detector]["verdict"]) - {NO_SAMPLES} == {"-"}:
            sentences.append("Whether a generator changes either, one seed does not tell.")
        elif detector in learners:
            sentences.append("No generator is seen to change either by more than other seeds do.")
        if PLACEBO in set(moved["arm"]):
            sentences.append(
                f"But {PLACEBO}, which differs in its seeds alone, moves by more than these ranges, too: trust none of "
                f"them before there are more seeds."
            )
    sizes = sizes_of_test(params)
    total = Sizes(*(sum(counts) for counts in zip(*sizes.values(), strict=True)))
    # A line makes one product: pictures of others say nothing about it.
    defects, good = (min((getattr(of, key), name) for name, of in sizes.items()) for key in Sizes._fields[2:])
    of_defects, of_good = (f" of {name}" if len(sizes) > 1 else "" for _, name in (defects, good))
    groups = f", of {total.defect_groups} and {total.good_groups} capture groups" if total[:2] != total[2:] else ""
    sentences.append(
        f"The test part has {total.defects} pictures with a defect and {total.good} good ones{groups}: even without an "
        f"error on any of them, up to {_most(defects[0])} of 100 defects{of_defects} could be missed and "
        f"{_most(good[0])} of 100 good ones{of_good} be a false alarm ({LEVEL:.0%} bounds)."
    )
    return " ".join(sentences)


def _of_hundred(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of both metrics, of 100 pictures: those missed instead of those found."""
    rows = scores[scores["metric"].isin(RATES.values())]
    is_missed = rows["metric"] == RATES["missed"]
    return rows.assign(value=100 * rows["value"].mask(is_missed, 1 - rows["value"]))


def _most(count: int) -> int:
    """Of 100, the largest rate that shows no case among `count` independent pictures in one of twenty draws (binomial).

    Pictures of one capture group are no independent ones, so the groups count.
    """
    return round(100 * (1 - (1 - LEVEL) ** (1 / count))) if count else 100
