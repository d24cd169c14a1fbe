"""Set the knobs of params.yaml to those of a preset, and keep its comments.

    python -m lib.preset                      lists the presets
    python -m lib.preset mvp_diff-sd15        changes params.yaml, and says what
    python -m lib.preset fast --dry-run       says what it would change
    python -m lib.preset fast mvp_diff-sd15   one after the other; the later one wins

A preset is a file presets/NAME.yaml with the knobs that it sets, in the sections of params.yaml; its first line says
what it is for. What would make params.yaml invalid is refused, and nothing is written.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from lib.core.errors import UserError
from lib.core.params import load
from lib.core.runtime import write_text

PRESETS = Path("presets")
PARAMS = Path("params.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="presets, applied in this order; none lists them")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    args = parser.parse_args()
    try:
        if not args.names:
            print("\n".join(f"{name:24} {purpose}" for name, purpose in presets().items()))
            return
        changed = applied(args.names)
        if not args.dry_run and changed:
            write_text(PARAMS, changed[0])
        print("\n".join(changed[1]) if changed else "params.yaml is as the preset has it")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def presets() -> dict[str, str]:
    """The names of all presets, and what each is for: the comment in its first line."""
    files = sorted(PRESETS.glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for file in files}


def applied(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """params.yaml with the presets applied, and one line for each knob that changed; None where none did.

    Raises UserError for a preset that is unknown or names a knob that params.yaml lacks, and for values that cannot be.
    """
    settings = []
    for name in names:
        if name not in presets():
            raise UserError(f"presets: {name!r} is unknown, known are {', '.join(presets())}")
        # Read like params.yaml, so that 0.00004 stays as it is written: 4e-05 is text to most readers of YAML.
        values = _round_trip().load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
        settings.append((f"presets/{name}.yaml", values))
    return with_settings(settings)


def with_settings(settings: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, list[str]] | None:
    """params.yaml with other values for some knobs, and one line for each that changed; None where none did.

    settings: where they come from, and values by section and knob; later ones win. Comments stay.
    Raises UserError for a knob that params.yaml lacks, and for values that cannot be.
    """
    round_trip = _round_trip()
    params = round_trip.load(PARAMS.read_text(encoding="utf-8"))
    lines = [line for origin, values in settings for line in _set(params, values, origin)]
    if not lines:
        return None
    text = io.StringIO()
    round_trip.dump(params, text)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PARAMS.name)
        copy.write_text(text.getvalue(), encoding="utf-8")
        load(copy)
    return text.getvalue(), lines


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


def _set(node: Any, values: Mapping[str, Any], origin: str, above: str = "") -> list[str]:
    """Set the values in the node; one line for each that changed."""
    lines = []
    for key, value in values.items():
        if key not in node:
            raise UserError(f"{origin}: {above}{key} is no knob of params.yaml")
        if isinstance(value, Mapping):
            lines += _set(node[key], value, origin, f"{above}{key}.")
        elif isinstance(value, list):
            if list(node[key]) != list(value):
                lines.append(f"{above}{key}: {_flow(node[key])} -> {_flow(value)}")
                node[key][:] = list(value)
        elif node[key] != value:
            lines.append(f"{above}{key}: {_flow(node[key])} -> {_flow(value)}")
            comment = node.ca.items[key][2] if key in node.ca.items else None
            if comment:  # it stands as far behind the new value as behind the old one
                comment.column = max(comment.column + len(_plain(value)) - len(_plain(node[key])), 0)
            node[key] = value
    return lines


def _plain(value: Any) -> str:
    """A value about as YAML writes it."""
    return value if isinstance(value, str) else _flow(value)


def _flow(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, list) else value, ensure_ascii=False)


if __name__ == "__main__":
    main()
