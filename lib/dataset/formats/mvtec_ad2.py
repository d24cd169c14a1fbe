"""MVTec AD 2 (Heckler-Kram et al. 2025): `train/good`, `validation/good`, `test_public/good`, `test_public/bad`.

Masks lie in `test_public/ground_truth/bad`. Pictures of one part under several lamps, `000_regular.png` and
`000_shift_1.png`, are one capture group. The private tests have no labels and are not read.
"""

from dataclasses import replace
from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.findings import Findings
from lib.dataset.folders import defects_with_masks, picture_files
from lib.dataset.pictures import TEST, TRAIN, VAL, Picture

PUBLIC, BAD = "test_public", "bad"
FOLDERS = {"train/good": TRAIN, "validation/good": VAL, f"{PUBLIC}/good": TEST, f"{PUBLIC}/{BAD}": TEST}


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as MVTec AD 2, or None."""
    return f"the folder {PUBLIC}" if (base / PUBLIC).is_dir() else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds missing masks and unread files to the findings."""
    if private := [folder for folder in sorted(base.glob("test_private*")) if folder.is_dir()]:
        names = ", ".join(folder.name for folder in private)
        findings.warnings.append(f"{base}: not read, since they have no labels: {names}")
    pictures: list[Picture] = []
    for name, part in FOLDERS.items():
        folder = base / name
        if folder.name == BAD:
            group = defects_with_masks(folder, base / PUBLIC / "ground_truth" / BAD, BAD, part, findings)
        else:
            files = picture_files(folder, findings) if folder.is_dir() else []
            group = [Picture(GOOD, part, path) for path in files]
        pictures += [replace(one, group=f"{name}/{one.path.stem.split('_')[0]}") for one in group]
    note_unread(base, pictures, findings, private)
    return pictures
