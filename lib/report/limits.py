"""What each score of the gate is measured in, and where the gate refuses: for viewer, order list and histograms."""

from typing import NamedTuple

from lib.core.params import Gate


class Limit(NamedTuple):
    """A score's unit as it is read after the number, its digits after the point, and the range that is let pass."""

    unit: str
    digits: int = 2
    least: float | None = None
    most: float | None = None

    def values(self) -> list[float]:
        """The ends of the range that are there."""
        return [end for end in (self.least, self.most) if end is not None]

    def bounds(self) -> str:
        """The limit in words; empty where there is none."""
        if self.least is not None:
            return f"at least {self.least:.{self.digits}f}"
        return "" if self.most is None else f"at most {self.most:.{self.digits}f}"


def limits(gate: Gate) -> dict[str, Limit]:
    """Every score that `lib.labels.gate` gives, by its name.

    "x the thickest real one": real defects of the same type, those of the train and val parts.
    """
    least = 1 / gate.outlier
    return {
        "contrast": Limit("CIELAB units", least=gate.min_contrast),
        "area": Limit("px", 0, least=gate.min_area),
        "fill": Limit("of the box", most=gate.max_fill),
        "outside": Limit("px changed outside of the box", 0, most=0),
        "clipped": Limit("of the mask pure black or white"),
        "strength": Limit("x the strongest real contrast", most=gate.outlier),
        "size": Limit("x the smallest real area", least=least),
        "thickness": Limit("x the thickest real one", most=gate.max_thickness),
        "likeness": Limit("x the contrast of the likest real one", least=least),
        "sharpness": Limit("x the softest real edge", least=least),
        "pieces": Limit("x the most pieces of a real one", most=gate.outlier),
        "grain": Limit("x the usual grain of real surroundings", least=least),
    }


def described(limits: dict[str, Limit]) -> dict[str, dict[str, object]]:
    """The same as JSON for the page's script; a bound that a score lacks is left out."""
    return {
        name: {key: value for key, value in limit._asdict().items() if value is not None}
        for name, limit in limits.items()
    }


def titled(name: str, limits: dict[str, Limit]) -> str:
    """A score as the axis of a histogram names it; one that is not known keeps its name."""
    if name not in limits:
        return name
    bounds = limits[name].bounds()
    return f"{name}, {limits[name].unit}" + (f" ({bounds})" if bounds else "")
