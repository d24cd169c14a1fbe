"""Two chains side by side: what starts them, when the local one moves, and that no sample sees another."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lib.diffusion.chains import Rectifier, crops
from lib.diffusion.pixel import ddim_step, linear_schedule
from lib.diffusion.rectification import Plan

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
    known[:, :, 18:26, 4:12] = False
    shown: list[Tensor] = []
    anchored = rectifier(source=source, known=known, watch=lambda t, x0, patch: shown.append(x0))
    end = anchored(SCHEDULE.noisy(source, start, noise(2, 3, SIDE, SIDE)), start)
    for x0 in (*shown, end.x0):
        assert torch.equal(torch.where(known, x0, 0), torch.where(known, source, 0))
    assert not torch.equal(end.x0, source)
