"""Find the pictures that annotations name, and collect the annotations of each picture."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from lib.core.errors import UserError, shortlist
from lib.core.images import SUFFIXES
from lib.core.records import GOOD
from lib.dataset.annotations import Annotation, MaskFile, Region, Shape
from lib.dataset.findings import Findings, natural_key
from lib.dataset.pictures import Picture, TypeNames, is_good, part_of, picture_names, type_of

UNMARKED = (
    "whose annotations mark no area, such as lines, points and tags; draw closed shapes around their defects, or "
    "remove these annotations where the picture is good"
)


def _refuse(error: OSError) -> None:
    """Raise instead of skipping folders that cannot be read."""
    raise error


class Album:
    """All pictures below a folder but hidden ones and those in folders `apart`; links to folders are not followed."""

    def __init__(self, base: Path, apart: Collection[Path] = ()) -> None:
        self.base = base
        self.paths: list[Path] = []
        self.links: list[Path] = []  # folders of the data set that lie elsewhere
        self._others: set[str] = set()  # names of other files
        for folder, folders, files in os.walk(base, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".") and Path(folder, name) not in apart]
            self.links += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
            for name in files:
                if not name.startswith("."):
                    if Path(name).suffix.lower() in SUFFIXES:
                        self.paths.append(Path(folder, name))
                    else:
                        self._others.add(name.casefold())
        self.paths.sort(key=lambda path: natural_key(path.as_posix()))
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[_alike(path.name)].append(path)
            self._by_name[_alike(path.stem)].append(path)
        self._folders = {_alike(path.parent.name) for path in self.paths if path.parent != base}
        self._at = {_composed(path.as_posix()): path for path in self.paths}

    def beside(self, path: Path) -> Path | None:
        """The picture in the folder of a file that has the file's name but for the ending; None if there is none."""
        return next((one for one in self._by_name.get(_alike(path.stem), []) if one.parent == path.parent), None)

    def find(self, name: str, beside: Path | None = None) -> Path:
        """The picture that an annotation names; beside: the folder of the annotation's file.

        The name is a path relative to that folder or to the data set. Otherwise it is a path of another machine or a
        URL, and the picture is the one whose path has the most last components in common. A name without an extension
        matches any. Only pictures of the data set are returned. Raises UserError for names that lead out of it, match
        nothing, match several pictures equally well, or name another folder of the data set or another part.
        """
        try:
            wanted = (unquote(urlsplit(name).path) if "://" in name else name).strip().replace("\\", "/")
        except ValueError as error:  # such as an open bracket
            raise UserError(f"{name!r} is no address") from error
        for folder in filter(None, (beside, self.base)):
            place = self.base / os.path.relpath(folder / wanted, self.base)
            if (path := self._at.get(_composed(place.as_posix()))) is not None:
                return path
        steps = PurePosixPath(wanted).parts
        pieces = [_alike(step) for step in steps if step != ".."]
        candidates = self._by_name.get(pieces[-1], []) if pieces and steps[-1] != ".." else []
        if not candidates:
            if pieces and pieces[-1] in self._others:
                raise UserError(f"{name!r} is there, but is of no format that is read ({', '.join(SUFFIXES)})")
            where = "leads out of the data set, or to no picture in it" if ".." in steps else "is not there"
            raise UserError(f"{name!r} {where}")

        def in_common(path: Path) -> int:
            own = [*map(_alike, path.parts[-2::-1]), ""]
            return next(
                (n for n, (one, other) in enumerate(zip(own, pieces[-2::-1], strict=False)) if one != other), 99
            )

        best = max(map(in_common, candidates))
        closest = [path for path in candidates if in_common(path) == best]
        closest = [path for path in closest if path.name == steps[-1]] or closest
        if len(closest) > 1:
            raise UserError(f"{name!r} may be any of {shortlist([str(path) for path in closest])}")
        parts = {part_of(Path(wanted)), part_of(closest[0].relative_to(self.base))} - {""}
        if (_is_relative(name) and len(parts) > 1) or (best == 0 and pieces[-2] in self._folders):
            raise UserError(f"{name!r} is not there, only {closest[0]}")
        return closest[0]


def _composed(name: str) -> str:
    """The name in the form in which all systems but macOS store it."""
    return unicodedata.normalize("NFC", name)


def _same_picture(one: str, other: str) -> bool:
    """Whether two names are alike but for folders before them."""
    ends = [PurePosixPath(_alike(name).replace("\\", "/")).parts[::-1] for name in (one, other)]
    return all(a == b for a, b in zip(*ends, strict=False))


