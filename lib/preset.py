"""Set the keys of params.yaml to the values of a preset, and keep its comments.

    python -m lib.preset                      lists the presets
    python -m lib.preset mvp_diff-sd15        changes params.yaml, and says what
    python -m lib.preset fast --dry-run       says what it would change
    python -m lib.preset fast mvp_diff-sd15   one after the other; the later one wins

A preset is a file presets/NAME.yaml with the keys that it sets, in the sections of params.yaml; its first line says
what it is for. If the result would be invalid, nothing is written. All comments are kept, except those behind removed
items of a list.
"""

import argparse
import functools
import io
import json
import operator
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from yaml import SequenceNode

from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.params import load
from lib.core.runtime import write_text
from lib.settings import load_all

PRESETS = Path("presets")
PARAMS = Path("params.yaml")

Place = tuple[str, ...]  # the keys on the way to a knob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="presets, applied in this order; none lists them")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    args = parser.parse_args()
    if not args.names:
        print("\n".join(f"{name:24} {purpose}" for name, purpose in presets().items()))
        return
    changed = applied(args.names)
    if not args.dry_run and changed:
        write(changed[0])
    print("\n".join(changed[1]) if changed else "params.yaml is as the preset has it")


def write(text: str) -> None:
    """Write params.yaml; where it is a link, the file that it leads to."""
    write_text(PARAMS.resolve(), text)


def presets() -> dict[str, str]:
    """The names of all presets, and what each is for: the comment in its first line. Raises UserError without any."""
    files = sorted(PRESETS.glob("*.yaml"))
    if not files:
        raise UserError(f"{PRESETS}: no preset is there; run this from the root of the repository")
    return {file.stem: _text(file).partition("\n")[0].lstrip("# ") for file in files}


def applied(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """params.yaml with the presets applied, and one line for each knob that changed; None where none did.

    Raises UserError for a preset that is unknown or names a knob that params.yaml lacks, and for values that cannot be.
    """
    purposes, settings = presets(), []
    for name in names:
        if name not in purposes:
            raise UserError(f"presets: {name!r} is unknown, known are {', '.join(purposes)}")
        # Read like params.yaml, so that 0.00004 stays as it is written: 4e-05 is text to most readers of YAML.
        file = PRESETS / f"{name}.yaml"
        settings.append((file.as_posix(), _parsed(_text(file), file)))
    return with_settings(settings, load_all)


def with_settings(
    settings: Sequence[tuple[str, Mapping[str, Any]]], check: Callable[[Path], Any] = load
) -> tuple[str, list[str]] | None:
    """params.yaml with other values for some knobs, and one line for each that changed; None where none did.

    settings: where they come from, and values by section and knob; later ones win. check: reads the result. Comments
    stay, but for that behind an item that leaves a list. Raises UserError for a params.yaml that is wrong as it is, for
    a knob that it lacks, and for values that cannot be.
    """
    text = _text(PARAMS)
    params = _parsed(text, PARAMS)
    try:
        load(PARAMS)
    except UserError as error:
        raise UserError(f"{error}\nIt was so before {_origins(settings)} changed anything: mend it first") from error
    changed: dict[Place, Any] = {}
    lines = [line for origin, values in settings for line in _set(params, values, origin, changed)]
    if not lines:
        return None
    for key, value in changed.items():
        if isinstance(value, list):
            text = with_list(text, key, value)
    params = _parsed(text, PARAMS)
    for place, value in changed.items():
        if not isinstance(value, list):
            _replace(_at(params, place[:-1]), place[-1], value)
    text = _dumped(params)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PARAMS.name)
        copy.write_text(text, encoding="utf-8")
        try:
            check(copy)
        except UserError as error:
            message = str(error).replace(str(copy), f"{PARAMS} with {_origins(settings)}")
            raise UserError(f"{message}\nNothing is written") from error
    return text, lines


