"""Adapt a generator to the real defects of one category; a generator without training writes only its name."""

import argparse
from pathlib import Path

from lib.generators import generator, read_real
from lib.params import load
from lib.runtime import atomic_folder, fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", required=True, help="a name from params.generators")
    parser.add_argument("--category", required=True, help="a name from params.dataset.categories")
    args = parser.parse_args()
    params, category = load(), args.category
    base = Path(params.base.model)
    key = fingerprint(
        args.generator,
        params.seed,
        params.finetune.model_dump(),
        params.window.model_dump(),
        params.base.model_dump(),
        *([base] if base.is_dir() else []),
        Path(f"data/prepared/{category}/samples.jsonl"),
        Path(f"data/boxes/{category}.jsonl"),
        Path(f"data/descriptions/{category}.jsonl"),
    )
    curves = Path(f"metrics/finetune/{args.generator}/{category}")
    with atomic_folder(Path(f"models/generators/{args.generator}/{category}")) as out:
        generator(args.generator).finetune(params, read_real(category), key, out, curves)


if __name__ == "__main__":
    main()
