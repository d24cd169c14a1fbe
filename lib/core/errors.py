"""The exception for errors that the user can fix, and what to tell of those of libraries."""

from collections.abc import Sequence

LONGEST = 200  # characters of a library's message that are shown
NAMES_IN_MESSAGE = 10  # of a list; of the others a message gives only the number


class UserError(ValueError):
    """An error in the data, the parameters or the command: the message names file or key, expectation and remedy.

    Stages print the message and end with exit code 2. Every other exception is a fault of the program or the machine,
    and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """What went wrong, in at most LONGEST characters: the first line of an error's message and, where that ends with a
    colon, the second one, too; its type if it has no message. Libraries' messages may fill a screen.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0])[:LONGEST]


def shortlist(names: Sequence[str], between: str = ", ") -> str:
    """The first names of a list, and the number of the others."""
    rest = len(names) - NAMES_IN_MESSAGE
    return between.join(names[:NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")