def _is_relative(name: str) -> bool:
    """Whether a name is a path within a data set, not one of another machine or a URL."""
    steps = PurePosixPath(name.strip().replace("\\", "/")).parts
    return "://" not in name and bool(steps) and steps[0] != "/" and ":" not in steps[0]


def _alike(name: str) -> str:
    """What names have in common that differ in case or in the way they are stored."""
    return _composed(name).casefold()


def note_unread(base: Path, pictures: Iterable[Picture], findings: Findings, left_out: Iterable[Path] = ()) -> None:
    """Warn of pictures below a category's folder that are neither read nor a mask or template of one that is.

    left_out: files and folders that the layout intentionally does not read.
    """
    exceptions = set(left_out)
    for one in pictures:
        shapes = [region.shape for region in one.annotation.regions] if one.annotation else []
        exceptions |= {one.path, one.mask or one.path}
        exceptions |= {shape.path for shape in shapes if isinstance(shape, MaskFile)}
    unread = [str(path) for path in Album(base, findings.apart).paths if exceptions.isdisjoint((path, *path.parents))]
    if unread:
        findings.warnings.append(
            f"{base}: not read: {len(unread)} picture(s) that this layout has no place for, or masks without a "
            f"picture: {shortlist(unread)}; move or remove them"
        )


@dataclass
class Notes:
    """The annotations of one picture."""

    source: Path
    part: str = ""
    sorted_by: Path | None = None  # the file that gives the part, if no folder does
    size: tuple[int, int] | None = None  # width, height of the annotated picture
    shares: bool = False  # coordinates are relative, from 0 to 1
    group: str | None = None
    regions: list[Region] = field(default_factory=list)
    unmarked: bool = False  # has an annotation without an area that does not say "good"
    called_good: bool = False  # the whole picture is labelled as good
    doubt: str = ""  # why it is left out, and the remedy


