"""Pictures a second of a trained detector: onnxruntime beside torch, in one run.

    python bench/predict.py [--side 1024] [--rounds 5] [--cores 1 2] [--detectors unet patchcore]

A U-Net of params.yaml's width and a patchcore with a bank of 2000 patches, both behind EfficientNet-Lite0 and of the
default window; weights are those of a training of two steps, which cost as much as any other. Each number of cores has
a process of its own, since both runtimes read it once. Within it, each round times one picture by torch, then by
onnxruntime, then by onnxruntime again in the other order in the next round, so that what else the machine does meets
both alike. Told are the medians, and the ratio of the two of each round: its median and range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import numpy as np

from lib.core.params import load
from lib.core.runtime import write_json
from lib.detectors import Example, find

BANK = 2000  # patches in patchcore's memory
THRESHOLD = 0.5


def picture(seed: int, side: int) -> np.ndarray:
    """Cloth with noise and a dark square: (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    cloth = (120 + 40 * np.sin(rows / 2) * np.sin(columns / 3))[..., None] + rng.normal(0, 4, (side, side, 3))
    cloth[side // 3 : side // 3 + 20, side // 3 : side // 3 + 20] -= 60 * (seed % 2)
    return np.clip(cloth, 0, 255).astype(np.uint8)


def trained(name: str, folder: Path) -> None:
    """A trained seed and its ONNX file."""
    from lib.exchange import export

    params = load()
    detect = params.detect.model_copy(update={"steps": 2, "validate_every": 2, "batch_size": 2})
    side = 2 * detect.window
    mask = np.zeros((side, side), bool)
    mask[side // 3 : side // 3 + 20, side // 3 : side // 3 + 20] = True
    good = [Example(picture(2 * n, side), None, False, "good") for n in range(4)]
    bad = [Example(picture(2 * n + 1, side), mask, False, "hole") for n in range(2)]
    module = find(name)
    params = params.model_copy(update={"detect": detect})
    module.fit(
        good if module.LEARNS_FROM == "good" else [*good, *bad],
        bad,
        params,
        params.section(name, module.Settings),
        0,
        folder,
    )
    write_json(folder / "threshold.json", {"threshold": THRESHOLD})
    write_json(folder / "detector.json", {"detector": name, "depth": 8})
    export(folder)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(folder: Path, side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds for a picture of each round, by each runtime."""
    from lib.predict import loaded

    image = picture(1, side)
    runs = {runtime: loaded(folder, runtime) for runtime in ("torch", "onnx")}
    found = {runtime: run.predict(image) for runtime, run in runs.items()}  # warm
    reach = max(1.0, float(found["torch"].max()))
    assert np.abs(found["torch"] - found["onnx"]).max() <= 1e-4 * reach, "the runtimes differ"
    times: dict[str, list[float]] = {runtime: [] for runtime in runs}
    for number in range(rounds):
        for runtime in sorted(runs, reverse=bool(number % 2)):
            times[runtime].append(seconds(lambda runtime=runtime: runs[runtime].predict(image)))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--detectors", nargs="+", default=["unet", "patchcore"])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"
    if args.measure:
        print(json.dumps(measured(args.measure, args.side, args.rounds)))
        return
    print(f"pictures of {args.side} px a second, medians of {args.rounds} rounds")
    print("| detector | cores | torch | onnxruntime | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.detectors:
            folder = Path(temporary) / name
            folder.mkdir()
            trained(name, folder)
            for cores in args.cores:
                words = ["--measure", str(folder), "--side", str(args.side), "--rounds", str(args.rounds)]
                done = subprocess.run(
                    [sys.executable, __file__, *words],
                    env=os.environ | {"OMP_NUM_THREADS": str(cores)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                times = json.loads(done.stdout.splitlines()[-1])
                ratios = [a / b for a, b in zip(times["torch"], times["onnx"], strict=True)]
                rates = [1 / statistics.median(times[runtime]) for runtime in ("torch", "onnx")]
                told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"| {name} | {cores} | {rates[0]:.2f} | {rates[1]:.2f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
