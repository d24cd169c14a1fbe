"""Captions of defects: phrases for the location in the picture, and captions that name type and location.

The first caption has the structure published with MvP-Diff (overview figure of its repository): the anomaly, its
location in the image, and a tag made of category and defect type. The others are paraphrases, so that fine-tuning does
not tie the defect to one sentence.
"""

import re
from collections.abc import Sequence

_ROWS, _COLUMNS = ("upper", "middle", "bottom"), ("left", "center", "right")
_CENTER = "in the center"  # of the middle row and the center column
_OPPOSITE = {"left": "right", "right": "left", "upper": "bottom", "bottom": "upper"}

_TEMPLATES = (
    "There is {a_defect} {location} of the image; {tag}",
    "The image shows {a_defect} {location}; {tag}",
    "A picture of the {category} with {a_defect} {location}; {tag}",
    "The {category} has {a_defect} {location} of the picture; {tag}",
    "{location}, the {category} shows {a_defect}; {tag}",
)


def location_of(place: Sequence[float], width: int, height: int) -> str:
    """The cell of a 3 x 3 grid over the picture in words, such as "in the upper right"; the middle is "in the center".

    place: a point (x, y), or a box (x0, y0, x1, y1) that counts by its centre; in px, the picture's left and top
    border at 0, the others at `width` and `height` (so the middle of the first pixel is 0.5). A point on a line of
    the grid belongs to the cell nearer to the centre: mirroring the picture mirrors the words. Raises ValueError for
    anything that is neither a point nor a box.
    """
    if len(place) not in (2, 4):
        raise ValueError(f"expected a point (x, y) or a box (x0, y0, x1, y1), not {tuple(place)}")
    x, y = place if len(place) == 2 else ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    row, column = _ROWS[_third(y, height)], _COLUMNS[_third(x, width)]
    return _CENTER if (row, column) == ("middle", "center") else f"in the {row} {column}"


def mirrored(location: str, left_right: bool, up_down: bool) -> str:
    """The location phrase of the same place in the picture flipped left to right, upside down, or both."""
    words = {*(("left", "right") if left_right else ()), *(("upper", "bottom") if up_down else ())}
    return " ".join(_OPPOSITE[word] if word in words else word for word in location.split(" "))


def captions(defect_type: str, category: str, location: str) -> tuple[str, ...]:
    """All captions of one defect; the first is the `prompt`. `location` is what `location_of` returns."""
    words = _words(defect_type)
    noun = words if words.split()[-1] == "defect" else f"{words} defect"
    parts = {
        "a_defect": f"{_article(noun)} {noun}",
        "category": _words(category),
        "location": location,
        "tag": _tag(category, defect_type),
    }
    sentences = (template.format(**parts) for template in _TEMPLATES)
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)


def prompt(defect_type: str, category: str, location: str) -> str:
    """The one sentence that a generator is given: the first of `captions`."""
    return captions(defect_type, category, location)[0]


def normal_caption(category: str) -> str:
    """The caption of a picture without a defect; "flawless", since text encoders tend to ignore a "no"."""
    return f"The {_words(category)} in the image is flawless; {_tag(category, 'good')}"


def _third(position: float, extent: float) -> int:
    """0, 1 or 2: the third of 0..extent; rounded, so that the last bit of a centroid does not matter."""
    offset = round(6 * position / extent - 3, 6)  # -3..3, antisymmetric about the middle
    return 0 if offset < -1 else 2 if offset > 1 else 1


def _words(name: str) -> str:
    """A name from a folder in prose: `broken_large` becomes "broken large"."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _tag(category: str, defect_type: str) -> str:
    """The published end of every caption, such as `metal_nut_color`."""
    return re.sub(r"\s+", "_", f"{category}_{defect_type}")


def _article(words: str) -> str:
    """The article: "an" before a vowel sound, else "a"; by spelling, with the few prefixes where the two differ."""
    vowel = re.match(r"[aeiou]|8|1[18]\b|hour|hones|heir", words)
    consonant = re.match(r"uni(?![mn])|us[aeu]|uti|eu|one\b|once\b", words)
    return "an" if vowel and not consonant else "a"
