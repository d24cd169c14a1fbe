"""DMGR: a global model paints the workpiece, a local one the defect, and gradients make the global one agree with it
(after `weihang-luo/DMGR`).

Both are diffusion models in pixel space, trained separately and from scratch: the global one on windows of good
pictures, the local one on patches around real defects. While both are sampled, gradients move the global sample so that
its clean estimate agrees, in a patch, with that of the local model (`lib/diffusion/chains.py`).

The published sampler also generates the background, and its only label is the patch: mode `free`. The default here,
`anchored`, starts from a noisy window of a real good picture and keeps that outside the box and the gate's support, so
that the normal picture is known and the mask can be measured. Other intended differences: class, place and size come
from the placement, whose window is scaled so that its box fits the patch; within a class the local model is told
whether a defect is wide or tall; the networks predict no variance, which deterministic sampling does not use; every
sample has its own line search, which always ends; an anchored sample is corrected by its error of tone along the rim of
its box (`lib/diffusion/pasting.py`).
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from lib.core.geometry import RGB, Box, box_mask, resize
from lib.core.images import contact_sheet, read_image, recent, write_png
from lib.core.params import Params, Positive, Section, WindowParams
from lib.core.records import GOOD, Placement
from lib.core.runtime import cores, device, fingerprint, first_process, on_cores, seed_for, write_json
from lib.diffusion.chains import Estimate, Rectifier, crops
from lib.diffusion.components import to_pixels
from lib.diffusion.pasting import apply_change, seamless
from lib.diffusion.patches import (
    Frame,
    Request,
    allowed,
    defect_patches,
    good_windows,
    kind_of,
    request_of,
    surroundings,
)
from lib.diffusion.pixel import (
    PixelObjective,
    Prediction,
    estimate,
    linear_schedule,
    load,
    save,
    starting_noise,
    wide_network,
)
from lib.diffusion.rectification import PUBLISHED, Plan
from lib.diffusion.training import train
from lib.generators import NON_FINITE, WINDOW, Answer, Failed, Made, RealData

SHARED = ("synth.feather", "boxes.margin", *WINDOW)
LEVELS = 1000  # noise levels of training, as published
SHOWN = 8  # estimates of one sample on the sheet of `process_sheet`
MULTIPLES = {"global": (1, 1, 2, 3, 4, 4), "local": (1, 2, 3, 4)}  # of the width, per level; published
Published = Annotated[float, Field(ge=0, le=PUBLISHED)]


class Settings(Section):
    """mode: anchored or free; side, patch: px of the windows and patches that the networks see; `*_width`, `*_levels`,
    blocks, attention_side: of the U-Nets; prediction: what they predict; global_steps, local_steps, train_batch: of
    their training; good_windows: cached per good picture; variants: cached per real defect; levels: of the sampler;
    start: share of `levels` where an anchored sample starts. All others are those of `Plan`, for 250 levels.
    """

    mode: Literal["anchored", "free"]
    side: Annotated[int, Field(ge=16)]
    patch: Annotated[int, Field(ge=8)]
    global_width: Annotated[int, Field(ge=4, multiple_of=4)]
    global_levels: Annotated[int, Field(ge=1, le=len(MULTIPLES["global"]))]
    local_width: Annotated[int, Field(ge=4, multiple_of=4)]
    local_levels: Annotated[int, Field(ge=1, le=len(MULTIPLES["local"]))]
    blocks: Positive
    attention_side: Positive
    prediction: Prediction
    global_steps: Positive
    local_steps: Positive
    train_batch: Positive
    good_windows: Positive
    variants: Positive
    levels: Annotated[int, Field(ge=2, le=LEVELS)]
    start: Annotated[float, Field(gt=0, le=1)]
    rate: Annotated[float, Field(ge=0)]
    gradient_steps: Positive
    tries: Positive
    radius: Annotated[float, Field(gt=0)]
    anchor_until: Published
    resonance_from: Published
    layers: Positive
    jump: Positive
    passes: Positive

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.patch > self.side:
            raise ValueError(f"a patch of {self.patch} px does not fit into a window of {self.side}")
        if self.patch % 2**self.layers:
            raise ValueError(f"a patch of {self.patch} px cannot be halved {self.layers} times, as its pyramid needs")
        return self

    @property
    def anchored(self) -> bool:
        return self.mode == "anchored"

    @property
    def start_level(self) -> int:
        """The level of the sampler, 0 to `levels` - 1, where both chains start; above it nothing is learnt."""
        return round((self.start if self.anchored else 1) * (self.levels - 1))

    def frame(self, window: WindowParams) -> Frame:
        return Frame(self.side, self.patch, window)

    def plan(self) -> Plan:
        return Plan(**{name: getattr(self, name) for name in Plan.__dataclass_fields__})


def finetune(params: Params, settings: Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Train both networks from scratch; `out` gets them in diffusers format, `curves` a sheet of how samples form."""
    torch.manual_seed(params.seed)
    frame, kinds = settings.frame(params.window), sorted({kind_of(item) for item in real.boxes})
    goods = [sample for sample in real.samples.values() if sample.defect_type == GOOD]
    images = [Path(real.samples[item.sample].image) for item in real.boxes]
    data = {
        "global": good_windows(frame, goods, real.boxes, settings.good_windows, params.seed),
        "local": defect_patches(frame, images, real.boxes, settings.variants, params.seed),
    }
    classes = torch.tensor([kinds.index(kind_of(item)) for item in real.boxes]).repeat_interleave(settings.variants)
    schedule = linear_schedule(LEVELS)
    learnt = range(int(schedule.respaced(settings.levels).timestep(settings.start_level)) + 1)
    for name, network in networks(settings, len(kinds)).items():
        signals, regions = (part.to(device()) for part in data[name])
        numbers = classes.to(device()) if name == "local" else None
        given = surroundings(signals, regions) if settings.anchored else None
        objective = PixelObjective(network.to(device()), signals, schedule, settings.prediction, numbers, learnt, given)
        steps = settings.global_steps if name == "global" else settings.local_steps
        budget = params.finetune.model_copy(update={"steps": steps, "batch_size": settings.train_batch})
        stage, folder = f"finetune-dmgr-{real.category}/{name}", curves if name == "local" else curves / name
        train(objective, len(signals), budget, params.seed, stage, key, folder)
        save(network, out / name)
    facts = {
        "generator": "dmgr",
        "base": "scratch",
        "revision": fingerprint(*(out / name / "config.json" for name in MULTIPLES)),
        "weights": "+".join(fingerprint(out / name) for name in MULTIPLES),
        "kinds": kinds,
        "seed": params.seed,
    }
    write_json(out / "model.json", facts)
    if first_process():
        write_png(curves / "process.png", process_sheet(out, real, settings, params))


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Paint a defect of the requested type for every placement: into its box, or on a background of its own.

    Notes: window and patch in px of the picture; radius of the gate in px of the networks' window; last loss, None if
    no level is optimised; number of steps that the line search gave up, and of losses that were not finite.
    """
    kinds = json.loads((model / "model.json").read_text(encoding="utf-8"))["kinds"]
    sampler = sampler_of(model, settings)
    boxes = {(item.sample, item.component): item for item in real.boxes}
    read = recent(read_image)
    for batch in batches:
        normals = [read(Path(real.samples[placement.normal].image)) for placement in batch]
        requests = [
            request_of(
                placement.box,
                normal,
                kinds.index(kind_of(boxes[placement.like, placement.component])),
                seed_for(placement.seed, "dmgr"),
                settings.frame(params.window),
                settings.radius,
            )
            for placement, normal in zip(batch, normals, strict=True)
        ]
        results = sampler(requests)
        yield [
            answer(request, result, placement.box, normal, params, settings)
            for request, result, placement, normal in zip(requests, results, batch, normals, strict=True)
        ]


# Answers


def answer(request: Request, result: "Result", box: Box, normal: RGB, params: Params, settings: Settings) -> Answer:
    if not np.isfinite(result.picture).all():
        return Failed(NON_FINITE)
    window, scale = request.window, request.window.side / settings.side
    x, y, part = (round(extent * scale) for extent in (*request.corner, settings.patch))
    notes = {
        "window": [window.x0, window.y0, window.side],
        "patch": [window.x0 + x, window.y0 + y, part],
        "radius": settings.radius,
        **result.notes,
    }
    if settings.mode == "free":
        picture = np.clip(np.rint(result.picture), 0, 255).astype(np.uint8)
        mask = box_mask((x, y, x + part, y + part), window.side, window.side)
        return Made(resize(picture, window.side, window.side), mask, own_background=True, notes=notes)
    change = seamless(result.picture - result.reference, request.open[0].numpy(), window, normal.shape)
    mask = allowed(box, normal.shape, request, settings.frame(params.window), settings.radius)
    # Boxes have a margin of a share of the defect's longer side. What is painted there fades out to hide the box.
    sides, share = (box[2] - box[0], box[3] - box[1]), params.boxes.margin
    margin = min(share / (1 + 2 * share) * max(sides), min(sides) / 2)
    image = apply_change(normal, window, change, mask, max(params.synth.feather, round(margin)))
    return Made(image, notes=notes)


# The sampler


@dataclass(frozen=True)
class Result:
    """picture, reference: (S, S, 3) float in 0..255, the sample, and the good picture to compare it with."""

    picture: NDArray[np.float32]
    reference: NDArray[np.float32]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Sampler:
    """Samples windows with the two networks, whose weights are the moving averages of training."""

    whole: Any
    part: Any
    settings: Settings
    rectifier: type[Rectifier] = Rectifier

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """On a CPU every sample is computed alone, on one core, so that no bit depends on the batch."""
        where, requests = self.whole.device, list(requests)
        share = 1 if where.type == "cpu" else len(requests)
        parts = [requests[start : start + share] for start in range(0, len(requests), share)]
        done = on_cores(where, self.draw, parts, out_of=2 * cores(where))
        return [result for results in done for result in results]

    def draw(self, requests: Sequence[Request], watch: Callable[..., None] = lambda t, x0, patch: None) -> list[Result]:
        """The results of one batch."""
        where, settings = self.whole.device, self.settings
        schedule, start = linear_schedule(LEVELS).respaced(settings.levels), settings.start_level
        source = torch.stack([request.source for request in requests]).to(where)
        regions = torch.stack([request.open for request in requests]).to(where)
        corners = torch.tensor([request.corner for request in requests], device=where)
        given = surroundings(source, regions) if settings.anchored else None
        kinds = torch.tensor([request.kind for request in requests], device=where)
        noise = starting_noise([request.seed for request in requests], source.shape[1:]).to(where)

        def estimates(network: Any, given: Tensor | None, classes: Tensor | None = None) -> Estimate:
            def of(values: Tensor | None, rows: Tensor) -> Tensor | None:
                return None if values is None else values[rows]

            return lambda x, t, rows: estimate(
                network, schedule, x, t, settings.prediction, of(classes, rows), of(given, rows)
            )

        rectifier = self.rectifier(
            schedule,
            settings.plan(),
            estimates(self.whole, given),
            estimates(self.part, None if given is None else crops(given, corners, settings.patch), kinds),
            corners,
            [torch.Generator().manual_seed(seed_for(request.seed, "travel")) for request in requests],
            source if settings.anchored else None,
            ~regions if settings.anchored else None,
            watch,
        )
        end = rectifier(schedule.noisy(source, start, noise) if settings.anchored else noise, start)
        columns = zip(
            to_pixels(end.x0),
            to_pixels(source),
            [round(loss, 4) if math.isfinite(loss) else None for loss in end.loss.tolist()],
            end.search.given_up.tolist(),
            end.search.not_finite.tolist(),
            strict=True,
        )
        return [
            Result(picture, reference, {"loss": loss, "given_up": given_up, "not_finite": not_finite})
            for picture, reference, loss, given_up, not_finite in columns
        ]


def sampler_of(model: Path, settings: Settings) -> Sampler:
    """The sampler of a trained model."""
    whole, part = (load(model / name, device()) for name in ("global", "local"))
    return Sampler(whole, part, settings)


def process_sheet(model: Path, real: RealData, settings: Settings, params: Params) -> RGB:
    """How one sample of each class forms, at the place of a real defect: a row of windows above a row of patches."""
    kinds = json.loads((model / "model.json").read_text(encoding="utf-8"))["kinds"]
    sampler = sampler_of(model, settings)
    good = next(sample for sample in real.samples.values() if sample.defect_type == GOOD)
    normal = read_image(Path(good.image))
    rows = []
    for number, kind in enumerate(kinds):
        item = next(item for item in real.boxes if kind_of(item) == kind)
        seed = seed_for(params.seed, "process", kind)
        request = request_of(item.box, normal, number, seed, settings.frame(params.window), settings.radius)
        estimates: list[tuple[Tensor, Tensor]] = []
        sampler.draw([request], lambda t, x0, patch, kept=estimates: kept.append((x0, patch)))
        columns = [estimates[index] for index in np.linspace(0, len(estimates) - 1, SHOWN).astype(int)]
        for part in (0, 1):
            pixels = to_pixels(torch.cat([pair[part].clamp(-1, 1) for pair in columns]))
            rows.append(list(np.rint(pixels).astype(np.uint8)))
    return contact_sheet(rows, tile=2 * settings.side)


# Networks


def networks(settings: Settings, kinds: int) -> dict[str, Any]:
    """The untrained networks, by name, in the order of their training."""
    sizes = {
        "global": (settings.side, settings.global_width, settings.global_levels, None),
        "local": (settings.patch, settings.local_width, settings.local_levels, kinds),
    }
    return {
        name: wide_network(
            3,
            side,
            [width * multiple for multiple in MULTIPLES[name][:levels]],
            settings.blocks,
            settings.attention_side,
            classes,
            given=4 if settings.anchored else 0,
        )
        for name, (side, width, levels, classes) in sizes.items()
    }
