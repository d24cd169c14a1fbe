"""YAML files of settings, read as DVC reads and writes them: YAML 1.2, by the same reader.

To YAML 1.1, which most readers in Python speak, `on`, `off`, `yes` and `no` are truth values, and 0200 is 128. DVC
writes such names without quotes.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from lib.core.errors import UserError


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that a file holds.

    Raises UserError where there is no such file, where it cannot be read or is no UTF-8 or no YAML, where a key stands
    twice in a mapping, and where the file holds anything but a mapping.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; run this from the root of the repository") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8: {error}; save it anew") from error
    except DuplicateKeyError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: {error.problem or 'a key twice':.200}; remove one of them") from error
    except (YAMLError, ValueError) as error:  # of a date that is none
        raise UserError(f"{path}: no valid YAML: {error}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"{values!r:.80}"
        raise UserError(f"{path}: expected sections of keys and values (found {found}); restore the file from Git")
    return values
