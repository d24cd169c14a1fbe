"""Look for defects in new pictures with a trained detector, and write what it marks.

    python -m lib.predict models/detectors/unet/bracket/none/seed-0 FOLDER-OR-PICTURES... --out FOLDER

FOLDER gets for each picture NAME: NAME_mask.png, 255 where the score reaches the threshold that was chosen on the val
part, NAME_found.png, the picture with these places outlined, and scores.csv: the picture's anomaly score, by which
pictures are ranked, and how many pixels are marked. An earlier run on these pictures is replaced; no other file is.
"""

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.core.images import SUFFIXES, outlined, read_image, write_png
from lib.core.runtime import progress, write_text
from lib.detection import image_score
from lib.detectors import find

OUTLINE = (255, 40, 40)
COLUMNS = ("picture", "anomaly_score", "defect_pixels")
WRITTEN = ("_mask.png", "_found.png")  # behind the name of each picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of one trained seed, models/detectors/DETECTOR/.../seed-N")
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, none of the pictures' own")
    args = parser.parse_args()
    try:
        predict_all(args.model, listed(args.pictures), args.out)
    except UserError as error:
        parser.error(str(error))


def listed(places: Sequence[Path]) -> list[Path]:
    """The pictures among files and in folders, in order.

    Raises UserError where there is none, one is not there, or a name is twice.
    """
    files = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: not found")
        inside = (
            sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        )
        if not inside:
            raise UserError(f"{place}: no picture in it; {', '.join(SUFFIXES)} are read")
        files += inside
    repeated = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
    if repeated:
        raise UserError(f"{', '.join(repeated)}: several pictures of this name; name one folder at a time")
    return files


def predict_all(folder: Path, pictures: Sequence[Path], out: Path) -> None:
    """Write masks, outlined pictures and scores.csv into the folder `out`; `folder` holds one trained seed.

    Raises UserError where there is no trained seed, or `out` holds files that are not of an earlier run on these
    pictures and would be lost, or be taken for its results.
    """
    if not (folder / "detector.json").is_file():
        raise UserError(f"{folder}: holds no trained detector; expected a folder seed-N that baseline or detect wrote")
    refuse_loss(pictures, out)
    provenance = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    module = find(provenance["detector"])
    threshold = json.loads((folder / "threshold.json").read_text(encoding="utf-8"))["threshold"]
    model = module.load(folder)
    # First of all, so that the results of a run that is killed are known as such.
    _write_table(out, [(path.as_posix(), "", "") for path in pictures])
    rows = []
    for path in progress(pictures, "look for defects"):
        image = read_image(path, provenance["depth"])
        scores = module.predict(model, image)
        mask = scores >= threshold
        for suffix, picture in zip(WRITTEN, (mask, outlined(image, mask, OUTLINE)), strict=True):
            write_png(out / f"{path.stem}{suffix}", picture)
        rows.append((path.as_posix(), f"{image_score(scores):.6f}", str(int(mask.sum()))))
    _write_table(out, rows)


def refuse_loss(pictures: Sequence[Path], out: Path) -> None:
    """Raise UserError unless `out` is new, or another folder than the pictures' without any file of the results' names
    but those of an earlier run, all of whose pictures are among these."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the results")
    if own := [path for path in pictures if path.parent.resolve() == out.resolve()]:
        raise UserError(f"{out}: {own[0].name} lies there; results need another folder than the pictures")
    results, earlier = _results(path.stem for path in pictures), _earlier(out)
    if others := earlier - results:
        raise UserError(f"{out}: holds results of other pictures, such as {min(others)}; name another folder")
    if foreign := {name for name in results - earlier if (out / name).exists()}:
        raise UserError(f"{out / min(foreign)}: exists and is not from an earlier run; name another folder")


def _earlier(out: Path) -> set[str]:
    """The names of all files of an earlier run in the folder; empty where there was none."""
    table = out / "scores.csv"
    if not table.is_file():
        return set()
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            return set()
        return _results(Path(row["picture"]).stem for row in rows)


def _results(names: Iterable[str]) -> set[str]:
    """The names of the files that are written for pictures of these names."""
    return {"scores.csv", *(f"{name}{suffix}" for name in names for suffix in WRITTEN)}


def _write_table(out: Path, rows: Iterable[Sequence[str]]) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(out / "scores.csv", table.getvalue())


if __name__ == "__main__":
    main()
