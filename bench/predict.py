"""Pictures a second of `lib.predict` with a trained detector: onnxruntime beside torch, in one run.

    python bench/predict.py [--side 1024] [--pictures 6] [--rounds 5] [--cores 1 2] [--detectors unet patchcore]

Detectors have the settings of params.yaml and use EfficientNet-Lite0's features; weights are those of a training of two
steps, which cost as much as any other, and patchcore has a bank of 2000 patches. The threshold marks one pixel in 2000.
rtdetr, which cannot be written as ONNX, runs by torch alone. Each number of cores has a process of its own, since both
runtimes read it once. Within it, each round has a folder of pictures read, looked at and written by torch, then by
onnxruntime, in the other order in the next round, so that what else the machine does meets both alike. Told are the
medians, and the ratio of the two of each round: its median and range. `CPU s` is the time of all cores that a picture
takes by torch and by onnxruntime, which others on the machine do not stretch as they do the rates.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lib  # noqa: F401, I001  (before torch)
import numpy as np

from lib.core.images import write_png
from lib.core.params import load
from lib.core.runtime import write_json
from lib.detectors import find
from lib.vision.examples import Example
from lib.intake import listed
from lib.alarms import Decision

BANK = 2000  # patches in patchcore's memory
MARKED = 1 / 2000  # of the pixels


def picture(seed: int, side: int) -> np.ndarray:
    """Cloth with noise and a dark square: (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    cloth = (120 + 40 * np.sin(rows / 2) * np.sin(columns / 3))[..., None] + rng.normal(0, 4, (side, side, 3))
    cloth[side // 3 : side // 3 + 20, side // 3 : side // 3 + 20] -= 60 * (seed % 2)
    return np.clip(cloth, 0, 255).astype(np.uint8)


def trained(name: str, folder: Path) -> None:
    """A trained seed and, of a detector that can be exported, its ONNX file."""
    from lib.exchange import export

    params = load()
    detect = params.detect.model_copy(update={"steps": 2, "validate_every": 2, "batch_size": 2})
    side = 2 * detect.window
    mask = np.zeros((side, side), bool)
    mask[side // 3 : side // 3 + 20, side // 3 : side // 3 + 20] = True
    good = [Example(picture(2 * n, side), None, False, "good") for n in range(4)]
    bad = [Example(picture(2 * n + 1, side), mask, False, "hole") for n in range(2)]
    module = find(name)
    params, settings = params.model_copy(update={"detect": detect}), params.section(name, module.Settings)
    if "steps" in module.Settings.model_fields:
        settings = settings.model_copy(update={"steps": 2})
    module.fit(good if module.LEARNS_FROM == "good" else [*good, *bad], bad, params, settings, 0, folder)
    write_json(folder / "threshold.json", {"threshold": 0.5})
    write_json(folder / "detector.json", {"detector": name, "depth": 8})
    if hasattr(module, "window_scores"):
        export(folder)


def measured(folder: Path, side: int, pictures: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By runtime: seconds for a picture in each round by the clock, `wall`, and of all cores, `cpu`."""
    from lib.exchange import FILE
    from lib.predict import loaded, predict_all

    runtimes = ("torch", "onnx") if (folder / FILE).exists() else ("torch",)
    times: dict[str, dict[str, list[float]]] = {runtime: {"wall": [], "cpu": []} for runtime in runtimes}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(pictures):
            write_png(Path(temporary, "in", f"{number}.png"), picture(number, side))
        runs = {runtime: loaded(folder, runtime) for runtime in runtimes}
        found = {runtime: run.predict(picture(1, side)) for runtime, run in runs.items()}  # warm
        reach = max(1.0, float(found["torch"].max()))
        for scores in found.values():
            assert np.abs(found["torch"] - scores).max() <= 1e-4 * reach, "the runtimes differ"
        threshold = float(np.quantile(found["torch"], 1 - MARKED))
        decision = Decision(threshold, threshold)
        for number in range(rounds):
            for runtime in sorted(runs, reverse=bool(number % 2)):
                out = Path(temporary, f"out-{runtime}")
                listed_pictures = listed([Path(temporary, "in")], out)
                wall, cpu = time.perf_counter(), time.process_time()
                predict_all(dataclasses.replace(runs[runtime], decision=decision), listed_pictures, out)
                times[runtime]["wall"].append((time.perf_counter() - wall) / pictures)
                times[runtime]["cpu"].append((time.process_time() - cpu) / pictures)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--pictures", type=int, default=6, help="in the folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--detectors", nargs="+", default=["unet", "patchcore"])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"
    if args.measure:
        print(json.dumps(measured(args.measure, args.side, args.pictures, args.rounds)))
        return
    print(f"pictures of {args.side} px a second, medians of {args.rounds} rounds")
    print("| detector | cores | torch | onnxruntime | ratio | CPU s, torch | CPU s, onnxruntime |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.detectors:
            folder = Path(temporary) / name
            folder.mkdir()
            trained(name, folder)
            for cores in args.cores:
                words = [f"--{name}={getattr(args, name)}" for name in ("side", "pictures", "rounds")]
                done = subprocess.run(
                    [sys.executable, __file__, *words, f"--measure={folder}"],
                    env=os.environ | {"OMP_NUM_THREADS": str(cores)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                times = json.loads(done.stdout.splitlines()[-1])
                row = [name, str(cores)]
                for kind, invert in (("wall", True), ("cpu", False)):
                    for runtime in ("torch", "onnx"):
                        middle = statistics.median(times[runtime][kind]) if runtime in times else math.nan
                        row.append("-" if math.isnan(middle) else f"{1 / middle if invert else middle:.2f}")
                ratio = "-"
                if "onnx" in times:
                    ratios = [a / b for a, b in zip(times["torch"]["wall"], times["onnx"]["wall"], strict=True)]
                    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"| {' | '.join([*row[:4], ratio, *row[4:]])} |", flush=True)


if __name__ == "__main__":
    main()
