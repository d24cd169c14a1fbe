"""YAML files of settings, read as DVC reads and writes them: YAML 1.2, with the same library.

In YAML 1.1, which most Python libraries implement, `on`, `off`, `yes` and `no` are booleans, and 0200 is 128. DVC
writes such names without quotes.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from lib.core.errors import UserError


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a file.

    Raises UserError if the file is missing, cannot be read, is not UTF-8 or not YAML, has a key twice in a mapping, or
    does not hold a mapping.
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
    except (YAMLError, ValueError) as error:  # ValueError: an invalid date
        raise UserError(f"{path}: no valid YAML: {error}") from error
    if not isinstance(values, dict):
        content = "nothing" if values is None else f"{values!r:.80}"
        raise UserError(f"{path}: expected sections of keys and values (found {content}); restore the file from Git")
    return values
