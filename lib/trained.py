"""Load the folder of a trained seed for inspection; errors name the broken file.

`threshold.json` holds a `lib.alarms.Decision`. If "min_area" is missing, one pixel can be an alarm; if
"alarm_threshold" is, as in models of an earlier version, every pixel from "threshold" on gives one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np

from lib.alarms import Decision
from lib.core.errors import UserError, first_line
from lib.core.geometry import RGB, Mask, Scores
from lib.core.images import Depth, is_grey, read_image, read_mask
from lib.core.regions import blanked, silenced
from lib.core.runtime import fingerprint
from lib.detection import IGNORED_PIXELS
from lib.detectors import find
from lib.metrics.boxes import ScoredBox
from lib.scoring import Answer, answer, marked_boxes

WEIGHTS = "model.safetensors"
DEPTHS = get_args(Depth)
COLOURS = ("grey", "colour", "both")  # what all pictures of a training were


Look = Callable[[RGB], Answer]  # of a picture (H, W, 3) uint8


@dataclass(frozen=True)
class Inspector:
    """A trained detector, run by torch or onnxruntime. provenance: of detector.json; weights: their fingerprint.

    at_once: the number of pictures to process in parallel; `look` must be thread-safe if it is above 1. types: those
    that it tells apart.
    """

    look: Look
    decision: Decision
    provenance: dict[str, Any]
    weights: str
    at_once: int = 1
    types: tuple[str, ...] = ()

    def predict(self, image: RGB) -> Scores:
        """(H, W, 3) uint8 -> (H, W) float32."""
        return self.look(image).scores

    def read(self, path: Path) -> RGB:
        """The picture in a file, (H, W, 3) uint8, its values scaled as in training.

        Raises UserError for one that cannot be read, one of another depth, and for a grey one where all pictures in
        training had colours, or the other way round: scores of what no training picture was like mean nothing.
        """
        image = read_image(path, self.depth)
        colours = self.provenance.get("colours", "both")
        if colours != "both" and colours != (kind := "grey" if is_grey(image) else "colour"):
            kinds = {"grey": "grey (red, green and blue are equal everywhere)", "colour": "in colour"}
            raise UserError(
                f"{path}: is {kinds[kind]}, and all pictures that the model was trained on are {kinds[colours]}: take "
                "pictures as they were in training, or train on pictures like this one"
            )
        return image

    @property
    def depth(self) -> Depth:
        """The depth, in training, of pictures with more than 8 bits."""
        depth: Depth = self.provenance["depth"]
        return depth

    def boxes(self, answer: Answer, mask: Mask) -> list[ScoredBox]:
        """The boxes of detected defects: the detector's own that can be marked and contain a marked pixel, or, if it
        predicts none, those of the regions of the mask."""
        if answer.boxes is None:
            return marked_boxes(self.decision, mask, answer.scores, answer.labels)
        lowest = np.float32(self.decision.lowest)  # as in masks, whose scores have no more digits
        return [one for one in answer.boxes if np.float32(one.score) >= lowest and _holds(mask, one)]


def _holds(mask: Mask, box: ScoredBox) -> bool:
    x0, y0, x1, y1 = (max(round(value), 0) for value in box.box)
    return bool(mask[y0:y1, x0:x1].any())


@dataclass(frozen=True)
class Trained:
    """A trained seed in torch: the module of its method, its model, and the other files of its folder."""

    module: ModuleType
    model: Any
    decision: Decision
    provenance: dict[str, Any]
    weights: str
    ignored: Mask | None  # (H, W): pixels that never count

    def inspector(self) -> Inspector:
        look = counting(partial(answer, self.module, self.model), self.ignored)
        types = getattr(self.model, "types", ())
        return Inspector(look, self.decision, self.provenance, self.weights, types=types)


def counting(look: Look, ignored: Mask | None) -> Look:
    """`look` for pictures whose `ignored` pixels never count; raises UserError for a picture of another size."""
    if ignored is None:
        return look

    def counted(image: RGB) -> Answer:
        answer = look(without_ignored(image, ignored))
        return answer._replace(scores=silenced(answer.scores, ignored))

    return counted


def without_ignored(image: RGB, ignored: Mask) -> RGB:
    """The picture (H, W, 3) without the pixels that never count. Raises UserError if it has another size."""
    if image.shape[:2] != ignored.shape:
        (height, width), (rows, columns) = image.shape[:2], ignored.shape
        raise UserError(
            f"{width} x {height} px, but the pixels that this model ignores are told for {columns} x {rows} px: take "
            "pictures as they were in training"
        )
    return blanked(image, ignored)


def load_trained(folder: Path) -> Trained:
    """Read the folder of a trained seed. Raises UserError, which names the file, where one is missing, broken, or of
    another detector."""
    provenance = read_provenance(folder)
    decision = read_decision(folder)
    module = find(provenance["detector"])
    file = folder / WEIGHTS
    try:
        model = module.load(folder)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or file}: not found; copy the whole folder of the trained seed") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'config.json'}: cannot be read as JSON ({error}); copy it anew") from error
    except Exception as error:  # torch, safetensors and pydantic each have exceptions of their own
        raise UserError(
            f"{file}: holds no whole {provenance['detector']} as config.json describes it ({first_line(error)}); copy "
            "the folder of the trained seed anew, or train it again"
        ) from error
    return Trained(
        module, model, decision, provenance, fingerprint(file) if file.is_file() else "", read_ignored(folder)
    )


def read_ignored(folder: Path) -> Mask | None:
    """The pixels that a trained seed ignores, (H, W) bool; None where all count. Raises UserError for a broken file."""
    file = folder / IGNORED_PIXELS
    return read_mask(file) if file.exists() else None


def read_provenance(folder: Path) -> dict[str, Any]:
    """detector.json. Raises UserError unless the folder has one that names detector and depth."""
    if not (folder / "detector.json").is_file():
        raise UserError(f"{folder}: holds no trained detector; expected a folder seed-N that baseline or detect wrote")
    provenance = _read_object(folder / "detector.json")
    return checked_provenance(provenance, folder / "detector.json")


def checked_provenance(provenance: Any, file: Path) -> dict[str, Any]:
    """The same. Raises UserError unless it is an object with detector and depth, and colours, if there, are known."""
    if not isinstance(provenance, dict) or not isinstance(provenance.get("detector"), str):
        raise UserError(f"{file}: expected an object of JSON with detector, a name")
    for name, known in {"depth": DEPTHS, "colours": COLOURS}.items():
        if (value := provenance.get(name, "both" if name == "colours" else None)) not in known:
            raise UserError(f"{file}: {name} is {value!r}, expected one of {', '.join(map(str, known))}")
    return provenance


def read_decision(folder: Path) -> Decision:
    """threshold.json. Raises UserError where it is missing or does not hold what it should."""
    file = folder / "threshold.json"
    values = _read_object(file)
    return checked_decision(values, file)


def checked_decision(values: Mapping[str, Any], file: Path) -> Decision:
    """The Decision among the values of a file. Raises UserError unless thresholds are finite numbers, and the least
    area a whole one of at least 1."""
    values = {"alarm_threshold": values.get("threshold"), "min_area": 1} | {**values}
    thresholds = []
    for name in ("threshold", "alarm_threshold"):
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
            raise UserError(f"{file}: {name} is {value!r}, expected a number")
        thresholds.append(float(value))
    min_area = values["min_area"]
    if not isinstance(min_area, int) or isinstance(min_area, bool) or min_area < 1:
        raise UserError(f"{file}: min_area is {min_area!r}, expected a whole number of pixels, at least 1")
    return Decision(thresholds[0], thresholds[1], min_area)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found; copy the whole folder of the trained seed") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({first_line(error)}); copy it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected an object of JSON")
    return values
