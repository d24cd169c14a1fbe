"""Pictures a minute: `dmgr` as `synth` runs it, beside the procedure as it is published, one picture at a time.

    python bench/dmgr.py [--pictures 4] [--rounds 3] [--levels 25] [--model models/generators/dmgr/hex_nut]

Networks of params.yaml's sizes, with random weights or trained ones, paint into the same boxes of the same noise at
the same levels with the same numbers:

- `published`: one picture at a time, all cores on it, with the gradient steps as the publication's code makes them
  (`Published`); but for its line search, which may loop for ever and ends here as ours does.
- `ours, one at a time`: our gradient steps, one picture at a time, all cores on it.
- `ours, side by side`: what `synth` runs, a picture for each core.

All take turns, so that a busy machine slows each; quoted are the median and the range of the rounds' ratios. `CPU s` is
the time of all cores for a picture. The pictures are compared: a step that a rounding lets through in one way and not
in another is shorter by a fifth, and shows.
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
from torch import Tensor

from lib.core.params import load
from lib.diffusion import pixel
from lib.diffusion.chains import Rectifier, crops
from lib.diffusion.patches import Request, request_of
from lib.diffusion.rectification import SHRINK, Evaluation, Search, Timing, disagreement, local_gate, squares
from lib.generators.dmgr import Result, Sampler, Settings, networks, sampler_of

KINDS = 4  # that the local network is told apart, where it is not trained
OURS = "ours, side by side"


class Published(Rectifier):
    """The gradient steps of a level as published, for a batch of one.

    Both networks answer, and both gradients are computed, whether or not the local state moves; every search begins at
    the level's longest step, or where the level's last one ended; and what it ends at is evaluated once more, for the
    next gradient and the DDIM step.
    """

    def pulled(
        self, x: Tensor, c: Tensor, t: int, signal: float, timing: Timing, search: Search
    ) -> tuple[Tensor, Tensor, Evaluation]:
        origin, one, abar = (x, c), torch.arange(1, device=x.device), self.schedule.signal(t)

        def evaluate(x: Tensor, c: Tensor) -> tuple[Evaluation, Tensor]:
            x0, patch = self.window(x, t, one), self.patch(c, t, one)
            ours = crops(x0.clamp(-1, 1), self.corners, self.plan.patch)
            loss = disagreement(ours, patch.clamp(-1, 1), abar, self.plan.layers)
            way = squares(x - origin[0]) + squares(c - origin[1])
            return (x0, patch, loss), loss + timing.stiffness(t) * way

        moves = timing.phase(t) != "anchor"
        gates = self.gate(x, signal), local_gate(self.plan.patch, signal).to(x.device) * moves
        rate, shrinks = timing.rate(t), 0
        x, c = x.detach().requires_grad_(), c.detach().requires_grad_()
        known, loss = evaluate(x, c)
        for _ in range(self.plan.gradient_steps):
            gradients = torch.autograd.grad(loss.sum(), [x, c])
            new_x, new_c = x.detach(), c.detach()
            while shrinks < self.plan.tries:
                length = rate * SHRINK**shrinks
                with torch.no_grad():
                    tried = [s - length * g * way for s, g, way in zip((x, c), gates, gradients, strict=True)]
                    better = bool(evaluate(*tried)[1] <= loss)
                if better:
                    new_x, new_c = tried
                    break
                shrinks += 1
            x, c = new_x.requires_grad_(), new_c.requires_grad_()
            known, loss = evaluate(x, c)
        x0, patch, last = (part.detach() for part in known)
        return x.detach(), c.detach(), (x0, patch, last)


def model(settings: Settings, folder: Path) -> Path:
    """Both networks as a training leaves them, but for what they have learnt."""
    torch.manual_seed(0)
    for name, network in networks(settings, KINDS).items():
        torch.nn.init.normal_(network.conv_out.weight, std=0.02)
        pixel.save(network, folder / name)
    return folder


def requests_of(settings: Settings, count: int, kinds: int = KINDS) -> list[Request]:
    normal = np.random.default_rng(0).integers(90, 150, (256, 256, 3), dtype=np.uint8)
    frame = settings.frame(load().window)
    boxes = [(60 + 4 * n, 80, 100 + 4 * n, 110) for n in range(count)]
    return [request_of(box, normal, n % kinds, n, frame, settings.radius) for n, box in enumerate(boxes)]


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
    parser.add_argument("--model", type=Path, help="folder of a trained model; random weights if left out")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"
    settings = load().section("dmgr", Settings)
    if args.levels:
        settings = settings.model_copy(update={"levels": args.levels})
    with tempfile.TemporaryDirectory() as temporary:
        place = args.model or model(settings, Path(temporary))
        ours = sampler_of(place, settings)
        whole, part = (pixel.load(place / name, ours.whole.device) for name in ("global", "local"))
    requests = requests_of(settings, args.pictures, part.config.num_class_embeds)

    def one_by_one(sampler: Sampler) -> Callable[[], list[Result]]:
        return lambda: [result for request in requests for result in sampler.draw([request])]

    ways = {
        "published": one_by_one(Sampler(whole, part, settings, Published)),
        "ours, one at a time": one_by_one(ours),
        OURS: lambda: ours(requests),
    }
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        found = {}
        for name in list(ways)[:: -1 if number % 2 else 1]:
            wall, cpu, found[name] = timed(ways[name])
            walls[name].append(wall)
            cpus[name].append(cpu / args.pictures)
    print(f"{torch.get_num_threads()} cores, {settings.levels} levels, medians of {args.rounds} rounds")
    print("| way | pictures a minute | CPU s |\n|---|---|---|")
    for name in ways:
        rate = 60 * args.pictures / statistics.median(walls[name])
        print(f"| {name} | {rate:.1f} | {statistics.median(cpus[name]):.2f} |")
    for name in list(ways)[:-1]:
        for unit, taken in (("pictures", walls), ("CPU s", cpus)):
            ratios = [a / b for a, b in zip(taken[name], taken[OURS], strict=True)]
            print(f"{unit}, {OURS}: {statistics.median(ratios):.2f} times {name}", end="")
            print(f" ({min(ratios):.2f} to {max(ratios):.2f})")
        apart = [float(np.abs(a.picture - b.picture).max()) for a, b in zip(found[name], found[OURS], strict=True)]
        losses = [statistics.mean(result.notes["loss"] for result in found[way]) for way in (name, OURS)]
        print(f"pictures differ by at most {max(apart):.4f} of 255; mean losses {losses[0]:.4f} and {losses[1]:.4f}")


if __name__ == "__main__":
    main()
