"""How well masks are recovered: measured on pictures that went through the autoencoder, against the exact truth.

Only where samples have twins, the same picture without its defect, as the rendered workpieces do.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from lib.boxes import mask_boxes
from lib.core.defects import any_defect_mask
from lib.core.geometry import RGB, Box, Mask, box_mask, crop, resize, window_around
from lib.core.images import contact_sheet, outlined, read_image
from lib.core.params import Params
from lib.core.records import Sample
from lib.core.runtime import device, on_cores, progress
from lib.diffusion.components import Components, decode, encode, to_pixels, to_tensor
from lib.labels.masks import METHODS, Picture

WORST = 10  # recoveries shown


def score_masks(
    params: Params, samples: Sequence[Sample], parts: Components
) -> tuple[dict[str, dict[str, float]], RGB]:
    """Mean IoU per category and type, and over all defects, of every method; and a sheet of the worst recoveries.

    The window around each defect, with and without it, goes to the base's resolution, through the autoencoder and
    back. The published formula is given the twin as it is, as in its own code; ours the twin's round trip, as in
    `synth`; `grey_difference` is what one would write first: the difference of grey values, Otsu's threshold.
    All samples are defect pictures with twins, at least one.
    """
    bar = progress(samples, "masks against the truth")  # moved on by hand, since samples are done in any order

    def score(sample: Sample) -> list[tuple[dict[str, float], list[RGB]]]:
        """For each defect of the sample, the IoU of every method, and the row of the sheet."""
        rows = []
        for defect, normal, generated, reference, truth, box in _round_trips(params, sample, parts):
            ratio = params.masks.component_ratio
            masks = {
                "measured": METHODS["measured"](generated, reference, box, ratio),
                "cosine_rgb_otsu": METHODS["cosine_rgb_otsu"](generated, normal, box, ratio),
                "grey_difference": grey_difference(generated, reference, box),
            }
            columns = (truth, masks["measured"], masks["cosine_rgb_otsu"])
            scores = {name: iou(mask, truth) for name, mask in masks.items()}
            rows.append((scores, [defect, *(outlined(defect, mask) for mask in columns)]))
        bar.update()
        return rows

    with bar:
        scored = on_cores(device(), score, samples)
    scores_of: dict[str, list[dict[str, float]]] = {}
    for sample, rows in zip(samples, scored, strict=True):
        scores_of.setdefault(f"{sample.category} {sample.defect_type}", []).extend(scores for scores, _ in rows)
    scores_of["all"] = [scores for rows in scores_of.values() for scores in rows]
    table = {
        name: {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]} | {"defects": len(rows)}
        for name, rows in scores_of.items()
        if rows  # a type all of whose masks are empty has none
    }
    worst = sorted(itertools.chain(*scored), key=lambda row: row[0]["measured"])[:WORST]
    return table, contact_sheet([tiles for _, tiles in worst])


def grey_difference(generated: Picture, reference: Picture, box: Box) -> Mask:
    """Otsu's threshold, inside the box, on the absolute difference of grey values: (H, W) bool."""
    inside = box_mask(box, *reference.shape[1::-1])
    change = np.abs(generated.mean(axis=2) - reference.mean(axis=2))
    return (change > threshold_otsu(change[inside])) & inside


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


@torch.inference_mode()
def _round_trips(
    params: Params, sample: Sample, parts: Components
) -> Iterator[tuple[RGB, RGB, Picture, Picture, Mask, Box]]:
    """For each defect: its window with and without it, both after the autoencoder, the truth, the box in the window."""
    assert sample.twin is not None
    image, mask, twin = read_image(Path(sample.image)), any_defect_mask(sample), read_image(Path(sample.twin))
    for component in mask_boxes(mask, params.boxes.margin, params.boxes.min_area):
        window = window_around(component.box, mask.shape, params.window.context, params.window.min_side)
        defect, normal, truth = (crop(array, window) for array in (image, twin, mask))
        side, box = parts.resolution, window.inside(component.box)
        pictures = to_tensor(np.stack([resize(picture, side, side) for picture in (defect, normal)]))
        coded = to_pixels(decode(parts.vae, encode(parts.vae, pictures.to(parts.vae.device))))
        generated, reference = (_fitted(picture, window.side) for picture in coded)
        yield defect, normal, generated, reference, truth & box_mask(box, window.side, window.side), box


def _fitted(picture: NDArray, side: int) -> NDArray:
    return np.clip(resize(picture, side, side), 0, 255)
