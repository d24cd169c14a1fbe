"""What the training of detectors shares: the training loop, its schedule, and the choice of the best weights on val."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.geometry import RGB, Scores
from lib.core.runtime import progress
from lib.metrics.ranking import average_precision
from lib.vision.examples import Example, History

RISE = 0.2  # share of the steps in which the learning rate rises (Smith & Topin 2019); then it falls to zero
SHORTEST = 6  # steps of a schedule: with fewer, RISE covers only the first step, and OneCycleLR divides by zero
WEIGHT_DECAY = 1e-2  # of AdamW
VALIDATED = 24  # pictures of one validation: weights are chosen often, so on few; the threshold once, on all
DRAWING = threading.Lock()  # seeds train in parallel threads, but torch has one random state to draw weights from

Weights = dict[str, Tensor]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises to that of its group and falls to zero again, in `steps` steps, at least 1."""
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, SHORTEST), pct_start=RISE)


def parameter_groups(
    network: nn.Module, pretrained: nn.Module | None, learning_rate: float, pretrained_rate: float
) -> list[dict[str, Any]]:
    """The trainable weights of a network as groups for an optimizer, each with its learning rate.

    pretrained: the part of the network that learns at `pretrained_rate`, or None. Frozen weights are in no group.
    """
    own = {id(weight) for weight in pretrained.parameters()} if pretrained else set()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if id(weight) not in own], "lr": learning_rate},
        {"params": [weight for weight in weights if id(weight) in own], "lr": pretrained_rate},
    ]
    return [group for group in groups if group["params"]]


def training_steps(
    network: nn.Module,
    groups: list[dict[str, Any]],
    steps: int,
    seed: int,
    loss_of: Callable[[int], Tensor],
    weight_decay: float = WEIGHT_DECAY,
    clip: float | None = None,
    fp16: bool = False,
) -> Iterator[tuple[int, float]]:
    """Train the network with AdamW; yield each step, from 1 on, with its loss.

    groups: as `parameter_groups` gives them, with the highest learning rate of each. loss_of: the loss () of a step,
    by its number. clip: largest norm of the gradient, None for no limit. fp16: the loss was computed in half
    precision, so that it must be scaled.
    """
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    schedule = one_cycle(optimizer, steps)
    scaler = torch.amp.GradScaler(weights[0].device.type, enabled=fp16)
    for step in progress(range(1, steps + 1), f"train seed {seed}"):
        network.train()
        loss = loss_of(step)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights, clip)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        yield step, loss.item()


def best_weights(
    training: Iterator[tuple[int, float]],
    network: nn.Module,
    score: Callable[[], float] | None,
    every: int,
    steps: int,
    metric: str,
) -> tuple[Weights, History]:
    """Run a training of `steps` steps, which yields each step with its loss, to its end.

    Returns the network's weights after the step with the highest score, and the curves of loss and `metric`. The score
    is computed every `every` steps and after the last one. Without a score the last weights are returned.
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
    """Average precision of score maps over all pixels that count, of at least one picture."""
    counting = [example.counting for example in examples]
    scores = [predict(example.image)[counts] for example, counts in zip(examples, counting, strict=True)]
    truth = [example.mask[counts] for example, counts in zip(examples, counting, strict=True)]
    return average_precision(np.concatenate(scores), np.concatenate(truth))


def copied(network: nn.Module) -> Weights:
    """A copy of the weights as they are now, in CPU memory."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
