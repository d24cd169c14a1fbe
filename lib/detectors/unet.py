"""A small U-Net on windows at native scale (Ronneberger et al. 2015), trained on real and synthetic defects.

Made for two CPU cores: full resolution is seen by two thin convolutions only, the rest works at half of it and
below. Skips are added instead of concatenated, which halves the decoder. Its way down is either drawn at random or a
SqueezeNet that has seen a million photographs (`detect.encoder`), since few defects teach little about pictures.
"""

import itertools
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.geometry import RGB, Mask, Scores, resize
from lib.core.params import Detect
from lib.core.runtime import device, mixed_precision, progress, seed_for, write_json
from lib.detectors import Example
from lib.metrics.ranking import average_precision, f1_max
from lib.squeezenet import CHANNELS, SqueezeNet
from lib.tiles import predict_tiled
from lib.windows import Pools, batch_of, evenly_by_type, resized, scaled_example

LEVELS = 4  # below full resolution, at 1/2, 1/4, 1/8 and 1/16
DETAIL = 8  # channels at full resolution
ENCODER_RATE = 0.1  # of the learning rate, for weights that know something already
VALIDATED = 24  # pictures that a validation looks at: weights are chosen often, so on few; the threshold once, on all
DRAWING = threading.Lock()  # seeds may train side by side, but torch has one random state for first weights
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


