"""What the training of detectors shares: one random state, one schedule, and the best weights by a score on val."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.geometry import RGB, Scores
from lib.detectors import Example, History
from lib.metrics.ranking import average_precision

RISE = 0.2  # of the steps, in which the learning rate rises (Smith & Topin 2019); then it falls to nothing
SHORTEST = 6  # steps of a schedule: RISE of fewer is no more than the first step, and OneCycleLR divides by zero
VALIDATED = 24  # pictures that a validation looks at: weights are chosen often, so on few; the threshold once, on all
DRAWING = threading.Lock()  # seeds train side by side, but torch has one random state, from which every network draws

Weights = dict[str, Tensor]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises to that of each group and falls to nothing in `steps` steps, at least 1."""
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, SHORTEST), pct_start=RISE)


def best_weights(
    training: Iterator[tuple[int, float]],
    network: nn.Module,
    score: Callable[[], float] | None,
    every: int,
    steps: int,
    metric: str,
) -> tuple[Weights, History]:
    """Run a training of `steps` steps, which yields each step with its loss, to its end.

    Returns the network's weights after the step of the highest score, which is looked at every `every` steps and after
    the last one, and the curves of loss and `metric`. Without a score the last weights.
    """
    losses: list[tuple[int, float]] = []
    validations: list[tuple[int, float]] = []
    best, weights = -1.0, None
    for step, loss in training:
        losses.append((step, round(loss, 6)))
        if score and (step % every == 0 or step == steps):
            value = score()
            validations.append((step, round(value, 6)))
            if value > best:
                best, weights = value, copied(network)
    return weights or copied(network), History({"loss": losses, metric: validations})


def pixel_precision(predict: Callable[[RGB], Scores], examples: Sequence[Example]) -> float:
    """The average precision of score maps over all pixels of the pictures that count. At least one picture."""
    counting = [example.counting for example in examples]
    scores = [predict(example.image)[counts] for example, counts in zip(examples, counting, strict=True)]
    truth = [example.mask[counts] for example, counts in zip(examples, counting, strict=True)]
    return average_precision(np.concatenate(scores), np.concatenate(truth))


def copied(network: nn.Module) -> Weights:
    """The weights as they are now, in the memory of the CPU."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
