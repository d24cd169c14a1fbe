"""MVTec 3D-AD (Bergmann et al. 2022), its colour pictures: `train`, `validation` and `test`, in each a folder for each
type with `rgb` and, for the mask, `gt`. Depth (`xyz`) is not read.
"""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.findings import Findings
from lib.dataset.folders import defects_with_masks, folders, picture_files
from lib.dataset.pictures import TEST, TRAIN, VAL, Picture

FOLDERS = {"train": TRAIN, "validation": VAL, "test": TEST}


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as MVTec 3D-AD, or None."""
    folder = next((path for part in FOLDERS for path in base.glob(f"{part}/*/rgb")), None)
    return f"the folder {folder.relative_to(base).as_posix()}" if folder else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds missing masks and unread files to the findings."""
    pictures: list[Picture] = []
    for name, part in FOLDERS.items():
        for folder in folders(base / name) if (base / name).is_dir() else []:
            if folder.name != GOOD:
                pictures += defects_with_masks(folder / "rgb", folder / "gt", folder.name, part, findings)
            elif (folder / "rgb").is_dir():
                pictures += [Picture(GOOD, part, path) for path in picture_files(folder / "rgb", findings)]
    note_unread(base, pictures, findings, [*base.glob("*/*/xyz"), *base.glob(f"*/{GOOD}/gt")])
    return pictures
