"""Which defects of the test part are missed, by how large they are, and one by one."""

from itertools import product
from pathlib import Path

import pandas as pd

from lib.core.params import Params
from lib.core.records import FOUND
from lib.report.cells import share

THIRDS = ("small", "middle", "large")
LISTED = 20  # defects in the list of the most missed ones

SIZES_NOTE = """The share of the defects of each size without any marked pixel in them, at the thresholds from val, \
mean over seeds. All pixels of one type in a picture are one defect. Sizes are thirds of the test part. Where small \
defects are missed, a `detect.scale` below 1 may be why."""

LIST_NOTE = """The defects that are found by the fewest of all trainings (detectors, arms and seeds). A defect that \
all miss may be marked wrongly, or be unlike everything in the train part. *best*: the arm that finds it most often."""


def read_found(params: Params, folder: Path) -> pd.DataFrame:
    """Each defect of the test part and each arm: columns detector, category, arm, picture, type, area (px) and found,
    the share of the arm's seeds that found it. folder: what the stage evaluate writes."""
    frames = []
    for detector, category in product(params.detectors, params.dataset.categories):
        for arm in params.arms(detector):
            # A type may be called NA or null, which pandas takes for nothing.
            file, texts = folder / detector / category / arm / FOUND, {"picture": str, "type": str}
            table = pd.read_csv(file, dtype=texts, keep_default_na=False)
            seeds = table.drop(columns=["picture", "type", "area"])
            defects = table[["picture", "type", "area"]].assign(found=seeds.mean(axis="columns"))
            frames.append(defects.assign(detector=detector, category=category, arm=arm))
    rows = pd.concat(frames, ignore_index=True)
    orders = {"detector": params.detectors, "category": params.dataset.categories}
    return rows.assign(**{name: pd.Categorical(rows[name], list(order)) for name, order in orders.items()})


def sizes_table(defects: pd.DataFrame) -> pd.DataFrame:
    """The share of small, middle and large defects that each arm misses; defects: of `read_found`."""
    rank = defects.groupby(["detector", "category", "arm"], observed=True)["area"].rank(method="first", pct=True)
    sizes = pd.cut(rank, [0, 1 / 3, 2 / 3, 1], labels=list(THIRDS))
    missed = defects.assign(size=sizes, missed=1 - defects["found"])
    rows = ["detector", "category", "size"]
    wide = missed.pivot_table(index=rows, columns="arm", values="missed", observed=True, sort=False)
    cells = wide.sort_index(level=rows, sort_remaining=False).map(share).reset_index()
    extent = missed.groupby(["category", "size"], observed=True)["area"].agg(["min", "max"]).to_dict("index")
    limits = [extent[key] for key in zip(cells["category"], cells["size"], strict=True)]
    cells.insert(3, "px", [f"{limit['min']} to {limit['max']}" for limit in limits])
    return cells


def most_missed(defects: pd.DataFrame) -> pd.DataFrame:
    """The LISTED defects that are found least; defects: of `read_found`."""
    rows = []
    for (category, picture, kind), arms in defects.groupby(["category", "picture", "type"], observed=True):
        best = arms.sort_values("found", ascending=False, kind="stable").iloc[0]
        rows.append(
            {
                "category": category,
                "picture": picture,
                "type": kind,
                "px": best["area"],
                "missed": 1 - arms["found"].mean(),
                "best": f"{best['detector']} {best['arm']}, {share(best['found'])}" if best["found"] else "-",
            }
        )
    table = pd.DataFrame(rows, columns=["category", "picture", "type", "px", "missed", "best"])
    table = table[table["missed"] > 0].sort_values("missed", ascending=False, kind="stable").head(LISTED)
    return table.assign(missed=table["missed"].map(share))
