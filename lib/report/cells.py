"""Tables of the report, and how their cells are written: for report.md, the page and the terminal alike."""

from typing import NamedTuple

import pandas as pd


class Part(NamedTuple):
    """A table of the report under its title, and what it means, in Markdown; without a table the note says why.

    folded: the page shows it on demand.
    """

    title: str
    table: pd.DataFrame | None
    note: str = ""
    folded: bool = False


def as_text(part: Part) -> str:
    """The part as a section of report.md."""
    table = [] if part.table is None else [markdown(part.table)]
    return "\n\n".join([f"## {part.title}", *table, *filter(None, [part.note])])


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of the cells as they are, padded, so that it reads well as plain text too."""
    return frame.astype(str).to_markdown(index=False, disable_numparse=True)


def short(value: float | None) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def share(value: float | None) -> str:
    return "-" if pd.isna(value) else f"{value:.0%}"


def mean_and_std(mean: float | None, std: float | None) -> str:
    return short(mean) if pd.isna(std) else f"{short(mean)} ± {short(std)}"


def tenths(value: float, sign: str = "") -> str:
    """A number of 100 to its first decimal place; sign: "+" writes that of positive numbers, too."""
    return "-" if pd.isna(value) else f"{round(value, 1) + 0.0:{sign}.1f}"


def tenths_and_std(mean: float, std: float) -> str:
    return tenths(mean) if pd.isna(std) else f"{tenths(mean)} ± {tenths(std)}"
