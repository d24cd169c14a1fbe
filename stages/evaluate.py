"""Judge the trained detectors of all arms on the test part, which nothing before this stage has seen."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.runtime import atomic_folder, write_json
from lib.evaluation import judge_arm


def main(detector: str) -> None:
    params = load()
    place = Path(f"metrics/detection/{detector}")
    with atomic_folder(place) as out:
        verdicts = {
            category: {
                arm: judge_arm(params, detector, category, arm, out / category / arm) for arm in params.arms(detector)
            }
            for category in params.dataset.categories
        }
    write_json(place.with_suffix(".json"), verdicts)


if __name__ == "__main__":
    run(main, __doc__, "detector")
