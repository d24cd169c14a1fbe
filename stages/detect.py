"""Train one detector per seed on the few real defects and the accepted synthetic ones of a generator."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Synthetic, read_records
from lib.detection import train_arm, training_key


def main(detector: str, generator: str, category: str) -> None:
    records = read_records(Path(f"data/masks/{generator}/{category}/manifest.jsonl"), Synthetic)
    accepted = [record for record in records if record.accepted]
    params = load()
    key = training_key("detect", detector=detector, generator=generator, category=category)
    train_arm(params, detector, generator, category, accepted, key)


if __name__ == "__main__":
    run(main, __doc__, "detector", "generator", "category")
