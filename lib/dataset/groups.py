"""Capture groups: pictures that show the same thing, and must be in the same part of the split."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lib.core.errors import UserError, shortlist
from lib.core.params import Dataset
from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture
from lib.dataset.reading import read_table


def read_groups(dataset: Dataset, pictures: Sequence[Picture], findings: Findings) -> dict[str, str]:
    """The capture group of every picture, by the picture's id.

    From the column `group_column` of `group_table`, whose column `path` is relative to the data set, or from the
    first group of the regular expression `group_pattern`, searched in that path. Where neither is set, the layout may
    know the group. Any other picture is a group of its own.
    """
    root = Path(dataset.path)
    names = {picture.id: picture.path.relative_to(root).as_posix() for picture in pictures}
    if dataset.group_table is not None and dataset.group_column is not None:
        source = f"{root / dataset.group_table}, column {dataset.group_column!r}"
        groups = _groups_from_table(source, root, dataset.group_table, dataset.group_column, names, findings)
    elif dataset.group_pattern is not None:
        source = f"dataset.group_pattern {dataset.group_pattern!r}"
        groups = _groups_from_pattern(source, dataset.group_pattern, names, findings)
    else:
        return {picture.id: picture.group or picture.id for picture in pictures}
    if missing := [names[key] for key, group in groups.items() if not group]:
        findings.warnings.append(
            f"{source}: no group for {len(missing)} of {len(names)} pictures, each of which "
            f"becomes a group of its own: {shortlist(missing)}"
        )
    return {key: group or key for key, group in groups.items()}


def _groups_from_table(
    source: str, root: Path, table: str, column: str, names: dict[str, str], findings: Findings
) -> dict[str, str]:
    """The group of each picture, or "", by id, from a table in the data set; names: paths in the data set, by id."""
    group_of = _read_table(root / table, column, findings)
    if group_of and not any(name in group_of for name in names.values()):
        findings.problems.append(
            f"{source}: no row for any picture; the column 'path' must hold paths relative to "
            f"{root}, such as {next(iter(names.values()), 'category/good/1.png')}"
        )
    return {key: group_of.get(name, "") for key, name in names.items()}


def _groups_from_pattern(source: str, pattern: str, names: dict[str, str], findings: Findings) -> dict[str, str]:
    """The group of each picture, or "", by id, from its path; none at all where the pattern is unfit."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        findings.problems.append(f"{source}: no regular expression: {error}")
        return {}
    if not compiled.groups:
        findings.problems.append(f"{source}: has no group; put parentheses around what names the capture group")
        return {}
    groups = {key: (match[1] or "") if (match := compiled.search(name)) else "" for key, name in names.items()}
    if groups and not any(groups.values()):
        findings.problems.append(f"{source}: matches no picture, such as {next(iter(names.values()))}")
    return groups


def _read_table(path: Path, column: str, findings: Findings) -> dict[str, str]:
    """Group by picture path from a CSV file; empty, with a problem noted, when it cannot be read."""
    try:
        columns, rows = read_table(path)
    except UserError as error:
        findings.problems.append(f"dataset.group_table: {error}; or set it and dataset.group_column to null")
        return {}
    keys = [name.lower() for name in columns]
    if absent := [name for name in ("path", column) if name.lower() not in keys]:
        findings.problems.append(
            f"{path}: no column {', '.join(map(repr, absent))}; the columns are {', '.join(columns)} (separated by "
            f"commas, semicolons or tabs)"
        )
        return {}
    groups: dict[str, str] = {}
    for line, row in rows:
        name, group = PurePosixPath(row["path"].replace("\\", "/")).as_posix(), row[column.lower()]
        if groups.setdefault(name, group) != group:
            findings.problems.append(
                f"{path}, line {line}: {name} is in two groups, {groups[name]!r} and {group!r}; keep one row for each "
                f"picture"
            )
    return groups
