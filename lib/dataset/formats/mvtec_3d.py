"""MVTec 3D-AD (Bergmann et al. 2022), its colour pictures: `train`, `validation` and `test`, in each a folder for each
type with `rgb` and, for the mask, `gt`. Depth (`xyz`) is not read.
"""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.findings import Findings
from lib.dataset.folders import folders, picture_files
from lib.dataset.pictures import TEST, TRAIN, VAL, Picture

PARTS = {"train": TRAIN, "validation": VAL, "test": TEST}


def recognises(base: Path) -> str | None:
    """Why the folder is taken for MVTec 3D-AD, or None."""
    found = next((path for part in PARTS for path in base.glob(f"{part}/*/rgb")), None)
    return f"the folder {found.relative_to(base).as_posix()}" if found else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds to the findings which of them lack masks."""
    pictures = []
    for name, part in PARTS.items():
        for folder in folders(base / name) if (base / name).is_dir() else []:
            for path in picture_files(folder / "rgb", findings) if (folder / "rgb").is_dir() else []:
                mask = folder / "gt" / f"{path.stem}.png"
                if folder.name != GOOD and not mask.is_file():
                    findings.problems.append(f"{path}: a defect picture without a mask; add {mask}")
                has_mask = folder.name != GOOD and mask.is_file()
                pictures.append(Picture(folder.name, part, path, mask if has_mask else None))
    return pictures
