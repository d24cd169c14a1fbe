"""The typed, validated view of params.yaml. Unknown keys and invalid values are rejected with the name of the key.

Settings that methods share have a section here. Those of a single method are in the section of its name; their types
are in the method's file, in `lib/generators` or `lib/detectors`, as the class `Settings`, which `Params.section` checks
when the method is loaded, and `lib.settings.load_all` for all methods at once.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lib.core.errors import UserError
from lib.core.ownership import written_at
from lib.core.settings_file import read_settings

LIB = Path(__file__).parents[1]


# Names become parts of paths, and of commands in dvc.yaml, where they are quoted.
def _fit(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:64] or "a_name"
        raise ValueError(f"a name has at most 64 letters, digits, _ and -: rename it to, say, {better}")
    return name


Name = Annotated[str, AfterValidator(_fit)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]

LONGEST = 255  # characters in the name of a file or a folder, the limit of file systems
REAL_ONLY = "none"  # the arm without a generator: detectors are trained on the real defects only
PLACEBO = "placebo"  # the same arm with other seeds: shows how far two equal arms differ by chance
PLACEBO_SEED = 1000  # added to each of `detect.seeds` in the placebo

Part = Literal["train", "val", "test"]  # of the real pictures
Format = Literal["mvtec", "coco", "yolo", "datumaro", "csv"]  # of other tools, each a file in lib/export
PARTS: tuple[Part, ...] = get_args(Part)

Item = TypeVar("Item")


def _distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand there once")
    return values


def _placebo_apart(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """With a seed in both arms the same detector would be in both, and chance would seem smaller than it is."""
    if both := sorted(set(seeds) & {seed + PLACEBO_SEED for seed in seeds}):
        raise ValueError(
            f"the placebo trains under seeds that are {PLACEBO_SEED} higher, so {both[0]} would be a seed of both "
            f"arms: expected no two seeds that are {PLACEBO_SEED} apart; take another number for {both[0]}"
        )
    return seeds


Several = Annotated[tuple[Item, ...], Field(min_length=1), AfterValidator(_distinct)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Workpieces(Section):
    train_good: Positive
    test_good: Positive
    per_defect: Positive


# Layouts of data sets: each except `auto` is a file in lib/dataset/formats.
Layout = Literal[
    "auto", "btad", "coco", "cvat", "deeppcb", "kolektor_sdd2", "label_studio", "labelme", "mvtec", "mvtec_3d",
    "mvtec_ad2", "mvtec_loco", "plain", "table", "visa", "voc", "yolo",
]  # fmt: skip


def _apart(path: str) -> str:
    if not path or max(map(len, Path(path).parts), default=0) > LONGEST:
        raise ValueError(f"expected a folder of pictures, such as data/NAME, of names of at most {LONGEST} letters")
    if written := written_at(path):
        hint = "use a folder like data/NAME, also for a single category (FOLDER=data/bracket)"
        raise ValueError(f"the pipeline writes to {written}, which this is, holds or lies in: {hint}")
    return path


class Dataset(Section):
    path: Annotated[str, AfterValidator(_apart)]
    categories: Several[Name]
    group_table: str | None
    group_column: str | None
    group_pattern: str | None
    depth: Literal["auto", 8, 10, 12, 14, 16, "unit"]
    foreground: str | None = None
    regions: str | None = None
    layout: Layout = "auto"
    boxes: Literal["grabcut", "whole"] = "grabcut"

    @model_validator(mode="after")
    def _one_source_of_groups(self) -> "Dataset":
        if (self.group_table is None) != (self.group_column is None):
            raise ValueError("group_table and group_column belong together: set both or neither")
        if self.group_table is not None and self.group_pattern is not None:
            raise ValueError("set group_table with group_column, or group_pattern, not both")
        return self

    @model_validator(mode="after")
    def _folders_within(self) -> "Dataset":
        table = Path(self.group_table or "")
        if table.is_absolute() or ".." in table.parts:
            raise ValueError("group_table: expected a file in dataset.path, relative to it: so DVC sees changes there")
        for key in ("foreground", "regions"):
            value = getattr(self, key)
            folder = Path(key if value is None else value)
            if folder.is_absolute() or ".." in folder.parts:
                raise ValueError(f"{key}: expected a folder in dataset.path, relative to it: so DVC sees changes there")
            if not folder.parts or max(map(len, folder.parts)) > LONGEST:
                raise ValueError(
                    f"{key}: expected a folder in dataset.path that has a name of its own, of at most {LONGEST} "
                    f"letters, or null to go without"
                )
        return self


class Split(Section):
    rule: Literal["first_third", "shots", "given"]
    shots: Annotated[int, Field(ge=2)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    fold: Literal[0, 1, 2] = 0
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _given_parts_do_not_turn(self) -> "Split":
        if self.rule == "given" and self.fold:
            raise ValueError("fold: the parts of rule given are those of the data set; set fold to 0, or another rule")
        return self


class Boxes(Section):
    margin: Annotated[float, Field(ge=0, le=2)]
    min_area: Positive


class Placements(Section):
    per_type: Positive
    jitter: Share
    on_part: bool


class Base(Section):
    model: str
    revision: str | None
    allow_download: bool


class WindowParams(Section):
    context: Annotated[float, Field(ge=1, le=16)]
    min_side: Annotated[int, Field(ge=16)]


class Training(Section):
    """The settings of `lib.diffusion.training`."""

    steps: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    gradient_clip: Annotated[float, Field(gt=0)]
    checkpoint_every: Positive


class Finetune(Training):
    """The training budget of every diffusion method, and the weighting of its objective."""

    min_snr_gamma: Annotated[float, Field(gt=0)] | None
    caption_dropout: Share


class Synth(Section):
    scheduler: Literal["ddim", "dpm++", "euler", "unipc"]
    steps: Positive
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    guidance_share: Share
    strength: Annotated[float, Field(gt=0, le=1)]
    noise_blur: Share
    batch_size: Positive
    feather: Annotated[int, Field(ge=0)]


class Masks(Section):
    method: Literal["measured", "cosine_rgb_otsu"]
    component_ratio: Share
    keep: Literal["changed", "box"]


class Gate(Section):
    min_contrast: Annotated[float, Field(ge=0)]
    min_area: Positive
    max_fill: Share
    outlier: Annotated[float, Field(ge=1)]
    max_thickness: Annotated[float, Field(ge=1)]


class Fidelity(Section):
    neighbours: Positive
    placements: Positive


class Detect(Section):
    """The training budget of every detector, and which of them are also trained with each generator's samples."""

    on_synthetic: tuple[Name, ...]
    seeds: Annotated[Several[Annotated[int, Field(ge=0)]], AfterValidator(_placebo_apart)]
    scale: Annotated[float, Field(gt=0, le=1)]
    window: Annotated[int, Field(ge=32, multiple_of=16)]
    encoder: str
    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0)]
    synthetic_share: Share
    validate_every: Positive
    false_alarm_rate: Annotated[float, Field(ge=0, lt=1)] | None
    min_area: Positive | None


