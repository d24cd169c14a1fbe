"""Train one detector per seed on the few real defects and the accepted synthetic ones of a generator."""

from pathlib import Path

from lib.core.command import run
from lib.core.records import Synthetic, read_records
from lib.detection import train_arm


def main(detector: str, generator: str, category: str) -> None:
    records = read_records(Path(f"data/masks/{generator}/{category}/manifest.jsonl"), Synthetic)
    train_arm(detector, generator, category, [record for record in records if record.accepted])


if __name__ == "__main__":
    run(main, __doc__, "detector", "generator", "category")
