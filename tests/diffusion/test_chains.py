"""Two chains side by side: what starts them, when the local one moves, and that no sample sees another."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.diffusion import chains
from lib.diffusion.chains import Rectifier, crops
from lib.diffusion.pixel import Schedule, ddim_step, linear_schedule
from lib.diffusion.rectification import (
    FIRST_SIGNAL,
    Plan,
    Timing,
    disagreement,
    global_gate,
    local_gate,
    optimised,
    squares,
    travel,
)

SIDE, PATCH = 32, 8
PLAN = Plan(PATCH, 0.5, 2, 6, 4, 150, 40, 2, 50, 2)
SCHEDULE = linear_schedule(1000).respaced(20)
CORNERS = torch.tensor([[4, 18], [15, 6]])
RAMP = torch.linspace(-0.8, 0.8, SIDE).expand(1, 3, SIDE, SIDE)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(x: Tensor, t: int, rows: Tensor) -> Tensor:
    """A global model that knows one picture and believes half of what it sees."""
    return 0.3 * RAMP + 0.5 * x


def part(c: Tensor, t: int, rows: Tensor) -> Tensor:
    """A local model that sees a dark spot everywhere."""
    return -0.5 + 0.1 * c


def rectifier(number: int = 2, plan: Plan = PLAN, **changes) -> Rectifier:
    draws = [torch.Generator().manual_seed(seed) for seed in range(number)]
    return replace(Rectifier(SCHEDULE, plan, whole, part, CORNERS[:number], draws), **changes)


def test_without_a_rate_the_windows_are_those_of_plain_ddim():
    x = start = noise(2, 3, SIDE, SIDE)
    for t in range(19, 0, -1):
        x = ddim_step(SCHEDULE, x, whole(x, t, CORNERS), t, t - 1)
    calm = replace(PLAN, rate=0.0, passes=1)
    assert torch.equal(rectifier(plan=calm)(start, 19).x0, whole(x, 0, CORNERS).clamp(-1, 1))


def test_the_window_is_pulled_towards_the_patch_and_hardly_elsewhere():
    start = noise(2, 3, SIDE, SIDE)
    pulled = rectifier()(start, 19)
    calm = rectifier(plan=replace(PLAN, rate=0.0))(start, 19)
    change = (pulled.x0 - calm.x0).abs().mean(dim=1)
    inside = crops(change[:, None], CORNERS, PATCH).mean()
    distance = (crops(pulled.x0, CORNERS, PATCH) - pulled.patch).abs().mean()
    assert distance < 0.8 * (crops(calm.x0, CORNERS, PATCH) - calm.patch).abs().mean()
    assert inside > 3 * change[:, :, -2:].mean()


def test_a_local_model_that_is_the_window_of_the_global_one_moves_nothing():
    x = noise(1, 3, SIDE, SIDE)
    left, top = CORNERS[0].tolist()
    flat = 0.1 * torch.ones(1, 3, 1, 1)
    same = rectifier(1, whole=lambda x, t, rows: flat + 0 * x, part=lambda c, t, rows: flat + 0 * c)
    end = same(x, 19)
    assert end.loss.item() == 0 and torch.equal(end.x0, flat.expand(1, 3, SIDE, SIDE)) and left != top


def test_the_local_state_begins_as_the_window_moves_in_resonance_alone_and_is_replaced_once():
    seen: list[tuple[int, Tensor]] = []

    def watching(c: Tensor, t: int, rows: Tensor) -> Tensor:
        seen.append((t, c.detach().clone()))
        return part(c, t, rows)

    x, crop_calls = noise(1, 3, SIDE, SIDE), []
    one = rectifier(1, part=watching, plan=replace(PLAN, passes=1))
    whole_calls = type(one).patches

    class Counting(Rectifier):
        def patches(self, x: Tensor) -> Tensor:
            crop_calls.append(x)
            return whole_calls(self, x)

    Counting(**{name: getattr(one, name) for name in Rectifier.__dataclass_fields__})(x, 19)
    assert torch.equal(seen[0][1], crops(x, CORNERS[:1], PATCH)), "both chains begin with the same noise"
    assert len(crop_calls) == 2, "at the start, and at the level where resonance begins"
    by_level: dict[int, list[Tensor]] = {}
    for t, c in seen:
        by_level.setdefault(t, []).append(c)
    for t, states in by_level.items():
        moves = any(not torch.equal(state, states[0]) for state in states)
        assert not moves or t <= 3, "the gradient moves the local state at t <= 40 of 250 alone"
    assert any(len(states) > 2 for t, states in by_level.items() if t <= 3)


def test_no_gradient_is_asked_for_in_the_free_phase():
    asked: list[tuple[int, bool]] = []

    def watching(x: Tensor, t: int, rows: Tensor) -> Tensor:
        asked.append((t, x.requires_grad))
        return whole(x, t, rows)

    rectifier(whole=watching)(noise(2, 3, SIDE, SIDE), 19)
    with_gradient = {t for t, gradient in asked if gradient}
    assert with_gradient & set(range(13, 20)) and with_gradient & set(range(4))
    assert not with_gradient & set(range(4, 12))


def test_every_step_down_is_optimised_but_in_the_free_phase_and_the_foot_of_a_climb_once_more():
    seen: list[int] = []

    class Noting(Rectifier):
        def pulled(self, x: Tensor, c: Tensor, t: int, *rest: Any):
            seen.append(t)
            return super().pulled(x, c, t, *rest)

    plan, schedule = replace(PLAN, jump=10, gradient_steps=1, tries=1), linear_schedule(1000).respaced(250)
    draws, x = [torch.Generator().manual_seed(0)], noise(1, 3, PATCH, PATCH)
    Noting(schedule, plan, lambda x, t, rows: 0.5 * x, part, torch.zeros(1, 2, dtype=torch.int64), draws)(x, 249)
    levels, timing = travel(250, 10, 2), Timing(plan, schedule)
    feet = [t for before, t, s in zip(levels, levels[1:], levels[2:], strict=False) if before > t < s]
    expected = [t for t, s in itertools.pairwise(levels) if s < t] + feet
    assert sorted(seen) == sorted(t for t in expected if timing.phase(t) != "free")
    assert len(seen) == 189 + 80 + 13, "steps of both phases, and the feet of climbs in them"


class Given(Rectifier):
    """Keeps what each optimisation is given: level, gates, rate, and the loss of the states shifted by 0.1 and -0.2."""

    given: list[tuple]

    def pulled(self, x: Tensor, c: Tensor, t: int, *rest: Any):
        def noting(evaluate: Any, states: Any, gates: Any, rate: float, plan: Plan, search: Any):
            loss = evaluate(states[0] + 0.1, states[1] - 0.2, torch.arange(len(x)))[2]
            self.given.append((t, x, c, gates, rate, loss))
            return optimised(evaluate, states, gates, rate, plan, search)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "optimised", noting)
            return super().pulled(x, c, t, *rest)


def given_of(schedule: Schedule, side: int, corners: Tensor, plan: Plan) -> list[tuple]:
    draws = [torch.Generator().manual_seed(seed) for seed in range(len(corners))]
    watched = Given(schedule, plan, lambda x, t, rows: 0.5 * x, part, corners, draws)
    object.__setattr__(watched, "given", [])
    watched(noise(len(corners), 3, side, side), len(schedule) - 1)
    return watched.given


def test_each_level_has_its_gates_its_rate_and_a_loss_with_the_way_that_was_gone():
    plan = replace(PLAN, passes=1)
    timing, given = Timing(plan, SCHEDULE), given_of(SCHEDULE, SIDE, CORNERS, plan)
    assert {timing.phase(t) for t, *_ in given} == {"anchor", "resonance"}
    for t, x, c, (open_x, open_c), rate, loss in given:
        signal, abar, anchors = SCHEDULE.signal(t - 1), SCHEDULE.signal(t), timing.phase(t) == "anchor"
        assert torch.equal(open_x, global_gate(SIDE, CORNERS + PATCH / 2, plan.radius, signal))
        assert open_c is None if anchors else torch.equal(open_c, local_gate(PATCH, signal))
        assert rate == timing.rate(t)
        ours = crops((0.5 * (x + 0.1)).clamp(-1, 1), CORNERS, PATCH)
        theirs = part(c if anchors else c - 0.2, t, CORNERS).clamp(-1, 1)
        way = squares(torch.full_like(x, 0.1)) + squares(torch.full_like(c, 0.2))
        torch.testing.assert_close(loss, disagreement(ours, theirs, abar, plan.layers) + timing.stiffness(t) * way)


def test_gates_begin_open_and_are_computed_anew_every_fifth_of_250_levels():
    schedule, corners = linear_schedule(1000).respaced(250), torch.zeros(1, 2, dtype=torch.int64)
    plan = replace(PLAN, radius=1, passes=1, gradient_steps=1, tries=1)
    given = given_of(schedule, PATCH, corners, plan)
    assert [t for t, *_ in given] == [*range(249, 150, -1), *range(40, 0, -1)]
    for t, _, _, (open_x, _), _, _ in given:
        refreshed = -(-(t - 1) // 5) * 5
        signal = schedule.signal(refreshed) if refreshed < 249 else FIRST_SIGNAL
        assert torch.equal(open_x, global_gate(PATCH, corners + PATCH / 2, 1, signal)), t


def test_a_climb_adds_the_noise_of_the_level_above_and_the_patch_gets_that_of_its_window():
    x0, seed = RAMP.expand(2, 3, SIDE, SIDE), lambda: [torch.Generator().manual_seed(n) for n in (5, 6)]
    for t in (0, 7, 18):
        kept = SCHEDULE.signal(t + 1) / SCHEDULE.signal(t)
        fresh = torch.stack([torch.randn(3, SIDE, SIDE, generator=draw) for draw in seed()])
        one = rectifier(draws=seed())
        x, c = one.noised(SCHEDULE.signal(t) ** 0.5 * x0, SCHEDULE.signal(t) ** 0.5 * one.patches(x0), t, t + 1)
        expected = SCHEDULE.signal(t + 1) ** 0.5 * x0 + (1 - kept) ** 0.5 * fresh
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(c, one.patches(expected))


def test_a_sample_is_the_same_alone_and_in_a_batch_and_follows_its_seed():
    x = noise(2, 3, SIDE, SIDE)
    both, again = rectifier()(x, 19), rectifier()(x, 19)
    assert torch.equal(both.x0, again.x0)
    for index in (0, 1):
        alone = rectifier(1, corners=CORNERS[index : index + 1], draws=[torch.Generator().manual_seed(index)])
        torch.testing.assert_close(alone(x[index : index + 1], 19).x0[0], both.x0[index], rtol=0, atol=1e-6)
    other = rectifier(draws=[torch.Generator().manual_seed(seed) for seed in (7, 8)])(x, 19)
    assert not torch.equal(other.x0, both.x0), "time travel draws from the sample's generator"


@pytest.mark.parametrize("start", [19, 14])
def test_what_is_known_stays_as_the_source_at_every_level(start: int):
    source = RAMP.expand(2, 3, SIDE, SIDE)
    known = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    known[:, :, 20:24, 6:12] = False
    shown: list[tuple[Tensor, Tensor]] = []
    anchored = rectifier(source=source, known=known, watch=lambda t, x0, patch: shown.append((x0, patch)))
    end = anchored(SCHEDULE.noisy(source, start, noise(2, 3, SIDE, SIDE)), start)
    at, around = crops(known, CORNERS, PATCH), crops(source, CORNERS, PATCH)
    assert at.any() and not at.all()
    for x0, patch in (*shown, (end.x0, end.patch)):
        assert torch.equal(torch.where(known, x0, 0), torch.where(known, source, 0))
        assert torch.equal(torch.where(at, patch, 0), torch.where(at, around, 0)), "the local chain, too"
    assert not torch.equal(end.x0, source)
