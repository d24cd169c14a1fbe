"""RGPKD: reconstruction-guided, prompt-enhanced asymmetric knowledge distillation (after `Cariaaaaaa/RGPKD`).

A student learns on good pictures to imitate a frozen teacher's features at three scales and to rebuild the picture; on
an anomaly its features part from the teacher's. A re-implementation: the public code does not run. What was mended:
the teacher stays in evaluation mode, prompts are looked up by its own features and an input never finds its own
picture, the bank serves training and prediction alike, no raw skip leads into the compared features (`skips` brings
them back), the picture and its target share a range, nothing is scaled by batch or picture, and no test picture
chooses anything. The networks are in `lib/distillation.py`.

The features are those of `detect.encoder` instead of ResNet18's. Which weights are kept is told by pseudo anomalies on
good val pictures (`lib/pseudo.py`); defects, real or synthetic, touch nothing.
"""

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.backbones import load_backbone, rebuild
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Scores, Window, crop, resize
from lib.core.params import Detect, Params, Positive, Section
from lib.core.runtime import device, progress, seed_for, write_json
from lib.coreset import greedy_coreset
from lib.detectors import Example, History
from lib.distillation import DEEPEST, Bank, Student, Teacher
from lib.metrics.ranking import average_precision
from lib.pseudo import blend
from lib.reconstruction import cosine_maps, ssim, summed
from lib.tiles import predict_tiled, tiles
from lib.windows import resized

LEARNS_FROM = "good"
DRAWING = threading.Lock()  # seeds train side by side, but torch has one random state, from which weights are drawn
WEIGHT_DECAY = 1e-4
RISE = 0.2  # of the steps, in which the learning rate rises; then it falls to nothing
SHORTEST = 6  # steps of a schedule, which divides by RISE of them less one
CANDIDATES = 1024  # windows of good pictures from which the bank is chosen, and a teacher is calibrated
VALIDATED = 12  # good val pictures with a pseudo anomaly each
EXTENT = (0.1, 0.35)  # of a picture's sides, that a pseudo anomaly's box has
BATCH = 16  # windows that a teacher sees at once
Weight = Annotated[float, Field(ge=0)]


class Settings(Section):
    """width: channels of the student at half size; bank: entries kept, 0 for a student without prompts; skips: lead raw
    maps into the compared features; feature, picture, structure: weights of the loss's terms; picture_term: of the
    rebuilt picture's difference in the score; smoothing: px, standard deviation."""

    width: Positive
    bank: Annotated[int, Field(ge=0)]
    skips: bool
    feature: Weight
    picture: Weight
    structure: Weight
    picture_term: Weight
    smoothing: Weight


@dataclass(frozen=True)
class Model:
    """A trained student with its teacher and bank (None: without prompts), and how it sees pictures."""

    teacher: Teacher
    student: Student
    bank: Bank | None
    window: int
    scale: float
    picture_term: float
    smoothing: float


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Train on windows of good pictures; keep the weights of the best pixel AP on pseudo anomalies of good val ones.

    Step n of a seed always draws the same windows. Raises UserError without a good picture, for a window that is no
    multiple of DEEPEST, or without a backbone of the name in `detect.encoder`.
    """
    detect = params.detect
    goods = [resized(example.image, detect.scale) for example in train if not example.has_defect]
    if not goods:
        raise UserError("the train part holds no good picture to learn from: see split in params.yaml")
    if detect.window % DEEPEST:
        raise UserError(f"detect.window is {detect.window}, but rgpkd needs a multiple of {DEEPEST}: change it")
    model = _untrained(goods, params, settings, seed)
    pseudo = pseudo_anomalies(goods, [example for example in val if not example.has_defect], detect.scale, seed)
    if not pseudo:
        warnings.warn("the val part holds no good picture: the last weights are kept, not the best", stacklevel=2)
    losses, validations = list[tuple[int, float]](), list[tuple[int, float]]()
    best, weights = -1.0, dict[str, Tensor]()
    for step, loss in _training(model, goods, detect, settings, seed):
        losses.append((step, round(loss, 6)))
        if pseudo and (step % detect.validate_every == 0 or step == detect.steps):
            scores = np.concatenate([predict_scaled(model, image).ravel() for image, _ in pseudo])
            score = average_precision(scores, np.concatenate([mask.ravel() for _, mask in pseudo]))
            validations.append((step, round(score, 6)))
            if score > best:
                best, weights = score, _copy(model.student)
    _save(model, weights or _copy(model.student), settings, out)
    return History({"loss": losses, "pixel AP on pseudo anomalies": validations})


def load(folder: Path) -> Model:
    """Read what `fit` wrote, onto this machine's device."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights, where = load_file(folder / "model.safetensors"), device()

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}

    teacher = Teacher(rebuild(config["backbone"]))
    teacher.load_state_dict(part("teacher"))
    student = Student(teacher.channels, config["width"], config["skips"])
    student.load_state_dict(part("student"))
    kept, bank = part("bank"), None
    if kept:
        entries = [kept[f"entry_{number}"].to(where) for number in range(len(teacher.channels))]
        bank = Bank(kept["keys"].to(where), entries, kept["owners"].to(where))
    shared = {key: config[key] for key in ("window", "scale", "picture_term", "smoothing")}
    return Model(teacher.to(where), student.to(where).eval(), bank, **shared)


