"""The typed, validated view of params.yaml. Unknown keys and impossible values are refused with the key's name."""

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


# Names become parts of paths. (In a command of dvc.yaml they stand in quotes, and no stage runs with any other.)
def _fit(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:64] or "a_name"
        raise ValueError(f"a name has at most 64 letters, digits, _ and -: rename it to, say, {better}")
    return name


Name = Annotated[str, AfterValidator(_fit)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]

REAL_ONLY = "none"  # the arm without a generator: detectors trained on the few real defects alone


Item = TypeVar("Item")


def _distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand there once")
    return values


Several = Annotated[tuple[Item, ...], Field(min_length=1), AfterValidator(_distinct)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Workpieces(Section):
    train_good: Positive
    test_good: Positive
    per_defect: Positive


class Dataset(Section):
    path: str
    categories: Several[Name]
    group_table: str | None
    group_column: str | None
    group_pattern: str | None

    @model_validator(mode="after")
    def _one_source_of_groups(self) -> "Dataset":
        if (self.group_table is None) != (self.group_column is None):
            raise ValueError("group_table and group_column belong together: set both or neither")
        if self.group_table is not None and self.group_pattern is not None:
            raise ValueError("set group_table with group_column, or group_pattern, not both")
        return self


class Split(Section):
    rule: Literal["first_third", "shots"]
    shots: Annotated[int, Field(ge=2)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


class Boxes(Section):
    margin: Annotated[float, Field(ge=0, le=2)]
    min_area: Positive


class Placements(Section):
    per_type: Positive
    jitter: Share


class Base(Section):
    model: str
    revision: str | None
    allow_download: bool


class WindowParams(Section):
    context: Annotated[float, Field(ge=1, le=16)]
    min_side: Annotated[int, Field(ge=16)]


class Training(Section):
    """What `lib.diffusion.training` needs, whatever it trains."""

    steps: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    gradient_clip: Annotated[float, Field(gt=0)]
    checkpoint_every: Positive


class Finetune(Training):
    adapter: Literal["lora", "full"]
    rank: Positive
    min_snr_gamma: Annotated[float, Field(gt=0)] | None
    caption_dropout: Share
    variants: Positive


class Synth(Section):
    scheduler: Literal["ddim", "dpm++", "euler", "unipc"]
    steps: Positive
    guidance_scale: Annotated[float, Field(ge=0)]
    guidance_share: Share
    strength: Annotated[float, Field(gt=0, le=1)]
    noise_blur: Share
    batch_size: Positive
    feather: Annotated[int, Field(ge=0)]
    keep: Literal["changed", "box"]


class Masks(Section):
    method: Literal["measured", "cosine_rgb_otsu"]
    component_ratio: Share


class Gate(Section):
    min_contrast: Annotated[float, Field(ge=0)]
    min_area: Positive
    max_fill: Share
    outlier: Annotated[float, Field(ge=1)]
    max_thickness: Annotated[float, Field(ge=1)]


class Fidelity(Section):
    neighbours: Positive


class Detect(Section):
    seeds: Several[int]
    scale: Annotated[float, Field(gt=0, le=1)]
    window: Annotated[int, Field(ge=32, multiple_of=16)]
    width: Positive
    encoder: str | None
    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0)]
    synthetic_share: Share
    validate_every: Positive


class Evaluate(Section):
    fpr_limit: Annotated[float, Field(gt=0, le=1)]
    overlays: Positive


class Params(Section):
    """The whole of params.yaml; what each key means stands there, behind its value."""

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

    @property
    def arms(self) -> tuple[str, ...]:
        """What detectors are compared on: real defects alone, then with the samples of each generator."""
        return REAL_ONLY, *self.generators


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises ValueError with one line per problem: the key, what was expected, what stands there.
    """
    try:
        return Params.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no valid YAML: {error}") from error
    except ValidationError as error:
        problems = error.errors()
        places = {problem["loc"][:-1] for problem in problems}
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or 'top level'}: {problem['msg']} (found {problem['input']!r:.80})"
            for problem in problems
            if problem["type"] != "too_short" or problem["loc"] not in places  # short only without its wrong items
        ]
        raise ValueError(f"{path}: {len(lines)} problem(s):\n" + "\n".join(lines)) from error
