"""Pictures a minute: `dmgr` as `synth` runs it, beside the procedure as it is published, one picture at a time.

    python bench/dmgr.py [--pictures 4] [--rounds 3] [--levels 25]

Networks of params.yaml's sizes, with random weights, paint into the same boxes of the same noise with the same numbers.
One picture at a time, all cores share each layer; `synth` gives each picture a core. Neither changes a line search, and
the pictures are compared. All take turns, so that a busy machine slows each; quoted are the median and the range of the
rounds' ratios. `CPU s` is the time of all cores for a picture.
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

import lib  # noqa: F401, I001  (before torch)
import numpy as np
import torch

from lib.core.params import load
from lib.diffusion import pixel
from lib.generators.dmgr import Request, Result, Sampler, Settings, networks, request_of, sampler_of

KINDS = 4  # that the local network is told apart


def model(settings: Settings, folder: Path) -> Path:
    """Both networks as a training leaves them, but for what they have learnt."""
    torch.manual_seed(0)
    for name, network in networks(settings, KINDS).items():
        torch.nn.init.normal_(network.conv_out.weight, std=0.02)
        pixel.save(network, folder / name)
    return folder


def requests_of(settings: Settings, count: int) -> list[Request]:
    normal = np.random.default_rng(0).integers(90, 150, (256, 256, 3), dtype=np.uint8)
    frame = settings.frame(load().window)
    boxes = [(60 + 4 * n, 80, 100 + 4 * n, 110) for n in range(count)]
    return [request_of(box, normal, n % KINDS, n, frame, settings.radius) for n, box in enumerate(boxes)]


def timed(call: Callable[[], list[Result]]) -> tuple[float, float, list[Result]]:
    """Seconds on the clock and of all cores, and what came out."""
    wall, cpu = time.perf_counter(), time.process_time()
    results = call()
    return time.perf_counter() - wall, time.process_time() - cpu, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, help="of the sampler; params.yaml's if left out")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"
    settings = load().section("dmgr", Settings)
    if args.levels:
        settings = settings.model_copy(update={"levels": args.levels})
    with tempfile.TemporaryDirectory() as temporary:
        place = model(settings, Path(temporary))
        ours = sampler_of(place, settings)
        plain = Sampler(*(pixel.load(place / name, ours.whole.device) for name in ("global", "local")), settings)
    requests = requests_of(settings, args.pictures)
    ways: dict[str, Callable[[], list[Result]]] = {
        "one at a time": lambda: [result for request in requests for result in plain.draw([request])],
        "side by side": lambda: ours(requests),
    }
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        found = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            wall, cpu, found[name] = timed(ways[name])
            walls[name].append(wall)
            cpus[name].append(cpu / args.pictures)
        differences = [np.abs(a.picture - b.picture).max() for a, b in zip(*found.values(), strict=True)]
        print(f"round {number}: greatest difference of each picture {np.round(differences, 3).tolist()} of 255")
    print(f"{torch.get_num_threads()} cores, {settings.levels} levels, medians of {args.rounds} rounds")
    print("| way | pictures a minute | CPU s |\n|---|---|---|")
    for name in ways:
        rate = 60 * args.pictures / statistics.median(walls[name])
        print(f"| {name} | {rate:.1f} | {statistics.median(cpus[name]):.2f} |")
    ratios = [a / b for a, b in zip(*walls.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