class UNet(nn.Module):
    """(B, 3, H, W) float in [0, 1] -> logits (B, 1, H, W); H and W are multiples of 16. `pretrained`: its way down."""

    def __init__(self, width: int, pretrained: SqueezeNet | None = None) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(LEVELS)]
        # No norm at full resolution: there it would cost as much as the convolution.
        self.detail = nn.Sequential(nn.Conv2d(3, DETAIL, 3, padding=1), nn.ReLU(inplace=True))
        self.encoder = Pretrained(pretrained, channels) if pretrained else Plain([DETAIL, *channels])
        skips = [DETAIL, *channels[:-1]]
        self.narrow = nn.ModuleList(nn.Conv2d(below, skip, 1) for below, skip in zip(channels, skips, strict=True))
        self.decoder = nn.ModuleList(nn.Sequential(*_convolution(skip, skip)) for skip in skips)
        self.head = nn.Conv2d(DETAIL, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        detail = self.detail((x - 0.5) / 0.25)
        maps: list[Tensor] = self.encoder(x, detail)
        *skips, x = detail, *maps
        for skip, narrow, decode in zip(reversed(skips), reversed(self.narrow), reversed(self.decoder), strict=True):
            x = decode(skip + F.interpolate(narrow(x), scale_factor=2, mode="bilinear", align_corners=False))
        return self.head(x)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """All weights, for an optimizer: each with the learning rate that suits what it knows already."""
        if not isinstance(self.encoder, Pretrained):
            return [{"params": list(self.parameters()), "lr": learning_rate}]
        known = list(self.encoder.network.parameters())
        ids = {id(weight) for weight in known}
        rest = [weight for weight in self.parameters() if id(weight) not in ids]
        return [{"params": rest, "lr": learning_rate}, {"params": known, "lr": ENCODER_RATE * learning_rate}]


class Plain(nn.Module):
    """Two convolutions for each level: the detail (B, DETAIL, H, W) -> maps at 1/2 to 1/16 of it."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*_convolution(before, after), *_convolution(after, after))
            for before, after in itertools.pairwise(channels)
        )

    def forward(self, image: Tensor, detail: Tensor) -> list[Tensor]:
        maps = [detail]
        for encode in self.levels:
            maps.append(encode(F.max_pool2d(maps[-1], 2)))
        return maps[1:]


class Pretrained(nn.Module):
    """SqueezeNet's features of the image (B, 3, H, W), made as narrow as the plain encoder's maps."""

    def __init__(self, network: SqueezeNet, channels: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.lateral = nn.ModuleList(
            nn.Sequential(*_convolution(before, after, size=1))
            for before, after in zip(CHANNELS, channels, strict=True)
        )

    def forward(self, image: Tensor, detail: Tensor) -> list[Tensor]:
        return [lateral(found) for lateral, found in zip(self.lateral, self.network(image), strict=True)]


def _convolution(before: int, after: int, size: int = 3) -> tuple[nn.Module, ...]:
    """GroupNorm: a batch of a few windows, half of them without a defect, has no statistics to rely on."""
    groups = next(n for n in (4, 2, 1) if after % n == 0)
    convolution = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return convolution, nn.GroupNorm(groups, after), nn.ReLU(inplace=True)


@dataclass(frozen=True)
class Model:
    """A trained network with the window and the scale that it was trained at."""

    network: UNet
    window: int
    scale: float


def fit(
    examples_train: Sequence[Example], examples_val: Sequence[Example], params: Detect, seed: int, out: Path
) -> None:
    """Train on windows and keep the weights of the best pixel AP on val; the threshold is F1-max there.

    Step n of a seed always draws the same windows, so equal input gives equal weights, bit for bit on a CPU.
    Without defects in val the last weights and the threshold 0.5 are written, with a warning.
    Raises ValueError when there is no defect to learn from.
    """
    where = device()
    precision = mixed_precision(where)
    train = [scaled_example(example, params.scale) for example in examples_train]
    pools = Pools.of(train)
    with DRAWING, torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "weights"))
        pretrained = SqueezeNet.read(Path(params.encoder)) if params.encoder else None
        network = UNet(params.width, pretrained).to(where)
    model = Model(network, params.window, params.scale)
    groups = network.groups(params.learning_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=params.steps, pct_start=0.2
    )
    scaler = torch.amp.GradScaler(where.type, enabled=precision == "fp16")
    selects = any(example.mask.any() for example in examples_val)
    if not selects:
        warnings.warn(
            "the val part holds no defect: the last weights are kept and the threshold is 0.5; "
            "raise split.val_fraction or add defects",
            stacklevel=2,
        )

    losses: list[float] = []
    validations: list[tuple[int, float]] = []
    few = evenly_by_type(examples_val, VALIDATED)
    best, weights = -1.0, _copy(network)
    for step in progress(range(1, params.steps + 1), f"train seed {seed}"):
        network.train()
        images, masks = batch_of(pools, params, np.random.default_rng(seed_for(seed, "windows", step)))
        with torch.autocast(where.type, DTYPES[precision], enabled=precision != "no"):
            logits = network(_tensor(images, where))
        loss = segmentation_loss(logits[:, 0].float(), torch.from_numpy(masks).to(where).float())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(round(loss.item(), 6))
        if selects and (step % params.validate_every == 0 or step == params.steps):
            score = average_precision(*_scores_and_truth(model, few))
            validations.append((step, round(score, 6)))
            if score > best:
                best, weights = score, _copy(network)
    threshold = 0.5
    if selects:
        network.load_state_dict(weights)
        threshold = f1_max(*_scores_and_truth(model, examples_val))[1]
    save_file(_copy(network), out / "model.safetensors")
    config = {"width": params.width, "window": params.window, "scale": params.scale}
    write_json(out / "config.json", {**config, "pretrained": bool(params.encoder)})
    write_json(out / "threshold.json", {"threshold": threshold, "chosen_on": "val" if selects else "nothing"})
    write_json(out / "history.json", {"loss": losses, "val_pixel_ap": validations})


def load(folder: Path) -> Model:
    """Read what `fit` wrote, onto this machine's device."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = UNet(config["width"], SqueezeNet() if config["pretrained"] else None)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Model(network.to(device()), config["window"], config["scale"])


@torch.inference_mode()
def predict(model: Model, image: RGB) -> Scores:
    """Defect probabilities of a whole picture: (H, W, 3) uint8 -> (H, W) float32 in [0, 1], at native size."""
    network, where = model.network.eval(), next(model.network.parameters()).device
    precision = mixed_precision(where)

    def predict_batch(tiles: NDArray) -> NDArray:
        with torch.autocast(where.type, DTYPES[precision], enabled=precision != "no"):
            logits = network(_tensor(tiles, where))
        return logits[:, 0].float().sigmoid().cpu().numpy()

    height, width = image.shape[:2]
    overlap = model.window // 4
    scores = predict_tiled(resized(image, model.scale), predict_batch, model.window, overlap, multiple=2**LEVELS)
    return np.clip(resize(scores, width, height), 0, 1) if scores.shape != (height, width) else scores


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy plus the mean soft Dice (Milletari et al. 2016) of the windows that show a defect.

    logits, masks: (B, H, W). One Dice for each window, not one for the batch: there a patch of half a window would
    drown a hole of twenty pixels. A window without a defect has no overlap to speak of.
    """
    probabilities, shows = logits.sigmoid(), masks.amax(dim=(1, 2))
    overlap = 2 * (probabilities * masks).sum(dim=(1, 2)) + 1
    dice = overlap / (probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)
    missing = ((1 - dice) * shows).sum() / shows.sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, masks) + missing


def _scores_and_truth(model: Model, examples: Sequence[Example]) -> tuple[Scores, Mask]:
    """All pixels of the pictures in a row: (N,) probabilities and (N,) bool."""
    scores = np.concatenate([predict(model, example.image).ravel() for example in examples])
    return scores, np.concatenate([example.mask.ravel() for example in examples])


def _tensor(images: NDArray[np.uint8], where: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1]; the channels stay last in memory."""
    return torch.from_numpy(images).to(where).permute(0, 3, 1, 2).float() / 255


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
