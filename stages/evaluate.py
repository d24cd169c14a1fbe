"""Judge the trained detectors of all arms on the test part, which nothing before this stage has seen."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Sample, of_split, read_records
from lib.detectors import evaluate, find


def main(detector: str, category: str) -> None:
    params, place = load(), f"{detector}/{category}"
    samples = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "test")
    arms = {arm: Path(f"models/detectors/{place}/{arm}") for arm in params.arms}
    evaluate(find(detector), arms, samples, params.evaluate, Path(f"metrics/detection/{place}"))


if __name__ == "__main__":
    run(main, __doc__, "detector", "category")
