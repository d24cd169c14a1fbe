"""Folders that stages replace as a whole: nothing that somebody else put there is ever lost.

Such a folder holds a list of the files that its stage wrote. What is not on it is foreign, and the stage refuses to
replace the folder. DVC would delete the folder of an output before its stage runs: these are `persist: true` in
dvc.yaml, which leaves that to the stage.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lib.core.errors import UserError
from lib.core.runtime import atomic_folder, write_text

# Where the stages behind `workpieces` write. What one of them reads cannot lie there.
WRITTEN = (
    *(f"data/{name}" for name in ("prepared", "descriptions", "boxes", "placements", "synth", "masks", "export")),
    *("models", "metrics"),
)
OWN = ".own-files"  # the list, one name to a line, in the folder itself, so that DVC carries it along
SHOWN = 5  # foreign files that are named


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path`, whole, when the block ends without an error.

    A link stays: the folder that it leads to, perhaps on a larger disk, is replaced, and made where there is none.
    Raises UserError, before the block and once more after it, when `path` holds what was not written that way.
    """
    path = path.resolve() if path.is_symlink() else path
    refuse_loss(path)
    with atomic_folder(path) as folder:
        yield folder
        write_text(folder / OWN, "".join(f"{name}\n" for name in _names(folder)))
        refuse_loss(path)


def refuse_loss(path: Path) -> None:
    """Raise UserError when the folder holds what no stage wrote: files, links, empty folders."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path.as_posix()}: is a file, and a folder of the pipeline belongs there: move it")
    listed = path / OWN
    listing = listed.is_file()
    own = set(listed.read_text(encoding="utf-8").splitlines()) if listing else set()
    if foreign := sorted(set(_names(path)) - own - {OWN}):
        others = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        hint = (
            "" if listing else f"; without {OWN} all of it counts as such, as after an update from an earlier version"
        )
        raise UserError(
            f"{path.as_posix()}: holds what no stage made, and the stage would delete it: "
            f"{', '.join(foreign[:SHOWN])}{others}; move it elsewhere (pictures of your own: a folder beside it, which "
            f"dataset.path in params.yaml names), or delete it, then run again{hint}"
        )


def written_at(place: str | Path) -> str | None:
    """The first of WRITTEN that a path is, holds or lies in; None where it is apart from all of them, and outside of a
    repository, where no stage runs."""
    if not Path("params.yaml").is_file():
        return None
    path = Path(os.path.normpath(Path(place).absolute()))  # not resolved: to DVC, a link is the place where it lies
    return next((name for name in WRITTEN if _overlap(path, Path(name).absolute())), None)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _names(folder: Path) -> list[str]:
    """All files, links and empty folders below the folder, sorted; folders end in a slash."""
    names = []
    for place in folder.rglob("*"):
        name = place.relative_to(folder).as_posix()
        if not place.is_dir() or place.is_symlink():
            names.append(name)
        elif not any(place.iterdir()):
            names.append(f"{name}/")
    return sorted(names)
