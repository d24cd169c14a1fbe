"""BTAD (Mishra et al. 2021): `train/ok`, `test/ok`, `test/ko`, masks in `ground_truth/ko`, named like the pictures."""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.findings import Findings
from lib.dataset.folders import defects_with_masks, picture_files
from lib.dataset.pictures import TEST, TRAIN, Picture

GOODS, DEFECTS = "the pictures in `train/ok` and `test/ok`", "pictures in `test/ko`"
OK, KO = "ok", "ko"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as BTAD, or None."""
    return f"the folders train/{OK} and test/{KO}" if (base / f"train/{OK}").is_dir() else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds missing masks and unread files to the findings."""
    pictures = [
        Picture(GOOD, part, path)
        for folder, part in ((f"train/{OK}", TRAIN), (f"test/{OK}", TEST))
        if (base / folder).is_dir()
        for path in picture_files(base / folder, findings)
    ]
    pictures += defects_with_masks(base / "test" / KO, base / "ground_truth" / KO, KO, TEST, findings)
    note_unread(base, pictures, findings)
    return pictures
