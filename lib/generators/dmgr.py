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

from lib.core.geometry import RGB, Box, Mask, Window, box_mask, crop, resize, scaled
from lib.core.images import contact_sheet, read_image, recent, write_png
from lib.core.params import Params, Positive, Section, WindowParams
from lib.core.records import GOOD, Placement
from lib.core.runtime import cores, device, fingerprint, first_process, on_cores, seed_for, write_json
from lib.diffusion.chains import Descended, Rectifier
from lib.diffusion.components import to_pixels, to_tensor
from lib.diffusion.pasting import apply_change, seamless
from lib.diffusion.patches import Frame, defect_patches, good_windows, kind_of
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
from lib.diffusion.rectification import PUBLISHED, Plan, support
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
    patches = defect_patches(frame, images, real.boxes, settings.variants, params.seed)
    classes = torch.tensor([kinds.index(kind_of(item)) for item in real.boxes]).repeat_interleave(settings.variants)
    windows = good_windows(frame, goods, real.boxes, settings.good_windows, params.seed)
    data = {"global": windows.to(device()), "local": patches.to(device())}
    for name, network in networks(settings, len(kinds)).items():
        signals, numbers = data[name], classes.to(device()) if name == "local" else None
        objective = PixelObjective(network.to(device()), signals, linear_schedule(LEVELS), settings.prediction, numbers)
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


# Requests and answers


@dataclass(frozen=True)
class Request:
    """One placement as the networks see it. window: in px of the picture; corner: x and y of the patch in the networks'
    window; kind: number of the class; source: (3, S, S) in [-1, 1], the good picture in the window; open: (1, S, S)
    bool, where it may change."""

    window: Window
    corner: tuple[int, int]
    kind: int
    seed: int
    source: Tensor
    open: Tensor


def request_of(box: Box, normal: RGB, kind: int, seed: int, frame: Frame, radius: float) -> Request:
    place = frame.around(box)
    small = scaled(place.inside(box), frame.side / place.side)
    corner = frame.corner(small)
    disc = support(frame.side, torch.tensor([corner]) + frame.patch / 2, radius)[0]
    source = to_tensor(resize(crop(normal, place), frame.side, frame.side)[None])[0]
    inside = torch.from_numpy(box_mask(small, frame.side, frame.side))
    return Request(place, corner, kind, seed, source, disc & inside)


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
    mask = allowed(box, normal.shape, request, settings)
    # Boxes have a margin of a share of the defect's longer side. What is painted there fades out to hide the box.
    sides, share = (box[2] - box[0], box[3] - box[1]), params.boxes.margin
    margin = min(share / (1 + 2 * share) * max(sides), min(sides) / 2)
    image = apply_change(normal, window, change, mask, max(params.synth.feather, round(margin)))
    return Made(image, notes=notes)


def allowed(box: Box, shape: Sequence[int], request: Request, settings: Settings) -> Mask:
    """(H, W) bool: the box, clipped to the gate's support."""
    height, width = shape[:2]
    window, scale = request.window, request.window.side / settings.side
    centre = (torch.tensor([request.corner]) + settings.patch / 2 + 0.5) * scale - 0.5
    disc = support(window.side, centre, settings.radius * scale)[0, 0].numpy()
    x0, y0 = max(window.x0, 0), max(window.y0, 0)
    x1, y1 = min(window.x0 + window.side, width), min(window.y0 + window.side, height)
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = disc[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
    return mask & box_mask(box, width, height)


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
        where, anchored = self.whole.device, self.settings.mode == "anchored"
        schedule = linear_schedule(LEVELS).respaced(self.settings.levels)
        start = round(self.settings.start * (len(schedule) - 1)) if anchored else len(schedule) - 1
        source = torch.stack([request.source for request in requests]).to(where)
        known = torch.stack([~request.open for request in requests]).to(where) if anchored else None
        kinds = torch.tensor([request.kind for request in requests], device=where)
        noise = starting_noise([request.seed for request in requests], source.shape[1:]).to(where)
        prediction = self.settings.prediction

        def chains(plan: Plan) -> Descended:
            rectifier = self.rectifier(
                schedule,
                plan,
                lambda x, t, rows: estimate(self.whole, schedule, x, t, prediction),
                lambda c, t, rows: estimate(self.part, schedule, c, t, prediction, kinds[rows]),
                torch.tensor([request.corner for request in requests], device=where),
                [torch.Generator().manual_seed(seed_for(request.seed, "travel")) for request in requests],
                source if anchored else None,
                known,
                watch,
            )
            return rectifier(schedule.noisy(source, start, noise) if anchored else noise, start)

        end = chains(self.settings.plan())
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
        )
        for name, (side, width, levels, classes) in sizes.items()
    }
