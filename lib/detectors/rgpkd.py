"""RGPKD, "Reconstruction-Guided and Prompt-Enhanced Asymmetric Knowledge Distillation for Anomaly Detection": a
re-implementation; the public code does not run.

A student learns to imitate the features of a frozen teacher on good pictures and to reconstruct the picture. Its prompt
is the most similar window in a bank of good windows. Where its features differ from the teacher's, there is a defect.
The networks are in `lib/vision/distillation.py`. Differences from the public code, which fails or leaks there:

- the bank is searched with the teacher's features, not with the student's, which change in training; in training no
  window gets an entry of its own picture; the same bank is used in training and in prediction;
- the compared features have no skip connections around the deepest map, by which anomalies would bypass it;
- weights are selected by pseudo anomalies on good val pictures, and scores are not normalised per batch.

Pictures are processed in windows; the teacher is the backbone that `detect.encoder` names.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask, Scores, Window, crop, paste_back, rescale
from lib.core.params import Detect, Params, Section
from lib.core.runtime import device, progress, seed_for, write_json
from lib.metrics.ranking import average_precision
from lib.vision.backbones import Backbone, image_tensor, load_backbone, rebuild
from lib.vision.coreset import greedy_coreset
from lib.vision.distillation import (
    MULTIPLE,
    Bank,
    Encoder,
    Pretrained,
    Skips,
    Student,
    Teacher,
    key_of,
    score_map,
    total_loss,
)
from lib.vision.examples import Example, History
from lib.vision.fitting import DRAWING, best_weights, copied, parameter_groups, training_steps
from lib.vision.pseudo import blend
from lib.vision.reconstruction import ssim
from lib.vision.tiles import Sight, predict_whole, tiles
from lib.vision.windows import good_batch

LEARNS_FROM = "good"
BATCH = 8  # windows per call in prediction
CANDIDATES = 2000  # windows from which the bank's entries are chosen; more would cost the teacher minutes
PSEUDO = 24  # windows with a pseudo anomaly on which weights are selected
TRIES = 100  # windows drawn until an anomaly lies on pixels that count
PSEUDO_SIDE = (0.15, 0.6)  # sides of the box around a pseudo anomaly, as shares of the window

Weight = Annotated[float, Field(ge=0)]


class Settings(Section):
    """width: channels of the student's decoder at stride 4, doubled at each level below.

    encoder: of the student: the teacher's maps; a second, pretrained backbone, which learns at encoder_rate times the
    learning rate; or convolutions trained from scratch. skips: where skip connections lead. bank: entries, chosen by
    k-centre; 0: no prompts. distance: of features, in training. *_weight: of the terms of the loss. scale_weights: of
    the three scales in the score, from fine to coarse; picture_score: of the picture difference in the score.
    smoothing: standard deviation in pixels, after scaling.
    """

    width: Annotated[int, Field(ge=8, multiple_of=2)]
    encoder: Literal["teacher", "pretrained", "scratch"]
    encoder_rate: Annotated[float, Field(gt=0, le=1)]
    skips: Skips
    bank: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    distance: Literal["mse", "cosine"]
    feature_weight: Weight
    picture_weight: Weight
    ssim_weight: Weight
    scale_weights: tuple[Weight, Weight, Weight]
    picture_score: Weight
    smoothing: Weight

    @model_validator(mode="after")
    def _some_loss(self) -> "Settings":
        if not (self.feature_weight or self.picture_weight or self.ssim_weight):
            raise ValueError("one of feature_weight, picture_weight and ssim_weight must be above 0")
        return self


@dataclass(frozen=True)
class Model:
    """Teacher, student and bank (None: without prompts), with the window and the scale of training."""

    teacher: Teacher
    student: Student
    bank: Bank | None
    settings: Settings
    window: int
    scale: float


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Train on windows of good pictures and write the weights that best detect pseudo anomalies on good val pictures.

    Without good pictures in val the last weights are kept. Step n of a seed always draws the same windows, so that
    equal input gives equal weights, bit for bit on a CPU. Raises UserError if there is no good picture, all entries of
    the bank are from one picture, `detect.window` is not a multiple of 32, or `detect.encoder` names no backbone.
    """
    detect = params.detect
    good = [example for example in train if not example.has_defect]
    if not good:
        raise UserError("the train part holds no good picture to learn from: see split in params.yaml")
    if detect.window % MULTIPLE:
        raise UserError(f"detect.window: rgpkd needs a multiple of {MULTIPLE} (found {detect.window})")
    teacher, student = _untrained(params, settings, seed)
    bank = remember(teacher, good, detect, settings.bank, seed) if settings.bank else None
    model = Model(teacher, student, bank, settings, detect.window, detect.scale)
    images, masks, counting = pseudo_anomalies([example for example in val if not example.has_defect], detect, seed)
    if not masks.any():
        missing = "good picture" if not len(images) else "pixel of a good picture that counts"
        warnings.warn(f"the val part holds no {missing}: the last weights are kept, not the best ones", stacklevel=2)
    weights, history = best_weights(
        _training(model, good, detect, seed),
        student,
        (lambda: average_precision(scores_of(model, images)[counting], masks[counting])) if masks.any() else None,
        detect.validate_every,
        detect.steps,
        "pixel AP of pseudo anomalies on val",
    )
    _write(model, weights, out)
    return history


