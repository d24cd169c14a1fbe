"""Score the mask methods against the exact truth of rendered pairs, after an autoencoder round trip."""

from pathlib import Path

import numpy as np

from lib.core.command import run
from lib.core.images import write_png
from lib.core.params import load
from lib.core.records import Sample, read_records
from lib.core.runtime import device, write_json
from lib.diffusion.components import load as load_base
from lib.labels.truth import score_masks


def main() -> None:
    params = load()
    files = [Path(f"data/prepared/{category}/samples.jsonl") for category in params.dataset.categories]
    samples = [sample for file in files for sample in read_records(file, Sample) if sample.twin is not None]
    table, worst = score_masks(params, samples, load_base(params.base, device())) if samples else ({}, None)
    write_json(Path("metrics/mask_truth.json"), table)
    write_png(Path("metrics/mask_truth.png"), worst if worst is not None else np.full((8, 8, 3), 255, np.uint8))


if __name__ == "__main__":
    run(main, __doc__)
