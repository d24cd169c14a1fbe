"""Stage detect: train one detector per seed on the real defects of train and the accepted synthetic ones."""

import argparse
import sys
from pathlib import Path

from lib import params as parameters
from lib.detectors import detector, fit_seeds, read_examples
from lib.records import Sample, Synthetic, of_split, read_records
from lib.runtime import fingerprint, replace_folder, work_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", required=True, help="name in params.detectors")
    parser.add_argument("--generator", required=True, help="name in params.generators; none: real defects only")
    parser.add_argument("--category", required=True, help="name in params.dataset.categories")
    args = parser.parse_args()
    params = parameters.load()
    module = detector(args.detector)

    arm = Path(args.detector, args.generator, args.category)
    samples_file = Path("data/prepared", args.category, "samples.jsonl")
    manifest = Path("data/masks", args.generator, args.category, "manifest.jsonl")
    samples = read_records(samples_file, Sample)
    train, val = of_split(samples, "train"), of_split(samples, "val")
    accepted = [record for record in read_records(manifest, Synthetic) if record.accepted]

    used: list[Sample | Synthetic] = [*train, *val, *accepted]
    pictures = [Path(path) for record in used for path in (record.image, record.mask) if path]
    code = Path(str(module.__file__))
    key = fingerprint(params.detect.model_dump(mode="json"), samples_file, manifest, code, *pictures)
    work = work_folder("detect-" + "-".join(arm.parts), key)
    fit_seeds(module, read_examples([*train, *accepted]), read_examples(val), params.detect, work)
    replace_folder(work, "models/detectors" / arm)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
