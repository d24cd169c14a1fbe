"""List the pictures to inspect: in folders and their subfolders, or arriving in them.

Hidden files and folders are skipped: macOS creates a file `._x.png`, which is not a picture, beside x.png. Folders with
results of `lib.predict` are skipped, too. Pictures in unsupported formats are listed nevertheless, so that they are
reported instead of being skipped without notice, and so are subfolders that cannot be read.
"""

import csv
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from lib.core.errors import UserError
from lib.core.images import SUFFIXES

TABLE = "scores.csv"  # marks a folder of results
# Unsupported picture formats: they are reported, so that no part passes uninspected.
FOREIGN = (
    *(".webp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".jfif", ".jpe", ".dib", ".tga", ".pcx"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".psd", ".exr", ".hdr"),
    *(".dng", ".raw", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".rw2"),  # of cameras
)
FIRST_COLUMNS = ["picture", "anomaly_score", "defect_pixels"]
Signature = tuple[int, int]
State = tuple[Signature | None, bool]  # and whether it may be read


@dataclass(frozen=True)
class Picture:
    """A file, and the name of its results: a path in the folder of results, without extension."""

    path: Path
    name: str

    @property
    def display_name(self) -> str:
        """Its path as a table of UTF-8 can hold it."""
        return legible(self.path)


def legible(path: PurePath) -> str:
    """A path with forward slashes, and with an escape for each byte that is no UTF-8: old archives leave such names."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


class Names:
    """Unique names of results: the file's name without its extension, or with it if another picture already has that
    name, such as a.png after a.jpg.

    taken: existing names, each with its picture, which keeps it.
    """

    def __init__(self, taken: Mapping[str, str] | None = None) -> None:
        self.owners = dict(taken or {})
        self.given = {picture: name for name, picture in self.owners.items()}

    def of(self, path: Path, within: PurePath) -> Picture:
        """The picture with its name. within: its place in the folder that was asked for."""
        key = legible(path)
        if key not in self.given:
            whole = legible(within)
            numbered = (f"{whole}-{n}" for n in range(2, len(self.owners) + 3))
            name = next(name for name in (legible(within.with_suffix("")), whole, *numbered) if name not in self.owners)
            self.owners[name], self.given[key] = key, name
        return Picture(path, self.given[key])


def listed(places: Sequence[Path], out: Path) -> list[Picture]:
    """The pictures among files and in folders, in order.

    Raises UserError where there is none, one is not there, or lies where results are to be written, and where two
    folders have pictures at one place in them.
    """
    names, first = Names(), dict[PurePath, Path]()
    pictures: dict[Path, Picture] = {}
    for place in places:
        inside = list(_inside(place, out))
        if not inside:
            raise UserError(f"{place}: no picture in it; {', '.join(SUFFIXES)} are read")
        for path, within in inside:
            if (other := first.setdefault(within, path)) != path:
                raise UserError(f"{other} and {path}: results of one name; name the folder above them instead")
        pictures |= {path: names.of(path, within) for path, within in inside}
    return list(pictures.values())


def arrivals(
    folders: Sequence[Path],
    out: Path,
    wait: Callable[[], None],
    owners: Mapping[str, str] | None = None,
    done: Mapping[str, Signature] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[list[Picture]]:
    """Yield repeatedly the pictures that are new or changed in the folders, and did not change during the last `wait`:
    files that still grow are left for later. So the first list is empty.

    owners: existing names of results, each with its picture; done: pictures that an earlier run inspected, with their
    signatures of then. Of pictures at one place in two folders, such as 1.png, the later one gets another free name. A
    folder that is away or cannot be read later on is waited for; `say` gets the reason, once.
    Raises UserError if a folder is not a folder, or cannot be read at first.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: is no folder; only folders are watched")
    names = Names(owners)
    before: dict[Path, State] = {}
    states: dict[Path, State] = {}
    away: set[Path] = set()
    first, done = True, done or {}
    while True:
        now: dict[Path, State] = {}
        within: dict[Path, PurePath] = {}
        for folder in folders:
            try:
                inside = list(_inside(folder, out))
            except (UserError, OSError) as error:  # such as those of a network that is down
                if first:
                    raise
                if folder not in away:
                    say(f"{error}; waiting for it")
                away.add(folder)
                continue
            away.discard(folder)
            for path, place in inside:
                if found := signature(path):
                    now[path], within[path] = (found, os.access(path, os.R_OK)), place
        earlier = {path: states.get(path, (done.get(legible(path)), True)) for path in now}
        ready = [path for path, found in now.items() if before.get(path) == found != earlier[path]]
        yield [names.of(path, within[path]) for path in ready]
        # What went away meanwhile could not be looked at: it is new when it comes back.
        states |= {path: now[path] for path in ready if signature(path)}
        before, first = now, False
        wait()


def signature(path: Path) -> Signature | None:
    """What changes when a file does: size and time; None where it has gone meanwhile."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _inside(place: Path, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """The pictures of a folder, each with its place in it, or a single one."""
    if not place.exists():
        raise UserError(f"{place}: not found")
    results = out.resolve()
    real = place.resolve()
    if results in (real, *real.parents):
        raise UserError(f"{out}: {place.name} lies there; results need another folder than the pictures")
    if not place.is_dir():
        yield place, PurePath(place.name)
        return
    if is_of_results(place):
        raise UserError(f"{place}: holds results of lib.predict, such as {TABLE}, not pictures to look at")
    yield from _below(place, place, {results}, {real})


def _below(folder: Path, root: Path, closed: Collection[Path], above: set[Path]) -> Iterator[tuple[Path, PurePath]]:
    """Files first, then subfolders, by name; links are followed but not in a circle. A subfolder that cannot be read
    stands for what is in it. Raises UserError if the folder itself cannot be read."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        visible = [Path(folder, entry.name) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        if folder != root:
            yield folder, folder.relative_to(root)
            return
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    folders = [path for path in visible if path.is_dir()]
    for path in visible:
        if path.suffix.lower() in (*SUFFIXES, *FOREIGN) and path not in folders:
            yield path, path.relative_to(root)
    for path in folders:
        real = path.resolve()
        if real not in closed and real not in above and not is_of_results(path):
            yield from _below(path, root, closed, above | {real})


def is_of_results(folder: Path) -> bool:
    """Whether a run of `lib.predict` has written into it."""
    try:
        with open(folder / TABLE, newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])[:3] == FIRST_COLUMNS
    except (OSError, ValueError, csv.Error):
        return False
