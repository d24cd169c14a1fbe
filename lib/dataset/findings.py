"""Problems and warnings about a data set, reported all at once, with long lists abbreviated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import UserError, shortlist


class DatasetProblems(UserError):  # noqa: N818 (it carries many)
    """All problems of a data set, one sentence each in `problems`.

    The message lists warnings first, since they may explain a problem.
    """

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        problems, warnings = list(dict.fromkeys(problems)), list(dict.fromkeys(warnings))  # categories may share files
        lines = (f"{number}. {problem}" for number, problem in enumerate(problems, start=1))
        head = "".join(f"WARNING: {warning}\n" for warning in warnings)
        super().__init__(f"{head}the data set has {len(problems)} problem(s), nothing is written:\n" + "\n".join(lines))
        self.problems, self.warnings = tuple(problems), tuple(warnings)


@dataclass
class Findings:
    """What was found about a data set: with problems it cannot be used, with warnings it can.

    apart: folders within it that hold no pictures of it, but what params.yaml names them for; readers pass them over.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    apart: tuple[Path, ...] = ()


class Alike:
    """Problems at many places in files: of each kind the first is reported in full, the others by their places."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def add(self, file: str, place: str, kind: str, text: str) -> None:
        """Add a problem at a place, such as `line 4`."""
        self._of.setdefault((file, kind), []).append((place, text))

    def messages(self) -> list[str]:
        """A sentence for each file and kind, in the order of their first problem."""
        messages = []
        for (file, _), ((place, text), *rest) in self._of.items():
            alike = f"; alike in {len(rest)} more: {shortlist([one for one, _ in rest])}" if rest else ""
            messages.append(f"{file}, {place}: {text}{alike}")
        return messages


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sort key for natural order (2 before 10) that accepts any name; equal numbers (1, 01) are sorted as text."""
    pieces = re.split(r"([0-9]+)", name)  # text and number take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name
