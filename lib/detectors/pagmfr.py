"""PAGMFR, "Collaborative Purification in Dual Spaces for Industrial Anomaly Detection via Hierarchical Reconstruction":
a re-implementation from a description; no code was published.

A network learns to remove anomalies: from a frozen backbone's features of an anomalous picture it reconstructs those of
the clean picture, and the clean picture itself. Where these differ from the input there is a defect; a small MLP
combines both (`lib/vision/purification.py`). It is trained on pseudo anomalies (`lib/vision/foreign.py`) and, beyond
the description, on real and accepted synthetic defects. The clean picture of a synthetic defect is known, so that it
trains both detection and reconstruction. That of a real defect is not known: it trains only detection.

Pictures are processed in windows; the backbone is the one that `detect.encoder` names.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.core.geometry import RGB, Scores
from lib.core.params import Detect, Params, Positive, Section
from lib.core.runtime import device, seed_for, write_json
from lib.metrics.ranking import average_precision
from lib.vision.backbones import image_tensor, load_backbone, rebuild
from lib.vision.distillation import Teacher
from lib.vision.examples import Example, History
from lib.vision.fitting import (
    DRAWING,
    VALIDATED,
    best_weights,
    copied,
    parameter_groups,
    pixel_precision,
    training_steps,
)
from lib.vision.foreign import Foreign, Route
from lib.vision.purification import Branches, Purifier, focal_loss
from lib.vision.reconstruction import cosine_maps, ssim
from lib.vision.tiles import Sight, predict_whole
from lib.vision.windows import Pools, Windows, batch_of, evenly_by_type

LEARNS_FROM = "defects"
MULTIPLE = 16  # of a window's sides: the deepest map has this stride
BATCH = 8  # windows per call in prediction
PSEUDO = 32  # windows, half of them with a pseudo anomaly, on which weights are selected if val has no defect

Weight = Annotated[float, Field(ge=0)]


class Settings(Section):
    """width: channels at stride 4, doubled at each level below.

    pseudo_share: share of a batch's windows that are from good pictures, half of them with a pseudo anomaly; the
    others are drawn as for other detectors, most from pictures with the arm's real and synthetic defects; 1, as
    published, uses no defects. route: kind of pseudo anomalies; auto decides from the good pictures. textures,
    objects: folders of pictures to make them of, or null for the category's good pictures. steps, learning_rate:
    instead of those in `detect`. gamma: of the focal loss. *_weight: of the terms of the loss. branches: what the
    score uses.
    """

    width: Annotated[int, Field(ge=8, multiple_of=2)]
    pseudo_share: Annotated[float, Field(gt=0, le=1)]
    route: Route
    textures: str | None
    objects: str | None
    steps: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    gamma: Annotated[float, Field(ge=0, le=5)]
    detection_weight: Annotated[float, Field(gt=0)]
    feature_weight: Weight
    picture_weight: Weight
    ssim_weight: Weight
    branches: Branches


@dataclass(frozen=True)
class Model:
    """Backbone and network, with the window and the scale of training."""

    teacher: Teacher
    network: Purifier
    settings: Settings
    window: int
    scale: float


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Train on windows and write the weights with the best pixel AP on val.

    If val has no defects, weights are selected by pseudo anomalies on its good pictures; if it is empty, the last ones
    are kept. Step n of a seed always draws the same windows, so that equal input gives equal weights, bit for bit on a
    CPU. Raises UserError without good pictures, for an empty folder of textures or objects, and if `detect.encoder`
    names no backbone.
    """
    detect = params.detect
    defects = settings.pseudo_share < 1 and any(example.has_defect for example in train)
    foreign = foreign_of([example for example in train if not example.has_defect], settings, detect)
    model = _untrained(params, settings, seed)
    select = _selection(val, settings, detect, seed)
    weights, history = best_weights(
        _training(model, foreign, Pools.of(train) if defects else None, detect, seed),
        model.network,
        (lambda: select(model)) if select else None,
        detect.validate_every,
        settings.steps,
        "pixel AP on val",
    )
    _write(model, weights, out)
    return history


def foreign_of(good: Sequence[Example], settings: Settings, detect: Detect) -> Foreign:
    """The source of pseudo anomalies. Raises UserError without good pictures, or if a named folder has none."""
    return Foreign.of(good, settings.route, settings.textures, settings.objects, detect)


def _selection(
    val: Sequence[Example], settings: Settings, detect: Detect, seed: int
) -> Callable[[Model], float] | None:
    """The function that selects weights: the pixel AP of a model on val; None if val has no picture."""
    few = evenly_by_type(val, VALIDATED)
    if any(example.has_defect for example in few):
        return lambda model: pixel_precision(partial(predict, model), few)
    if not few:
        warnings.warn("the val part holds no picture: the last weights are kept, not the best ones", stacklevel=3)
        return None
    foreign = foreign_of(few, settings, detect)
    windows = [foreign.window(np.random.default_rng(seed_for(seed, "pseudo", n))) for n in range(PSEUDO)]
    images, masks = np.stack([image for image, _, _ in windows]), np.stack([mask for _, mask, _ in windows])
    return lambda model: average_precision(scores_of(model, images).ravel(), masks.ravel())


