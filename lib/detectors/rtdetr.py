"""RT-DETRv2 on windows (Zhao et al. 2024, Lv et al. 2024): a detector that predicts boxes instead of a map.

Network, matching and loss are those of transformers; this file defines size, data and tiles. By default the network is
small and uses the backbone of `detect.encoder`, or, with `none`, a thin ResNet that is trained from scratch. With
`rtdetr.weights` it is a published network with a new class head. All defects are one class, or each type is one.

A defect that is longer than the overlap of two tiles is cut in each: its boxes are joined (`lib/vision/stitching.py`).
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.boxes import mask_boxes
from lib.core.defects import Labels
from lib.core.errors import UserError, first_line
from lib.core.geometry import RGB, Box, Scores, Window, crop, rescale
from lib.core.params import Detect, Params, Positive, Section, Share
from lib.core.runtime import device, seed_for, write_json
from lib.metrics.boxes import MOST, SPECK, ScoredBox, box_precision, painted, truth_boxes, typed_precision
from lib.vision.backbones import HUB_ID, NONE, Backbone, image_tensor, load_backbone, maps_at, rebuild, taps
from lib.vision.examples import Example, History
from lib.vision.fitting import DRAWING, VALIDATED, best_weights, parameter_groups, training_steps
from lib.vision.stitching import stitched
from lib.vision.tiles import tiles
from lib.vision.windows import Pools, batch_of, evenly_by_type

LEARNS_FROM = "defects"
STRIDES = (4, 8, 16)  # of the small network's input maps; published: 8, 16, 32, too coarse for windows
HEADS = 4  # of the small network's attention layers
PRIOR = 0.01  # initial score of every query: few of them hold a defect (Lin et al. 2017, sec. 4.1)
WEIGHT_DECAY = 1e-4  # as published
GRADIENT_CLIP = 0.1  # as published
BATCH = 16  # tiles per call in prediction


class Settings(Section):
    """The keys are explained in params.yaml; sizes apply to the small network only."""

    classes: Literal["defect", "types"]
    weights: str | None
    width: Annotated[int, Field(ge=16, multiple_of=16)]
    layers: Annotated[int, Field(ge=2)]  # transformers ties the heads of all layers to those of the first
    queries: Positive
    denoising: Annotated[int, Field(ge=0)]
    encoder_rate: Share
    steps: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    most_iou: Share


class Pyramid(nn.Module):
    """A backbone's maps of the image (B, 3, H, W) in [0, 1] at STRIDES, in the form that RT-DETR expects."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(level, valid) for level in maps_at(STRIDES, self.backbone, image)]


@dataclass(frozen=True)
class Model:
    """A trained network, with the window and the scale of its training, and the types that it classifies."""

    network: Any  # RTDetrV2ForObjectDetection
    window: int
    scale: float
    most_iou: float
    types: tuple[str, ...] = ()

    @property
    def multiple(self) -> int:
        """Pixels; sides of windows are multiples of it."""
        return max(self.network.config.feat_strides)


