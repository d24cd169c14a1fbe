"""Render the embedded dataset: workpieces of three categories, with and without defects, in MVTec AD layout."""

from pathlib import Path

from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.dataset.workpieces import STATIONS, write_workpieces


def main() -> None:
    params = load()
    counts = params.workpieces
    with owned_folder(Path("data/workpieces")) as folder:
        write_workpieces(folder, params.seed, list(STATIONS), counts.train_good, counts.test_good, counts.per_defect)


if __name__ == "__main__":
    run(main, __doc__)
