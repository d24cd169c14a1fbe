"""What is told of a library's error."""

import pytest

from lib.core.errors import LONGEST, first_line


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("no such key\nTraceback", "no such key"),
        ("\n Error(s) in loading:\n\n\tMissing key(s): a\n\tb", "Error(s) in loading: Missing key(s): a"),
        ("wrong:", "wrong:"),
        (" ", "KeyError"),
        ("x" * 999, "x" * LONGEST),
    ],
)
def test_the_first_line_says_what_went_wrong(message: str, told: str):
    error = type("KeyError", (Exception,), {})(message)
    assert first_line(error) == told
