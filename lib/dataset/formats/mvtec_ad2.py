"""MVTec AD 2 (Heckler-Kram et al. 2025): `train/good`, `validation/good`, `test_public/good`, `test_public/bad`.

Masks lie in `test_public/ground_truth/bad`. Pictures of one part under several lamps, `000_regular.png` and
`000_shift_1.png`, are one capture group. The private tests have no labels and are not read.
"""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.findings import Findings
from lib.dataset.folders import MASK_ENDING, picture_files
from lib.dataset.pictures import TEST, TRAIN, VAL, Picture

PUBLIC, BAD = "test_public", "bad"
FOLDERS = {"train/good": TRAIN, "validation/good": VAL, f"{PUBLIC}/good": TEST, f"{PUBLIC}/{BAD}": TEST}


def recognises(base: Path) -> str | None:
    """Why the folder is taken for MVTec AD 2, or None."""
    return f"the folder {PUBLIC}" if (base / PUBLIC).is_dir() else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds to the findings which of them lack masks."""
    if private := [folder.name for folder in sorted(base.glob("test_private*")) if folder.is_dir()]:
        findings.warnings.append(f"{base}: not read, since they have no labels: {', '.join(private)}")
    pictures = []
    for name, part in FOLDERS.items():
        folder = base / name
        for path in picture_files(folder, findings) if folder.is_dir() else []:
            group = f"{name}/{path.stem.split('_')[0]}"
            if folder.name == GOOD:
                pictures.append(Picture(GOOD, part, path, group=group))
                continue
            mask = base / PUBLIC / "ground_truth" / BAD / f"{path.stem}{MASK_ENDING}.png"
            if not mask.is_file():
                findings.problems.append(f"{path}: a defect picture without a mask; add {mask}")
            pictures.append(Picture(BAD, part, path, mask if mask.is_file() else None, group=group))
    return pictures
