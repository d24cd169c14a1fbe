"""MVTec AD (Bergmann et al. 2019): `train/good`, `test/good`, `test/<type>`, masks in `ground_truth/<type>`.

`twins/<type>` may hold pictures of `test/<type>` once more, under the same names and without their defect: the exact
truth of a mask.
"""

from pathlib import Path

from lib.dataset.findings import Findings
from lib.dataset.folders import MASK_FOLDERS, TWINS, Folders, folders, read_folders
from lib.dataset.pictures import TEST, TRAIN, Picture
from lib.dataset.reading import passed_over


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as MVTec AD, or None."""
    parts = [part for part in (TRAIN, TEST) if (base / part).is_dir()]
    return f"the folders {' and '.join(parts)}" if parts else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds problems to the findings."""
    findings.warnings += passed_over(base)
    parts = [part for part in (TRAIN, TEST) if (base / part).is_dir()]
    pictures = [(part, folder) for part in parts for folder in folders(base / part)]
    others = [folder for folder in folders(base) if folder.name not in (TRAIN, TEST, TWINS, *MASK_FOLDERS)]
    return read_folders(Folders(base, tuple(pictures), base / TEST, (base / MASK_FOLDERS[0],), tuple(others)), findings)
