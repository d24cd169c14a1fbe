"""Train one detector per seed on the few real defects alone: what every generator is compared with."""

from lib.core.command import run
from lib.core.params import REAL_ONLY
from lib.detection import train_arm


def main(detector: str, category: str) -> None:
    train_arm(detector, REAL_ONLY, category, [])


if __name__ == "__main__":
    run(main, __doc__, "detector", "category")
