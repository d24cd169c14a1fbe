"""Adapt a generator to the real defects of one category; a method without training writes only its name."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.core.pipeline import input_key
from lib.finetuning import finetune
from lib.generators import read_real


def main(generator: str, category: str) -> None:
    params = load()
    key = input_key("finetune", generator=generator, category=category)
    curves = Path(f"metrics/finetune/{generator}/{category}")
    finetune(params, read_real(category), generator, key, Path(f"models/generators/{generator}/{category}"), curves)


if __name__ == "__main__":
    run(main, __doc__, "generator", "category")
