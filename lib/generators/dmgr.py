"""DMGR: a global model paints the workpiece, a local one the defect, and gradients make the first agree with the second
(after `weihang-luo/DMGR`).

Both are diffusion models in pixel space, trained from nothing and apart: the global one on windows of good pictures,
the local one on patches around real defects. While both chains descend, the global state is moved by gradients so that
its clean estimate agrees, in a patch, with the local model's (`lib/diffusion/chains.py`).

The published sampler paints its background as well, and knows of a defect no more than the patch: mode `free`.
`anchored`, the default here, starts from a window of a real good picture under noise and keeps it outside of the box
and of the gate's support, so that the normal picture is known and the mask can be measured. Other differences, all on
purpose: class, place and size come from the placement, whose window is scaled so that its box fits the patch; within
a class the local model is told whether a defect is wide or tall; the networks predict no variance, which a chain
without fresh noise never asks for; every sample searches its own step, and each search ends.
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

from lib.core.geometry import RGB, Box, Mask, Window, box_mask, crop, resize, scaled, shift_window, window_around
from lib.core.images import contact_sheet, read_image, recent, write_png
from lib.core.params import Params, Positive, Section, Share, WindowParams
from lib.core.records import GOOD, DefectBox, Placement
from lib.core.runtime import cores, device, fingerprint, first_process, on_cores, seed_for, write_json
from lib.diffusion.chains import Descended, Rectifier
from lib.diffusion.components import to_pixels, to_tensor
from lib.diffusion.pasting import apply_change
from lib.diffusion.pixel import (
    PixelObjective,
    Prediction,
    Schedule,
    estimate,
    linear_schedule,
    load,
    save,
    starting_noise,
    wide_network,
)
from lib.diffusion.rectification import PUBLISHED, Plan, support
from lib.diffusion.training import train
from lib.generators import NON_FINITE, Answer, Failed, Made, RealData

LEVELS = 1000  # noise levels of training, as published
MULTIPLES = {"global": (1, 1, 2, 3, 4, 4), "local": (1, 2, 3, 4)}  # of the width, for each level, as published
CONTEXT_SPREAD = (0.85, 1.25)  # of a training patch's side, so that no size is learnt by heart
SHIFT = 4  # a training patch moves by at most this part of what it leaves around the defect
WANDER = 0.25  # of the picture's side, by which windows of good pictures lie beside the real defects' places
LONG = 1.5  # times as long in one direction is wide, or tall
Published = Annotated[float, Field(ge=0, le=PUBLISHED)]


class Settings(Section):
    """mode: anchored or free; side, patch: px of the windows and patches that the networks see, both even often enough
    for the levels; `*_width`, `*_levels`, blocks, attention_side: of the U-Nets; prediction: what they say;
    global_steps, local_steps, train_batch: of their training; good_windows: for each good picture, variants: for each
    real defect, cached; levels: of the sampler; start: of `levels`, where an anchored chain begins; the others are
    those of `Plan`, for 250 levels.
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

    def plan(self) -> Plan:
        return Plan(**{name: getattr(self, name) for name in Plan.__dataclass_fields__})


