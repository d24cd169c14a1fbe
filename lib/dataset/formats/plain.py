"""Plain folders: `good`, `<type>`, masks in `masks/<type>`, in `ground_truth/<type>`, or beside the pictures.

The folders of types may lie in one that is called like defects, such as `NG/<type>`, and their masks in
`masks/NG/<type>`, `masks/<type>` or `NG/masks/<type>`.
"""

from pathlib import Path

from lib.core.images import SUFFIXES
from lib.dataset.findings import Findings
from lib.dataset.folders import MASK_FOLDERS, Folders, folders, read_folders
from lib.dataset.pictures import Picture
from lib.dataset.reading import passed_over

BAD_WORDS = ("ng", "nok", "ko", "bad", "defect", "defects", "defective", "anomaly", "anomalies", "faulty", "reject")


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as plain folders, or None."""
    names = [folder.name for folder in folders(base) if folder.name not in MASK_FOLDERS]
    return f"folders of types, such as {names[0]}" if names else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds problems to the findings."""
    findings.warnings += passed_over(base)
    pictures, masks = [], [base / name for name in MASK_FOLDERS]
    for folder in _folders_beside_masks(base):
        if types := _folders_of_types(folder):
            masks += [place for name in MASK_FOLDERS for place in (folder / name, base / name / folder.name)]
        pictures += [("", one) for one in types or [folder]]
    return read_folders(Folders(base, tuple(pictures), base, tuple(masks)), findings)


def _folders_beside_masks(folder: Path) -> list[Path]:
    return [one for one in folders(folder) if one.name not in MASK_FOLDERS]


def _folders_of_types(folder: Path) -> list[Path]:
    """The folders of types in a folder that is called like defects and holds no pictures of its own."""
    holds_pictures = any(file.suffix.lower() in SUFFIXES for file in folder.iterdir() if file.is_file())
    return [] if folder.name.casefold() not in BAD_WORDS or holds_pictures else _folders_beside_masks(folder)
