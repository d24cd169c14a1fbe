"""The inputs of a stage, as listed in dvc.yaml, and the fingerprints of them that identify unfinished work."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.core.runtime import fingerprint
from lib.core.settings_file import read_settings

TEMPLATE = re.compile(r"\$\{([\w.]+)\}")


def input_key(stage: str, **item: str) -> str:
    """The fingerprint of everything that a stage reads: its command, dependencies (by content) and parameters.

    stage: its name in dvc.yaml; item: the values of its matrix, such as category="hex_nut". Unfinished work with
    another key is not continued. If a parameter's value is the name of an existing file or folder, such as `base.model`
    or `pagmfr.textures`, its content is included, which DVC does not track. Raises UserError if a dependency in
    dvc.yaml does not exist.
    """
    return part_key(stage, {}, **item)


def part_key(stage: str, narrower: Mapping[str, Path], unread: Collection[str] = (), **item: str) -> str:
    """Like `input_key`, for one of several independent parts of a stage.

    narrower: by dependency, the file or folder in it that the part reads; unread: parameters of the stage that the part
    does not read. All other inputs in dvc.yaml are included.
    Raises UserError like `input_key`, and ValueError for a dependency or parameter that dvc.yaml does not list.
    """
    entry, params = _entry(stage, item)
    if unlisted := {*narrower, *unread} - {*entry["deps"], *entry.get("params", [])}:
        raise ValueError(f"{', '.join(sorted(unlisted))}: not listed for the stage {stage} in dvc.yaml")
    paths = _there(stage, [narrower.get(dep, dep) for dep in entry["deps"]])
    values = {key: _value(params, key) for key in entry.get("params", []) if key not in unread}
    return fingerprint(entry["cmd"], values, *paths, *sorted(set(_places(values))))


def input_state(stage: str, **item: str) -> dict[str, Any]:
    """What tells whether an input of a stage changes while it runs: the values of its parameters, and size, time and
    identity of each file that it depends on, by key and by path.

    DVC looks at inputs when a stage has ended, and would take what was read before a change for the result of what is
    there then. Cheap: no file is opened. Empty where there is no such stage.
    """
    file = Path("dvc.yaml")
    if not file.is_file() or stage not in read_settings(file).get("stages", {}):
        return {}
    entry, params = _entry(stage, item)
    ignored = _ignored()
    state: dict[str, Any] = {}
    for key in entry.get("params", []):
        with suppress(KeyError):
            state[f"{key} in params.yaml"] = _value(params, key)
    for place in map(Path, entry["deps"]):
        for folder, folders, names in os.walk(place):
            folders[:] = [name for name in folders if not any(fnmatchcase(name, one) for one in ignored)]
            for name in names:
                if not any(fnmatchcase(name, one) for one in ignored):
                    state[Path(folder, name).as_posix()] = _identity(Path(folder, name))
        if place.is_file():
            state[place.as_posix()] = _identity(place)
    return state


def _ignored() -> list[str]:
    """Patterns of names, anywhere, that DVC does not look at: those of .dvcignore."""
    file = Path(".dvcignore")
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    return [line for line in lines if line and not line.startswith(("#", "/"))]


def _identity(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where it has gone meanwhile."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _places(node: Any) -> Iterator[Path]:
    """The existing files and folders that a parameter's value names, at any depth.

    All values are checked, so that methods need not declare which of their settings are paths.
    """
    if isinstance(node, Mapping | list):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _places(value)
    elif isinstance(node, str) and node and os.path.exists(node):  # noqa: PTH110  Path refuses values of any length
        yield Path(node)


def refuse_outputs(place: Path) -> None:
    """Raise UserError if a place is, or lies in, an output of dvc.yaml: the stage would overwrite it, and later stages
    would read it as that stage's result. Without dvc.yaml there are no outputs."""
    file = Path("dvc.yaml")
    stages = (read_settings(file) if file.is_file() else {}).get("stages") or {}
    outs = [
        (stage, out if isinstance(out, str) else next(iter(out)))
        for stage, entry in stages.items()
        for kind in ("outs", "metrics", "plots")
        for out in entry.get(kind, ())
    ]
    for real in {Path(os.path.abspath(place)), place.resolve()}:  # noqa: PTH100  `data` may be a link, and so may `place`
        if not real.is_relative_to(Path.cwd()):
            continue
        parts = real.relative_to(Path.cwd()).parts
        for stage, out in outs:
            patterns = Path(TEMPLATE.sub("*", out)).parts
            if len(parts) >= len(patterns) and all(map(fnmatchcase, parts, patterns)):
                raise UserError(f"{place}: {out} belongs to the stage {stage} of dvc.yaml; name another place")


def _there(stage: str, deps: Iterable[str | Path]) -> list[Path]:
    """Dependencies as paths. Raises UserError, which names those that do not exist."""
    paths = [Path(dep) for dep in deps]
    if absent := [path.as_posix() for path in paths if not path.exists()]:
        raise UserError(f"{', '.join(absent)}: not found; `dvc repro` makes what the stage {stage} reads")
    return paths


def _entry(stage: str, item: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of a stage with all templates filled in, and the whole of params.yaml."""
    params = read_settings(Path("params.yaml"))
    entry = read_settings(Path("dvc.yaml"))["stages"][stage]
    return _filled(entry, params | {"item": dict(item)}), params


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    """A node of dvc.yaml with its templates `${a.b}` replaced; a template that is the whole text keeps its type."""
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if not isinstance(node, str):
        return node
    if whole := TEMPLATE.fullmatch(node):
        return _value(values, whole[1])
    return TEMPLATE.sub(lambda hit: str(_value(values, hit[1])), node)


def _value(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key. Raises KeyError if there is none."""
    node: Any = values
    for name in key.split("."):
        node = node[name]
    return node
