"""Masks measured from the change itself: which pixels of a generated picture differ visibly from its reference.

The label of a synthetic defect is where the picture changed, not where it was asked to change (MvP-Diff). The
reference is the normal picture: what the generator's autoencoder alone changes was taken out when the change was pasted
(lib/diffusion/pasting.py). Where a whole picture went through the autoencoder, as in lib/labels/truth.py, its twin has
to go through, too. All functions take (H, W, 3) pictures in 0..255, uint8 or float, of equal size.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.filters import apply_hysteresis_threshold, threshold_otsu
from skimage.morphology import remove_small_holes
from skimage.restoration import denoise_tv_chambolle

from lib.core.geometry import RGB, Box, Mask, box_mask, paste_back

Picture = NDArray  # (H, W, 3), uint8 or float, in 0..255
Heat = NDArray[np.float32]  # (H, W), CIELAB units

VISIBLE = 2.2  # CIELAB units; 2.3 is one just noticeable difference (Mahy et al. 1994)
BORDER = 0.12  # of the strongest change: outside of it is what blur spills over the border of the defect
CHROMA = 0.3  # weight of colour beside lightness: autoencoders carry it coarser, so it spills further over borders
BLUR = 0.3  # px; averages sensor noise, yet spills less than BORDER over a straight sharp border
TEXTURE_SHARE = 0.9  # of the texture's own variation: below it, a change is no other realisation of it
TEXTURE_RANGE = 0.15  # from there to 1.05: what two realisations differ by, give or take the noise of the estimate
SMOOTHING = 0.2  # weight of the total variation, in multiples of the texture: averages it out, keeps borders
ITERATIONS = 60  # of the total variation at most: a bound on its time
CALMER = (0.25, 0.5)  # quantiles of the change that a defect seldom reaches
EXTENT = 0.9  # quantile of the texture's own variation that counts as its extent
CALM, STRONGEST = 0.3, 0.98  # quantiles of the change: a defect rarely fills 70 % of its box; 2 % are outliers
ABOVE_CALM = 1.5  # the noise of what was painted, as the calm pixels show it, reaches this far
OTSU_SHARE = 0.5  # of Otsu's threshold, which lies between ground and defect, so that half-strong defects count
PINHOLE = 6  # px
MARGIN = 2  # px around a measured mask that are kept whole: a defect's faint rim
SHIFTS = ((0, 3), (3, 0), (3, 3), (3, -3), (0, 5), (5, 0), (5, 5), (5, -5))  # px, down and right


def measured_mask(generated: Picture, reference: Picture, box: Box, component_ratio: float = 0.1) -> Mask:
    """Where the change of colour, lightness or structure inside the box is visible, (H, W) bool.

    The change must exceed what is visible at all, what a repainted texture explains, the change of the calmer pixels
    (the noise of what was painted), and a share of the strongest change; at least one pixel of each component must also
    pass half of Otsu's threshold. Components smaller than `component_ratio` times the largest one are dropped,
    pinholes are closed. Nothing outside of the box is looked at.
    Raises ValueError when the sizes differ.
    """
    _check(generated, reference)
    height, width = reference.shape[:2]
    mask = box_mask(box, width, height)
    if not mask.any():
        return mask
    rows, columns = (slice(axis.min(), axis.max() + 1) for axis in np.nonzero(mask))
    generated, reference = generated[rows, columns], reference[rows, columns]
    lab, own = _lab(generated), _lab(reference)
    share, texture = _other_realisation(lab, own)
    change = _distance(lab - own, share * texture)
    calm, strongest = np.quantile(change, (CALM, STRONGEST))
    # A change that fills the box leaves nothing calm; then half of the strongest change bounds it.
    low = max(VISIBLE, BORDER * strongest, share * texture, min(ABOVE_CALM * calm, strongest / 2))
    high = max(low, OTSU_SHARE * threshold_otsu(change))
    visible = _without_specks(apply_hysteresis_threshold(change, low, high), component_ratio)
    mask[rows, columns] = remove_small_holes(visible, max_size=PINHOLE)
    return mask


def only_what_changed(generated: RGB, normal: RGB, mask: Mask, feather: int) -> RGB:
    """The generated picture with the normal one put back wherever no change is to be seen: (H, W, 3) uint8.

    A generator repaints the ground around its defect, too, never quite as it was; left in, the box itself is what
    detectors learn. Kept is the mask, as measured on the untouched pair, and a margin, over which the change fades out
    within `feather` px: inside of the mask every pixel stays as it was painted.
    """
    reach = feather + MARGIN
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    return paste_back(generated, normal, cv2.dilate(mask.astype(np.uint8), disc) > 0, feather)


def cosine_rgb_otsu(generated: Picture, normal: Picture, box: Box, component_ratio: float = 0.1) -> Mask:
    """The formula that MvP-Diff published, (H, W) bool, for comparison; `normal` has seen no autoencoder.

    1 - cosine of the RGB values, scaled to its range over the whole picture, doubled, cut to the box, Otsu's
    threshold over the whole picture, contours below `component_ratio` times the largest one erased. Two things differ
    from the public code: values are clipped at 255 where they wrapped around in 8 bits, and the dense CRF at the end,
    which needs an unmaintained compiled package, is left out. Blind to changes of brightness by construction.
    Raises ValueError when the sizes differ.
    """
    _check(generated, normal)
    height, width = normal.shape[:2]
    a, b = generated.astype(np.float32), normal.astype(np.float32)
    lengths = np.maximum(np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2), 1e-7)
    distance = 1 - (a * b).sum(axis=2) / lengths
    span = np.ptp(distance)
    if span < 1e-6:  # the same direction everywhere, up to rounding
        return np.zeros((height, width), dtype=bool)
    heat = np.clip(255 * (distance - distance.min()) / span / 0.5, 0, 255) * box_mask(box, width, height)
    _, binary = cv2.threshold(heat.astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    least = component_ratio * max(areas, default=0)
    small = [contour for contour, area in zip(contours, areas, strict=True) if area < least]
    return cv2.drawContours(binary, small, -1, 0, cv2.FILLED) > 0


METHODS: dict[str, Callable[[Picture, Picture, Box, float], Mask]] = {
    "measured": measured_mask,
    "cosine_rgb_otsu": cosine_rgb_otsu,
}


def _check(generated: Picture, reference: Picture) -> None:
    if generated.shape != reference.shape:
        raise ValueError(f"sizes differ: generated {generated.shape}, reference {reference.shape}")


def _lab(picture: Picture) -> NDArray[np.float32]:
    """Lightly smoothed CIELAB with its colour weighted by CHROMA, (H, W, 3) float32."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = lab * np.array([1, CHROMA, CHROMA], np.float32)
    return cv2.GaussianBlur(lab, (0, 0), BLUR).astype(np.float32, copy=False)


