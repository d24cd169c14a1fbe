"""Synthesize one picture for every placement of a category, with a contact sheet to look at."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.pipeline import input_key
from lib.core.records import Placement, read_records
from lib.core.runtime import first_process
from lib.generators import read_real
from lib.synthesis import synthesize_all, write_sheet


def main(generator: str, category: str) -> None:
    params, real = load(), read_real(category)
    placements = read_records(Path(f"data/placements/{category}.jsonl"), Placement)
    model, out = Path(f"models/generators/{generator}/{category}"), Path(f"data/synth/{generator}/{category}")
    key = input_key("synth", generator=generator, category=category)
    records = synthesize_all(params, real, generator, model, placements, key, out)
    if first_process():
        write_sheet(records, real, params, Path(f"metrics/synth/{generator}/{category}.png"))


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