def predict(model: Model, image: RGB) -> Scores:
    """The sum over scales of 1 - cosine between student and teacher, upsampled, tiled and smoothed.

    (H, W, 3) uint8 -> (H, W) float32, at least 0.
    """
    height, width = image.shape[:2]
    scores = predict_scaled(model, resized(image, model.scale))
    if model.smoothing:
        scores = np.asarray(cv2.GaussianBlur(scores, (0, 0), model.smoothing, borderType=cv2.BORDER_REFLECT))
    return np.maximum(resize(scores, width, height), 0) if scores.shape != (height, width) else scores


@torch.inference_mode()
def predict_scaled(model: Model, image: RGB) -> Scores:
    """`predict` of a picture at the scale that the networks see, not smoothed."""

    def predict_batch(views: NDArray) -> NDArray:
        images = _tensor(views, model)
        return score_maps(model, images).cpu().numpy()

    return predict_tiled(image, predict_batch, model.window, model.window // 4, DEEPEST, BATCH)


def score_maps(model: Model, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, H, W), at least 0; what one window scores does not depend on the others."""
    targets = model.teacher(images)
    features, picture = model.student(images, _prompts(model.bank, targets))
    score = summed(cosine_maps(features, targets), images.shape[-2:])
    return score + model.picture_term * (picture - images).abs().mean(dim=1)


def loss_of(
    features: Sequence[Tensor], targets: Sequence[Tensor], picture: Tensor, images: Tensor, settings: Settings
) -> Tensor:
    """Mean squared errors of the features, summed over scales, of the picture, and 1 - SSIM, weighted.

    Raises ValueError where features and targets differ in shape: a wrong order of scales would be broadcast.
    """
    pairs = list(zip(features, targets, strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise ValueError("student and teacher give features of different shapes")
    imitation = torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()
    structure = 1 - ssim(picture, images).mean()
    return (
        settings.feature * imitation + settings.picture * F.mse_loss(picture, images) + settings.structure * structure
    )


def pseudo_anomalies(sources: Sequence[RGB], val: Sequence[Example], scale: float, seed: int) -> list[tuple[RGB, Mask]]:
    """Good val pictures at `scale`, each with one piece of foreign texture, and the masks of the pieces."""
    result = []
    for number, example in enumerate(val[:VALIDATED]):
        image = resized(example.image, scale)
        rng = np.random.default_rng(seed_for(seed, "pseudo", number))
        height, width = image.shape[:2]
        high, wide = (max(2, round(extent * rng.uniform(*EXTENT))) for extent in (height, width))
        y, x = (int(rng.integers(extent - side + 1)) for extent, side in ((height, high), (width, wide)))
        painted, mask = blend(image, sources[int(rng.integers(len(sources)))], (x, y, x + wide, y + high), rng)
        result.append((painted, mask))
    return result


def _untrained(goods: Sequence[RGB], params: Params, settings: Settings, seed: int) -> Model:
    """A calibrated teacher, its bank, and a student before its first step."""
    detect, where = params.detect, device()
    with DRAWING, torch.random.fork_rng():
        teacher = Teacher(load_backbone(detect.encoder, params.base.allow_download)).to(where)
        torch.manual_seed(seed_for(seed, "weights"))
        student = Student(teacher.channels, settings.width, settings.skips).to(where)
    windows, owners = bank_windows(goods, detect.window, seed)
    raw = [teacher(batch) for batch in windows.to(where).split(BATCH)]
    features = [torch.cat(scale) for scale in zip(*raw, strict=True)]
    teacher.calibrate(features)
    bank = None
    if settings.bank:
        features = [torch.cat(scale) for scale in zip(*map(teacher, windows.to(where).split(BATCH)), strict=True)]
        everyone = Bank.of(features, owners.to(where))
        bank = everyone.kept(greedy_coreset(everyone.keys, settings.bank, seed)[0])
    return Model(teacher, student, bank, detect.window, detect.scale, settings.picture_term, settings.smoothing)


def bank_windows(goods: Sequence[RGB], window: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows (N, 3, window, window) in [0, 1] that cover the good pictures, at most CANDIDATES, not augmented, in a
    fixed order, and the number of the picture of each, (N,)."""
    places = [
        (number, Window(tile.x0, tile.y0, window))
        for number, image in enumerate(goods)
        for tile in tiles(image.shape, window, window // 4, DEEPEST)
    ]
    if len(places) > CANDIDATES:
        order = np.random.default_rng(seed_for(seed, "bank")).permutation(len(places))[:CANDIDATES]
        places = [places[index] for index in sorted(order)]
    views = np.stack([crop(goods[number], place) for number, place in places])
    tensor = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255
    return tensor, torch.tensor([number for number, _ in places])


def _training(
    model: Model, goods: Sequence[RGB], detect: Detect, settings: Settings, seed: int
) -> Iterator[tuple[int, float]]:
    """Train the student, and yield each step, from 1 on, with its loss."""
    student = model.student
    optimizer = torch.optim.AdamW(student.parameters(), detect.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, detect.learning_rate, total_steps=max(detect.steps, SHORTEST), pct_start=RISE
    )
    for step in progress(range(1, detect.steps + 1), f"train seed {seed}"):
        student.train()
        views, owners = training_windows(goods, detect, np.random.default_rng(seed_for(seed, "windows", step)))
        images = _tensor(views, model)
        targets = model.teacher(images)
        prompts = _prompts(model.bank, targets, torch.from_numpy(owners).to(images.device))
        features, picture = student(images, prompts)
        loss = loss_of(features, targets, picture, images, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        student.eval()
        yield step, loss.item()


def training_windows(
    goods: Sequence[RGB], detect: Detect, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Windows (B, window, window, 3) anywhere on good pictures, half of them mirrored, and their pictures' numbers."""
    owners = rng.integers(len(goods), size=detect.batch_size)
    views = []
    for owner in owners:
        height, width = goods[owner].shape[:2]
        x, y = (
            int(rng.integers(extent - detect.window + 1)) if extent > detect.window else (extent - detect.window) // 2
            for extent in (width, height)
        )
        view = crop(goods[owner], Window(x, y, detect.window))
        views.append(view[:, ::-1] if rng.random() < 0.5 else view)
    return np.stack(views), owners


def _prompts(bank: Bank | None, targets: Sequence[Tensor], owners: Tensor | None = None) -> list[Tensor] | None:
    return None if bank is None else bank.prompts(bank.nearest(targets[-1], owners))


def _tensor(views: NDArray[np.uint8], model: Model) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1], where the model is."""
    where = next(model.student.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(views)).to(where).permute(0, 3, 1, 2).float() / 255


def _copy(student: Student) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone().contiguous() for name, value in student.state_dict().items()}


def _save(model: Model, student: dict[str, Tensor], settings: Settings, out: Path) -> None:
    weights = {f"student.{name}": value for name, value in student.items()}
    weights |= {f"teacher.{name}": value.cpu().contiguous() for name, value in model.teacher.state_dict().items()}
    if model.bank:
        weights |= {"bank.keys": model.bank.keys.cpu(), "bank.owners": model.bank.owners.cpu()}
        weights |= {f"bank.entry_{n}": entry.cpu().contiguous() for n, entry in enumerate(model.bank.entries)}
    save_file(weights, out / "model.safetensors")
    config = {"width": settings.width, "skips": settings.skips, "backbone": model.teacher.backbone.description}
    config |= {"window": model.window, "scale": model.scale}
    write_json(out / "config.json", config | {"picture_term": model.picture_term, "smoothing": model.smoothing})