def _origins(settings: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return ", ".join(origin for origin, _ in settings)


def _text(file: Path) -> str:
    """The text of a file. Raises UserError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found; run this from the root of the repository") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: no UTF-8 at byte {error.start}: save it in that encoding") from error


def _parsed(text: str, file: Path) -> Any:
    """The sections of a file, fit to be dumped with its comments. Raises UserError where it has none."""
    try:
        sections = _round_trip().load(text)
    except YAMLError as error:
        raise UserError(f"{file}: no valid YAML: {error}") from error
    if not isinstance(sections, Mapping):
        raise UserError(f"{file}: expected sections with keys and values (found {sections!r:.80})")
    return sections


class _WithNull(RoundTripRepresenter):
    """Writes `null` where others write nothing."""


_WithNull.add_representer(type(None), lambda own, _: own.represent_scalar("tag:yaml.org,2002:null", "null"))


def _round_trip() -> YAML:
    """A reader and writer of YAML that keeps comments, quotes and order."""
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    round_trip.Representer = _WithNull
    return round_trip


def _dumped(value: Any) -> str:
    text = io.StringIO()
    _round_trip().dump(value, text)
    return text.getvalue()


def _set(
    node: dict[str, Any],
    values: Mapping[str, Any],
    origin: str,
    changed: dict[Place, Any],
    above: Place = (),
) -> list[str]:
    """Set the values in the node, and keep those that differ in `changed`; one line for each."""
    lines = []
    for key, value in values.items():
        place = (*above, key)
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"{origin}: {'.'.join(map(str, place))} is no knob of params.yaml")
        if isinstance(value, Mapping):
            lines += _set(node[key], value, origin, changed, place)
        elif node[key] != value:
            lines.append(f"{'.'.join(place)}: {flow(node[key])} -> {flow(value)}")
            node[key] = changed[place] = value
    return lines


def with_list(text: str, place: Place, values: list[Any]) -> str:
    """A text of YAML with another list behind the keys of a place; what stays of the list keeps its line as it is.

    A line of its own with a comment stays before the item that it stands before, or before the next one that stays.
    (A parser hangs all of them on the item above, with which they would go.)
    """
    key: Any = None
    node: Any = yaml.compose(text, yaml.SafeLoader)
    for name in place:
        key, node = next(entry for entry in node.value if entry[0].value == name)
    if not isinstance(node, SequenceNode) or node.flow_style:
        return f"{text[: node.start_mark.index]}{_list_of(values, flow=True)}{text[node.end_mark.index :]}"
    lines = f"{text}\n".splitlines()
    indent, old = " " * node.start_mark.column, _at(_round_trip().load(text), place)
    stop = start = node.start_mark.line
    comments, items = list[str](), dict[int, list[str]]()
    for number, item in enumerate(node.value):
        comments += lines[stop : item.start_mark.line]
        stop = item.end_mark.line + 1
        if old[number] in values:
            items[number] = [*comments, *lines[item.start_mark.line : stop]]
            comments = []
    new = []
    for value in values:
        new += items[old.index(value)] if value in old else [f"{indent}{_list_of([value])}"]
    if not values:
        end = lines[key.end_mark.line].index(":", key.end_mark.column) + 1
        lines[key.end_mark.line] = f"{lines[key.end_mark.line][:end]} []{lines[key.end_mark.line][end:]}"
    return "\n".join([*lines[:start], *new, *comments, *lines[stop:]])


def _at(node: Any, place: Place) -> Any:
    """What stands behind the keys of a place."""
    return functools.reduce(operator.getitem, place, node)


def _list_of(values: list[Any], flow: bool = False) -> str:
    """A list as YAML: a line for each item, or, as a flow, a single one."""
    sequence = CommentedSeq(values)
    if flow:
        sequence.fa.set_flow_style()
    return _dumped(sequence).removesuffix("\n")


def _replace(node: Any, key: str, value: Any) -> None:
    """Put a value behind a key, so that its comment stands as far behind it as behind the old one."""
    comment = node.ca.items[key][2] if key in node.ca.items else None
    if comment:
        comment.column = max(comment.column + len(_plain(value)) - len(_plain(node[key])), 0)
    node[key] = value


def _plain(value: Any) -> str:
    """A value about as YAML writes it."""
    return value if isinstance(value, str) else flow(value)


def flow(value: Any) -> str:
    """A value as YAML takes it on one line."""
    return json.dumps(list(value) if isinstance(value, list) else value, ensure_ascii=False)


if __name__ == "__main__":
    end_with(main)
