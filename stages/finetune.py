"""Adapt a generator to the real defects of one category; a generator without training writes only its name."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.runtime import atomic_folder, discard_work, fingerprint, source
from lib.generators import GENERATORS, find, read_real


def main(generator: str, category: str) -> None:
    params, module = load(), find(generator)
    base = Path(params.base.model)
    key = fingerprint(
        params.seed,
        params.finetune.model_dump(),
        params.window.model_dump(),
        params.base.model_dump(),
        *([base] if base.is_dir() else []),
        Path(f"data/prepared/{category}/samples.jsonl"),
        Path(f"data/boxes/{category}.jsonl"),
        Path(f"data/descriptions/{category}.jsonl"),
        *source("lib.core", "lib.diffusion", "lib.language", GENERATORS[generator]),
    )
    with atomic_folder(Path(f"models/generators/{generator}/{category}")) as out:
        module.finetune(params, read_real(category), key, out, Path(f"metrics/finetune/{generator}/{category}"))
    discard_work(f"finetune-{generator}-{category}")


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
