"""Two runs side by side on one page: what was changed, and what that did to metrics and samples.

Run as `python -m lib.report.compare A [B]` from the root of the repository. A and B are revisions of Git (a commit, a
tag, HEAD~1) or names of experiments of DVC; without B, A is held against the workspace. Nothing is checked out: what
other revisions hold comes from Git and from DVC's cache. The page is one file that opens without a network.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.params import PLACEBO, REAL_ONLY
from lib.core.pipeline import refuse_outputs
from lib.core.runtime import write_text
from lib.metrics.intervals import chance_difference, mean_std, paired_difference
from lib.report.before_after import outcomes, pairs, read_answers
from lib.report.cells import mean_and_std
from lib.report.page import environment
from lib.report.runs import WORKSPACE, Run, find_run, told
from lib.report.scores import COLUMNS, LEVEL, MAIN, UNCHANGED
from lib.report.verdict import interval, signed

LIMIT = 12_000_000  # bytes of the page, which has all pictures in view
MARK = "lib.report.compare"  # in the page's head

Block = Sequence[Sequence[float]]  # the values of a category's arms, for `chance_difference`

Scores = dict[tuple[str, str, str], dict[str, list[float]]]  # by detector, arm and metric, then category: over seeds


def changed_params(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Every key whose value differs, dotted, with both values; a dash where a run has no such key."""
    before, after = dict(_leaves(a)), dict(_leaves(b))
    rows = [
        {"parameter": key, "before": _text(before, key), "after": _text(after, key)}
        for key in dict.fromkeys((*before, *after))
        if key not in before or key not in after or before[key] != after[key]
    ]
    return pd.DataFrame(rows, columns=["parameter", "before", "after"])


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "-"


