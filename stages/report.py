"""Compare all arms: one table, a summary for `dvc metrics diff`, curves and bars, and a page with every sample."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.report.page import write_page
from lib.report.tables import read_evidence, write_report


def main() -> None:
    params, metrics = load(), Path("metrics")
    evidence = read_evidence(params, metrics)
    print(write_report(params, metrics, evidence))
    write_page(params, metrics, evidence)
    print("\nThe whole report: metrics/report/report.md, and with every sample metrics/report/index.html.")


if __name__ == "__main__":
    run(main, __doc__)
