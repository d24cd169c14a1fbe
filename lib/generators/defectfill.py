"""DefectFill (Song et al., CVPR 2025): fine-tune an inpainting model on a new word for each defect type.

The model learns the word [V*] from a few pairs of picture and mask, by three losses (`lib.diffusion.word_objective`).
It then paints into holes that have the shape of a real defect, deformed to fit the placement's box, and keeps that of
several samples which differs most from the good picture (low-fidelity selection). Intended differences from the paper:
one model per category knows the words of all its types; adapters have no dropout; some captions are dropped (guidance
needs it); the model works in a window at native scale, and only the change is added to the good picture; selection has
an upper bound, taken from real defects; sampling uses the defect prompt, which was trained with defect-shaped holes.
With the object prompt, which was trained with boxes that are mostly free of defects, a small base paints faint defects.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lib.core.defects import defect_mask
from lib.core.geometry import RGB, Box, Mask, Window, borders_of, box_mask, crop, polygon_mask, resize, window_around
from lib.core.images import read_image, read_mask, recent
from lib.core.params import Params, Positive, WindowParams
from lib.core.records import DefectBox, Placement
from lib.core.runtime import device, dtype_of, progress, seed_for, write_json
from lib.diffusion.attention import show_decoder_attention
from lib.diffusion.components import Components, embed, load, provenance, to_pixels, to_tensor, tokenize
from lib.diffusion.inpainting import encode_views
from lib.diffusion.pasting import apply_change
from lib.diffusion.sampling import SAMPLER_SETTINGS, inpaint, latent_noise
from lib.diffusion.selection import choose, difference, without_defect
from lib.diffusion.training import train
from lib.diffusion.views import Flips, flipped, flips_of
from lib.diffusion.word_objective import Losses, Prompts, Views, WordObjective
from lib.diffusion.words import add_adapters, add_words, load_words, save_words
from lib.generators import NON_FINITE, WINDOW, Answer, Failed, Made, RealData
from lib.vision import shapes
from lib.vision.backbones import DEFAULT, load_backbone

SHARED = (*SAMPLER_SETTINGS, "synth.feather", *WINDOW)
LARGEST_SCALE = 1.125  # enlargement of training views; published

Rate = Annotated[float, Field(gt=0)]
Compare = Callable[[RGB, RGB, Mask], float]  # `difference`


class Settings(Losses):
    """Adapters, holes and selection, explained in params.yaml; and the weights of the losses."""

    rank: Positive
    alpha: Positive
    learning_rate_text: Rate
    learning_rate_word: Rate
    variants: Positive
    prompt: Literal["defect", "object"]
    shape: Literal["real", "drawn", "box"]
    long: Literal["parts", "shrink"]
    growth: Annotated[int, Field(ge=0)]
    candidates: Positive
    guard: Annotated[float, Field(ge=0.5)]


def word_of(defect_type: str) -> str:
    """[V*] of a defect type: a token that is new to every tokenizer."""
    return f"<{defect_type}>"


def defect_prompt(defect_type: str) -> str:
    """The prompt P_def of the paper."""
    return f"A photo of {word_of(defect_type)}"


def object_prompt(defect_type: str, category: str) -> str:
    """The prompt P_obj of the paper."""
    return f"A {' '.join(category.replace('_', ' ').replace('-', ' ').split())} with {word_of(defect_type)}"


def prompt_of(settings: Settings, defect_type: str, category: str) -> str:
    """The prompt for sampling."""
    return defect_prompt(defect_type) if settings.prompt == "defect" else object_prompt(defect_type, category)


# What the model learns


def finetune(params: Params, settings: Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
    """Teach the base one word per defect type of the category; `out` gets adapters and words."""
    torch.manual_seed(params.seed)
    parts = load(params.base, device())
    types = sorted({item.defect_type for item in real.boxes})
    ids = add_words(parts, {word_of(name): name.replace("_", " ") for name in types})
    views = encoded_views(params, settings, real, parts, types)
    add_adapters(parts, settings.rank, settings.alpha, ids.values())
    show_decoder_attention(parts.unet)
    prompts = Prompts(
        tokenize(parts, [defect_prompt(name) for name in types]),
        tokenize(parts, [object_prompt(name, real.category) for name in types]),
        tokenize(parts, [""])[0],
        torch.tensor([ids[word_of(name)] for name in types], device=views.latents.device),
    )
    objective = WordObjective(parts, prompts, views, settings, params.finetune)

    def rate(name: str) -> float:
        text = settings.learning_rate_word if "token_adapter" in name else settings.learning_rate_text
        return text / params.finetune.learning_rate if name.startswith("text_encoder.") else 1.0

    stage = f"finetune-defectfill-{real.category}"
    train(objective, len(views.latents), params.finetune, params.seed, stage, key, curves, rate)
    save_words(parts, ids, settings.rank, settings.alpha, out)
    write_json(out / "model.json", {"generator": "defectfill", "words": list(ids), **provenance(params.base, out)})


def encoded_views(params: Params, settings: Settings, real: RealData, parts: Components, types: list[str]) -> Views:
    """Cut several views of every real defect, and encode them once."""
    jobs = [
        (item, variant, seed_for(params.seed, item.sample, item.component, variant))
        for item in real.boxes
        for variant in range(settings.variants)
    ]
    read, read_shape = recent(read_image), recent(read_mask)
    pictures: list[RGB] = []

    def cut(batch: list[tuple[DefectBox, int, int]]) -> tuple[Any, Any, Tensor]:
        views = []
        for item, variant, seed in batch:
            sample, flips = real.samples[item.sample], flips_of(variant)
            picture = read(Path(sample.image))
            mask = shapes.grown(defect_mask(sample, item.defect_type, read_shape), settings.growth)
            native = settings.long == "parts" and shapes.is_line(shapes.within(mask, item.box))
            largest = parts.resolution if native else max(picture.shape)
            views.append(view_of(picture, mask, item.box, flips, params.window, largest, parts.resolution, seed))
        pictures.extend(picture for picture, _ in views)
        seeds = torch.tensor([seed % 2**31 for *_, seed in batch])
        return np.stack([picture for picture, _ in views]), np.stack([mask for _, mask in views]), seeds

    size = params.finetune.batch_size
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    latents, masked, masks = encode_views(parts.vae, (cut(batch) for batch in progress(batches, "encode views")))
    numbers = torch.tensor([types.index(item.defect_type) for item, *_ in jobs], device=latents.device)
    return Views(np.stack(pictures), latents, masked, masks, numbers)


def view_of(
    image: RGB,
    mask: Mask,
    box: Box,
    flips: Flips,
    windows: WindowParams,
    largest: int,
    side: int,
    seed: int,
) -> tuple[RGB, Mask]:
    """One training view of a defect: a random crop of its window, enlarged 1 to LARGEST_SCALE times, flipped as asked.

    image, mask: (H, W, 3) uint8 and (H, W) bool, with the defect in the box. The crop has at most `largest` px and
    shows at least a part of the defect. Returns (side, side, 3) uint8 and (side, side) bool.
    """
    rng = np.random.default_rng(seed)
    window = window_around(box, image.shape, windows.context, windows.min_side)
    smaller = max(round(min(window.side, largest) / rng.uniform(1, LARGEST_SCALE)), 1)
    rows, columns = np.nonzero(mask & box_mask(box, *image.shape[1::-1]))
    pick = int(rng.integers(len(rows)))
    starts = []
    for start, pixel in ((window.x0, int(columns[pick])), (window.y0, int(rows[pick]))):
        low, high = max(start, pixel - smaller + 1), min(start + window.side - smaller, pixel)
        starts.append(int(rng.integers(low, high + 1)))
    window = Window(starts[0], starts[1], smaller)
    picture, hole = resize(crop(image, window), side, side), shapes.covering(crop(mask, window), side)
    return flipped(picture, flips), flipped(hole, flips)


# What the model paints


class Part(NamedTuple):
    """What is painted in one go: a hole (H, W) bool, or a piece of a long hole, in its window."""

    hole: Mask
    window: Window


class Job(NamedTuple):
    """One placement: the good picture, the whole hole, and its parts, which are painted one after the other."""

    placement: Placement
    normal: RGB
    hole: Mask
    parts: list[Part]


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Paint candidates into the hole of every placement, and keep the one that differs most from the good picture.

    Outside the hole nothing changes, bit for bit. Notes: all scores, the choice, the limit, and which are beyond it.
    """
    where = device()
    parts = load_words(load(params.base, where, dtype_of(where)), model)
    compare = partial(difference, load_backbone(DEFAULT).requires_grad_(False).to(where), resolution=parts.resolution)
    limits = {name: settings.guard * most for name, most in real_differences(params, real, compare).items()}
    text = lru_cache(maxsize=None)(lambda prompt: embed(parts, [prompt])[0].clone())
    holes = Holes(params, settings, real, parts.resolution)
    for batch in batches:
        jobs = [holes.job(placement) for placement in batch]
        prompts = [prompt_of(settings, job.placement.defect_type, real.category) for job in jobs]
        embeddings = torch.stack([text(prompt) for prompt in prompts])
        candidates = [
            _painted(params, parts, jobs, embeddings, text("")[None], number) for number in range(settings.candidates)
        ]
        yield [
            _kept(params, job, list(pictures), compare, limits[job.placement.defect_type], prompt)
            for job, prompt, *pictures in zip(jobs, prompts, *candidates, strict=True)
        ]


