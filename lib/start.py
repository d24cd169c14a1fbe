"""From a folder of pictures to settings: what is in it, what is proposed, why, and about how long that takes.

    python -m lib.start data/mydata              says what it sees and proposes, and asks before it writes params.yaml
    python -m lib.start data/mydata --yes        writes without asking
    python -m lib.start data/mydata --thorough   proposes what gives figures to rely on, not what gives a first look

The pictures are read like `python -m lib.dataset.inspect` does. If they have problems, all are told, the exit code is
1, and nothing is written. The knobs of params.yaml that are proposed are changed there, and its comments stay.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lib.budget import pace, seconds
from lib.core.command import ESTIMATE, end_with
from lib.core.errors import UserError
from lib.core.params import Dataset, Layout, Params, load
from lib.core.runtime import write_json
from lib.dataset.groups import read_groups
from lib.dataset.inspect import dataset_of, place_of, report
from lib.dataset.splitting import assign_splits
from lib.dataset.survey import Look, look_at, taken_for
from lib.preset import flow, with_settings, write
from lib.proposal import SILENT, Choice, Facts, choices, facts_of, group_table, settings_of
from lib.repro import about

COMMAND = "make report" if os.name != "nt" else "python -m lib.repro report"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="your pictures: one category, or a folder for each")
    parser.add_argument(
        "--category", action="append", metavar="NAME", help="one of them, or more by more; default: all"
    )
    parser.add_argument("--layout", choices=get_args(Layout), help="what to take the folder for; default: auto")
    parser.add_argument("--thorough", action="store_true", help="more seeds, steps, samples, generators and detectors")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args()
    return start(place_of(args.folder), args.layout, args.category, args.thorough, args.yes, args.dry_run)


def start(
    folder: Path, layout: Layout | None, categories: list[str] | None, thorough: bool, yes: bool, dry_run: bool
) -> int:
    """Look at a data set, propose settings, and write them if a person, or `yes`, says so; the exit code."""
    params = load()
    if lacking := {"unet", "mvp_diff"} - params.model_dump().keys():
        raise UserError(
            f"params.yaml: lacks the section(s) {', '.join(sorted(lacking))}, of which it proposes settings: copy "
            "them from the repository's own"
        )
    dataset = dataset_of(folder, layout, categories, params)
    looks = {category: look_at(dataset, category) for category in dataset.categories}
    grouped = with_groups(dataset, looks)
    if grouped != dataset:
        print(
            f"capture groups: {grouped.group_table}, column {grouped.group_column!r}, taken for them by its name; if "
            f"its values are something else, such as kinds of parts, rename the column\n"
        )
    dataset = grouped
    if any(look.findings.problems for look in looks.values()):
        print("\n".join(report(looks, dataset, params)[0]))
        return 1
    reasons = [line.removesuffix(" (dataset.layout)") for line in taken_for(looks)]
    facts = facts_of(dataset, looks, "; ".join(reasons))
    chosen = choices(facts, thorough)
    proposed = with_choices(params, chosen)
    lines, problems = report(looks, dataset, proposed)
    print("\n".join(lines))
    if problems:
        return 1
    print("\nProposed for params.yaml:")
    print("\n".join(lines_of(chosen, params)))
    if folder.parts[:1] != ("data",) and not folder.is_absolute() and ".." not in folder.parts:
        print(f"\nWARNING: Git ignores data/, not {folder.parts[0]}/: an experiment of DVC would commit the pictures")
    total = expected(proposed, looks, facts)
    base = "" if params.base.model == "models/base" else f" with models/base ({params.base.model} takes longer)"
    print(f"\nThe whole run takes {about(total)} here{base} without a GPU, perhaps half, perhaps twice as long.")
    if not thorough:
        print("It is a first look; --thorough proposes what gives figures to rely on.")
    code = written(chosen, yes, dry_run)
    if code == 0 and not dry_run:
        write_json(ESTIMATE, round(total))
    return code


def with_groups(dataset: Dataset, looks: dict[str, Look]) -> Dataset:
    """The data set with the table of its capture groups, if one lies in it and nothing else tells them."""
    pictures = [picture for look in looks.values() for picture in look.pictures]
    if dataset.group_table or dataset.group_pattern or any(picture.group for picture in pictures):
        return dataset
    root = Path(dataset.path)
    names = {picture.path.relative_to(root).as_posix() for picture in pictures}
    if not (table := group_table(root, names, next(iter(looks.values())).findings)):
        return dataset
    dataset = dataset.model_copy(update={"group_table": table.name, "group_column": table.column})
    for look in looks.values():
        look.groups = read_groups(dataset, look.pictures, look.findings)
    return dataset


def with_choices(params: Params, chosen: Sequence[Choice]) -> Params:
    """The settings with the choices in them."""
    values: dict[str, Any] = params.model_dump()
    for section, knobs in settings_of(chosen).items():
        values[section] = {**values[section], **knobs} if isinstance(knobs, dict) else knobs
    return Params.model_validate(values)


def expected(params: Params, looks: Mapping[str, Look], facts: Facts) -> float:
    """About how many seconds the chain takes on this machine, as busy as it is now."""
    counts: Counter[str] = Counter()
    for look in looks.values():
        part_of = assign_splits(look.pictures, look.groups, params.split)
        counts.update(part_of[look.groups[one.id]] for one in look.pictures)
    return pace() * sum(seconds(params, counts, len(facts.numbers), facts.megapixels).values())


def lines_of(chosen: Sequence[Choice], params: Params) -> list[str]:
    """A line for each choice: the knob, its value, what it was, and why."""
    lines, before = [], params.model_dump()
    for key, value, reason in chosen:
        section, _, knob = key.partition(".")
        was = before[section][knob] if knob else before[section]
        same = list(was) == value if isinstance(value, list) else was == value
        if not (same and reason == SILENT):
            change = "as it is" if same else f"was {flow(was)}"
            lines.append(f"  {key}: {flow(value)} ({change}): {reason}")
    return lines


def written(chosen: Sequence[Choice], yes: bool, dry_run: bool) -> int:
    """Write the choices, if they are wanted, and say what to run; the exit code."""
    changed = with_settings([("lib.start", settings_of(chosen))])  # refuses what cannot be, before anybody is asked
    if dry_run:
        print("\nNothing is written (--dry-run).")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nothing is written: there is no terminal to ask at; --yes writes, --dry-run only looks")
        try:
            answer = input("\nWrite this into params.yaml? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing is written.")
            return 0
    if changed:
        write(changed[0])
    print(f"\nparams.yaml {'is written' if changed else 'has all of it already'}. Now run:\n\n    {COMMAND}\n")
    return 0


if __name__ == "__main__":
    end_with(main)
