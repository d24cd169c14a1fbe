"""Labels per second: the gate's `absolute` scores on the defect's own pixels beside the same on whole pictures, and
stage `masks` on all cores beside one.

    python bench/labels.py [--side 2048] [--rounds 5] [--samples 24]

Both ways give the same numbers to the last bit (checked in every round); what differs is how many pixels go to CIELAB.
They take turns in one process; quoted is the median of the rounds' ratios, of processor time for the scores, which a
busy machine does not blur, and of time on the clock for the stage. That labels pictures with measured masks, reading
and writing PNG, once with a pool of one thread and once with one for each core.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from lib.core.geometry import RGB, Box, Mask, box_mask
from lib.core.images import write_png
from lib.core.params import Params, load
from lib.core.records import GOOD, Sample, Synthetic
from lib.labels import labelling
from lib.labels.gate import absolute

DEFECT = 20  # px


def scene(side: int, seed: int) -> tuple[RGB, RGB, Mask, Box]:
    """A good picture, the same with a bright square of DEFECT px, its mask and a box around it."""
    rng = np.random.default_rng(seed)
    normal = rng.integers(100, 140, (side, side, 3)).astype(np.uint8)
    x, y = rng.integers(DEFECT, side - 2 * DEFECT, 2).tolist()
    mask = box_mask((x, y, x + DEFECT, y + DEFECT), side, side)
    image = normal.copy()
    image[mask] += 80
    return normal, image, mask, (x - 8, y - 8, x + DEFECT + 8, y + DEFECT + 8)


def on_whole_pictures(image: RGB, normal: RGB, mask: Mask, box: Box) -> dict[str, float]:
    """The scores as their definitions read."""
    inside = box_mask(box, *normal.shape[1::-1])
    pure = (image == image[..., :1]).all(axis=2) & np.isin(image[..., 0], (0, 255)) & (image != normal).any(axis=2)
    lab, other = (cv2.cvtColor(one.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for one in (image, normal))
    return {
        "contrast": float(np.linalg.norm(lab - other, axis=2)[mask].mean()),
        "area": float(mask.sum()),
        "fill": int(mask.sum()) / int(inside.sum()),
        "outside": float(((image != normal).any(axis=2) & ~inside).sum()),
        "clipped": float(pure[mask].mean()),
    }


def seconds(clock: Callable[[], float], function: Callable, *arguments: object) -> tuple[float, object]:
    start = clock()
    result = function(*arguments)
    return clock() - start, result


def scores(side: int, rounds: int) -> None:
    ratios = []
    for turn in range(rounds + 1):
        normal, image, mask, box = scene(side, turn)
        whole, expected = seconds(time.process_time, on_whole_pictures, image, normal, mask, box)
        cut, result = seconds(time.process_time, absolute, image, normal, mask, box)
        assert result == expected
        if turn:  # the first one warms up
            ratios.append(whole / cut)
            print(f"round {turn}: whole {whole * 1e3:.0f} ms, cut {cut * 1e3:.2f} ms, ratio {ratios[-1]:.1f}")
    print(f"scores at {side} px: median ratio {statistics.median(ratios):.1f}")


def dataset(folder: Path, params: Params, side: int, count: int) -> tuple[dict[str, Sample], list[Synthetic]]:
    """One real defect, good pictures, and a synthetic one of each."""
    real, records = {}, []
    for index in range(count):
        normal, image, mask, box = scene(side, index)
        files = {name: folder / name / f"{index}.png" for name in ("good", "image", "mask")}
        for name, pixels in (("good", normal), ("image", image), ("mask", mask)):
            write_png(files[name], pixels)
        plain = Sample(f"good-{index}", "c", GOOD, str(files["good"]), None, f"g{index}", "train", (side, side), "")
        real[plain.id] = plain
        records.append(
            Synthetic(
                f"p{index}", "c", "spot", plain.id, box, "spot-0", 0, "g", "g", "", index, {}, str(files["image"]), ""
            )
        )
    real["spot-0"] = Sample(
        "spot-0", "c", "spot", str(folder / "image/0.png"), str(folder / "mask/0.png"), "s", "train", (side, side), ""
    )
    return real, records


def cores(side: int, rounds: int, count: int) -> None:
    params, ratios, plain = load(), [], os.cpu_count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real, records = dataset(folder, params, side, count)

        def label(threads: int | None) -> tuple[float, object]:
            labelling.os.cpu_count = lambda: threads  # type: ignore[attr-defined]
            try:
                return seconds(
                    time.perf_counter, labelling.label_all, params, real, records, folder / "out", Path("out")
                )
            finally:
                labelling.os.cpu_count = plain  # type: ignore[attr-defined]

        for turn in range(rounds + 1):
            (one, expected), (many, result) = label(1), label(plain())
            assert expected[0] == result[0]  # type: ignore[index]
            if turn:
                ratios.append(one / many)
                print(f"round {turn}: one core {count / one:.1f}, {plain()} cores {count / many:.1f} pictures/s")
    print(f"labels at {side} px: median ratio {statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=24)
    args = parser.parse_args()
    scores(args.side, args.rounds)
    cores(args.side, min(args.rounds, 3), args.samples)


if __name__ == "__main__":
    main()
