"""Plain folders: `good`, `<type>`, masks in `masks/<type>`, in `ground_truth/<type>`, or beside the pictures."""

from pathlib import Path

from lib.dataset.findings import Findings
from lib.dataset.folders import MASK_FOLDERS, Folders, folders, read_folders
from lib.dataset.pictures import Picture
from lib.dataset.reading import passed_over


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as plain folders, or None."""
    names = [folder.name for folder in folders(base) if folder.name not in MASK_FOLDERS]
    return f"folders of types, such as {names[0]}" if names else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds problems to the findings."""
    findings.warnings += passed_over(base)
    pictures = [("", folder) for folder in folders(base) if folder.name not in MASK_FOLDERS]
    return read_folders(Folders(base, tuple(pictures), base, tuple(base / name for name in MASK_FOLDERS)), findings)
