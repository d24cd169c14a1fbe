"""How well masks are recovered from pictures that went through an autoencoder: IoU against the rendered truth.

    python bench/masks.py [--autoencoder models/base] [--per-defect 18] [--sheet failures.png]
    python bench/masks.py --simulate

Rendered workpieces with a defect and their twins without it. Each defect's window is brought to the model's
resolution, put through the autoencoder and brought back; then a mask is measured in the defect's box. Methods: ours;
the published formula, which compares with the twin as it is; and the plain difference of grey values with Otsu's
threshold in the box. `--simulate` puts a blur and noise (about 35 dB) in the place of the autoencoder.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.filters import threshold_otsu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.boxes import mask_boxes
from lib.dataset.workpieces import STATIONS, workpiece
from lib.images import box_mask, contact_sheet, crop, outlined, resize, window_around, write_png
from lib.masks import cosine_rgb_otsu, measured_mask
from lib.params import load

RoundTrip = Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) uint8 to (B, S, S, 3) float32 in 0..255
METHODS = ("measured", "cosine_rgb_otsu", "grey difference")


def autoencoder(folder: Path) -> RoundTrip:
    """The autoencoder of a model in diffusers format."""
    import torch
    from diffusers import AutoModel

    from lib.diffusion.components import decode, encode, to_pixels, to_tensor

    vae = AutoModel.from_pretrained(folder, subfolder="vae", local_files_only=True).eval()

    @torch.inference_mode()
    def round_trip(pictures: np.ndarray) -> np.ndarray:
        return to_pixels(decode(vae, encode(vae, to_tensor(pictures))))

    return round_trip


def simulated(pictures: np.ndarray) -> np.ndarray:
    """Blur and noise; the noise of a picture is drawn from the picture, so that runs are equal."""
    rng = np.random.default_rng(int(pictures.sum()))
    blurred = np.stack([cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.2) for picture in pictures])
    return np.clip(blurred + rng.normal(0, 3, blurred.shape), 0, 255).astype(np.float32)


def grey_difference(generated, reference, box):
    """Otsu's threshold, inside the box, on the absolute difference of grey values."""
    inside = box_mask(box, *reference.shape[1::-1])
    change = np.abs(generated.mean(axis=2) - reference.mean(axis=2))
    return (change > threshold_otsu(change[inside])) & inside


def iou(found, truth):
    return (found & truth).sum() / max((found | truth).sum(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, default=Path("models/base"))
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--per-defect", type=int, default=18)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--sheet", type=Path, help="write the worst recoveries: defect, truth, measured, published")
    args = parser.parse_args()
    if not args.simulate and not (args.autoencoder / "vae").is_dir():
        parser.error(f"{args.autoencoder}/vae is no folder: train the base model first, or pass --simulate")
    params = load()
    round_trip = simulated if args.simulate else autoencoder(args.autoencoder)

    print(f"{'':28}{'defects':>8}{'PSNR':>7}" + "".join(f"{name:>17}" for name in METHODS))
    scores, rows, noise = [], [], []
    for category, (*_, sizes) in STATIONS.items():
        for defect_type in sizes:
            first = len(scores)
            for index in range(args.per_defect):
                pair = workpiece(category, defect_type, params.seed, index)
                height, width = pair.mask.shape
                for component in mask_boxes(pair.mask, params.boxes.margin, params.boxes.min_area):
                    window = window_around(component.box, width, height, params.window.context, params.window.min_side)
                    defect, normal, mask = (crop(array, window) for array in (pair.defect, pair.normal, pair.mask))
                    box = window.inside(component.box)
                    seen = np.stack(
                        [resize(picture, args.resolution, args.resolution) for picture in (defect, normal)]
                    )
                    coded = round_trip(seen)
                    noise.append(cv2.PSNR(seen.astype(np.float32), coded))
                    generated, reference = (
                        np.clip(resize(picture, window.side, window.side), 0, 255) for picture in coded
                    )
                    truth = mask & box_mask(box, window.side, window.side)
                    found = (
                        measured_mask(generated, reference, box, params.masks.component_ratio),
                        cosine_rgb_otsu(generated, normal, box, params.masks.component_ratio),
                        grey_difference(generated, reference, box),
                    )
                    scores.append([iou(each, truth) for each in found])
                    rows.append([defect, *(outlined(defect, each) for each in (truth, *found[:2]))])
            means = "".join(f"{mean:17.3f}" for mean in np.mean(scores[first:], axis=0))
            print(f"{category:15}{defect_type:13}{len(scores) - first:8}{np.mean(noise[first:]):7.1f}{means}")
    print(f"{'all':28}{len(scores):8}{np.mean(noise):7.1f}" + "".join(f"{m:17.3f}" for m in np.mean(scores, axis=0)))
    if args.sheet:
        write_png(args.sheet, contact_sheet([rows[k] for k in np.argsort([score[0] for score in scores])[:10]]))


if __name__ == "__main__":
    main()
