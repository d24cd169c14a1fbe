"""What the generators do to the headline metric, in words that report.md, the page and the terminal share."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from lib.core.params import PLACEBO, REAL_ONLY
from lib.report.scores import ALL, COLUMNS, LEVEL, NO_SAMPLES, over_categories, spread

HEADLINE = "pixel_ap"  # the metric of the verdict in words, chosen before any result: one, lest the best be picked
CHANCE_CHECK = "chance check: the same arm under other seeds"

FEW = 3  # accepted samples of a type: with fewer, training sees next to nothing of it
MEMORISED = 0.1  # share of a generator's samples that copy a real defect, above which the page says so at its top
NARROW = 0.5  # share of real defects that the gate accepts, below which its refusals of samples tell little

Row = Mapping[Hashable, Any]
Gates = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by generator and category, what `gate_numbers` counted


def headline(contrasts: pd.DataFrame, scores: pd.DataFrame, pictures: int) -> str:
    """Whether any generator helps, the best one's gain and what chance does, and on how little all of it rests.

    contrasts: of `differences`; scores: of `read_scores`; pictures: how many the test part has.
    """
    name = COLUMNS[HEADLINE]
    rows = contrasts[(contrasts["metric"] == HEADLINE) & (contrasts["arm"] != PLACEBO)]
    if rows.empty:
        return f"No detector learns from synthetic defects, so there is no difference in {name} to tell of."
    several = len(set(rows["detector"])) > 1
    rows = rows[rows["verdict"] != NO_SAMPLES]
    if rows.empty:
        return "No verdict: no synthetic sample was accepted, so that every arm is real defects alone."
    differences = sorted(rows.dropna(subset="difference").to_dict("records"), key=lambda row: -row["difference"])
    if not differences:
        return f"No verdict: {name} is not defined in every arm."
    means = spread(over_categories(scores))["mean"]

    def gain(row: Row) -> str:
        before, after = (means.loc[row["detector"], ALL, arm, HEADLINE] for arm in (REAL_ONLY, row["arm"]))
        arm = f"{row['arm']} with {row['detector']}" if several else row["arm"]
        moved = f"{arm} {signed(row['difference'])} {name} ({before:.3f} to {after:.3f})"
        if row["verdict"] == "-":
            return f"{moved}."
        return f"{moved}; other seeds alone move it by up to {row['equal_arms']:.3f} in 19 of 20 runs."

    beyond = [row for row in differences if row["verdict"] == "beyond"]
    helps, harms = ([row for row in beyond if (row["difference"] > 0) == wanted] for wanted in (True, False))
    if all(row["verdict"] == "-" for row in differences):
        sentences = ["No verdict: one seed does not tell an effect from chance."]
    else:
        sentences = [] if helps else ["No proven help."]
    sentences += [f"Help beyond chance: {gain(row)}" for row in helps]
    if helps and len(differences) > 1:  # Bonferroni's bound: each arm is judged by itself, in both directions
        runs = min(100, math.ceil(round(50 * (1 - LEVEL) * len(differences), 6)))
        sentences.append(f"With {len(differences)} arms, chance alone shows a gain in up to {runs} of 100 runs.")
    if not helps and differences[0] not in harms:
        sentences.append(f"Best: {gain(differences[0])}")
    sentences += [f"Harm beyond chance: {gain(row)}" for row in harms]
    seeds = scores["seed"].nunique()
    return " ".join([*sentences, f"{seeds} seed{'s' * (seeds > 1)}, {pictures} test pictures, one split."])


def verdict(contrasts: pd.DataFrame) -> str:
    """One line for each detector and arm in the headline metric, generators first, and how many of all verdicts
    chance would give."""
    rows = contrasts[contrasts["metric"] == HEADLINE].to_dict("records")
    lines = [
        f"- {row['detector']}, {row['arm']}{f' ({CHANCE_CHECK})' if row['arm'] == PLACEBO else ''}: {_sentence(row)}"
        for row in sorted(rows, key=lambda row: row["arm"] == PLACEBO)  # stable
    ]
    verdicts = contrasts[(contrasts["arm"] != PLACEBO) & contrasts["verdict"].isin(["within", "beyond"])]["verdict"]
    if len(verdicts):
        by_chance = max(1, round((1 - LEVEL) * len(verdicts)))
        lines.append(
            f"\nOver all metrics, {(verdicts == 'beyond').sum()} of {len(verdicts)} differences of generators are "
            f"larger than other seeds alone explain. If no generator did anything, about {by_chance} of them would be "
            f"so on average, and in some runs many more, since the metrics of an arm move together."
        )
    return "\n".join(lines)


def harvest(gates: Gates, memorised: Mapping[str, Mapping[str, float | None]]) -> str:
    """One line for each generator: accepted samples, types with fewer than FEW of them, and what is memorised; and one
    each where the gate is too narrow for real defects, and where real ones are too small for it.

    gates: of `lib.report.samples.gates`; memorised: share in [0, 1] by generator and category, None where unknown.
    """
    lines = []
    for generator, of_category in gates.items():
        accepted, samples = (sum(gate[key] for gate in of_category.values()) for key in ("accepted", "samples"))
        phrases = [f"{accepted} of {samples} samples accepted"]
        of_type = {
            f"{category} {name}": count
            for category, gate in of_category.items()
            for name, count in gate["accepted_per_type"].items()
        }
        if few := [f"{name} ({count})" for name, count in of_type.items() if count < FEW]:
            phrases.append(f"fewer than {FEW} of {', '.join(few)}")
        shares = memorised[generator].items()
        copies = [f"{share:.0%} in {name}" for name, share in shares if share is not None and share > MEMORISED]
        if copies:
            phrases.append(f"copies of real defects (memorised): {', '.join(copies)}")
        lines.append(f"- {generator}: {'; '.join(phrases)}")
    # Real defects are the same for all generators.
    real = {name: gate["real_acceptance_rate"] for of_category in gates.values() for name, gate in of_category.items()}
    narrow = [f"{name} ({share:.0%})" for name, share in real.items() if share is not None and share < NARROW]
    if narrow:
        lines.append(
            f"- the gate accepts few real defects of {', '.join(narrow)}, each compared with the others of its type: "
            "there are too few to tell what is unlike them, so look at what it refuses, or raise gate.outlier"
        )
    small = {
        f"{category} {name}": count
        for of_category in gates.values()
        for category, gate in of_category.items()
        for name, count in gate["real_too_small"].items()
    }
    if small:
        counts = ", ".join(f"{name} ({count})" for name, count in small.items())
        lines.append(f"- real defects with fewer pixels than gate.min_area, as which no sample passes: {counts}")
    return "\n".join(lines)


def _sentence(row: Row) -> str:
    """A row of `differences` in words."""
    name = f"{COLUMNS[row['metric']]} {signed(row['difference'])}"
    if row["verdict"] == NO_SAMPLES:
        return "no sample was accepted, so that this arm is real defects alone once more"
    if pd.isna(row["difference"]):
        return f"{COLUMNS[row['metric']]} is not defined"
    if row["verdict"] == "-":
        return f"{name}, no verdict: one seed does not tell an effect from chance"
    more = "more" if row["verdict"] == "beyond" else "no more"
    pairs = interval(row["low"], row["high"])
    if row["arm"] == PLACEBO:
        than = "the spread over seeds explains"
        narrow = ": ranges from so few seeds are too narrow" if more == "more" else ""
    else:
        than, narrow = "other seeds alone move it by", ""
    return f"{name}, {more} than {than} (up to {row['equal_arms']:.3f}){narrow}; pairs of seeds {pairs}"


def signed(value: float) -> str:
    return "-" if pd.isna(value) else f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def interval(low: float, high: float) -> str:
    return "-" if pd.isna(low) else f"[{low:+.3f}, {high:+.3f}]"
