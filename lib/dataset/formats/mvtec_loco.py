"""MVTec LOCO AD (Bergmann et al. 2022): as MVTec AD, with `validation/good` and a folder of masks for each picture.

`ground_truth/<type>/<stem>/000.png` and so on; all of them together mark the defect.
"""

from pathlib import Path

from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.annotations import Annotation, MaskFile, Region
from lib.dataset.findings import Findings
from lib.dataset.folders import folders, note_without_mask, picture_files
from lib.dataset.pictures import TEST, TRAIN, VAL, Picture

FOLDERS = {"train": TRAIN, "validation": VAL, "test": TEST}
MASKS = "ground_truth"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as MVTec LOCO AD, or None."""
    nested = next((path for path in sorted(base.glob(f"{MASKS}/*/*")) if path.is_dir()), None)
    if nested is None or not (base / "test").is_dir():
        return None
    return f"a folder of masks for each picture, such as {nested.relative_to(base).as_posix()}"


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds missing masks and unread files to the findings."""
    pictures = []
    for name, part in FOLDERS.items():
        for folder in folders(base / name) if (base / name).is_dir() else []:
            without = []
            for path in picture_files(folder, findings):
                place = base / MASKS / folder.name / path.stem
                masks = picture_files(place, findings) if folder.name != GOOD and place.is_dir() else []
                if folder.name != GOOD and not masks:
                    without.append(path)
                regions = tuple(Region(folder.name, MaskFile(mask)) for mask in masks)
                annotation = Annotation(place, regions) if regions else None
                pictures.append(Picture(folder.name, part, path, annotation=annotation))
            note_without_mask(without, base / MASKS / folder.name, findings)
    note_unread(base, pictures, findings)
    return pictures
