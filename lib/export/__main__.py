"""Export real pictures and accepted synthetic samples, with masks and provenance, for other tools.

Run as `python -m lib.export FORMAT ... --out FOLDER` from the root of the repository, after the stage masks. Writes
FOLDER/FORMAT/CATEGORY/. Formats:

  mvtec     the layout of MVTec AD: train/good, test/TYPE, ground_truth/TYPE
  coco      COCO instances: boxes, masks as run lengths
  yolo      Ultralytics segments: data.yaml, polygons
  datumaro  Datumaro's JSON
  csv       a table, pictures and masks

Every format keeps train, val and each generator apart as a subset, except for mvtec, which has one folder for all
pictures with defects, where names tell them apart. The test part is exported where --parts names it, never otherwise.
The same as a stage of the pipeline: `export.formats` in params.yaml. What stages write is no place for FOLDER.
"""

import argparse
from pathlib import Path

from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.params import PARTS, load
from lib.core.pipeline import refuse_outputs
from lib.export.datasets import FORMATS, write_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, type=Path, help="folder for a folder of each format")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="of the real pictures; default: export.parts")
    parser.add_argument("--generators", nargs="*", help="names, or nothing for real pictures alone; default: all")
    parser.add_argument("--categories", nargs="+", help="names; default: all")
    args = parser.parse_args()
    params = load()
    categories = _chosen(args.categories, params.dataset.categories, "dataset.categories")
    generators = _chosen(args.generators, params.generators, "generators")
    parts = list(dict.fromkeys(args.parts or params.export.parts))
    for name in args.formats:
        refuse_outputs(args.out / name)
    for name in dict.fromkeys(args.formats):
        counts = write_dataset(name, args.out / name, categories, parts, generators)
        numbers = ", ".join(f"{count} of {category}" for category, count in counts.items())
        print(f"{(args.out / name).as_posix()}: pictures: {numbers}")


def _chosen(choice: list[str] | None, valid: tuple[str, ...], key: str) -> list[str]:
    """The names asked for, once each, or all. Raises UserError for names that params.yaml lacks."""
    names = list(valid) if choice is None else list(dict.fromkeys(choice))
    if strange := [name for name in names if name not in valid]:
        raise UserError(f"{', '.join(strange)}: not among {key} in params.yaml, which has {', '.join(valid)}")
    return names


if __name__ == "__main__":
    end_with(main)
