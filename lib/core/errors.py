"""The one exception that says: the user can mend this."""


class UserError(ValueError):
    """A mistake in the data, the parameters or the command: the message names file or key, expectation and remedy.

    Stages print it as it is and end with exit code 2. Every other exception is a fault of the program, or of the
    machine, and keeps its traceback.
    """
