"""Time of looking at the same pictures with several trained seeds, with and without remembered maps of the backbone.

    python bench/features.py [--pictures 52] [--side 256] [--seeds 3] [--rounds 3]

All seeds of a detector with a frozen backbone need the same maps of a picture (`lib/vision/backbones.py`), and so do
all arms: the more there are, the nearer is the ratio to that of the last column, where no map is left to compute. Both
ways run by turns on one core, in one process; their score maps are equal, bit for bit.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import numpy as np
import torch
from cachetools import RRCache

from lib.core.geometry import RGB, Scores
from lib.detectors import patchcore, unet
from lib.vision import backbones
from lib.vision.backbones import DEFAULT, load_backbone

WIDTH, WINDOW, PATCHES = 16, 128, 2000  # of the detectors, as in params.yaml
Look = Callable[[RGB], Scores]


def detectors(seeds: int) -> dict[str, list[Look]]:
    """Of each method, as many models as there are seeds; each has read its own copy of the backbone."""
    looks: dict[str, list[Look]] = {"unet": [], "patchcore": []}
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = unet.UNet(WIDTH, load_backbone(DEFAULT).requires_grad_(False)).eval()
        segmenter = unet.Model(network, WINDOW, 1.0)
        bank = patchcore.Model(load_backbone(DEFAULT).requires_grad_(False), torch.randn(PATCHES, 152), 1.0)
        looks["unet"].append(partial(unet.predict, segmenter))
        looks["patchcore"].append(partial(patchcore.predict, bank))
    return looks


def remember(room: int) -> None:
    """Forget all maps, and remember as many bytes of them from now on."""
    backbones._remembered.cache = RRCache(room, getsizeof=backbones._size)


def seconds(looks: Sequence[Look], images: Sequence[RGB]) -> tuple[float, list[Scores]]:
    start = time.perf_counter()
    maps = [look(image) for look in looks for image in images]
    return time.perf_counter() - start, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=52)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (args.side, args.side, 3), dtype=np.uint8) for _ in range(args.pictures)]
    for name, looks in detectors(args.seeds).items():
        seconds(looks[:1], images[:2])  # the first calls are slower
        ratios, known = [], []
        for _ in range(args.rounds):
            remember(0)
            plain, expected = seconds(looks, images)
            remember(backbones.REMEMBERED)
            first, maps = seconds(looks, images)
            again, _ = seconds(looks, images)
            assert all(np.array_equal(a, b) for a, b in zip(expected, maps, strict=True))
            ratios.append(plain / first)
            known.append(plain / again)
        print(
            f"{name}: {args.seeds} seeds look at {args.pictures} pictures of {args.side} px in {first:.1f} s, which is "
            f"{statistics.median(ratios):.2f} times as fast as without ({min(ratios):.2f} to {max(ratios):.2f}), and "
            f"{statistics.median(known):.2f} times when all maps are known"
        )


if __name__ == "__main__":
    main()
