"""Folders that stages replace as a whole, without losing files that somebody else put there.

Such a folder has a list of the files that its stage wrote. If it holds other files, the stage refuses to replace it. By
default DVC deletes the outputs of a stage before it runs; these outputs are `persist: true` in dvc.yaml, which leaves
them to the stage.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lib.core.errors import UserError, shortlist
from lib.core.runtime import atomic_folder, write_text

# Where the stages after `workpieces` write. A data set cannot be there.
WRITTEN = (
    *(f"data/{name}" for name in ("prepared", "descriptions", "boxes", "placements", "synth", "masks", "export")),
    *("models", "metrics"),
)
OWN = ".own-files"  # the list, one name per line, in the folder itself, so that DVC tracks it


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` as a whole when the block ends without an error.

    A symbolic link is kept: the folder that it points to, perhaps on a larger disk, is replaced or created.
    Raises UserError, before and after the block, if `path` holds files that were not written this way.
    """
    path = path.resolve() if path.is_symlink() else path
    refuse_loss(path)
    with atomic_folder(path) as folder:
        yield folder
        write_text(folder / OWN, "".join(f"{name}\n" for name in _names(folder)))
        refuse_loss(path)


def refuse_loss(path: Path) -> None:
    """Raise UserError if the folder holds files, links or empty folders that no stage wrote."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path.as_posix()}: is a file, and a folder of the pipeline belongs there: move it")
    listed = path / OWN
    listing = listed.is_file()
    own = set(listed.read_text(encoding="utf-8").split("\n")) if listing else set()
    if foreign := sorted(set(_names(path)) - own - {OWN}):
        hint = (
            "" if listing else f"; without {OWN} all of it counts as such, as after an update from an earlier version"
        )
        raise UserError(
            f"{path.as_posix()}: holds what no stage made, and the stage would delete it: "
            f"{shortlist(foreign)}; move it elsewhere (pictures of your own: a folder beside it, which "
            f"dataset.path in params.yaml names), or delete it, then run again{hint}"
        )


def written_at(place: str | Path) -> str | None:
    """The first of WRITTEN that a path equals, contains or lies in; None if there is none, or outside a repository."""
    if not Path("params.yaml").is_file():
        return None
    path = Path(os.path.normpath(Path(place).absolute()))  # not resolved: DVC takes a link as the place where it lies
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
