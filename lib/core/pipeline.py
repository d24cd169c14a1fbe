"""What a stage reads, as dvc.yaml says it: the one list of inputs, from which the keys of unfinished work come."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import UserError
from lib.core.runtime import fingerprint


def input_key(stage: str, *names: str, **item: str) -> str:
    """The fingerprint of everything that a stage reads: its command, dependencies (by content) and parameters.

    stage: its name in dvc.yaml; item: the names of its matrix, such as category="hex_nut". Unfinished work under
    another key is not continued. names: parameters that name a model, by a folder, a file or a hub id; DVC does not
    watch what lies at such a place, so it is looked at here.
    Raises UserError when dvc.yaml lists a dependency that is not there.
    """
    entry, params = _entry(stage, item)
    paths = [Path(path) for path in entry["deps"]]
    if absent := [str(path) for path in paths if not path.exists()]:
        raise UserError(f"{', '.join(absent)}: not found; `dvc repro` makes what the stage {stage} reads")
    values = {key: _value(params, key) for key in entry.get("params", [])}
    return fingerprint(entry["cmd"], values, *paths, *(Path(name) for name in names if Path(name).exists()))


def _entry(stage: str, item: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of a stage with all templates filled in, and the whole of params.yaml."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    entry = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    return _filled(entry, params | {"item": dict(item)}), params


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    """A node of dvc.yaml with its templates `${a.b}` replaced; one that is not part of a longer text keeps its type."""
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if not isinstance(node, str):
        return node
    if whole := re.fullmatch(r"\$\{([\w.]+)\}", node):
        return _value(values, whole[1])
    return re.sub(r"\$\{([\w.]+)\}", lambda hit: str(_value(values, hit[1])), node)


def _value(values: Mapping[str, Any], key: str) -> Any:
    """The value behind a dotted key. Raises KeyError where there is none."""
    node: Any = values
    for name in key.split("."):
        node = node[name]
    return node
