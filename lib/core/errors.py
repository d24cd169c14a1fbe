"""The exception for errors that the user can fix."""


class UserError(ValueError):
    """An error in the data, the parameters or the command: the message names file or key, expectation and remedy.

    Stages print the message and end with exit code 2. Every other exception is a fault of the program or the machine,
    and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none: libraries' messages may fill a screen."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
