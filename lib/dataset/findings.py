"""What a person has to know about a data set, and how it is told: all of it at once, long lists cut short."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib.core.errors import UserError

NAMES_IN_MESSAGE = 10  # of a list; beyond them only their number is told


class DatasetProblems(UserError):  # noqa: N818 (it carries many)
    """Everything that forbids the use of a data set, one sentence per problem in `problems`.

    The warnings, which may explain a problem, are told before it.
    """

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        problems, warnings = list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))  # categories may share files
        lines = (f"{number}. {problem}" for number, problem in enumerate(problems, start=1))
        head = "".join(f"WARNING: {warning}\n" for warning in warnings)
        super().__init__(f"{head}the data set has {len(problems)} problem(s), nothing is written:\n" + "\n".join(lines))
        self.problems, self.warnings = tuple(problems), tuple(warnings)


@dataclass
class Findings:
    """What a person has to know about a data set: problems forbid its use, warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Alike:
    """Problems of many places in files: of each kind the first is told in full, of the others where they are."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def add(self, file: str, place: str, kind: str, text: str) -> None:
        """Note what is wrong at a place, such as `line 4`."""
        self._of.setdefault((file, kind), []).append((place, text))

    def told(self) -> list[str]:
        """A sentence for each kind and file, in the order in which they came up."""
        told = []
        for (file, _), ((place, text), *rest) in self._of.items():
            alike = f"; alike in {len(rest)} more: {shortlist([one for one, _ in rest])}" if rest else ""
            told.append(f"{file}, {place}: {text}{alike}")
        return told


def shortlist(names: Sequence[str], between: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - NAMES_IN_MESSAGE
    return between.join(names[:NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sort key that puts 2 before 10 and takes any name; equal numbers (1, 01) go by their spelling."""
    pieces = re.split(r"([0-9]+)", name)  # text and number take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name
