"""Put all metrics side by side: one table, one summary for `dvc metrics diff`, curves and bars."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.report.tables import write_report


def main() -> None:
    print(write_report(load(), Path("metrics")))
    print("\nThe whole report: metrics/report/report.md; its pictures are named there.")


if __name__ == "__main__":
    run(main, __doc__)
