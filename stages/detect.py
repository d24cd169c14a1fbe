"""Train one detector per seed on the real defects of the train part and the accepted synthetic ones."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.records import Sample, Synthetic, of_split, read_records
from lib.core.runtime import fingerprint, replace_folder, source, work_folder
from lib.detectors import find, fit_seeds, read_examples


def main(detector: str, generator: str, category: str) -> None:
    params, module = load(), find(detector)
    prepared = Path(f"data/prepared/{category}/samples.jsonl")
    manifest = Path(f"data/masks/{generator}/{category}/manifest.jsonl")
    samples = read_records(prepared, Sample)
    train, val = of_split(samples, "train"), of_split(samples, "val")
    accepted = [record for record in read_records(manifest, Synthetic) if record.accepted]

    # Pictures and masks are known by their digests in the records.
    code = source("lib.core", "lib.detectors", "lib.metrics", "lib.tiles")
    key = fingerprint(params.detect.model_dump(), prepared, manifest, *code)
    work = work_folder(f"detect-{detector}-{generator}-{category}", key)
    fit_seeds(module, read_examples([*train, *accepted]), read_examples(val), params.detect, work)
    replace_folder(work, Path(f"models/detectors/{detector}/{generator}/{category}"))


if __name__ == "__main__":
    run(main, __doc__, "detector", "generator", "category")
