"""Write the real pictures of export.parts and the accepted synthetic samples in one format of other tools."""

from pathlib import Path

from lib.core.command import run
from lib.core.params import load
from lib.export.datasets import write_dataset


def main(format: str) -> None:
    params = load()
    out = Path(f"data/export/{format}")
    write_dataset(format, out, params.dataset.categories, params.export.parts, params.generators)


if __name__ == "__main__":
    run(main, __doc__, "format")
