"""Gradient rectification: the pyramid and its weights, the gates, the levels, and a step that never does harm."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lib.diffusion.pixel import linear_schedule
from lib.diffusion.rectification import (
    FIRST_SIGNAL,
    SHRINK,
    Plan,
    Search,
    Timing,
    disagreement,
    global_gate,
    layer_weights,
    local_gate,
    optimised,
    pyramid,
    squares,
    support,
    travel,
)

PUBLISHED = Plan(64, 0.02, 2, 12, 9, 150, 40, 4, 10, 2)
SCHEDULE = linear_schedule(1000).respaced(250)
TIMING = Timing(PUBLISHED, SCHEDULE)
CENTRE = torch.tensor([[40.0, 56.0]])  # x, y


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The loss


def test_a_pyramid_has_halved_layers_that_give_the_image_back():
    image = noise(2, 3, 64, 64)
    layers = pyramid(image, 4)
    assert [layer.shape[-1] for layer in layers] == [64, 32, 16, 8, 4]
    *details, rebuilt = layers
    for detail in reversed(details):
        rebuilt = detail + functional.interpolate(rebuilt, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(rebuilt, image, rtol=0, atol=1e-5)


def test_a_constant_changes_the_coarse_layer_and_a_checkerboard_the_finest_alone():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checkers = (1.0 - 2 * ((rows + columns) % 2)).expand(1, 3, 64, 64)
    *details, coarse = pyramid(torch.full((1, 3, 64, 64), 0.3), 4)
    assert all(detail.abs().max() < 1e-6 for detail in details) and torch.allclose(coarse, torch.tensor(0.3))
    finest, *rest = pyramid(checkers, 4)
    assert torch.equal(finest, checkers) and all(layer.abs().max() < 1e-6 for layer in rest)


@pytest.mark.parametrize(
    ("t", "a", "factor", "low", "detail"),
    [
        (249, 0.0064, 99.4, 0.994, 0.002),
        (150, 0.158, 84.2, 0.842, 0.039),
        (100, 0.438, 56.2, 0.562, 0.110),
        (40, 0.872, 12.8, 0.128, 0.218),
        (35, 0.900, 10.0, 0.100, 0.225),
    ],
)
def test_weights_go_from_coarse_to_fine_as_published(t: int, a: float, factor: float, low: float, detail: float):
    signal = SCHEDULE.signal(t)
    *details, coarse = layer_weights(signal, 4)
    assert math.sqrt(signal) == pytest.approx(a, abs=2e-3)
    assert 100 * (1 - math.sqrt(signal)) == pytest.approx(factor, abs=0.2)
    assert coarse == pytest.approx(low, abs=2e-3) and details == pytest.approx([detail] * 4, abs=1e-3)


@settings(max_examples=30)
@given(signals=st.tuples(st.floats(0, 1), st.floats(0, 1)), layers=st.integers(1, 5))
def test_weights_sum_to_one_and_the_coarse_one_falls_with_noise_to_a_tenth(signals: tuple, layers: int):
    low, high = (layer_weights(signal, layers) for signal in sorted(signals))
    assert sum(low) == pytest.approx(1) and sum(high) == pytest.approx(1)
    assert low[-1] >= high[-1] >= 0.1


def test_the_loss_is_the_weighted_sum_of_the_layers_and_of_the_pixels():
    ours, theirs, signal = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1), 0.3
    a, weights = math.sqrt(signal), layer_weights(signal, 3)
    layers = zip(weights, pyramid(ours, 3), pyramid(theirs, 3), strict=True)
    lap = sum(weight * squares(one - other) for weight, one, other in layers) / 3
    expected = 100 * (1 - a) * lap + a * squares(ours - theirs)
    torch.testing.assert_close(disagreement(ours, theirs, signal, 3), expected, rtol=1e-4, atol=1e-3)
    assert disagreement(ours, ours, signal, 3).eq(0).all()


# The gates


@settings(max_examples=30)
@given(signals=st.tuples(st.floats(0, 1), st.floats(0, 1)), radius=st.floats(2, 12))
def test_the_global_gate_is_open_inside_and_closes_outwards_and_as_noise_falls(signals: tuple, radius: float):
    noisy, clean = (global_gate(96, CENTRE, radius, signal)[0, 0] for signal in sorted(signals))
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    distance = torch.hypot(columns - 40, rows - 56)
    assert noisy.min() >= 0 and noisy.max() <= 1 and (noisy >= clean - 1e-6).all()
    assert (clean[distance <= radius] == 1).all()
    along = clean[56, 40:]
    assert (along.diff() <= 0).all()


def test_the_global_gate_has_its_published_values():
    for t, expected in ((249, 1.0), (200, 0.991), (150, 0.851), (100, 0.318), (40, 0.025), (0, 0.011)):
        gate = global_gate(128, CENTRE, 9, SCHEDULE.signal(t))
        assert float(gate[0, 0, 56, 40 + 32]) == pytest.approx(expected, abs=2e-3)
    half = global_gate(128, CENTRE, 9, 1.0)
    assert float(half[0, 0, 56, 40 + 18]) == pytest.approx(0.5), "at twice the radius, without noise"
    assert global_gate(128, CENTRE, 9, 0.0).eq(1).all()


def test_gates_lie_around_the_middle_of_their_patch_x_along_columns():
    gate = global_gate(96, torch.tensor([[20.0, 70.0], [70.0, 20.0]]), 4, 1.0)
    assert gate[0, 0, 70, 20] == 1 and gate[0, 0, 20, 70] < 1e-3
    assert torch.equal(gate[0, 0], gate[1, 0].T)
    assert torch.equal(support(96, torch.tensor([[20.0, 70.0]]), 4), gate[:1] >= 0.01)


def test_the_local_gate_freezes_its_middle_as_noise_falls_and_lets_the_corners_move():
    middles = []
    for t, expected in ((249, 0.645), (150, 0.525), (100, 0.04), (41, 0.0), (0, 0.0)):
        gate = local_gate(64, SCHEDULE.signal(t))[0, 0]
        assert gate.min() >= 0 and gate.max() <= 1
        assert float(gate[32, 32]) == pytest.approx(expected, abs=6e-3)
        assert (gate[32, 32:].diff() >= 0).all(), "from the middle outwards it does not close"
        middles.append(float(gate[32, 32]))
    assert middles == sorted(middles, reverse=True)
    assert local_gate(64, FIRST_SIGNAL).shape == (1, 1, 64, 64)


# The levels


def test_time_travel_visits_the_published_levels():
    visited = travel(250, 10, 2)
    assert len(visited) == 730 and visited[0] == 249 and visited[-1] == 0
    ways = [after - before for before, after in itertools.pairwise(visited)]
    assert ways.count(-1) == 489 and ways.count(1) == 240
    climbs = "".join("+" if way == 1 else "-" for way in ways).split("-")
    assert {len(climb) for climb in climbs} == {0, 10}, "each climb is ten levels"
    assert travel(250, 10, 1) == list(range(249, -1, -1))


def test_phases_have_their_published_share_of_the_way_and_scale_with_the_levels():
    visited = travel(250, 10, 2)
    downwards = [t for t, s in itertools.pairwise(visited) if s < t]
    counts = [sum(TIMING.phase(t) == phase for t in downwards) for phase in ("anchor", "free", "resonance")]
    assert counts == [189, 220, 80]
    few = Timing(PUBLISHED, linear_schedule(1000).respaced(50))
    for t in range(50):
        assert few.phase(t) == TIMING.phase(5 * t)
    assert few.limit == 8 and TIMING.limit == 40


def test_the_rate_grows_with_the_signal_and_with_every_level_down():
    first, last = TIMING.rate(249), TIMING.rate(0)
    assert first == pytest.approx(1.27e-4, rel=0.02)
    assert last == pytest.approx(0.02 * 1.012**249) and last == pytest.approx(0.385, rel=0.02)
    for t in (200, 100, 10):
        expected = 0.02 * 1.012 ** (249 - t) * math.sqrt(SCHEDULE.signal(t) / SCHEDULE.signal(0))
        assert TIMING.rate(t) == pytest.approx(expected)
    assert TIMING.stiffness(249) == pytest.approx(1e-4) and TIMING.stiffness(248) == pytest.approx(1.01e-4)


# The step


def linear(target: Tensor):
    """`evaluate` of two chains whose estimates are the states themselves; the loss is the distance to `target`."""

    def evaluate(x: Tensor, c: Tensor, rows: Tensor):
        return x, c, squares(x - target[rows]) + squares(c - target[rows])

    return evaluate


def search(number: int) -> Search:
    return Search.of(number, torch.device("cpu"))


def plan(**changes: float) -> Plan:
    values = {name: getattr(PUBLISHED, name) for name in Plan.__dataclass_fields__}
    return Plan(**values | changes)


def test_a_step_of_a_linear_model_is_the_gradient_in_closed_form():
    x, c, target = noise(2, 1, 4, 4), noise(2, 1, 4, 4, seed=1), noise(2, 1, 4, 4, seed=2)
    gate = torch.rand(2, 1, 4, 4)
    one = plan(gradient_steps=1)
    (new_x, new_c), (x0, _, loss) = optimised(linear(target), (x, c), (gate, None), 0.1, one, search(2))
    torch.testing.assert_close(new_x, x - 0.1 * gate * 2 * (x - target))
    assert torch.equal(new_c, c), "while the local gate is None, the local state stays"
    torch.testing.assert_close(loss, linear(target)(new_x, new_c, torch.arange(2))[2])
    assert torch.equal(x0, new_x)


def test_a_closed_gate_or_a_rate_of_nothing_moves_nothing():
    x, c, target = noise(2, 1, 4, 4), noise(2, 1, 4, 4, seed=1), noise(2, 1, 4, 4, seed=2)
    for gate, rate in ((torch.zeros(2, 1, 4, 4), 0.1), (torch.ones(2, 1, 4, 4), 0.0)):
        (new_x, new_c), _ = optimised(linear(target), (x, c), (gate, gate), rate, PUBLISHED, search(2))
        assert torch.equal(new_x, x) and torch.equal(new_c, c)


@settings(max_examples=20)
@given(rate=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_a_step_never_raises_the_loss_of_any_sample(rate: float, seed: int):
    x, c, target = (noise(3, 1, 4, 4, seed=seed + number) for number in range(3))
    evaluate, everyone, gate = linear(target), torch.arange(3), torch.ones(3, 1, 4, 4)
    before = evaluate(x, c, everyone)[2]
    (new_x, new_c), (_, _, loss) = optimised(evaluate, (x, c), (gate, gate), rate, PUBLISHED, search(3))
    assert (loss <= before).all() and torch.equal(loss, evaluate(new_x, new_c, everyone)[2])


def test_a_search_that_finds_nothing_ends_keeps_the_state_and_says_so_of_that_sample_alone():
    x, c = torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    asked = []

    def evaluate(x: Tensor, c: Tensor, rows: Tensor):
        asked.append(rows.tolist())
        loss = squares(x)
        stray = (x[:, 0, 0, 0] != 1) & (rows == 0)  # whoever moves the first sample gets no number
        return x, c, torch.where(stray, torch.nan, loss)

    met = search(2)
    (new_x, _), _ = optimised(evaluate, (x, c), (torch.ones(2, 1, 2, 2), None), 0.1, plan(gradient_steps=1), met)
    assert torch.equal(new_x[0], x[0]) and not torch.equal(new_x[1], x[1])
    assert met.given_up.tolist() == [1, 0] and met.not_finite.tolist() == [7, 0]
    assert asked == [[0, 1], [0, 1], *[[0]] * 6], "whoever is done is not asked again"


def stairs(refused: list[int], rate: float, asked: list):
    """`evaluate` of states that fall to 0, and refuse the longest steps: as many as `refused` says of each sample."""

    def evaluate(x: Tensor, c: Tensor, rows: Tensor):
        way = (1 - x[:, 0, 0, 0]).detach()  # 0, or the rate by which the state has gone
        shrinks = (torch.log(way / rate) / math.log(SHRINK)).round()
        asked.append((rows.tolist(), shrinks.tolist()))
        loss = x.flatten(1).sum(dim=1)
        return x, c, torch.where((way > 0) & (shrinks < torch.tensor(refused)[rows]), torch.inf, loss)

    return evaluate


@settings(max_examples=60)
@given(refused=st.lists(st.integers(0, 12), min_size=1, max_size=4), last=st.integers(0, 12))
def test_wherever_a_search_begins_it_takes_the_longest_step_that_is_not_refused(refused: list[int], last: int):
    x, asked, met = torch.ones(len(refused), 1, 1, 1), [], search(len(refused))
    met.shrinks.fill_(last)
    one = plan(gradient_steps=1)
    (new_x, _), (_, _, loss) = optimised(stairs(refused, 0.1, asked), (x, x), (x, None), 0.1, one, met)
    expected = [1 - 0.1 * SHRINK**number if number < 12 else 1.0 for number in refused]
    torch.testing.assert_close(new_x.flatten(), torch.tensor(expected))
    assert torch.equal(loss, new_x.flatten())
    assert met.shrinks.tolist() == refused and met.given_up.tolist() == [int(number == 12) for number in refused]
    assert len(asked) <= 8, "the gradient's evaluation, and fewer tries than there are steps"


@pytest.mark.parametrize("last", [0, 1, 5, 11])
def test_a_longer_step_is_taken_where_a_shorter_one_would_lower_the_loss_more(last: int):
    """As published: of a square, 0.9 goes far beyond the lowest place, and 0.8 of it less far."""
    x, met = torch.ones(1, 1, 1, 1), search(1)
    met.shrinks.fill_(last)
    (new_x, _), _ = optimised(linear(0 * x), (x, x), (x, None), 0.9, plan(gradient_steps=1), met)
    torch.testing.assert_close(new_x, (1 - 0.9 * 2) * x)


def test_a_search_that_begins_at_the_right_step_tries_no_more_than_the_next_longer_one():
    asked, met, x = [], search(1), torch.ones(1, 1, 1, 1)
    met.shrinks.fill_(9)
    optimised(stairs([9], 0.1, asked), (x, x), (x, None), 0.1, plan(gradient_steps=1), met)
    assert [shrinks for _, shrinks in asked[1:]] == [[9], [8]]


def test_the_second_step_of_a_level_is_no_longer_than_the_first_and_what_was_taken_is_not_evaluated_again():
    x, calls = torch.ones(2, 1, 1, 1), []

    def evaluate(x: Tensor, c: Tensor, rows: Tensor):
        calls.append((x.flatten().tolist(), x.requires_grad))
        return x, c, torch.where(x.flatten() < 0.55, torch.inf, squares(x))

    (new_x, _), _ = optimised(evaluate, (x, x), (x, None), 0.2, PUBLISHED, search(2))
    # 1 - 0.2 * 2 is 0.6, from where 0.2 and 0.2 * 0.8 are too much: they would end at 0.36 and 0.408.
    assert calls[:2] == [([1, 1], True), ([pytest.approx(0.6)] * 2, True)]
    assert calls[2] == ([pytest.approx(0.36)] * 2, False), "and not 0.6 a second time"
    longest = next(number for number in range(12) if 0.6 - 1.2 * 0.2 * SHRINK**number >= 0.55)
    torch.testing.assert_close(new_x.flatten(), torch.full((2,), 0.6 - 1.2 * 0.2 * SHRINK**longest))

    met, asked = search(1), []
    (new_x, _), _ = optimised(stairs([12], 0.1, asked), (x[:1], x[:1]), (x[:1], None), 0.1, PUBLISHED, met)
    assert torch.equal(new_x, x[:1]) and met.given_up.tolist() == [2]
    assert all(way == [math.inf] for _, way in asked[8:]), "no step is left for the second gradient"


def test_samples_that_take_different_steps_go_where_each_would_go_alone():
    x, target, gate = noise(3, 1, 4, 4), noise(3, 1, 4, 4, seed=1), torch.ones(3, 1, 4, 4)
    scale = torch.tensor([0.1, 2.0, 5.0])  # of the losses: each needs another step

    def evaluate_of(chosen: Tensor):
        def evaluate(x: Tensor, c: Tensor, rows: Tensor):
            one = chosen[rows]
            return x, c, scale[one] * (squares(x - target[one]) + squares(c - target[one]))

        return evaluate

    met = search(3)
    (together, _), _ = optimised(evaluate_of(torch.arange(3)), (x, x), (gate, gate), 0.8, PUBLISHED, met)
    assert len(set(met.shrinks.tolist())) == 3
    for index in range(3):
        part, alone = slice(index, index + 1), search(1)
        states = (x[part], x[part]), (gate[part], gate[part])
        (one, _), _ = optimised(evaluate_of(torch.tensor([index])), *states, 0.8, PUBLISHED, alone)
        torch.testing.assert_close(one, together[part], rtol=0, atol=1e-6)
        assert alone.shrinks[0] == met.shrinks[index]
