"""Train one detector per seed on the few real defects alone, and the same once more under other seeds, the placebo."""

from lib.core.command import run
from lib.core.params import PLACEBO, REAL_ONLY, load
from lib.detection import train_arm, training_key


def main(detector: str, category: str) -> None:
    params = load()
    key = training_key("baseline", detector=detector, category=category)
    for arm in (REAL_ONLY, PLACEBO):
        train_arm(params, detector, arm, category, [], key)


if __name__ == "__main__":
    run(main, __doc__, "detector", "category")