def finetune(params: Params, settings: Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Train both networks from nothing; `out` gets them in diffusers format, `curves` a sheet of how samples form."""
    torch.manual_seed(params.seed)
    kinds = sorted({kind_of(item) for item in real.boxes})
    patches, classes = defect_patches(params, settings, real, kinds)
    data = {"global": (good_windows(params, settings, real), None), "local": (patches, classes)}
    for name, network in networks(settings, len(kinds)).items():
        signals, numbers = (None if part is None else part.to(device()) for part in data[name])
        objective = PixelObjective(
            network.to(device()), signals, linear_schedule(LEVELS), settings.prediction, numbers
        )
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


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Paint a defect of the requested type for every placement: into its box, or with a background of its own.

    Notes: window and patch in px of the picture, radius of the gate in px of the networks' window; last loss; steps
    that the line search gave up, and losses on its way that were not finite.
    """
    kinds = json.loads((model / "model.json").read_text(encoding="utf-8"))["kinds"]
    sampler = Sampler(load(model / "global", device()), load(model / "local", device()), settings)
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
                params.window,
                settings,
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
    """window: in px of the picture; corner: x and y of the patch in the networks' window; kind: number of the class;
    source: (3, S, S) in [-1, 1], the good picture in the window; open: (1, S, S) bool, where it may change."""

    window: Window
    corner: tuple[int, int]
    kind: int
    seed: int
    source: Tensor
    open: Tensor


def request_of(
    box: Box, normal: RGB, kind: int, seed: int, window: WindowParams, settings: Settings
) -> Request:
    place = window_of(box, normal.shape, window, settings)
    small = scaled(place.inside(box), settings.side / place.side)
    corner = corner_of(small, settings)
    disc = support(settings.side, torch.tensor([corner]) + settings.patch / 2, settings.radius)[0]
    source = to_tensor(resize(crop(normal, place), settings.side, settings.side)[None])[0]
    inside = torch.from_numpy(box_mask(small, settings.side, settings.side))
    return Request(place, corner, kind, seed, source, disc & inside)


def window_of(box: Box, shape: Sequence[int], window: WindowParams, settings: Settings) -> Window:
    """The window, in px of the picture, in which the box fits the patch with some context around it.

    At native scale where it may be, else shrunk. It lies in the picture where it fits there, else centred over it.
    """
    longer = max(box[2] - box[0], box[3] - box[1])
    side = max(
        math.ceil(max(window.context * longer, settings.patch) * settings.side / settings.patch), window.min_side
    )

    def start(low: int, high: int, extent: int) -> int:
        return min(max((low + high - side) // 2, 0), extent - side) if side <= extent else (extent - side) // 2

    return Window(start(box[0], box[2], shape[1]), start(box[1], box[3], shape[0]), side)


def corner_of(box: Box, settings: Settings) -> tuple[int, int]:
    """x and y of the patch whose middle is the box's, both in px of the networks' window; it lies within the window."""
    most = settings.side - settings.patch
    x, y = ((low + high - settings.patch) // 2 for low, high in zip(box[:2], box[2:], strict=True))
    return min(max(x, 0), most), min(max(y, 0), most)


def answer(
    request: Request, result: "Result", box: Box, normal: RGB, params: Params, settings: Settings
) -> Answer:
    if not np.isfinite(result.picture).all():
        return Failed(NON_FINITE)
    window, scale = request.window, request.window.side / settings.side
    x, y = (round(place * scale) for place in request.corner)
    part = round(settings.patch * scale)
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
    mask = allowed(box, normal.shape, request, settings)
    image = apply_change(normal, window, result.picture - result.reference, mask, params.synth.feather)
    return Made(image, notes=notes)


def allowed(box: Box, shape: Sequence[int], request: Request, settings: Settings) -> Mask:
    """(H, W) bool: the box, as far as the gate's support reaches."""
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
    """picture, reference: (S, S, 3) float in 0..255, what the chain ended at, and what it is to be compared with."""

    picture: NDArray[np.float32]
    reference: NDArray[np.float32]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Sampler:
    """Draws windows with the two networks, whose weights are the moving averages."""

    whole: Any
    part: Any
    settings: Settings

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
        told = self.settings.prediction

        def chains(plan: Plan) -> Descended:
            rectifier = Rectifier(
                schedule,
                plan,
                lambda x, t, rows: estimate(self.whole, schedule, x, t, told),
                lambda c, t, rows: estimate(self.part, schedule, c, t, told, kinds[rows]),
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
            end.loss.tolist(),
            end.search.given_up.tolist(),
            end.search.not_finite.tolist(),
            strict=True,
        )
        return [
            Result(picture, reference, {"loss": round(loss, 4), "given_up": given_up, "not_finite": not_finite})
            for picture, reference, loss, given_up, not_finite in columns
        ]


# Networks and what they learn from


def networks(settings: Settings, kinds: int) -> dict[str, Any]:
    """The untrained networks, by their names, in the order of their training."""
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


def kind_of(item: DefectBox) -> str:
    """The class that the local network knows a defect by: its type, and whether its box is wide, tall or neither."""
    width, height = item.box[2] - item.box[0], item.box[3] - item.box[1]
    shape = "wide" if width > LONG * height else "tall" if height > LONG * width else "square"
    return f"{item.defect_type} {shape}"


def good_windows(params: Params, settings: Settings, real: RealData) -> Tensor:
    """Windows of good pictures as large as those around real defects, and about where they are: (N, 3, S, S)."""
    read, pictures = recent(read_image), list[RGB]()
    for sample in (sample for sample in real.samples.values() if sample.defect_type == GOOD):
        image = read(Path(sample.image))
        height, width = image.shape[:2]
        for variant in range(settings.good_windows):
            rng = np.random.default_rng(seed_for(params.seed, "good", sample.id, variant))
            box = real.boxes[rng.integers(len(real.boxes))].box
            spread, by = rng.uniform(*CONTEXT_SPREAD), rng.uniform(-WANDER, WANDER, 2) * (width, height)
            half = spread * np.subtract(box[2:], box[:2]) / 2
            middle = np.clip(np.add(box[:2], box[2:]) / 2 + by, half, np.maximum((width, height) - half, half))
            moved: Any = tuple(np.rint([*(middle - half), *(middle + half)]).astype(int).tolist())
            place = window_of(moved, image.shape, params.window, settings)
            pictures.append(resize(crop(image, place), settings.side, settings.side))
    return to_tensor(np.stack(pictures))


def defect_patches(
    params: Params, settings: Settings, real: RealData, kinds: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Several patches around every real defect, flipped in turn, (N, 3, L, L), and the numbers of their kinds (N,)."""
    read, pictures, numbers = recent(read_image), list[RGB](), list[int]()
    for item in real.boxes:
        image = read(Path(real.samples[item.sample].image))
        for variant in range(settings.variants):
            rng = np.random.default_rng(seed_for(params.seed, item.sample, item.component, variant))
            pictures.append(patch_of(image, item.box, (bool(variant & 1), bool(variant & 2)), params, settings, rng))
            numbers.append(kinds.index(kind_of(item)))
    return to_tensor(np.stack(pictures)), torch.tensor(numbers)


def patch_of(
    image: RGB, box: Box, flips: tuple[bool, bool], params: Params, settings: Settings, rng: np.random.Generator
) -> RGB:
    """A patch around the box, a little larger or smaller and shifted, perhaps flipped: (L, L, 3) uint8."""
    context = max(params.window.context * rng.uniform(*CONTEXT_SPREAD), 1.0)
    place = window_around(box, image.shape, context, settings.patch)
    spare = (place.side - max(box[2] - box[0], box[3] - box[1])) // SHIFT
    if spare > 0:
        place = shift_window(place, rng.integers(-spare, spare + 1, size=2).tolist(), box, image.shape)
    across, down = (slice(None, None, -1 if flip else 1) for flip in flips)
    return np.ascontiguousarray(resize(crop(image, place), settings.patch, settings.patch)[down, across])
