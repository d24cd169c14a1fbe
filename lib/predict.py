"""Find defects in new pictures with a trained detector, and write what it found.

    python -m lib.predict models/detectors/unet/bracket/none/seed-0 FOLDER-OR-PICTURES... --out FOLDER

FOLDER gets for each picture NAME: NAME_mask.png, 255 where the score reaches the threshold that was chosen on the val
part, NAME_found.png, the picture with these places outlined, and scores.csv: the picture's anomaly score, by which
pictures are ranked, and how many pixels were found.
"""

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lib.core.images import SUFFIXES, outlined, read_image, write_png
from lib.core.runtime import progress, write_text
from lib.detection import image_score
from lib.detectors import find

OUTLINE = (255, 40, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of one trained seed, models/detectors/DETECTOR/.../seed-N")
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--detector", default="unet", help="which method it is, a name from detectors in params.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    args = parser.parse_args()
    try:
        predict_all(args.detector, args.model, listed(args.pictures), args.out)
    except ValueError as error:
        parser.error(str(error))


def listed(places: Sequence[Path]) -> list[Path]:
    """The pictures among files and in folders, in order. Raises ValueError where there is none, or a name is twice."""
    files = []
    for place in places:
        inside = (
            sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        )
        if not inside:
            raise ValueError(f"{place}: no picture in it; {', '.join(SUFFIXES)} are read")
        files += inside
    twice = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)}: several pictures of this name; name one folder at a time")
    return files


def predict_all(detector: str, folder: Path, pictures: Sequence[Path], out: Path) -> None:
    """Write masks, outlined pictures and scores.csv into the folder `out`; `folder` holds one trained seed."""
    if not (folder / "threshold.json").is_file():
        raise ValueError(f"{folder}: holds no trained detector; expected a folder seed-N that baseline or detect wrote")
    module = find(detector)
    model, threshold = module.load(folder), json.loads((folder / "threshold.json").read_text())["threshold"]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("picture", "anomaly_score", "pixels_found"))
    for path in progress(pictures, "find defects"):
        image = read_image(path)
        scores = module.predict(model, image)
        mask = scores >= threshold
        write_png(out / f"{path.stem}_mask.png", mask)
        write_png(out / f"{path.stem}_found.png", outlined(image, mask, OUTLINE))
        rows.writerow((path.as_posix(), f"{image_score(scores):.6f}", int(mask.sum())))
    write_text(out / "scores.csv", table.getvalue())


if __name__ == "__main__":
    main()