class Evaluate(Section):
    fpr_limit: Annotated[float, Field(gt=0, le=1)]
    overlays: Positive


class Export(Section):
    formats: Annotated[tuple[Format, ...], AfterValidator(_distinct)]
    parts: Several[Part]


def methods(kind: Literal["generators", "detectors"]) -> tuple[str, ...]:
    """The names of all methods: every file in the folder `lib/<kind>` is one."""
    return tuple(sorted(file.stem for file in (LIB / kind).glob("*.py") if file.stem != "__init__"))


Own = TypeVar("Own", bound=Section)


class Params(BaseModel):
    """The whole of params.yaml, which explains each key in a comment.

    Besides the shared sections below there is one for every method in use, with the method's name.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    seed: Annotated[int, Field(ge=0)]
    workpieces: Workpieces
    dataset: Dataset
    split: Split
    boxes: Boxes
    placements: Placements
    base: Base
    window: WindowParams
    generators: Several[Name]
    finetune: Finetune
    synth: Synth
    masks: Masks
    gate: Gate
    fidelity: Fidelity
    detectors: Several[Name]
    detect: Detect
    evaluate: Evaluate
    export: Export

    def arms(self, detector: str) -> tuple[str, ...]:
        """The arms of a detector: real defects only, the placebo, then one with the samples of each generator."""
        return REAL_ONLY, PLACEBO, *(self.generators if detector in self.detect.on_synthetic else ())

    def section(self, method: str, settings: type[Own]) -> Own:
        """The settings of one method, from its own section. Raises UserError with one line per problem."""
        try:
            return settings.model_validate((self.model_extra or {}).get(method))
        except ValidationError as error:
            raise UserError(_message(Path("params.yaml"), error.errors(), method)) from error


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and validate params.yaml: the shared sections, and that every method in use exists and has its section.

    Raises UserError like `read_settings`, and with one line per problem: the key, what was expected, what was found.
    """
    try:
        params = Params.model_validate(read_settings(path))
    except ValidationError as error:
        raise UserError(_message(path, error.errors())) from error
    if problems := _methods_at_fault(params):
        raise UserError(f"{path}: {len(problems)} problem(s):\n" + "\n".join(f"  {problem}" for problem in problems))
    return params


def _methods_at_fault(params: Params) -> list[str]:
    """One line for each method without a file or a section, and for each key that is neither section nor method."""
    generators, detectors, sections = methods("generators"), methods("detectors"), params.model_extra or {}
    problems = [
        f"{kind}.{number}: no method has this name, known are {', '.join(available)} (found {name!r}); "
        f"a new one is a file lib/{kind}/{name}.py"
        for kind, available, names in (
            ("generators", generators, params.generators),
            ("detectors", detectors, params.detectors),
        )
        for number, name in enumerate(names)
        if name not in available
    ]
    problems += [
        f"{name}: the method has no section of its own: add the line `{name}: {{}}`, or its settings"
        for name in dict.fromkeys((*params.generators, *params.detectors))
        if name in (*generators, *detectors) and name not in sections
    ]
    problems += [
        f"{name}: a section holds keys and values (found {value!r:.80})"
        for name, value in sections.items()
        if name in (*generators, *detectors) and not isinstance(value, dict)
    ]
    problems += [
        f"{name}: Extra inputs are not permitted; neither a section nor a method has this name"
        for name in sections
        if name not in (*generators, *detectors, *params.generators, *params.detectors)
    ]
    problems += [
        f"detect.on_synthetic.{number}: expected a name from detectors (found {name!r}); [] for none"
        for number, name in enumerate(params.detect.on_synthetic)
        if name not in params.detectors
    ]
    return problems


def _message(path: Path, problems: list[ErrorDetails], section: str = "") -> str:
    """One line per problem: key, expectation, value."""
    places = {problem["loc"][:-1] for problem in problems}
    lines = [
        f"  {'.'.join(map(str, (*([section] if section else []), *problem['loc']))) or 'top level'}: {problem['msg']} "
        f"(found {problem['input']!r:.80})"
        for problem in problems
        if problem["type"] != "too_short" or problem["loc"] not in places  # too short only since items are invalid
    ]
    return f"{path}: {len(lines)} problem(s):\n" + "\n".join(lines)
