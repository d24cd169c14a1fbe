"""Defect-Gen ("Defect Spectrum", Yang et al. 2024): a wide network does the layout, a narrow one paints the details.

Picture and one-hot label map form one signal in pixel space, so that a sample has both image and mask. Trained on a
handful of pictures, a network that sees whole pictures memorises them. The narrow network has a small receptive field:
it sees only patches, and combines those of different pictures. Both are trained from scratch on windows around real
defects. A sample is such a window, with its own background.

The published method does not control the defect type. Here, some label channels are known and kept at every noise
level, as in inpainting (Lugmayr et al. 2022), and the networks generate the rest. With `label: drawn`, the channels of
all other types are known to be empty, and samples with an empty mask are drawn again. With `label: real`, the whole
label is known: that of a real defect of the requested type; only the picture is generated.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from skimage.morphology import remove_small_objects
from torch import Tensor

from lib.core.defects import defect_mask, types_of
from lib.core.geometry import RGB, Box, Mask, crop, resize, resize_defects, window_around
from lib.core.images import read_image, read_mask, recent
from lib.core.params import Params, Positive, Section, WindowParams
from lib.core.records import Placement
from lib.core.runtime import cores, device, fingerprint, on_cores, progress, seed_for, write_json
from lib.diffusion.components import to_pixels, to_tensor
from lib.diffusion.pixel import (
    Denoise,
    PixelObjective,
    Prediction,
    Schedule,
    cosine_schedule,
    descend,
    estimate,
    load,
    narrow_network,
    receptive_field,
    save,
    starting_noise,
    wide_network,
)
from lib.diffusion.training import train
from lib.diffusion.views import Flips, flipped, flips_of, random_window
from lib.generators import NON_FINITE, WINDOW, Answer, Failed, Made, RealData

SHARED = ("synth.steps", *WINDOW)
LEVELS = 1000  # noise levels of training, as published
COLOURS = 3  # channels of the picture; those of the label follow: background, then the types
GROUP = 6  # samples in each call of a network on a CPU, never fewer, since the last bits depend on their number


class Settings(Section):
    """side: of the signal, px; `wide_*`, `narrow_*`: channels at the first level, number of levels; blocks: residual
    blocks per level; attention_side: the largest level of the wide network with attention, px; switch: the noise level,
    of 1000, below which the narrow network takes over: 0 never, 1000 from the start; narrow_prediction: the clean
    signal, as published, or what the noisy one lacks; label: drawn with the picture, as published, or real, that of the
    defect that the placement was drawn from; train_steps: per network; train_batch: windows per step; variants: cached
    views of each real defect; tries: samples drawn until the mask is not empty; min_component: px, the smallest piece.

    Raises ValueError if the receptive field of the narrow network covers the whole signal.
    """

    side: Annotated[int, Field(ge=16)]
    wide_width: Annotated[int, Field(ge=4, multiple_of=4)]
    wide_levels: Positive
    narrow_width: Annotated[int, Field(ge=4, multiple_of=4)]
    narrow_levels: Positive
    blocks: Positive
    attention_side: Positive
    switch: Annotated[int, Field(ge=0, le=LEVELS)]
    narrow_prediction: Literal["x0", "correction"]
    label: Literal["drawn", "real"]
    train_steps: Positive
    train_batch: Positive
    variants: Positive
    tries: Positive
    min_component: Positive

    @model_validator(mode="after")
    def _narrow_is_narrow(self) -> "Settings":
        field = receptive_field(self.narrow_levels, self.blocks)
        if field >= self.side:
            raise ValueError(f"the narrow network sees {field} px, all of the picture's {self.side}: take fewer levels")
        return self


@dataclass(frozen=True)
class View:
    """One training window around a defect of a sample: picture (S, S, 3) uint8, label (S, S) uint8 in 0..K."""

    sample: str
    component: int
    picture: RGB
    label: NDArray[np.uint8]


def finetune(params: Params, settings: Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Train the wide network, then the narrow one, from scratch; `out` gets both in diffusers format."""
    torch.manual_seed(params.seed)
    where, types = device(), defect_types(real)
    views = training_views(params, settings, real, types, params.seed)
    signals = joint_signals(views, len(types)).to(where)
    budget = params.finetune.model_copy(update={"steps": settings.train_steps, "batch_size": settings.train_batch})
    narrow = settings.narrow_prediction, range(settings.switch)
    roles = {"wide": ("x0", range(settings.switch, LEVELS)), "narrow": narrow}
    for name, network in networks(settings, signals.shape[1]).items():
        says, own = roles[name]  # a network without a level of its own is never asked
        objective = PixelObjective(network.to(where), signals, cosine_schedule(LEVELS), says, levels=own or None)
        stage, folder = f"finetune-defect_gen-{real.category}/{name}", curves if name == "narrow" else curves / name
        train(objective, len(signals), budget, params.seed, stage, key, folder)
        save(network, out / name)
    facts = {
        "generator": "defect_gen",
        "base": "scratch",
        "revision": fingerprint(*(out / name / "config.json" for name in ("wide", "narrow"))),
        "weights": "+".join(fingerprint(out / name) for name in ("wide", "narrow")),
        "types": types,
        "seed": params.seed,
        "distance_between_real": distance_between_real(views),
    }
    write_json(out / "model.json", facts)


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Sample a window with a defect of the requested type for every placement, as large as the window around its box.

    Notes: how many samples were drawn; the training picture nearest to the sample, and its distance (`nearest`). Small
    batches are drawn together, so that every core has its group of samples.
    """
    facts = json.loads((model / "model.json").read_text(encoding="utf-8"))
    views = training_views(params, settings, real, facts["types"], facts["seed"])
    schedule = cosine_schedule(LEVELS).respaced(params.synth.steps)
    wide, narrow = (load(model / name, device()) for name in ("wide", "narrow"))
    sampler = Sampler(wide, narrow, schedule, settings.switch, settings.narrow_prediction)

    def answer(placement: Placement, kind: int, signal: NDArray[np.float32], attempt: int) -> Answer | None:
        if not np.isfinite(signal).all():
            return Failed(NON_FINITE)
        shape, smallest = real.samples[placement.normal].size[::-1], max(params.window.min_side, settings.side)
        side = window_around(placement.box, shape, params.window.context, smallest).side  # as in training
        picture, mask = finished(signal, kind, side, settings.min_component)
        if not mask.any():
            return None
        notes = {"tries": attempt, **nearest(picture, views)}
        return Made(resize(picture, side, side), mask, own_background=True, notes=notes)

    waiting = iter(batches)
    for first in waiting:
        joined = [first, *islice(waiting, max(0, GROUP * cores(device()) // len(first) - 1))]
        placements = [placement for batch in joined for placement in batch]
        kinds = {placement.id: facts["types"].index(placement.defect_type) + 1 for placement in placements}
        answers: dict[str, Answer | None] = dict.fromkeys(kinds)
        for attempt in range(1, settings.tries + 1):
            if not (missing := [placement for placement in placements if answers[placement.id] is None]):
                break
            seeds = [seed_for(placement.seed, "defect_gen", attempt) for placement in missing]
            known = [
                known_channels(len(facts["types"]), kinds[item.id], real_label(item, views, seed), settings)
                for item, seed in zip(missing, seeds, strict=True)
            ]
            for placement, signal in zip(missing, sampler(seeds, torch.stack(known)), strict=True):
                answers[placement.id] = answer(placement, kinds[placement.id], signal, attempt)
        empty = Failed(f"empty label in each of {settings.tries} tries")
        yield from ([answers[placement.id] or empty for placement in batch] for batch in joined)


# The two networks


def networks(settings: Settings, channels: int) -> dict[str, Any]:
    """The untrained networks for signals (B, channels, side, side), by name, in the order of their training.

    The channels of the wide network double at every second level, those of the narrow one at each, as published.
    """
    wide = [settings.wide_width * 2 ** (level // 2) for level in range(settings.wide_levels)]
    narrow = [settings.narrow_width * 2**level for level in range(settings.narrow_levels)]
    return {
        "wide": wide_network(channels, settings.side, wide, settings.blocks, settings.attention_side),
        "narrow": narrow_network(channels, settings.side, narrow, settings.blocks),
    }


def two_stages(wide: Any, narrow: Any, schedule: Schedule, switch: int, known: Tensor, says: Prediction) -> Denoise:
    """Estimate x0 with the wide network from level `switch` on, below with the narrow one, which predicts `says`.

    known: (B, C, S, S) or (B, C, 1, 1), the known values of x0, NaN where unknown. Raises ValueError if the switch is
    not a level.
    """
    if not 0 <= switch <= LEVELS:
        raise ValueError(f"switch: {switch}, expected 0 to {LEVELS}")

    def denoise(x: Tensor, t: int) -> Tensor:
        is_wide = int(schedule.timestep(t)) >= switch
        x0 = estimate(wide if is_wide else narrow, schedule, x, t, "x0" if is_wide else says)
        return torch.where(known.isnan(), x0, known)

    return denoise


@dataclass(frozen=True)
class Sampler:
    """Samples signals with the two networks, whose weights are the moving averages of training."""

    wide: Any
    narrow: Any
    schedule: Schedule
    switch: int
    says: Prediction = "x0"  # the narrow one

    def __call__(self, seeds: Sequence[int], known: Tensor) -> NDArray[np.float32]:
        """Signals (B, C, S, S), each from its seed and its known values (`two_stages`).

        On a CPU always GROUP samples at a time are computed on one core, so that no bit depends on the batch; the last
        group is filled up with copies.
        """
        where, config = self.wide.device, self.wide.config
        count, size = len(seeds), GROUP if where.type == "cpu" else len(seeds)
        places = torch.arange(math.ceil(count / size) * size).clamp(max=count - 1)
        noise = starting_noise(seeds, (config.in_channels, config.sample_size, config.sample_size))
        groups = [each[places].to(where).split(size) for each in (noise, known)]
        # Few groups get one core each, too: `out_of` claims more calls than there are cores.
        done = on_cores(where, self._draw, *groups, out_of=max(len(groups[0]), cores(where) + 1))
        return torch.cat(done)[:count].cpu().numpy()

    @torch.inference_mode()
    def _draw(self, noise: Tensor, known: Tensor) -> Tensor:
        denoise = two_stages(self.wide, self.narrow, self.schedule, self.switch, known, self.says)
        return descend(self.schedule, denoise, noise)


# Signals


def one_hot(label: NDArray[np.uint8], types: int) -> Tensor:
    """(N, types + 1, S, S) float from labels (N, S, S): 1 in the channel of a pixel's class, -1 in the others.

    Class 0 is the background. The range [-1, 1] is that of the picture, so that noise affects both alike.
    Raises ValueError for a class above `types`.
    """
    if label.size and label.max() > types:
        raise ValueError(f"a label has class {label.max()}, expected 0 to {types}")
    classes = torch.arange(types + 1).view(1, -1, 1, 1)
    return 2.0 * (torch.from_numpy(label)[:, None] == classes) - 1


def joint_signals(views: Sequence[View], types: int) -> Tensor:
    """(N, 3 + types + 1, S, S) in [-1, 1]: pictures and their labels, concatenated."""
    pictures = to_tensor(np.stack([view.picture for view in views]))
    return torch.cat([pictures, one_hot(np.stack([view.label for view in views]), types)], dim=1)


def known_channels(types: int, kind: int, label: NDArray[np.uint8], settings: Settings) -> Tensor:
    """(3 + types + 1, S, S): the known values of a signal with a defect of type `kind`, NaN where unknown.

    With `label: real` these are the label (S, S) in 0..K, without other types; else that other types are absent.
    """
    coded = one_hot(np.where(label == kind, label, np.uint8(0))[None], types)[0]
    if settings.label == "drawn":
        coded[:] = -1
        coded[[0, kind]] = math.nan
    return torch.cat([torch.full((COLOURS, *label.shape), math.nan), coded])


def real_label(placement: Placement, views: Sequence[View], seed: int) -> NDArray[np.uint8]:
    """The label of one view of the real defect that the placement was drawn from, chosen by the seed."""
    like = [view for view in views if (view.sample, view.component) == (placement.like, placement.component)]
    return like[seed % len(like)].label


def finished(signal: NDArray[np.float32], kind: int, side: int, min_component: int) -> tuple[RGB, Mask]:
    """The picture (S, S, 3) uint8 of a signal (C, S, S), and its mask (side, side): where the channel of type `kind` is
    above that of the background, without pieces of less than `min_component` px."""
    picture = np.clip(np.rint(to_pixels(torch.from_numpy(signal[None, :COLOURS]))[0]), 0, 255).astype(np.uint8)
    margin = resize(signal[COLOURS + kind] - signal[COLOURS], side, side)
    return picture, remove_small_objects(margin > 0, max_size=min_component - 1, connectivity=2)


# Windows


def defect_types(real: RealData) -> list[str]:
    """The defect types of the category, in the order of their classes 1..K."""
    return sorted({box.defect_type for box in real.boxes})


def training_views(
    params: Params, settings: Settings, real: RealData, types: Sequence[str], seed: int
) -> tuple[View, ...]:
    """Several windows around every real defect, in turn with different flips.

    Raises UserError for a picture without a mask.
    """
    image_of, mask_of = recent(read_image), recent(read_mask)
    views = []
    for item in progress(real.boxes, "cut windows"):
        sample = real.samples[item.sample]
        image = image_of(Path(sample.image))
        masks = {name: defect_mask(sample, name, mask_of) for name in types_of(sample) if name in types}
        for variant in range(settings.variants):
            flips, label = flips_of(variant), np.zeros((settings.side, settings.side), np.uint8)
            for name, mask in masks.items():  # the window may show several types
                rng = np.random.default_rng(seed_for(seed, item.sample, item.component, variant))
                picture, defect = view_of(image, mask, item.box, flips, params.window, settings.side, rng)
                label[defect] = types.index(name) + 1
            views.append(View(item.sample, item.component, picture, label))
    return tuple(views)


def view_of(
    image: RGB, mask: Mask, box: Box, flips: Flips, window: WindowParams, side: int, rng: np.random.Generator
) -> tuple[RGB, Mask]:
    """A random window around the box, flipped as asked: (S, S, 3) uint8, (S, S) bool.

    It has `side` px at native scale if the defect fits, else it is larger and shrunk.
    """
    place = random_window(box, image.shape, window.context, max(window.min_side, side), rng)
    picture, label = resize(crop(image, place), side, side), resize_defects(crop(mask, place), side, side)
    return flipped(picture, flips), flipped(label, flips)


# Copies


def nearest(picture: RGB, views: Sequence[View]) -> dict[str, Any]:
    """The sample whose window is nearest to the picture (S, S, 3), and the distance in grey levels (root mean square).

    0 is a copy; compare with `distance_between_real` in model.json.
    """
    distances = [math.sqrt(np.square(picture.astype(np.float32) - view.picture).mean()) for view in views]
    closest = int(np.argmin(distances))
    return {"nearest": views[closest].sample, "nearest_distance": round(distances[closest], 3)}


def distance_between_real(views: Sequence[View]) -> float | None:
    """Median distance of a real defect's first window to the nearest of another picture; None if there is only one."""
    firsts = {(view.sample, view.component): view for view in reversed(views)}.values()
    others = [(first, [view for view in views if view.sample != first.sample]) for first in firsts]
    distances = [nearest(first.picture, rest)["nearest_distance"] for first, rest in others if rest]
    return round(float(np.median(distances)), 3) if distances else None