def _painted(
    params: Params, parts: Components, jobs: list[Job], text: Tensor, empty: Tensor, candidate: int
) -> list[RGB | None]:
    """One candidate for every job, None if the model's output is not finite.

    The parts of a long hole are painted one after the other: each sees the parts before.
    """
    pictures = {row: job.normal for row, job in enumerate(jobs)}
    for number in range(max(len(job.parts) for job in jobs)):
        rows = [row for row in pictures if number < len(jobs[row].parts)]
        if not rows:
            continue
        now = [jobs[row].parts[number] for row in rows]
        seeds = [seed_for(jobs[row].placement.seed, "candidate", candidate, number) for row in rows]
        changes = _changes(params, parts, [pictures[row] for row in rows], now, text[rows], empty, seeds)
        for row, part, change in zip(rows, now, changes, strict=True):
            if np.isfinite(change).all():
                pictures[row] = apply_change(pictures[row], part.window, change, part.hole, params.synth.feather)
            else:
                del pictures[row]
    return [pictures.get(row) for row in range(len(jobs))]


def _changes(
    params: Params,
    parts: Components,
    pictures: list[RGB],
    now: list[Part],
    text: Tensor,
    empty: Tensor,
    seeds: list[int],
) -> NDArray[np.float32]:
    """What the model changes in the windows of some pictures: (B, S, S, 3) in [-255, 255]."""
    side, where = parts.resolution, text.device
    views = [resize(crop(picture, part.window), side, side) for picture, part in zip(pictures, now, strict=True)]
    holes = [shapes.covering(crop(part.hole, part.window), side) for part in now]
    sampled = inpaint(
        parts,
        pixels=to_tensor(np.stack(views)).to(where),
        masks=torch.from_numpy(np.stack(holes))[:, None].float().to(where),
        text=text,
        empty=empty,
        noise=latent_noise(seeds, parts, params.synth.noise_blur).to(where),
        settings=params.synth,
        keep_background=True,
    )
    return to_pixels(sampled.generated) - to_pixels(sampled.round_trip)


