"""One category by itself, read or split as `prepare` does with all of them."""

from pathlib import Path

from lib.core.params import Dataset, Layout, Split
from lib.dataset.findings import Findings
from lib.dataset.layouts import FORMATS, locate
from lib.dataset.pictures import Picture
from lib.dataset.splitting import Parts, split_categories


def read_category(root: Path, category: str, findings: Findings, layout: Layout = "auto") -> list[Picture]:
    """The pictures of one category, in the order of its layout; what names and annotations tell is in the findings."""
    place = locate(root, category, layout)
    return FORMATS[place.layout].read(place.base, findings)


def split_category(dataset: Dataset, split: Split, category: str) -> Parts:
    """The samples of one category, and the summary."""
    return split_categories(dataset.model_copy(update={"categories": (category,)}), split)[0][category]
