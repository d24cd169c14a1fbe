"""What `prepare` would read from a folder of pictures, before anything is written.

    python -m lib.dataset.inspect data/mydata

It says what it takes the folder for, and why; of each category how many pictures of which type it finds in which part,
their sizes, and how their masks come about; then all warnings and all problems. Where there is a params.yaml, its rule
splits the pictures, too, and if its `dataset.path` is this folder, the rest of its section `dataset` counts as well,
and folders that its `dataset.categories` leaves out are named.
Nothing is written. The exit code is 1 if there are problems.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from tabulate import tabulate

from lib.core.command import end_with
from lib.core.errors import UserError, shortlist
from lib.core.params import Dataset, Layout, Params, load
from lib.core.records import GOOD
from lib.dataset.examination import Examination
from lib.dataset.layouts import categories_of, whole
from lib.dataset.pictures import fits
from lib.dataset.reading import unreadable
from lib.dataset.splitting import split_looks
from lib.dataset.survey import Look, look_at, taken_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what dataset.path would name")
    parser.add_argument("--layout", choices=get_args(Layout), help="what to take the folder for; default: auto")
    parser.add_argument("--category", action="append", help="one of its categories, or more by more; default: all")
    args = parser.parse_args()
    return inspect(args.folder, args.layout, args.category)


def inspect(folder: Path, layout: Layout | None, categories: list[str] | None) -> int:
    """Look at a data set and print the report; the exit code. Raises UserError as `place_of` and `dataset_of`."""
    folder = place_of(folder)
    params = load() if Path("params.yaml").is_file() else None
    own = own_section(folder, params)
    dataset = dataset_of(folder, layout, categories or (list(own.categories) if own else None), params)
    looks = {category: look_at(dataset, category) for category in dataset.categories}
    lines, problems = report(looks, dataset, params)
    if own and (left := [name for name in _there(folder, dataset.layout, own) if name not in own.categories]):
        lines += ["", f"not read by prepare: {shortlist(left)}, which dataset.categories in params.yaml leaves out"]
    print("\n".join(lines))
    return 1 if problems else 0


def place_of(folder: Path) -> Path:
    """The folder as params.yaml names it: within this repository from its root. Raises UserError for one that cannot
    be a data set."""
    root, real = Path().resolve(), folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if real in (root, *root.parents):
        raise UserError(f"{folder}: holds this project, too; put the pictures into a folder of their own")
    return real.relative_to(root) if root in real.parents else folder


def own_section(folder: Path, params: Params | None) -> Dataset | None:
    """The section `dataset` of params.yaml, if it is about this folder, however both name it."""
    return params.dataset if params and Path(params.dataset.path).resolve() == folder.resolve() else None


def dataset_of(folder: Path, layout: Layout | None, categories: list[str] | None, params: Params | None) -> Dataset:
    """The section `dataset` that a dry run goes by; categories: None takes all that are there.

    Raises UserError for a folder without categories, and for one that dataset.path could not name.
    """
    own = own_section(folder, params)
    layout = layout or (own.layout if own else "auto")
    names = categories or _there(folder, layout, own)
    if unfit := [name for name in names if not fits(name)]:
        raise UserError(f"{', '.join(unfit)}: a category has at most 64 letters, digits, _ and -; rename the folder")
    if not names:
        unknown = f"{folder}: holds no folders and no annotations of any known layout"
        raise UserError("\n".join([unknown, *unreadable(folder, depth=0)]))
    settings = own.model_dump() if own else dict.fromkeys(("group_table", "group_column", "group_pattern"))
    changed = {"path": folder.as_posix(), "layout": layout, "categories": tuple(dict.fromkeys(names))}
    try:
        return Dataset.model_validate({"depth": "auto", **settings, **changed})
    except ValidationError as error:
        raise UserError(
            "; ".join(f"{folder}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        ) from error


def _there(folder: Path, layout: Layout, own: Dataset | None) -> list[str]:
    """The categories in a folder, without what its own section names as folders of other pictures."""
    names = categories_of(folder, layout)
    if own is None:
        return names
    if len(own.categories) == 1 and whole(folder, layout):
        return list(own.categories)  # where all of it is one category, any name will do
    others = [Path(other) for other in (own.foreground, own.regions) if other]
    return [name for name in names if name in own.categories or not any(other.is_relative_to(name) for other in others)]


def report(looks: dict[str, Look], dataset: Dataset, params: Params | None) -> tuple[list[str], list[str]]:
    """The lines of the report, and the problems among them."""
    lines = taken_for(looks)
    for category, look in looks.items():
        if look.pictures:
            lines += ["", f"{category}: {len(look.pictures)} pictures", _table(look)]
    if params is None:
        problems = [problem for look in looks.values() for problem in look.findings.problems]
    else:
        splits, depth, problems = split_looks(looks, dataset, params.split)
        lines += ["", f"values of depth {depth}"] if depth != 8 else []
        for category, (samples, _) in splits.items():
            counts = Counter(sample.split for sample in samples)
            parts = ", ".join(f"{counts[part]} {part}" for part in ("train", "val", "test"))
            lines += ["", f"{category}: by split.rule {params.split.rule}: {parts}"]
    problems = list(dict.fromkeys(problems))  # categories may share files
    warnings = list(dict.fromkeys(warning for look in looks.values() for warning in look.findings.warnings))
    lines += ["", f"{len(warnings)} warning(s)", *(f"  {number}. {one}" for number, one in enumerate(warnings, 1))]
    lines += ["", f"{len(problems)} problem(s)", *(f"  {number}. {one}" for number, one in enumerate(problems, 1))]
    return lines, problems


def _table(look: Look) -> str:
    """A row for each type and part of a category."""
    rows: dict[tuple[str, str], list[Examination]] = defaultdict(list)
    for one in look.examinations:
        rows[one.picture.defect_type, one.picture.folder].append(one)
    ordered = sorted(rows, key=lambda key: (key[0] != GOOD, key))
    return tabulate(
        [
            [name, part or "-", len(rows[name, part]), _sizes(rows[name, part]), _masks(rows[name, part])]
            for name, part in ordered
        ],
        headers=["type", "part", "pictures", "px", "masks"],
    )


def _sizes(examinations: list[Examination]) -> str:
    """The size of pictures, or the range of it."""
    sizes = [one.size for one in examinations if one.size != (0, 0)]
    ranges = [sorted({size[axis] for size in sizes}) for axis in (0, 1)]
    return " x ".join(f"{side[0]} to {side[-1]}" if len(side) > 1 else str(side[0]) for side in ranges if side)


def _masks(examinations: list[Examination]) -> str:
    """How the masks of pictures come about, and of how many defects."""
    sources = Counter(
        "file" if one.picture.mask else one.drawn.source if one.drawn else "none"
        for one in examinations
        if one.picture.defect_type != GOOD
    )
    regions = Counter(
        region.defect_type
        for one in examinations
        if one.picture.annotation
        for region in one.picture.annotation.regions
    )
    listed = ", ".join(f"{number} {source}" for source, number in sorted(sources.items()))
    defects = ", ".join(f"{number} {name}" for name, number in sorted(regions.items()))
    return f"{listed}: {defects}" if defects else listed


if __name__ == "__main__":
    end_with(main)
