"""BTAD (Mishra et al. 2021): `train/ok`, `test/ok`, `test/ko`, masks in `ground_truth/ko`, named like the pictures."""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.findings import Findings
from lib.dataset.folders import picture_files
from lib.dataset.pictures import TEST, TRAIN, Picture

OK, KO = "ok", "ko"


def recognises(base: Path) -> str | None:
    """Why the folder is taken for BTAD, or None."""
    return f"the folders train/{OK} and test/{KO}" if (base / f"train/{OK}").is_dir() else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds to the findings which of them lack masks."""
    pictures = []
    for folder, part in (("train/ok", TRAIN), ("test/ok", TEST)):
        for path in picture_files(base / folder, findings) if (base / folder).is_dir() else []:
            pictures.append(Picture(GOOD, part, path))
    place = base / "ground_truth" / KO
    masks = {path.stem: path for path in picture_files(place, findings)} if place.is_dir() else {}
    for path in picture_files(base / "test" / KO, findings) if (base / "test" / KO).is_dir() else []:
        if path.stem not in masks:
            findings.problems.append(f"{path}: a defect picture without a mask; add {place / path.stem}.png")
        pictures.append(Picture(KO, TEST, path, masks.get(path.stem)))
    return pictures