def _kept(params: Params, job: Job, pictures: list[RGB | None], compare: Compare, limit: float, prompt: str) -> Answer:
    """The candidate that low-fidelity selection keeps, compared in the window around the hole."""
    box, shape = job.placement.box, job.normal.shape
    window = window_around(box, shape, params.window.context, params.window.min_side)
    normal, hole = crop(job.normal, window), crop(job.hole, window)
    scores = [math.inf if picture is None else compare(crop(picture, window), normal, hole) for picture in pictures]
    choice = choose(scores, limit)
    kept = pictures[choice.chosen]
    if kept is None:
        return Failed(NON_FINITE)
    notes = {
        "prompt": prompt,
        "candidates": [round(score, 6) if math.isfinite(score) else None for score in scores],
        "chosen": choice.chosen,
        "limit": round(limit, 6),
        "beyond_limit": list(choice.beyond),
        "parts": len(job.parts),
    }
    return Made(kept, notes=notes)


class Holes:
    """The holes of placements, shaped like their real defects; side: px, of the base model's pictures."""

    def __init__(self, params: Params, settings: Settings, real: RealData, side: int) -> None:
        self.params, self.settings, self.samples, self.side = params, settings, real.samples, side
        self.boxes = {(item.sample, item.component): item for item in real.boxes}
        self.read, self.read_shape = recent(read_image), recent(read_mask)

    def job(self, placement: Placement) -> Job:
        normal = self.read(Path(self.samples[placement.normal].image))
        hole = shapes.placed(self._shape(placement), placement.box, *normal.shape[1::-1])
        windows = self.params.window
        parts = [Part(hole, window_around(placement.box, normal.shape, windows.context, windows.min_side))]
        if parts[0].window.side > self.side and self.settings.long == "parts":
            # The change of a piece fades in over the end of the one before.
            overlap = 2 * (self.params.synth.feather + 1)
            pieces = shapes.pieces(hole, self.side / windows.context, overlap)
            if len(pieces) > 1:
                parts = [Part(piece, native_window(piece, normal.shape, self.side)) for piece in pieces]
        return Job(placement, normal, hole, parts)

    def _shape(self, placement: Placement) -> Mask:
        """The hole (h, w) bool, as large as the placement's box; a shape that a person drew is taken as it is."""
        if placement.shape is not None:
            return polygon_mask(placement.shape, placement.box)
        settings, size = self.settings, (placement.box[2] - placement.box[0], placement.box[3] - placement.box[1])
        if settings.shape == "box" or 0 in size:
            return np.ones(size[::-1], dtype=bool)
        rng = np.random.default_rng(seed_for(placement.seed, "shape"))
        real = self.boxes[placement.like, placement.component]
        mask = shapes.within(defect_mask(self.samples[real.sample], real.defect_type, self.read_shape), real.box)
        if settings.shape == "drawn":
            return shapes.grown(shapes.drawn(size, mask, rng), settings.growth)
        borders = set(borders_of(placement.box, self.samples[placement.normal].size)).intersection(real.borders)
        return shapes.bent(mask, size, settings.growth, rng, borders)


def native_window(hole: Mask, shape: Sequence[int], side: int) -> Window:
    """The window of `side` px around a hole, so that nothing is resized; larger if the hole is."""
    x, y, width, height = cv2.boundingRect(hole.astype(np.uint8))
    return window_around((x, y, x + width, y + height), shape, 1.0, side)


def real_differences(params: Params, real: RealData, compare: Compare) -> Mapping[str, float]:
    """By defect type: how much the most salient real defect differs from its picture with the defect painted over."""
    most: dict[str, float] = {}

    @lru_cache(1)  # all defects of a picture are painted over at once, and follow each other
    def wholes(name: str, kind: str) -> tuple[RGB, RGB, Mask]:
        picture, mask = read_image(Path(real.samples[name].image)), defect_mask(real.samples[name], kind)
        return picture, without_defect(picture, mask), shapes.grown(mask, 1)

    for item in progress(real.boxes, "measure real defects"):
        picture, without, mask = wholes(item.sample, item.defect_type)
        window = window_around(item.box, picture.shape, params.window.context, params.window.min_side)
        score = compare(crop(picture, window), crop(without, window), crop(mask, window))
        most[item.defect_type] = max(most.get(item.defect_type, 0.0), score)
    return most
