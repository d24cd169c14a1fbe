"""Memory and time of judging one trained detector, beside holding all pictures and score maps in memory.

    python bench/evaluate.py [--pictures 2000] [--side 1024] [--in-memory 200]

Half of the pictures show a defect of 0.3 % of their pixels. The detector is a blur, so that what is measured is what
happens around a detector. Each way runs in a process of its own, which tells the most memory that it held; the one
that holds everything runs on `--in-memory` of the pictures, and once more on a quarter of these, from which its need
for all of them follows. `--pictures` float32 maps lie on the disk meanwhile: 8 GB for 2000 of 1024 px, in --folder.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import cv2
import numpy as np

from lib import evaluation
from lib.core.images import read_image, read_mask, write_png
from lib.core.params import Evaluate
from lib.core.records import GOOD, Sample
from lib.scoring import image_score
from lib.metrics.ranking import defect_pixels, rank, rank_pixels

DISTINCT = 16  # pictures, of which all are copies: the disk holds links
DEFECT_SHARE = 0.003  # of a picture's pixels
THRESHOLD = 140.0
PARAMS = Evaluate(fpr_limit=0.3, overlays=4)


def blurred(model: None, image: np.ndarray) -> np.ndarray:
    """The detector: grey values without their finest grain."""
    return cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)


def test_part(folder: Path, count: int, side: int) -> list[Sample]:
    """Good pictures and defects in turns: noise, with a faint disc where there is a defect."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    radius = side * (DEFECT_SHARE / np.pi) ** 0.5
    for n in range(DISTINCT):
        y, x = rng.uniform(radius, side - radius, 2)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2) & (n % 2 == 1)
        image = rng.normal(120, 25, (side, side, 3)) + 15 * mask[..., None]
        write_png(folder / f"distinct-{n}.png", np.clip(image, 0, 255).astype(np.uint8))
        write_png(folder / f"distinct-{n}_mask.png", mask)
    samples = []
    for n in range(count):
        names = [folder / f"{n}.png", folder / f"{n}_mask.png"]
        for name in names:
            name.symlink_to(name.name.replace(f"{n}", f"distinct-{n % DISTINCT}", 1))
        image, mask = map(str, names)
        kind = "disc" if n % 2 else GOOD
        samples.append(
            Sample(
                id=f"{n}",
                category="noise",
                defect_type=kind,
                image=image,
                mask=mask if n % 2 else None,
                group=f"{n}",
                split="test",
                size=(side, side),
                sha256="",
            )
        )
    return samples


def streamed(samples: list[Sample], folder: Path) -> dict[str, float]:
    """As `evaluate` does it."""
    detector = SimpleNamespace(load=lambda place: None, predict=blurred)
    setattr(evaluation, "find", lambda name: detector)  # noqa: B010 (what a type checker cannot follow)
    seed = folder / "trained" / "seed-0"
    seed.mkdir(parents=True)
    (seed / "threshold.json").write_text(json.dumps({"threshold": THRESHOLD, "min_area": 1}))
    return evaluation.judge("blur", seed.parent, samples, PARAMS, folder)["seeds"]["0"]


def in_memory(samples: list[Sample], folder: Path) -> dict[str, float]:
    """All pictures, all maps, all pixels in a row, as plain scripts do it."""
    images = [read_image(Path(sample.image)) for sample in samples]
    masks = [
        read_mask(Path(sample.mask)) if sample.mask else np.zeros(image.shape[:2], bool)
        for sample, image in zip(samples, images, strict=True)
    ]
    maps = [blurred(None, image) for image in images]
    regions = rank_pixels([defect_pixels(scores, mask) for scores, mask in zip(maps, masks, strict=True)])
    scores, truth = (np.concatenate([array.ravel() for array in arrays]) for arrays in (maps, masks))
    regions.count(scores[~truth])
    pixels, marks = rank(scores, truth), scores >= THRESHOLD
    pictures = rank([image_score(one) for one in maps], [mask.any() for mask in masks])
    return {
        "image_auroc": pictures.auroc(),
        "pixel_auroc": pixels.auroc(),
        "pixel_ap": pixels.average_precision(),
        "pixel_f1_max": pixels.f1_max()[0],
        "aupro": regions.aupro(PARAMS.fpr_limit),
        "pixel_iou_at_val_threshold": float((marks & truth).sum() / (marks | truth).sum()),
    }


def measured(way: str, count: int, args: argparse.Namespace) -> dict:
    """Seconds, most memory in GB, and metrics of one way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--pictures", str(count), "--side", str(args.side)]
    done = subprocess.run([*command, "--folder", str(args.folder)], check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"{way}, {count} pictures: {row['seconds']:.0f} s, {row['gigabytes']:.2f} GB", flush=True)
    return row


def run_here(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        samples = test_part(Path(name), args.pictures, args.side)
        start = time.perf_counter()
        metrics = {"streamed": streamed, "in_memory": in_memory}[args.way](samples, Path(name))
        seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "gigabytes": gigabytes, "metrics": metrics}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--in-memory", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for pictures and score maps")
    parser.add_argument("--way", choices=("streamed", "in_memory"), help="only this one, in this process")
    args = parser.parse_args()
    if args.way:
        run_here(args)
        return
    few, more = (measured("in_memory", count, args) for count in (args.in_memory // 4, args.in_memory))
    same = measured("streamed", args.in_memory, args)
    for name, value in more["metrics"].items():
        print(f"  {name}: difference {same['metrics'][name] - value:+.0e}")
    each = (more["gigabytes"] - few["gigabytes"]) / (args.in_memory - args.in_memory // 4)
    need = more["gigabytes"] + each * (args.pictures - args.in_memory)
    whole = measured("streamed", args.pictures, args)
    print(
        f"in memory, {args.pictures} pictures would hold {need:.0f} GB: {need / whole['gigabytes']:.0f} times as much"
    )
    print(f"time per picture on {args.in_memory}: streamed / in memory = {same['seconds'] / more['seconds']:.2f}")


if __name__ == "__main__":
    main()