def _untrained(params: Params, settings: Settings, seed: int) -> tuple[Teacher, Student]:
    """The networks before the first step, on this machine's device."""
    name, download = params.detect.encoder, params.base.allow_download
    with DRAWING, torch.random.fork_rng(devices=[]):
        teacher = Teacher(load_backbone(name, download))
        own = load_backbone(name, download) if settings.encoder == "pretrained" else None
        torch.manual_seed(seed_for(seed, "weights"))
        return teacher.to(device()), _student(teacher, own, settings).to(device())


def _student(teacher: Teacher, own: Backbone | None, settings: Settings) -> Student:
    encoder: Encoder | Pretrained | None = None
    if own:
        encoder = Pretrained(own.requires_grad_(True))
    elif settings.encoder == "scratch":
        encoder = Encoder(settings.width)
    return Student(teacher.channels, encoder, settings.width, settings.skips, settings.bank > 0)


@torch.no_grad()
def remember(teacher: Teacher, good: Sequence[Example], detect: Detect, size: int, seed: int) -> Bank:
    """A bank of at most `size` windows of the good pictures (section 3.3).

    Candidates are the tiles of `predict`, without augmentation, equally many of each picture. Entries are chosen by
    k-centre on their keys, in the order of the pictures. Raises UserError if all are from one picture.
    """
    pictures = np.random.default_rng(seed_for(seed, "pictures")).permutation(len(good))[:CANDIDATES]
    each = CANDIDATES // len(pictures)
    features, owners = [], []
    for n in progress(np.sort(pictures), f"look at good pictures, seed {seed}"):
        windows = windows_of(good[n], detect, each, seed_for(seed, "windows of", int(n)))
        features += [key_of(teacher(image_tensor(batch))[-1]) for batch in batches(windows)]
        owners += [int(n)] * len(windows)
    keys = torch.cat(features)
    chosen = greedy_coreset(keys, size, seed)[0].sort().values
    owner = torch.tensor(owners, device=keys.device)
    if len(owner[chosen].unique()) < 2:
        raise UserError(
            "rgpkd.bank: all of its entries are of one picture, whose windows must not find themselves in training: "
            "raise it, add good pictures, or set it to 0, which goes without prompts"
        )
    entries = []
    for n in owner[chosen].unique().tolist():
        windows = windows_of(good[n], detect, each, seed_for(seed, "windows of", n))
        kept = (chosen[owner[chosen] == n] - owners.index(n)).cpu().numpy()
        entries += [teacher(image_tensor(batch))[1:] for batch in batches(windows[kept])]
    return Bank(keys[chosen], [torch.cat(level).half() for level in zip(*entries, strict=True)], owner[chosen])


