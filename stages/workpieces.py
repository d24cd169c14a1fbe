"""Render the embedded dataset: workpieces of three categories, with and without defects, in MVTec AD layout."""

from pathlib import Path

from lib.core.command import run
from lib.core.ownership import owned_folder
from lib.core.params import load
from lib.dataset.workpieces import STATIONS, write_category


def main() -> None:
    params = load()
    counts = params.workpieces
    for category in STATIONS:
        with owned_folder(Path("data/workpieces", category)) as folder:
            write_category(folder, category, params.seed, counts.train_good, counts.test_good, counts.per_defect)


if __name__ == "__main__":
    run(main, __doc__)
