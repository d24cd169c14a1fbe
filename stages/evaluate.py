"""Judge the trained detectors of all arms on the test part, which nothing before this stage has seen."""

from pathlib import Path
from typing import Any

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Sample, of_split, read_records
from lib.core.runtime import write_json
from lib.detection import evaluate
from lib.detectors import find


def main(detector: str) -> None:
    params, scores = load(), dict[str, Any]()
    out = Path(f"metrics/detection/{detector}")
    for category in params.dataset.categories:
        samples = of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "test")
        arms = {arm: Path(f"models/detectors/{detector}/{category}/{arm}") for arm in params.arms(detector)}
        scores[category] = evaluate(find(detector), arms, samples, params.evaluate, out / category)
    write_json(out.with_suffix(".json"), scores)


if __name__ == "__main__":
    run(main, __doc__, "detector")
