"""Judge trained detectors on the test part, which nothing before this stage has seen."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Sample, of_split, read_records
from lib.detectors import evaluate, find


def main(detector: str, generator: str, category: str) -> None:
    params, arm = load(), f"{detector}/{generator}/{category}"
    samples = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "test")
    trained, out = Path(f"models/detectors/{arm}"), Path(f"metrics/detection/{arm}")
    evaluate(find(detector), trained, samples, params.evaluate, out)


if __name__ == "__main__":
    run(main, __doc__, "detector", "generator", "category")