def _distance(change: NDArray[np.float32], texture: float) -> Heat:
    """How far each pixel lies from its reference, (H, W) float32 >= 0 in CIELAB units (CIE 1976 distance).

    change: (H, W, 3), of the `_lab` of both; pixel by pixel and hardly smoothed, so a change of structure at equal mean
    colour counts as well. texture: how far another realisation of the texture alone moves pixels, in CIELAB units:
    where the generator painted one, every pixel differs although nothing is wrong, and the signed change is smoothed by
    total variation (Rudin, Osher and Fatemi 1992), which averages the texture out and keeps borders.
    """
    if texture > 0:
        change = denoise_tv_chambolle(change, weight=SMOOTHING * texture, max_num_iter=ITERATIONS, channel_axis=2)
    return np.linalg.norm(change, axis=2).astype(np.float32)


def _other_realisation(generated: NDArray[np.float32], lab: NDArray[np.float32]) -> tuple[float, float]:
    """How surely the texture is another realisation (0..1), and how far that alone moves a pixel (CIELAB units).

    Two realisations of a texture differ by as much as the texture differs from itself a few pixels on. So the change
    of the calmer half of the pixels, which a defect seldom reaches, is compared with that. Both are `_lab` of pictures.
    """
    height, width = lab.shape[:2]
    shifted = [
        np.linalg.norm(lab[down:, max(right, 0) : width + min(right, 0)]
                       - lab[: height - down, max(-right, 0) : width - max(right, 0)], axis=2).ravel()
        for down, right in SHIFTS
        if down < height and abs(right) < width
    ]  # fmt: skip
    if not shifted:
        return 0.0, 0.0
    itself = np.concatenate(shifted)
    change = np.linalg.norm(generated - lab, axis=2)
    ratios = np.quantile(change, CALMER) / np.maximum(np.quantile(itself, CALMER), 1e-3)
    return float(np.clip((ratios.min() - TEXTURE_SHARE) / TEXTURE_RANGE, 0, 1)), float(np.quantile(itself, EXTENT))


def _without_specks(mask: Mask, component_ratio: float) -> Mask:
    """Without the components (8 neighbours) smaller than `component_ratio` times the largest one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    return (areas >= max(component_ratio * areas.max(), 1))[labels]
