"""Text files of annotations, within bounds: sizes are limited, and what is no such file is refused by name."""

from pathlib import Path

from lib.core.errors import UserError

MAX_BYTES = 512 * 2**20  # of a file; COCO's own for 118,000 pictures has 450 MB


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError where it cannot be read, is no UTF-8, or has more than MAX_BYTES."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read; split the file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8: {error}; replace or remove the file") from error


def numbers(line: str, separators: str = " \t") -> list[float] | None:
    """The numbers of a line; None where a word is none."""
    for separator in separators:
        line = line.replace(separator, " ")
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return None
