"""KolektorSDD2 (Bozic et al. 2021): pictures directly in `train` and `test`, each with its mask, `<stem>_GT.png`.

A picture whose mask is black is a good one; defects have no types.
"""

from pathlib import Path

from lib.core.errors import UserError
from lib.core.images import read_mask
from lib.core.records import GOOD
from lib.core.runtime import progress
from lib.dataset.album import note_unread
from lib.dataset.findings import Findings
from lib.dataset.folders import note_without_mask, picture_files
from lib.dataset.pictures import TEST, TRAIN, Picture

GOODS, DEFECTS = "pictures whose mask is black", "masks that are not black"
ENDING = "_GT"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as KolektorSDD2, or None."""
    mask = next((path for part in (TRAIN, TEST) for path in sorted(base.glob(f"{part}/*{ENDING}.*"))), None)
    return f"masks beside the pictures, such as {mask.relative_to(base).as_posix()}" if mask else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of both parts; adds missing masks and unread files to the findings."""
    pictures: list[Picture] = []
    used: list[Path] = []
    for part in (TRAIN, TEST):
        files = picture_files(base / part, findings) if (base / part).is_dir() else []
        masks = {path.stem.removesuffix(ENDING): path for path in files if path.stem.endswith(ENDING)}
        images = [path for path in files if not path.stem.endswith(ENDING)]
        named = f", called <stem>{ENDING}.png, black where there is no defect"
        note_without_mask([path for path in images if path.stem not in masks], base / part, findings, named)
        used += [*images, *(masks[path.stem] for path in images if path.stem in masks)]
        for path in progress([path for path in images if path.stem in masks], "masks"):
            try:
                has_defect = bool(read_mask(masks[path.stem]).any())
            except UserError as error:
                findings.problems.append(f"{error}; replace the file")
                continue
            pictures.append(
                Picture("defect", part, path, masks[path.stem]) if has_defect else Picture(GOOD, part, path)
            )
    note_unread(base, pictures, findings, used)
    return pictures
