"""Synthesize one picture for every placement of a category, with a contact sheet to look at."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Placement, read_records
from lib.core.runtime import fingerprint, first_process, source
from lib.generators import GENERATORS, read_real
from lib.synthesis import synthesize_all, write_sheet


def main(generator: str, category: str) -> None:
    params, real = load(), read_real(category)
    model, placements = Path(f"models/generators/{generator}/{category}"), Path(f"data/placements/{category}.jsonl")
    base = Path(params.base.model)
    key = fingerprint(
        params.synth.model_dump(),
        params.window.model_dump(),
        params.masks.component_ratio,
        params.base.model_dump(),
        *([base] if base.is_dir() else []),
        model,
        placements,
        Path(f"data/prepared/{category}/samples.jsonl"),
        *source(
            "lib.core", "lib.diffusion", "lib.language", "lib.labels.masks", "lib.synthesis", GENERATORS[generator]
        ),
    )
    out = Path(f"data/synth/{generator}/{category}")
    records = synthesize_all(params, real, generator, model, read_records(placements, Placement), key, out)
    if first_process():
        write_sheet(records, real, params, Path(f"metrics/synth/{generator}/{category}.png"))


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