def fit(
    train: Sequence[Example], val: Sequence[Example], params: Params, settings: Settings, seed: int, out: Path
) -> History:
    """Train on windows and write the weights with the best box AP on val, with types the best mean over types; without
    defects in val, the last ones.

    Step n of a seed always draws the same windows, so that equal input gives equal weights, bit for bit on a CPU.
    Raises UserError if there is no defect to learn from, backbone or weights are missing, or the window does not fit.
    """
    detect, pools = params.detect, Pools.of(train)
    types = tuple(pools.types) if settings.classes == "types" else ()
    network = _untrained(params, settings, seed, max(1, len(types)))
    model = Model(network, detect.window, detect.scale, settings.most_iou, types)
    if detect.window % model.multiple:
        raise UserError(f"detect.window is {detect.window}, this RT-DETR needs a multiple of {model.multiple} px")
    places = sum((detect.window // stride) ** 2 for stride in network.config.feat_strides)
    if (queries := network.config.num_queries) > places:
        raise UserError(f"rtdetr.queries: {queries}, but a window of {detect.window} px has {places} places for boxes")
    few = evenly_by_type(val, VALIDATED)
    selects = any(example.has_defect for example in few)
    if not selects:
        warnings.warn("the val part holds no defect: the last weights are kept, not the best ones", stacklevel=2)

    def score() -> float:
        predictions = [
            [one for one in boxes(model, example.image) if example.counts_within(one.box)] for example in few
        ]
        if not types:
            return box_precision(predictions, [truth_boxes(example.mask) for example in few])[1]
        return typed_precision(predictions, [[truth_boxes(one.mask_of([name])) for one in few] for name in types])[1]

    weights, history = best_weights(
        _training(model, pools, detect, settings, seed),
        network,
        score if selects else None,
        detect.validate_every,
        settings.steps,
        "box mAP on val" if types else "box AP on val",
    )
    save_file(weights, out / "model.safetensors")
    pyramid = network.model.backbone
    config = {
        "network": network.config.to_dict(),
        "backbone": pyramid.backbone.description if isinstance(pyramid, Pyramid) else None,
        "window": detect.window,
        "scale": detect.scale,
        "most_iou": settings.most_iou,
        "types": types,
    }
    write_json(out / "config.json", config)
    return history


def load(folder: Path) -> Model:
    """Load what `fit` wrote, with the backbone's weights, onto this machine's device."""
    from transformers import RTDetrV2Config

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with DRAWING:
        backbone = rebuild(config["backbone"]) if config["backbone"] else None
        network = _built(RTDetrV2Config.from_dict(config["network"]), backbone)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    types = tuple(config.get("types", ()))  # models of earlier versions have none
    return Model(network.to(device()).eval(), config["window"], config["scale"], config["most_iou"], types)


def predict(model: Model, image: RGB) -> Scores:
    """(H, W, 3) uint8 -> (H, W) float32 in [0, 1]: for each pixel the highest score of the boxes that contain it.

    Boxes are coarse: good pixels in the corner of a box are marked, too.
    """
    return painted(boxes(model, image), image.shape)


@torch.no_grad()
def boxes(model: Model, image: RGB) -> list[ScoredBox]:
    """The scored boxes of a whole picture (H, W, 3) uint8, in its pixels, by falling score, at most MOST.

    Each query gives one box, of its most likely type.
    """
    network, where = model.network.eval(), next(model.network.parameters()).device
    small = rescale(image, model.scale)
    places = tiles(small.shape, model.window, model.window // 4, model.multiple)
    of_tiles: list[list[ScoredBox]] = []
    for first in range(0, len(places), BATCH):
        batch = np.stack([crop(small, place) for place in places[first : first + BATCH]])
        answer = network(pixel_values=_tensor(batch, where))
        scores = answer.logits.float().sigmoid().cpu().numpy()
        centres = answer.pred_boxes.float().cpu().numpy().astype(np.float64)
        corners = np.concatenate([centres[..., :2] - centres[..., 2:] / 2, centres[..., :2] + centres[..., 2:] / 2], -1)
        for place, of_tile, sure in zip(places[first : first + BATCH], corners, scores, strict=True):
            of_tiles.append(_in_picture(of_tile, sure, place, small.shape))
    factors = np.tile(image.shape[1::-1], 2) / np.tile(small.shape[1::-1], 2)
    surest = stitched(of_tiles, places, small.shape, model.most_iou)[:MOST]
    return [_scored(np.array(box) * factors, score, label if model.types else 0) for box, score, label in surest]


def _in_picture(corners: NDArray, scores: NDArray, place: Window, shape: Sequence[int]) -> list[ScoredBox]:
    """The boxes (Q, 4) of a tile, given as shares of its side, in pixels of the picture and clipped to it.

    scores: (Q, K), of each type. A box has its highest score, and the label of that type, from 1 on.
    """
    low, high = np.zeros(4), np.tile(shape[1::-1], 2)
    pixels = np.clip(corners * place.side + np.array([place.x0, place.y0] * 2), low, high)
    inside = (pixels[:, 2:] > pixels[:, :2]).all(axis=1)
    highest, labels = scores.max(axis=1), scores.argmax(axis=1) + 1
    surest = np.argsort(-highest, kind="stable")[:MOST]
    return [_scored(pixels[n], highest[n], labels[n]) for n in surest if inside[n]]


def _scored(corners: NDArray, score: float, label: int) -> ScoredBox:
    x0, y0, x1, y1 = corners.tolist()
    return ScoredBox((x0, y0, x1, y1), float(score), int(label))


def _untrained(params: Params, settings: Settings, seed: int, classes: int) -> Any:
    """The network before its first step, on this machine's device."""
    name = params.detect.encoder
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        if settings.weights is not None:
            network = _published(settings.weights, settings, params.base.allow_download, classes)
        else:
            backbone = None if name == NONE else load_backbone(name, params.base.allow_download)
            torch.manual_seed(seed_for(seed, "weights"))  # again: the backbone may have used random numbers
            network = _built(_small(settings, backbone, classes), backbone)
            # transformers initialises norm weights around 0, to be overwritten by a checkpoint; they would block
            # signals.
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.ones_(module.weight)
    if (settings.weights is not None or name != NONE) and not settings.encoder_rate:
        network.model.backbone.requires_grad_(False)
    return network.to(device())


def _small(settings: Settings, backbone: Backbone | None, classes: int) -> Any:
    """The configuration of a network of this size, on the backbone's maps or on those of a thin ResNet."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    width = settings.width
    channels = [width // 4, width // 2, width]
    if backbone:
        channels = [backbone.channels[tap] for tap in taps(backbone.strides, STRIDES)]
    resnet = RTDetrResNetConfig(
        embedding_size=width // 4, hidden_sizes=channels, depths=[1] * 3, layer_type="basic", out_indices=[1, 2, 3]
    )
    return RTDetrV2Config(
        num_labels=classes,
        backbone_config=resnet,
        freeze_backbone_batch_norms=False,
        feat_strides=list(STRIDES),
        encoder_in_channels=channels,
        encoder_hidden_dim=width,
        encoder_ffn_dim=2 * width,
        encoder_attention_heads=HEADS,
        hidden_expansion=0.5,
        d_model=width,
        decoder_in_channels=[width] * 3,
        decoder_ffn_dim=2 * width,
        decoder_layers=settings.layers,
        decoder_attention_heads=HEADS,
        num_queries=settings.queries,
        num_denoising=settings.denoising,
        initializer_bias_prior_prob=PRIOR,
    )


def _built(config: Any, backbone: Backbone | None) -> Any:
    """The network of a configuration, with random weights; the backbone takes the place of its thin ResNet."""
    from transformers import RTDetrV2ForObjectDetection

    network = RTDetrV2ForObjectDetection(config)
    if backbone:
        network.model.backbone = Pyramid(backbone)
    return network


def _published(name: str, settings: Settings, allow_download: bool, classes: int) -> Any:
    """A complete RT-DETRv2 with its weights, except for new class heads. Raises UserError if it cannot be loaded."""
    from transformers import RTDetrV2ForObjectDetection

    hub = HUB_ID.fullmatch(name)
    if not hub and not Path(name).is_dir():
        raise UserError(
            f"rtdetr.weights: {name!r} is no folder that is there; expected null, a folder of transformers, or a hub "
            "id with its commit such as PekingU/rtdetr_v2_r18vd@<40 hex digits>"
        )
    place, commit = (hub["repo"], hub["commit"]) if hub and not Path(name).is_dir() else (name, None)
    local = commit is None or not allow_download
    try:
        return RTDetrV2ForObjectDetection.from_pretrained(
            place,
            revision=commit,
            local_files_only=local,
            use_safetensors=True,
            dtype=torch.float32,
            num_labels=classes,
            num_denoising=settings.denoising,
            anchor_image_size=None,  # windows have another size than the pictures that it was published for
            eval_size=None,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        where = " in the local cache, since base.allow_download is false" if commit and local else ""
        raise UserError(f"rtdetr.weights: {name} gives no RT-DETRv2{where}: {first_line(error)}") from error


def _training(model: Model, pools: Pools, detect: Detect, settings: Settings, seed: int) -> Iterator[tuple[int, float]]:
    """Train the network, and yield each step, from 1 on, with its loss."""
    network, where = model.network, next(model.network.parameters()).device

    def loss_of(step: int) -> Tensor:
        batch = batch_of(pools, detect, np.random.default_rng(seed_for(seed, "windows", step)), types=model.types)
        labels = [{name: value.to(where) for name, value in labels_of(window).items()} for window in batch.labels]
        pixels = _tensor(batch.images, where)
        if not settings.denoising:
            return network(pixel_values=pixels, labels=labels).loss
        # Noisy boxes come from torch's one random state, which all seeds share.
        with DRAWING, torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            torch.manual_seed(seed_for(seed, "noise", step))
            return network(pixel_values=pixels, labels=labels).loss

    groups = _groups(network, settings)
    return training_steps(network, groups, settings.steps, seed, loss_of, WEIGHT_DECAY, GRADIENT_CLIP)


def _groups(network: Any, settings: Settings) -> list[dict[str, Any]]:
    """The trainable weights, for an optimizer: a pretrained backbone's at `encoder_rate` times the learning rate."""
    backbone, rate = network.model.backbone, settings.learning_rate
    is_pretrained = settings.weights is not None or isinstance(backbone, Pyramid)
    return parameter_groups(network, backbone if is_pretrained else None, rate, settings.encoder_rate * rate)


def labels_of(labels: Labels) -> dict[str, Tensor]:
    """The loss's targets for a window's labels (H, W), 0 without a defect: `boxes` (N, 4), centre, width and height as
    shares of the window, and `class_labels` (N,), from 0 on. Defects of different labels have boxes of their own.
    Pieces of less than SPECK px that the window's border cuts are left out; a whole defect is one however small."""
    height, width = labels.shape

    def is_cut(box: Box) -> bool:
        return min(box[:2]) == 0 or box[2] == width or box[3] == height

    pieces = [
        (piece.box, label - 1)
        for label in np.unique(labels[labels > 0]).tolist()
        for piece in mask_boxes(labels == label, 0, SPECK)
        if piece.area >= SPECK or not is_cut(piece.box)
    ]
    corners = torch.tensor([box for box, _ in pieces], dtype=torch.float32).reshape(-1, 2, 2)
    corners = corners / torch.tensor([width, height])
    centres, extents = corners.mean(dim=1), corners[:, 1] - corners[:, 0]
    classes = torch.tensor([label for _, label in pieces], dtype=torch.int64)
    return {"boxes": torch.cat([centres, extents], 1), "class_labels": classes}


def _tensor(images: NDArray[np.uint8], where: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1], contiguous: RT-DETR's own preprocessing does no more."""
    return image_tensor(images, where).contiguous()
