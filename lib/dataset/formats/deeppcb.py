"""DeepPCB (Tang et al. 2019): pairs of a template and an aligned test picture, and boxes in text files.

`group*/NNNNN/ID_temp.jpg`, `ID_test.jpg`, `group*/NNNNN_not/ID.txt`, each of its lines `x1 y1 x2 y2 class`;
`trainval.txt` and `test.txt` say which pair belongs to which part. A template is a good picture, and one capture group
with its test picture. A mask is where the two differ within a box.
"""

from pathlib import Path, PurePosixPath

from lib.core.errors import UserError, shortlist
from lib.core.images import SUFFIXES
from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.annotations import Annotation, Difference, Region
from lib.dataset.findings import Findings, natural_key
from lib.dataset.pictures import TEST, TRAIN, Picture, type_of
from lib.dataset.reading import numbers, read_text

GOODS, DEFECTS = "the templates", "lines in files of boxes"
TEMPLATE, TESTED, LABELS = "_temp", "_test", "_not"
TYPES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # 1 to 6
LISTS = {"trainval.txt": TRAIN, "test.txt": TEST}
LEVELS = ("*", "*/*", "*/*/*")  # how deep pairs lie, with and without the folder PCBData


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as DeepPCB, or None."""
    template = next(iter(_templates(base)), None)
    if template is None or not _labels(template).parent.is_dir():
        return None
    return f"pairs such as {template.relative_to(base).as_posix()} with boxes in {_labels(template).parent.name}/"


def read(base: Path, findings: Findings) -> list[Picture]:
    """Template and test picture of every pair; adds problems to the findings."""
    parts = _parts(base, findings)
    pictures: list[Picture] = []
    for template in _templates(base):
        pair = template.stem.removesuffix(TEMPLATE)
        tested, labels = template.with_name(f"{pair}{TESTED}{template.suffix}"), _labels(template)
        if absent := [str(path) for path in (tested, labels) if not path.is_file()]:
            findings.problems.append(f"{template}: its pair lacks {' and '.join(absent)}; add them, or remove the pair")
            continue
        part = parts.get(pair, "")
        group = (template.parent.relative_to(base) / pair).as_posix()
        pictures.append(Picture(GOOD, part, template, group=group))
        regions = _regions(labels, template, findings)
        annotation = Annotation(labels, regions) if regions else None
        pictures.append(Picture(type_of(regions), part, tested, annotation=annotation, group=group))
    label_files = {_labels(template) for template in _templates(base)}
    folders = {labels.parent for labels in label_files}
    others = sorted(path for folder in folders for path in folder.glob("*.txt") if path not in label_files)
    if orphans := [str(path) for path in others if _holds_boxes(path)]:
        findings.problems.append(
            f"{base}: {len(orphans)} file(s) of boxes without a pair: {shortlist(orphans)}; add or remove them"
        )
    note_unread(base, pictures, findings)
    return pictures


def _templates(base: Path) -> list[Path]:
    """All templates below a folder, in natural order."""
    templates = (
        path for level in LEVELS for path in base.glob(f"{level}/*{TEMPLATE}.*") if path.suffix.lower() in SUFFIXES
    )
    return sorted(templates, key=lambda path: natural_key(path.as_posix()))


def _labels(template: Path) -> Path:
    """The file of boxes of a pair."""
    folder = template.parent.with_name(f"{template.parent.name}{LABELS}")
    return folder / f"{template.stem.removesuffix(TEMPLATE)}.txt"


def _parts(base: Path, findings: Findings) -> dict[str, str]:
    """The part of every pair that the official lists name, by the pair's number."""
    parts: dict[str, str] = {}
    for place in (base, *(folder for folder in base.iterdir() if folder.is_dir())):
        for name, part in LISTS.items():
            if (place / name).is_file():
                try:
                    lines = read_text(place / name).splitlines()
                except UserError as error:
                    findings.problems.append(str(error))
                    continue
                pairs = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
                if twice := [pair for pair in pairs if parts.get(pair, part) != part]:
                    findings.problems.append(
                        f"{place / name}: {len(twice)} pair(s) are in the list of another part, too: "
                        f"{shortlist(twice)}; keep them in one"
                    )
                parts |= dict.fromkeys(pairs, part)
    return parts


def _holds_boxes(path: Path) -> bool:
    """Whether the first line of a file that is not empty is one of a box."""
    try:
        first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    except UserError:
        return False
    return len(numbers(first, " ,\t") or ()) == 5


def _regions(labels: Path, template: Path, findings: Findings) -> tuple[Region, ...]:
    """The boxes of a pair; which lines are wrong is added to the findings."""
    try:
        lines = read_text(labels).splitlines()
    except UserError as error:
        findings.problems.append(str(error))
        return ()
    regions, wrong = [], []
    for number, line in enumerate(lines, start=1):
        values = numbers(line, " ,\t")
        if values == []:
            continue
        if values is None or len(values) != 5 or values[4] not in range(1, len(TYPES) + 1):
            wrong.append(f"line {number} ({line!r:.80})")
            continue
        corners = (values[0], values[1], values[2], values[3])
        regions.append(Region(TYPES[int(values[4]) - 1], Difference(template, corners)))
    if wrong:
        findings.problems.append(
            f"{labels}: expected x1 y1 x2 y2 and a class from 1 to {len(TYPES)}; found {shortlist(wrong)}"
        )
    return tuple(regions)
