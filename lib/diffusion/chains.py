"""Two diffusion chains that are sampled together: gradients pull the global one towards the local one (after DMGR)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.diffusion.pixel import Schedule, ddim_step
from lib.diffusion.rectification import (
    FIRST_SIGNAL,
    Evaluation,
    Plan,
    Search,
    Timing,
    disagreement,
    global_gate,
    local_gate,
    optimised,
    squares,
)

Estimate = Callable[[Tensor, int, Tensor], Tensor]  # (x, t, rows (b,) int64) -> x0 of these samples of the batch


@dataclass(frozen=True)
class Descended:
    """The samples. x0: (B, C, G, G), clean windows in [-1, 1]; patch: (B, C, L, L), clean patches of the local chain;
    loss: (B,), of the last optimised step without regulariser, NaN if there was none; search: counts of the line
    searches."""

    x0: Tensor
    patch: Tensor
    loss: Tensor
    search: Search


@dataclass(frozen=True)
class Rectifier:
    """The sampler of both chains.

    whole, part: estimate x0 of windows and of patches. corners: (B, 2) int64, x and y of the patches in the windows.
    draws: a CPU generator for each sample, for the noise of time travel. source: (B, C, G, G), or None; known: (B, 1,
    G, G) bool, where x0 is set to the source at every level. watch: called with t and both estimates at every step
    down.
    """

    schedule: Schedule
    plan: Plan
    whole: Estimate
    part: Estimate
    corners: Tensor
    draws: Sequence[torch.Generator]
    source: Tensor | None = None
    known: Tensor | None = None
    watch: Callable[[int, Tensor, Tensor], None] = lambda t, x0, patch: None

    def __call__(self, x: Tensor, start: int) -> Descended:
        """From windows x (B, C, G, G) at level `start` to clean ones; both chains start from the same noise."""
        timing, everyone = Timing(self.plan, self.schedule), torch.arange(len(x), device=x.device)
        search = Search.of(len(x), x.device)
        c, replaced = self.patches(x), False
        loss, signal = torch.full((len(x),), math.nan, device=x.device), FIRST_SIGNAL
        visited = timing.levels(start)
        for before, t, s in zip([start + 1, *visited], visited, visited[1:], strict=False):
            if t == timing.limit and not replaced:
                c, replaced = self.patches(x), True
            if s < t and timing.refreshes(s):
                signal = self.schedule.signal(s)
            free, climbs = timing.phase(t) == "free", s > t
            # While time travel climbs, only its first level is optimised; its last level is a level like any other.
            if not free and (t < before or not climbs):
                x, c, (x0, patch, loss) = self.pulled(x, c, t, signal, timing, search)
            elif not climbs:
                x0, patch = self.window(x, t, everyone), self.patch(c, t, everyone)
            if climbs:
                x, c = self.noised(x, c, t, s)
            else:
                self.watch(t, x0, patch)
                x, c = ddim_step(self.schedule, x, x0, t, s), ddim_step(self.schedule, c, patch, t, s)
        x0, patch = self.window(x, 0, everyone), self.patch(c, 0, everyone)
        self.watch(0, x0, patch)
        return Descended(x0.clamp(-1, 1), patch.clamp(-1, 1), loss, search)

    def pulled(
        self, x: Tensor, c: Tensor, t: int, signal: float, timing: Timing, search: Search
    ) -> tuple[Tensor, Tensor, Evaluation]:
        """Both states after the gradient steps of level t, with their estimates and the loss without regulariser."""
        origin_x, origin_c, abar = x, c, self.schedule.signal(t)
        anchors = timing.phase(t) == "anchor"
        # In this phase the local state does not move, so that its estimate stays the same.
        fixed = self.patch(c, t, torch.arange(len(c), device=c.device)).detach() if anchors else None

        def losses(x0: Tensor, patch: Tensor, rows: Tensor) -> Tensor:
            ours = crops(x0.clamp(-1, 1), self.corners[rows], self.plan.patch)
            return disagreement(ours, patch.clamp(-1, 1), abar, self.plan.layers)

        def evaluate(x: Tensor, c: Tensor, rows: Tensor) -> Evaluation:
            x0 = self.window(x, t, rows)
            patch = self.patch(c, t, rows) if fixed is None else fixed[rows]
            way = squares(x - origin_x[rows]) + squares(c - origin_c[rows])
            return x0, patch, losses(x0, patch, rows) + timing.stiffness(t) * way

        gates = self.gate(x, signal), None if anchors else local_gate(self.plan.patch, signal).to(x.device)
        (x, c), (x0, patch, _) = optimised(evaluate, (x, c), gates, timing.rate(t), self.plan, search)
        return x, c, (x0, patch, losses(x0, patch, torch.arange(len(x), device=x.device)))

    def gate(self, x: Tensor, signal: float) -> Tensor:
        """How far the pixels of the windows may move, (B, 1, G, G) in [0, 1]; 0 where they are known."""
        gate = global_gate(x.shape[-1], self.corners + self.plan.patch / 2, self.plan.radius, signal)
        return gate if self.known is None else gate.masked_fill(self.known, 0)

    def window(self, x: Tensor, t: int, rows: Tensor) -> Tensor:
        """Estimates of windows (b, C, G, G), equal to the source where that is known."""
        x0 = self.whole(x, t, rows)
        if self.source is None or self.known is None:
            return x0
        return torch.where(self.known[rows], self.source[rows], x0)

    def patch(self, c: Tensor, t: int, rows: Tensor) -> Tensor:
        """Estimates of patches (b, C, L, L), likewise: the local chain, too, continues the surroundings of the box."""
        x0 = self.part(c, t, rows)
        if self.source is None or self.known is None:
            return x0
        known, source = (crops(part[rows], self.corners[rows], self.plan.patch) for part in (self.known, self.source))
        return torch.where(known, source, x0)

    def patches(self, x: Tensor) -> Tensor:
        """The patches (B, C, L, L) of windows."""
        return crops(x, self.corners, self.plan.patch).contiguous()

    def noised(self, x: Tensor, c: Tensor, t: int, s: int) -> tuple[Tensor, Tensor]:
        """Both states one level up, with the same fresh noise: sqrt(1 - beta_s) x + sqrt(beta_s) noise."""
        noise = torch.stack([torch.randn(x.shape[1:], generator=draw) for draw in self.draws]).to(x.device)
        kept = self.schedule.signal(s) / self.schedule.signal(t)
        return (
            kept**0.5 * x + (1 - kept) ** 0.5 * noise,
            kept**0.5 * c + (1 - kept) ** 0.5 * self.patches(noise),
        )


def crops(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """The patches (B, C, side, side) at `corners` (B, 2), x and y, of images (B, C, H, W)."""
    parts = [image[:, y : y + side, x : x + side] for image, (x, y) in zip(images, corners.tolist(), strict=True)]
    return torch.stack(parts)