def batches(windows: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """(N, H, W, 3) split into batches of at most BATCH."""
    return [windows[first : first + BATCH] for first in range(0, len(windows), BATCH)]


def windows_of(example: Example, detect: Detect, most: int, seed: int) -> NDArray[np.uint8]:
    """The central windows (N, window, window, 3) of the tiles of `predict`, at most `most` of them, drawn at random."""
    small, side = rescale(example.image, detect.scale), detect.window
    places = tiles(small.shape, side, side // 4, MULTIPLE)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(places))[:most])
    corners = ((places[n].x0, places[n].y0, (places[n].side - side) // 2) for n in drawn)
    return np.stack([crop(small, Window(x + inset, y + inset, side)) for x, y, inset in corners])


def pseudo_anomalies(good: Sequence[Example], detect: Detect, seed: int) -> tuple[NDArray[np.uint8], Mask, Mask]:
    """PSEUDO windows (N, window, window, 3) of good pictures with a Perlin anomaly each; their masks, and their pixels
    that count, (N, ., .).

    Empty without good pictures. They are used to select weights, not to train. Pixels that never count are not changed;
    a window in which no other is changed is drawn again, up to TRIES times.
    """
    windows = []
    for n in range(PSEUDO if good else 0):
        rng = np.random.default_rng(seed_for(seed, "pseudo", n))
        for _ in range(TRIES):
            window = _pseudo_anomaly(good[n % len(good)], good, detect, rng)
            if window[1].any():
                break
        windows.append(window)
    images, masks, counting = zip(*windows, strict=True) if windows else ((), (), ())
    return np.array(images, np.uint8), np.array(masks, bool), np.array(counting, bool)


def _pseudo_anomaly(
    example: Example, good: Sequence[Example], detect: Detect, rng: np.random.Generator
) -> tuple[RGB, Mask, Mask]:
    """A window, the mask of its anomaly, which may be empty, and its pixels that count."""
    side = detect.window
    small, other = (rescale(one.image, detect.scale) for one in (example, good[int(rng.integers(len(good)))]))
    y, x = (
        int(rng.integers(extent - side + 1)) if extent > side else (extent - side) // 2 for extent in small.shape[:2]
    )
    width, height = (max(1, round(side * share)) for share in rng.uniform(*PSEUDO_SIDE, 2))
    left, top = (int(rng.integers(side - extent + 1)) for extent in (width, height))
    clean = crop(small, Window(x, y, side))
    image, mask = blend(clean, other, (left, top, left + width, top + height), rng)
    if example.ignored is None:
        return image, mask, np.ones(mask.shape, bool)
    counting = ~crop(rescale(example.ignored, detect.scale), Window(x, y, side))
    mask &= counting
    return paste_back(image, clean, mask), mask, counting


def _training(model: Model, good: Sequence[Example], detect: Detect, seed: int) -> Iterator[tuple[int, float]]:
    """Train the student, and yield each step, from 1 on, with its loss."""
    student, settings = model.student, model.settings
    weights = settings.feature_weight, settings.picture_weight, settings.ssim_weight

    def loss_of(step: int) -> Tensor:
        images, pictures = good_batch(good, detect, np.random.default_rng(seed_for(seed, "windows", step)))
        image = image_tensor(images)
        features = model.teacher(image)
        students, rebuilt = student(image, features, _entries(model, features, exclude=torch.from_numpy(pictures)))
        return total_loss(features[1:], students, image, rebuilt, settings.distance, weights)

    return training_steps(student, _groups(student, settings), detect.steps, seed, loss_of)


def _groups(student: Student, settings: Settings) -> list[dict[str, Any]]:
    """The trainable weights, for an optimizer: a pretrained encoder's at `encoder_rate` times the learning rate."""
    pretrained = student.encoder if isinstance(student.encoder, Pretrained) else None
    rate = settings.learning_rate
    return parameter_groups(student, pretrained, rate, settings.encoder_rate * rate)


def _entries(model: Model, features: Sequence[Tensor], exclude: Tensor | None = None) -> list[Tensor] | None:
    """The bank's entries for these teacher features, or None without a bank."""
    if model.bank is None:
        return None
    where = model.bank.keys.device
    return model.bank.fetch(model.bank.nearest(features[-1], None if exclude is None else exclude.to(where)))


def _write(model: Model, student: dict[str, Tensor], out: Path) -> None:
    parts = {"teacher": copied(model.teacher), "student": student, "bank": model.bank.tensors() if model.bank else {}}
    weights = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    save_file({name: value.cpu().contiguous() for name, value in weights.items()}, out / "model.safetensors")
    config = {"window": model.window, "scale": model.scale, "backbone": model.teacher.backbone.description}
    bank = _digest(model.bank) if model.bank else None
    write_json(out / "config.json", {**config, "settings": model.settings.model_dump(), "bank": bank})


def _digest(bank: Bank) -> str:
    """A digest that identifies the bank of a category and seed."""
    return hashlib.blake2b(bank.keys.cpu().numpy().tobytes(), digest_size=8).hexdigest()


def load(folder: Path) -> Model:
    """Load what `fit` wrote, with teacher and bank, onto this machine's device.

    Raises UserError if the bank is not the one that the student was trained with.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings, weights = Settings.model_validate(config["settings"]), load_file(folder / "model.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"teacher": {}, "student": {}, "bank": {}}
    for name, value in weights.items():
        part, key = name.split(".", 1)
        parts[part][key] = value.to(device())
    bank = Bank.of(parts["bank"]) if parts["bank"] else None
    if (_digest(bank) if bank else None) != config["bank"]:
        raise UserError(f"{folder}: model.safetensors holds another bank than config.json tells of: train it again")
    with DRAWING:
        teacher = Teacher(rebuild(config["backbone"]))
        own = rebuild(config["backbone"]) if settings.encoder == "pretrained" else None
        student = _student(teacher, own, settings)
    teacher.load_state_dict(parts["teacher"])
    student.load_state_dict(parts["student"])
    return Model(teacher.to(device()), student.to(device()).eval(), bank, settings, config["window"], config["scale"])


def predict(model: Model, image: RGB) -> Scores:
    """The difference of student and teacher at each pixel: (H, W, 3) uint8 -> (H, W) float32, at least 0."""
    return predict_whole(image, lambda windows: scores_of(model, windows), sight(model))


def sight(model: Model) -> Sight:
    return Sight(model.window, model.window // 4, MULTIPLE, BATCH, model.scale, model.settings.smoothing)


@torch.inference_mode()
def scores_of(model: Model, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 -> (B, H, W): `window_scores` of any number of windows."""
    model.student.eval()
    return np.concatenate([window_scores(model, image_tensor(batch)).cpu().numpy() for batch in batches(windows)])


def window_scores(model: Model, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, H, W): the distances of all scales at full size, summed (section 3.5), and the
    difference of the pictures, 1 - SSIM, at its weight."""
    features, settings = model.teacher(images), model.settings
    students, picture = model.student(images, features, _entries(model, features))
    total = score_map(features[1:], students, images.shape[-2:], settings.scale_weights)
    return total + settings.picture_score * (1 - ssim(picture, images)).mean(dim=1) if settings.picture_score else total