def _untrained(params: Params, settings: Settings, seed: int) -> Model:
    """The networks before the first step, on this machine's device."""
    with DRAWING, torch.random.fork_rng(devices=[]):
        teacher = Teacher(load_backbone(params.detect.encoder, params.base.allow_download))
        torch.manual_seed(seed_for(seed, "weights"))
        network = Purifier(teacher.channels[1:], settings.width, settings.branches)
    return Model(teacher.to(device()), network.to(device()), settings, params.detect.window, params.detect.scale)


def _training(
    model: Model, foreign: Foreign, pools: Pools | None, detect: Detect, seed: int
) -> Iterator[tuple[int, float]]:
    """Train the network, and yield each step, from 1 on, with its loss."""

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng(seed_for(seed, "windows", step))
        return total_loss(model, draw(foreign, pools, model.settings, detect, rng))

    settings = model.settings
    groups = parameter_groups(model.network, None, settings.learning_rate, settings.learning_rate)
    return training_steps(model.network, groups, settings.steps, seed, loss_of)


def draw(
    foreign: Foreign, pools: Pools | None, settings: Settings, detect: Detect, rng: np.random.Generator
) -> Windows:
    """The windows of one step: `pseudo_share` of them from `foreign`, or all if there are no `pools`, the rest from
    pools.

    A share that is not a whole number is rounded up or down at random, so that it holds on average.
    """
    size = detect.batch_size
    count = min(int(settings.pseudo_share * size + rng.random()), size) if pools else size
    made = [foreign.window(rng) for _ in range(count)]
    parts = []
    if made:
        images, masks, clean = (np.stack(column) for column in zip(*made, strict=True))
        parts.append(Windows(images, masks.astype(np.uint8), clean, np.ones(count, bool)))
    if pools and count < size:
        parts.append(batch_of(pools, detect.model_copy(update={"batch_size": size - count}), rng, twins=True))
    return Windows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def total_loss(model: Model, batch: Windows) -> Tensor:
    """The focal loss of all windows; and, for those whose clean picture is known, the errors of the reconstruction:
    1 - cosine of the features, summed over scales, MSE and 1 - SSIM of the picture."""
    settings = model.settings
    images = image_tensor(batch.images)
    logits, purified = model.network(images, model.teacher(images)[1:])
    masks = torch.from_numpy(batch.masks).to(images.device).float()
    loss = settings.detection_weight * focal_loss(logits, masks, settings.gamma)
    rows = torch.from_numpy(np.flatnonzero(batch.known)).to(images.device)
    if not len(rows):
        return loss
    clean = image_tensor(batch.clean[batch.known])
    picture = purified.picture[rows]
    distances = cosine_maps([one[rows] for one in purified.features], model.teacher(clean)[1:])
    loss = loss + settings.feature_weight * torch.stack([one.mean() for one in distances]).sum()
    loss = loss + settings.picture_weight * F.mse_loss(picture, clean)
    return loss + settings.ssim_weight * (1 - ssim(picture, clean).mean())


def predict(model: Model, image: RGB) -> Scores:
    """Defect probabilities of a whole picture: (H, W, 3) uint8 -> (H, W) float32 in [0, 1], at native size."""
    return predict_whole(image, lambda windows: scores_of(model, windows), sight(model))


def sight(model: Model) -> Sight:
    return Sight(model.window, model.window // 4, MULTIPLE, BATCH, model.scale)


@torch.inference_mode()
def scores_of(model: Model, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 -> defect probabilities (B, H, W), for any number of windows."""
    model.network.eval()
    batches = (windows[first : first + BATCH] for first in range(0, len(windows), BATCH))
    return np.concatenate([window_scores(model, image_tensor(batch)).cpu().numpy() for batch in batches])


def window_scores(model: Model, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> defect probabilities (B, H, W)."""
    return model.network(images, model.teacher(images)[1:])[0].sigmoid()


def _write(model: Model, network: dict[str, Tensor], out: Path) -> None:
    teacher = {f"teacher.{name}": value for name, value in copied(model.teacher).items()}
    save_file({**teacher, **{f"network.{name}": value for name, value in network.items()}}, out / "model.safetensors")
    config = {"window": model.window, "scale": model.scale, "backbone": model.teacher.backbone.description}
    write_json(out / "config.json", {**config, "settings": model.settings.model_dump()})


def load(folder: Path) -> Model:
    """Load what `fit` wrote, with the backbone, onto this machine's device."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings, weights = Settings.model_validate(config["settings"]), load_file(folder / "model.safetensors")
    with DRAWING:
        teacher = Teacher(rebuild(config["backbone"]))
        network = Purifier(teacher.channels[1:], settings.width, settings.branches)
    for part, own in (("teacher.", teacher), ("network.", network)):
        own.load_state_dict(
            {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
        )
    return Model(teacher.to(device()), network.to(device()).eval(), settings, config["window"], config["scale"])
