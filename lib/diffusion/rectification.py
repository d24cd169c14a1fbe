"""Gradient rectification: gradients move the state of one diffusion model until its clean estimate agrees, in a patch,
with that of another (after DMGR; the step itself is that of CoPaint, Zhang et al. 2023).

Two DDIM chains run in parallel: a global one over windows x (B, C, G, G), a local one over patches c (B, C, L, L),
whose top left corners lie at (x, y) of the windows. Noise levels are numbered 0..T-1, from almost no noise to pure
noise; all level numbers refer to 250 levels and scale with T. Samples of a batch do not influence each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lib.diffusion.pixel import Schedule

PUBLISHED = 250  # levels that the constants below are for
GROWTH = 1.012  # factor of the rate, per level
LAMBDA, LAMBDA_GROWTH = 1e-4, 1.01  # weight of the regulariser, and its factor per level
REFRESH = 5  # levels after which the gates are computed again
FIRST_SIGNAL = 1e-6  # share of the signal for the first gates
SHRINK = 0.8  # factor of the step, after each step that the line search rejects
LOW_LEAST = 0.1  # lowest weight of the coarsest layer
SUPPORT = 0.01  # pixels where the gate without noise is lower are never moved: a disc inside a patch, as published

Phase = Literal["anchor", "free", "resonance"]
Evaluation = tuple[Tensor, Tensor, Tensor]  # estimates of x0 of both chains, losses (B,)


@dataclass(frozen=True)
class Plan:
    """The settings of the method; level numbers refer to 250 levels, pixels to a patch of `patch` px.

    rate: size of the first gradient step; gradient_steps: per level; tries: step lengths of the line search; radius: px
    around the patch's centre where the global gate is 1; anchor_until, resonance_from: the levels between which nothing
    is optimised; layers: detail layers of the pyramid; jump, passes: of time travel.
    """

    patch: int
    rate: float
    gradient_steps: int
    tries: int
    radius: float
    anchor_until: float
    resonance_from: float
    layers: int
    jump: int
    passes: int


# The loss


def pyramid(images: Tensor, layers: int) -> list[Tensor]:
    """Laplacian pyramid of (B, C, L, L): `layers` detail layers, from fine to coarse, and the remaining coarse image.

    A detail layer is the image minus its average over 2 x 2 px, resized to the image's size.
    """
    result = []
    for _ in range(layers):
        coarse = functional.avg_pool2d(images, 2)
        result.append(images - _grown(coarse))
        images = coarse
    return [*result, images]


def _grown(images: Tensor) -> Tensor:
    return functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def layer_weights(signal: float, layers: int) -> list[float]:
    """Weights of the layers of a `pyramid`, which sum to 1: with much noise on the coarse ones. signal: abar_t."""
    low = max(1 - math.sqrt(signal), LOW_LEAST)
    return [(1 - low) / layers] * layers + [low]


def disagreement(ours: Tensor, theirs: Tensor, signal: float, layers: int) -> Tensor:
    """Difference of two patches (B, C, L, L), (B,): sums of squares in the pyramid and, with less noise, of pixels.

    L = 100 (1 - a) L_pyramid / layers + a L_pixels with a = sqrt(abar_t).
    """
    a = math.sqrt(signal)
    both = pyramid(ours - theirs, layers)  # it is linear: the difference of pyramids is the pyramid of the difference
    parts = [w * squares(layer) for w, layer in zip(layer_weights(signal, layers), both, strict=True)]
    return 100 * (1 - a) * torch.stack(parts).sum(dim=0) / layers + a * squares(ours - theirs)


def squares(images: Tensor) -> Tensor:
    """Sums of squares (B,) of (B, ...)."""
    return images.square().flatten(1).sum(dim=1)


# The gates


def global_gate(side: int, centres: Tensor, radius: float, signal: float) -> Tensor:
    """How far each pixel of a window may move, (B, 1, side, side) in [0, 1]: (1 + f)^-((d - r) / r)^2 outside of r.

    centres: (B, 2), x and y. signal: f = abar of the next level. With much noise the gate is open everywhere, without
    noise only near the centre.
    """
    return _falloff(_distances(side, centres), radius, 1 + signal)


def local_gate(side: int, signal: float) -> Tensor:
    """How far each pixel of a patch may move, (1, 1, side, side) in [0, 1]: first all of them, later only the corners.

    h = 1 - m sigmoid(20 (f - 0.03)), where m is 1 within r = max(0.45 L, 0.5 L f) and falls by (2 - f) outside.
    """
    radius = max(int(0.45 * side), int(0.5 * side * signal))
    distances = _distances(side, torch.full((1, 2), side / 2))
    return 1 - _falloff(distances, radius, 2 - signal) / (1 + math.exp(-20 * (signal - 0.03)))


def support(side: int, centres: Tensor, radius: float) -> Tensor:
    """Where the global gate without noise is at least SUPPORT, (B, 1, side, side) bool: a disc of 3.6 radii."""
    return global_gate(side, centres, radius, 1.0) >= SUPPORT


def _falloff(distances: Tensor, radius: float, base: float) -> Tensor:
    beyond = ((distances - radius) / radius).clamp(min=0)
    return torch.exp(-math.log(base) * beyond.square())


def _distances(side: int, centres: Tensor) -> Tensor:
    """The distance in px of every pixel to the centres (B, 2): (B, 1, side, side)."""
    place = torch.arange(side, dtype=torch.float32, device=centres.device)
    across, down = place[None, None, :] - centres[:, :1, None], place[None, :, None] - centres[:, 1:, None]
    return torch.hypot(*torch.broadcast_tensors(across, down))[:, None]


# The schedule


def travel(levels: int, jump: int, passes: int) -> list[int]:
    """The levels in the order in which a chain visits them, from `levels` - 1 to 0 (Lugmayr et al. 2022).

    From every multiple of `jump`, except the highest ones, it goes back by `jump` levels, `passes` - 1 times.
    """
    climbs = dict.fromkeys(range(0, levels - jump, jump), passes - 1)
    visited = [levels - 1]
    while (t := visited[-1]) > 0 or climbs.get(0, 0):
        if climbs.get(t, 0):
            climbs[t] -= 1
            visited += range(t + 1, t + jump + 1)
        else:
            visited.append(t - 1)
    return visited


@dataclass(frozen=True)
class Timing:
    """The level numbers of a plan, scaled to a schedule of T levels."""

    plan: Plan
    schedule: Schedule

    @property
    def scale(self) -> float:
        return PUBLISHED / len(self.schedule)

    @property
    def limit(self) -> int:
        """The level at which resonance begins, and the local state is replaced by the global one."""
        return round(self.plan.resonance_from / self.scale)

    def phase(self, t: int) -> Phase:
        if t > round(self.plan.anchor_until / self.scale):
            return "anchor"
        return "free" if t > self.limit else "resonance"

    def levels(self, start: int) -> list[int]:
        """The levels that are visited, from `start` on."""
        return travel(start + 1, max(round(self.plan.jump / self.scale), 1), self.plan.passes)

    def rate(self, t: int) -> float:
        """eta = rate * 1.012^k sqrt(abar_t / abar_0), where k is the number of levels above t."""
        levels_above = (len(self.schedule) - 1 - t) * self.scale
        return self.plan.rate * GROWTH**levels_above * math.sqrt(self.schedule.signal(t) / self.schedule.signal(0))

    def stiffness(self, t: int) -> float:
        """lambda_t, the weight of the squared distance that an optimised state has moved."""
        return LAMBDA * LAMBDA_GROWTH ** ((len(self.schedule) - 1 - t) * self.scale)

    def refreshes(self, s: int) -> bool:
        return s % max(round(REFRESH / self.scale), 1) == 0


# One optimised step


@dataclass
class Search:
    """Counts of each sample's line searches, (B,) int64: steps given up, losses that were not finite, and how often the
    last step was shrunk, where the search of the next level starts."""

    given_up: Tensor
    not_finite: Tensor
    shrinks: Tensor

    @classmethod
    def of(cls, samples: int, where: torch.device) -> "Search":
        return cls(*torch.zeros(3, samples, dtype=torch.int64, device=where))


def optimised(
    evaluate: Callable[[Tensor, Tensor, Tensor], Evaluation],
    states: tuple[Tensor, Tensor],
    gates: tuple[Tensor, Tensor | None],
    rate: float,
    plan: Plan,
    search: Search,
) -> tuple[tuple[Tensor, Tensor], Evaluation]:
    """Both states after the gradient steps of one level, and their evaluation; no loss is higher than before.

    evaluate(x, c, rows) returns estimates and losses (B,) of the samples `rows` (B,) int64. gates: (B, 1, G, G) and (1,
    1, L, L), or None if the local state is fixed. A sample whose step raises its loss, or makes it non-finite, tries a
    shorter step, with which the next gradient step of the level starts; if all fail, the sample does not move.
    """
    x, c = states
    everyone = torch.arange(len(x), device=x.device)
    least = torch.zeros_like(everyone)
    current: Evaluation | None = None
    for left in reversed(range(plan.gradient_steps)):
        if current is None or not current[2].requires_grad:
            x, c = x.detach().requires_grad_(), c.detach().requires_grad_(gates[1] is not None)
            current = evaluate(x, c, everyone)
        open_gates = [gate for gate in gates if gate is not None]
        gradients = torch.autograd.grad(current[2].sum(), [x, c][: len(open_gates)])
        ways = [gate * gradient for gate, gradient in zip(open_gates, gradients, strict=True)]
        (x, c), current, least = _searched(evaluate, (x, c), ways, current, rate, least, plan, search, left > 0)
    assert current is not None
    return (x, c), current


def _searched(
    evaluate: Callable[[Tensor, Tensor, Tensor], Evaluation],
    states: tuple[Tensor, Tensor],
    ways: Sequence[Tensor],
    current: Evaluation,
    rate: float,
    least: Tensor,
    plan: Plan,
    search: Search,
    again: bool,
) -> tuple[tuple[Tensor, Tensor], Evaluation, Tensor]:
    """Step along `ways` by `rate`, shrunk until each sample's loss does not rise; also how often it was shrunk, (B,).

    least: (B,) int64, the least number of shrinks. The result is a step whose next longer one is rejected: the same as
    if all were tried from the longest on, if all steps longer than a rejected one are rejected, too. again: another
    gradient step follows; if all samples take the same try, its graph is kept, which saves an evaluation.
    """
    (x, c), before = (state.detach() for state in states), current[2].detach()
    result = [part.clone() for part in (x, c, *(part.detach() for part in current))]
    refused, taken, stride = least - 1, torch.full_like(least, plan.tries), 1
    shrinks = torch.maximum(search.shrinks, least).clamp(max=plan.tries - 1)
    with_graph: list[Tensor] = []
    while len(rows := (taken - refused > 1).nonzero()[:, 0]):
        rates = x.new_tensor([rate * SHRINK**number for number in shrinks[rows].tolist()]).view(-1, 1, 1, 1)
        new = [state[rows] - rates * way[rows] for state, way in zip((x, c), ways, strict=False)]
        new_x, new_c = new if len(new) > 1 else (*new, c[rows])
        for part in new:
            part.requires_grad_(again)
        with torch.set_grad_enabled(again):
            tried = evaluate(new_x, new_c, rows)
        search.not_finite[rows] += ~tried[2].isfinite()
        better = tried[2].detach() <= before[rows]
        done = rows[better]
        for part, value in zip(result, (new_x, new_c, *tried), strict=True):
            part[done] = value.detach()[better]
        if len(done):
            with_graph = [new_x, new_c, *tried] if len(done) == len(x) else []
        taken[done], refused[rows[~better]] = shrinks[done], shrinks[rows[~better]]
        # Galloping search from where the last one ended, then bisection of the open interval.
        middle = (refused + taken) // 2
        down, up = torch.maximum(taken - stride, middle), torch.minimum(refused + stride, middle)
        shrinks, stride = torch.where(taken == shrinks, down, up), 2 * stride
    search.given_up += taken == plan.tries
    search.shrinks.copy_(taken)
    x, c, x0, patch, loss = with_graph if again and with_graph else result
    return (x, c), (x0, patch, loss), taken
