"""What the training of detectors shares: the best weights, and a schedule that bears any number of steps."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lib.vision.fitting import best_weights, one_cycle


def training(network: nn.Linear, steps: int) -> Iterator[tuple[int, float]]:
    """The weight is the number of the step."""
    for step in range(1, steps + 1):
        network.weight.data.fill_(step)
        yield step, 1 / step


@pytest.fixture
def network() -> nn.Linear:
    return nn.Linear(1, 1, bias=False)


def test_the_weights_of_the_best_score_are_kept_and_of_equal_ones_the_first(network: nn.Linear):
    scores = iter([0.2, 0.5, 0.5, 0.1])
    weights, history = best_weights(training(network, 7), network, lambda: next(scores), 2, 7, "AP")
    assert weights["weight"].item() == 4
    assert history.curves["AP"] == [(2, 0.2), (4, 0.5), (6, 0.5), (7, 0.1)], "after the last step, too"
    assert history.curves["loss"][2] == (3, round(1 / 3, 6)) and len(history.curves["loss"]) == 7


def test_without_a_score_the_last_ones_and_a_score_of_nothing_is_one(network: nn.Linear):
    weights, history = best_weights(training(network, 3), network, None, 1, 3, "AP")
    assert weights["weight"].item() == 3 and history.curves["AP"] == []
    weights, _ = best_weights(training(network, 3), network, lambda: 0.0, 1, 3, "AP")
    assert weights["weight"].item() == 1


def test_kept_weights_do_not_go_on_learning(network: nn.Linear):
    weights, _ = best_weights(training(network, 1), network, lambda: 1.0, 1, 1, "AP")
    network.weight.data.fill_(9)
    assert weights["weight"].item() == 1


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 40])
def test_the_rate_of_every_group_rises_to_its_own_and_falls(network: nn.Linear, steps: int):
    groups = [{"params": [network.weight], "lr": 0.1}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = one_cycle(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert all(first == pytest.approx(10 * second) for first, second in rates)
    if steps == 40:
        assert max(rates)[0] == pytest.approx(0.1, rel=0.01) and rates.index(max(rates)) in (7, 8)
        assert rates[-1][0] < 0.001