# What code that expects other values meets in a malformed file.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class AnnotatedPictures:
    """Collects annotations of any format and converts them to pictures; problems are added to the findings."""

    def __init__(self, base: Path, findings: Findings) -> None:
        self.base, self.findings = base, findings
        self.album, self.type_name = Album(base, findings.apart), TypeNames()
        self.notes: dict[Path, Notes] = {}
        self._lost: dict[Path, list[str]] = defaultdict(list)
        self._name: dict[Path, tuple[str, Path]] = {}  # of a picture, in the first file of annotations that names it
        self._of_one: dict[Path, list[str]] = defaultdict(list)
        self._in_two_parts: dict[str, list[str]] = defaultdict(list)
        self._malformed: dict[tuple[Path, str], list[str]] = defaultdict(list)
        self._skipped: Counter[str] = Counter()
        self._called_good: Counter[str] = Counter()

    def picture(self, name: str, source: Path, part: str = "", **facts: object) -> Notes | None:
        """The notes of the picture that the file `source` names, or None if it is missing."""
        try:
            path = self.album.find(name, source.parent)
        except UserError as error:
            self._lost[source].append(str(error))
            return None
        first, of = self._name.setdefault(path, (name, source))
        # Absolute names of several machines may well differ.
        comparable = of == source or (_is_relative(first) and _is_relative(name))
        if comparable and not _same_picture(first, name):
            self._of_one[source].append(f"{first!r} and {name!r} for {path}")
        notes = self.notes.setdefault(path, Notes(source, part_of(path.relative_to(self.base)), **facts))  # type: ignore[arg-type]
        if part and notes.sorted_by and part != notes.part:
            self._in_two_parts[f"{notes.part} in {notes.sorted_by} and {part} in {source}"].append(str(path))
        elif part:
            notes.part, notes.sorted_by = part, source
        if notes.size is None:
            notes.size = facts.get("size")  # type: ignore[assignment]
        if facts.get("size") and notes.size != facts["size"]:
            self.findings.problems.append(
                f"{path}: {notes.source} and {source} were made for pictures of different size; correct or remove one"
            )
        return notes

    def name_of(self, names: Sequence[str], source: Path) -> str:
        """The first of several names that matches a picture, else the first name."""
        for name in names:
            with suppress(UserError):
                self.album.find(name, source.parent)
                return name
        return names[0]

    def region(self, notes: Notes, label: object, shape: Shape) -> None:
        """Add a defect to the notes of a picture, unless its label says "good"."""
        if is_good(label):
            self._called_good[str(label)] += 1
            return
        notes.regions.append(Region(self.type_name(label), shape))

    def skip(self, kind: object, notes: Notes | None = None, labels: Sequence[object] = ()) -> None:
        """Count an annotation that has no area or is of an unsupported kind.

        notes: of its picture, if it says something about the picture. If all labels mean "good", the picture is good;
        else it is left out, unless it has other regions.
        """
        if notes is not None and labels and all(map(is_good, labels)):
            notes.called_good = True
            return
        self._skipped[str(kind)] += 1
        if notes is not None:
            notes.unmarked = True

    @contextmanager
    def file(self, path: Path, kind: str) -> Iterator[None]:
        """Convert errors in a malformed file to one problem that names it."""
        try:
            yield
        except UserError as error:
            self.findings.problems.append(str(error))
        except MALFORMED as error:
            self.findings.problems.append(
                f"{path}: not as {kind} has it: {type(error).__name__}: {error}; export it anew, or remove it"
            )

    @contextmanager
    def annotation(self, path: Path, name: object) -> Iterator[None]:
        """Count a malformed annotation of a file, whose others are read."""
        try:
            yield
        except UserError as error:
            self._malformed[path, str(error)].append(str(name))
        except MALFORMED as error:
            self._malformed[path, type(error).__name__].append(f"{name} ({error})")

    def pictures(self) -> list[Picture]:
        """All annotated pictures, and those in folders `good`; reports what is missing, skipped or not read.

        Annotated pictures of which it is unclear whether they are good are left out.
        """
        for path in self.album.paths:
            if path not in self.notes and is_good(path.parent.name):
                self.notes[path] = Notes(path, part_of(path.relative_to(self.base)))
        for source, names in self._lost.items():
            self.findings.problems.append(
                f"{source}: {len(names)} picture(s) cannot be found below {self.base}: {shortlist(names)}; "
                f"add them, or remove them from the file"
            )
        for source, names in self._of_one.items():
            self.findings.problems.append(
                f"{source}: {len(names)} picture(s) are all that there is for two names: {shortlist(names)}; add the "
                f"other picture, or remove it from the file"
            )
        for (source, error), names in self._malformed.items():
            self.findings.problems.append(
                f"{source}: {len(names)} annotation(s) cannot be read ({error}): {shortlist(names)}; correct or remove "
                "them"
            )
        for parts, twice in self._in_two_parts.items():
            self.findings.problems.append(
                f"{self.base}: {len(twice)} picture(s) are of the part {parts}: {shortlist(twice)}; keep them in one"
            )
        if self.album.links:
            links = shortlist([str(path) for path in self.album.links])
            self.findings.warnings.append(f"{self.base}: not read, since links to folders are not followed: {links}")
        if self._skipped:
            kinds = [f"{number} {kind}" for kind, number in sorted(self._skipped.items())]
            self.findings.warnings.append(f"{self.base}: not read, since it marks no area: {shortlist(kinds)}")
        if self._called_good:
            labels = [f"{number} {label!r}" for label, number in sorted(self._called_good.items())]
            self.findings.warnings.append(
                f"{self.base}: area(s) that are called good mark no defect, and are not read: {shortlist(labels)}"
            )
        if unread := [str(path) for path in self.album.paths if path not in self.notes]:
            self.findings.warnings.append(
                f"{self.base}: not read: {len(unread)} picture(s) that no annotation names; good ones belong into a "
                f"folder `{GOOD}`: {shortlist(unread)}"
            )
        self.type_name.warn(self.findings)
        clear = self._without_doubt()
        name_of = picture_names(clear, self.base)
        pictures = []
        for path in clear:
            notes = self.notes[path]
            regions = tuple(dict.fromkeys(notes.regions))  # several files may hold the same ones
            annotation = Annotation(notes.source, regions, notes.size, notes.shares) if regions else None
            name = name_of[path] if name_of[path] != path.stem else None
            pictures.append(
                Picture(type_of(regions), notes.part, path, annotation=annotation, group=notes.group, name=name)
            )
        return pictures

    def _without_doubt(self) -> list[Path]:
        """The pictures with unambiguous annotations, in natural order; warns of the others."""
        in_doubt: dict[str, list[str]] = defaultdict(list)
        clear = []
        for path in sorted(self.notes, key=lambda one: natural_key(one.as_posix())):
            notes = self.notes[path]
            doubt = notes.doubt or (UNMARKED if notes.unmarked and not notes.regions else "")
            if doubt:
                in_doubt[doubt].append(str(path))
            else:
                clear.append(path)
        if contrary := [str(path) for path in clear if self.notes[path].called_good and self.notes[path].regions]:
            self.findings.warnings.append(
                f"{self.base}: {len(contrary)} picture(s) are called good, and show defects, which count: "
                f"{shortlist(contrary)}; correct one of the two"
            )
        self.findings.warnings += [
            f"{self.base}: left out: {len(names)} picture(s) {doubt}: {shortlist(names)}"
            for doubt, names in in_doubt.items()
        ]
        return clear