def changed_code(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """The stages of two dvc.lock that ran other code or another command, matrix items together, and with what."""
    grouped: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            what = "only before" if name in a else "only after"
        else:
            files = [
                path for path in _code(a[name]) | _code(b[name]) if _code(a[name]).get(path) != _code(b[name]).get(path)
            ]
            what = ", ".join(sorted(files) + (["its command"] if a[name].get("cmd") != b[name].get("cmd") else []))
        if what:
            key = name.split("@")[0], what
            grouped[key] = grouped.get(key, 0) + 1
    rows = [{"stage": stage, "items": count, "what differs": what} for (stage, what), count in grouped.items()]
    return pd.DataFrame(rows, columns=["stage", "items", "what differs"])


def _code(stage: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the code among a stage's dependencies, by path."""
    deps = {dep["path"]: str(dep.get("md5")) for dep in stage.get("deps", [])}
    return {path: digest for path, digest in deps.items() if path.startswith(("lib/", "stages/"))}


def stale(run: Run) -> str:
    """A sentence on the stages of a run that read what other stages have replaced since; empty where none did.

    Of a folder into which several stages write, and people may have put files, too, dvc.lock does not tell all: what
    read it may be older.
    """
    late: Counter[str] = Counter()
    for name, stage in run.lock.items():
        if any(_was_replaced(run, dep) for dep in stage.get("deps", [])):
            late[name.split("@")[0]] += 1
    listing = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in late.items())
    return (
        f"In {run.name}, these stages are older than what they read: {listing}. `dvc repro` comes first."
        if late
        else ""
    )


def _was_replaced(run: Run, dep: Mapping[str, Any]) -> bool:
    """Whether a dependency is no longer what the stage has read, as far as dvc.lock tells."""
    then, now = str(dep.get("md5")), run.digest(dep["path"])
    if now is not None:
        return now != then
    shared = run.digests_of_shared(dep["path"])
    return bool(shared) and then not in shared


def read_scores(run: Run) -> Scores:
    """The metrics of every detector that params.yaml of the run names; those without a file are left out."""
    scores: Scores = {}
    for detector in run.names("detectors"):
        path = f"metrics/detection/{detector}.json"
        with told(run, path, "`dvc repro` writes it anew"):
            for category, arms in (run.values(path) or {}).items():
                for arm, verdict in arms.items():
                    seeds = verdict["seeds"]
                    for metric in COLUMNS:
                        values = [seeds[seed].get(metric) for seed in sorted(seeds, key=int)]
                        numbers = [np.nan if value is None else float(value) for value in values]
                        scores.setdefault((detector, arm, metric), {})[category] = numbers
    return scores


def compared(before: Scores, after: Scores) -> pd.DataFrame:
    """A row for each detector, metric and arm that both runs have, over the categories that both have; none where the
    metric is not defined in either.

    Columns: detector, metric, arm; before, before_std, after, after_std (of the seeds' means over categories);
    difference (after minus before); low, high (its interval over pairs of category and seed's rank); equal_arms (half
    the range of what two arms differ by that differ in their seeds alone); placebo_before, placebo_after (what the
    placebo differed by from real defects alone); verdict: `equal` for equal numbers, else `within` or `beyond`
    equal_arms, `-` where one seed cannot tell. The spread is pooled over the arm, `none` and `placebo` of both runs;
    what is equal in both counts once, and a category where the arm is equal in both has none.
    """
    rows = []
    detectors, arms = (dict.fromkeys(key[part] for key in before if key in after) for part in (0, 1))
    for detector, metric, arm in product(detectors, COLUMNS, arms):
        key = (detector, arm, metric)
        shared = [category for category in before.get(key, {}) if category in after.get(key, {})]
        if not shared:
            continue
        a, b = ([run[key][category] for category in shared] for run in (before, after))
        row: dict[str, Any] = {"detector": detector, "metric": metric, "arm": arm}
        row["before"], row["before_std"] = _over_categories(a)
        row["after"], row["after_std"] = _over_categories(b)
        if np.isnan(row["before"]) and np.isnan(row["after"]):
            continue  # one NaN is not another, and neither is a number that could be equal
        row["difference"], row["low"], row["high"] = row["after"] - row["before"], np.nan, np.nan
        if [len(values) for values in a] == [len(values) for values in b]:
            _, row["low"], row["high"] = paired_difference(np.concatenate(b), np.concatenate(a), LEVEL)
        row["equal_arms"] = chance_difference(_blocks(before, after, key, shared), LEVEL)
        row["placebo_before"], row["placebo_after"] = (
            _placebo(run, detector, metric, shared) for run in (before, after)
        )
        excess = abs(row["difference"]) - row["equal_arms"]
        row["verdict"] = "equal" if a == b else "beyond" if excess > 0 else "within" if excess <= 0 else "-"
        rows.append(row)
    return pd.DataFrame(rows)


def _over_categories(values: list[list[float]]) -> tuple[float, float]:
    """Mean, and spread over seeds, of the mean over categories; no spread where their numbers of seeds differ."""
    if len({len(seeds) for seeds in values}) == 1:
        return mean_std(np.mean(values, axis=0))
    return float(np.mean([np.mean(seeds) for seeds in values])), np.nan


def _blocks(before: Scores, after: Scores, key: tuple[str, str, str], shared: list[str]) -> list[Block]:
    """For `chance_difference`: both arms, then their likes in both runs, for every category.

    A like with equal numbers in both runs is one training that neither of them changed: it counts once. A category
    where the arm itself has equal numbers adds nothing to the difference, nor to what chance does to it.
    """
    detector, arm, metric = key
    likes = [(detector, other, metric) for other in (REAL_ONLY, PLACEBO) if other != arm]
    blocks: list[Block] = []
    for category in shared:
        if after[key][category] == before[key][category]:
            blocks.append(UNCHANGED)
            continue
        block = [after[key][category], before[key][category]]
        for like in likes:
            values = [run[like][category] for run in (before, after) if category in run.get(like, {})]
            block += values[:1] if values[:1] == values[1:] else values
        blocks.append(block)
    return blocks


def _placebo(run: Scores, detector: str, metric: str, categories: list[str]) -> float:
    """What the placebo differs by from real defects alone, over the categories; NaN where one is missing."""
    arms = [[run.get((detector, arm, metric), {}).get(one) for one in categories] for arm in (PLACEBO, REAL_ONLY)]
    if any(values is None for arm in arms for values in arm):
        return float("nan")
    placebo, none = (np.mean([np.mean(values) for values in arm]) for arm in arms)  # type: ignore[arg-type]
    return float(placebo - none)


def headline(table: pd.DataFrame) -> str:
    """How many of all differences are larger than chance explains, in one sentence."""
    if table.empty:
        return "The runs have no metrics in common."
    judged = table[table["verdict"].isin(["within", "beyond"])]
    equal = int((table["verdict"] == "equal").sum())
    if equal == len(table):
        return f"All {equal} numbers of the metrics are equal."
    same = f" {equal} numbers are equal." if equal else ""
    if judged.empty:
        return f"One seed does not tell chance from effect, so no difference is judged.{same}"
    count, most = int((judged["verdict"] == "beyond").sum()), (1 - LEVEL) * len(judged)
    return (
        f"{count} of {len(judged)} differences lie beyond what two equal arms differ by; without any effect about "
        f"{most:.1f} would on average, in some runs many more, since the metrics of an arm move together.{same}"
    )


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is shown."""
    rows = [
        {
            "detector": row["detector"],
            "metric": COLUMNS[row["metric"]],
            "arm": row["arm"],
            "before": mean_and_std(row["before"], row["before_std"]),
            "after": mean_and_std(row["after"], row["after_std"]),
            "difference": signed(row["difference"]),
            "pairs": interval(row["low"], row["high"]),
            "equal arms": "-" if pd.isna(row["equal_arms"]) else f"±{row['equal_arms']:.3f}",
            "placebo before, after": f"{signed(row['placebo_before'])}, {signed(row['placebo_after'])}",
            "verdict": row["verdict"],
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def render(a: Run, b: Run, limit: int = LIMIT) -> str:
    """The page, at most `limit` bytes of it: equal runs give equal bytes."""
    (before, missing), (after, missing_after) = read_answers(a), read_answers(b)
    table = compared(read_scores(a), read_scores(b))
    leading = table["metric"].isin(MAIN) if len(table) else pd.Series(dtype=bool)
    page = {
        "mark": MARK,
        "a": a,
        "b": b,
        "headline": headline(table),
        "stale": [line for line in map(stale, (a, b)) if line],
        "params": changed_params(a.params, b.params),
        "code": changed_code(a.lock, b.lock),
        "metrics": cells(table[leading]) if len(table) else table,
        "others": cells(table[~leading]) if len(table) else table,
        "level": f"{LEVEL:.0%}",
        "real_only": REAL_ONLY,
        "placebo": PLACEBO,
        "outcomes": outcomes(before, after),
        "missing": missing + missing_after,
    }
    template = environment().get_template("compare.html")
    views, note = pairs((a, b), before, after, limit - len(template.render(page, pairs=[], note="").encode()))
    return template.render(page, pairs=views, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="revision of Git or name of an experiment: the run before")
    parser.add_argument("b", metavar="B", nargs="?", help=f"the same for the run after; default: the {WORKSPACE}")
    parser.add_argument("--out", type=Path, default=Path("metrics/compare/index.html"), help="default: %(default)s")
    args = parser.parse_args()
    if not Path("dvc.yaml").is_file():
        raise UserError("dvc.yaml: not found; run this from the root of the repository")
    refuse_outputs(args.out)
    if args.out.exists() and (not args.out.is_file() or MARK.encode() not in args.out.read_bytes()[:2000]):
        raise UserError(f"{args.out.as_posix()}: is there, and no page of this command: name another place by --out")
    write_text(args.out, render(find_run(args.a), find_run(args.b)))
    print(args.out.as_posix())


if __name__ == "__main__":
    end_with(main)
