"""The training loop of all diffusion methods, which differ in the objective that they pass in.

An objective is a module; `objective(indices, draws)` returns the losses of the samples `indices`. All randomness of a
sample comes from its own generator in `draws`, seeded by the run's seed and the sample's position in the endless
shuffled stream. So no random state needs to be saved: a resumed run, or one with several processes, sees the same
samples with the same noise.
"""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from dvclive import Live
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.core.params import Training
from lib.core.runtime import cores, device, mixed_precision, progress, seed_for, side_by_side, work_folder
from lib.diffusion.checkpoints import TrainingState, resume, save

LOG_EVERY = 10  # steps; also how often the loss is fetched from the device


def train(
    objective: nn.Module,
    count: int,
    settings: Training,
    seed: int,
    stage: str,
    key: str,
    curves: Path,
    rate: Callable[[str], float] = lambda name: 1.0,
) -> None:
    """Train the parameters of `objective` that require a gradient; at the end they are set to their moving average.

    objective: called as `objective(indices (b,) int64, draws: list of b CPU generators)`, returns losses (b,).
    count: number of samples to draw from. stage, key: name of the work folder, and fingerprint of all inputs: a killed
    run with the same key continues, bit for bit on a CPU; with another key it starts again.
    curves: folder for the loss curve (DVCLive), rewritten by every run. rate: the learning rate of a parameter, by its
    name, as a multiple of that in the settings.
    Raises UserError, which names the step, if a loss is not finite; no checkpoint is written after that step.
    """
    where = device()
    accelerator = Accelerator(mixed_precision=mixed_precision(where), cpu=where.type == "cpu")
    batches = Batches(count, settings.batch_size, seed, accelerator.process_index, accelerator.num_processes)
    work = work_folder(stage, key)
    weights = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    model, optimizer = accelerator.prepare(objective, new_optimizer(weights, settings, rate))
    average = EMAModel(weights.values(), decay=settings.ema_decay)
    state = TrainingState(weights, optimizer, average, accelerator.scaler)
    first, history = resume(work, state)
    accelerator.wait_for_everyone()

    main = accelerator.is_main_process
    curve = LossCurve(stage, history, curves if main else None)
    objective.train()
    with closing(training_steps(accelerator, model, optimizer, batches, settings, first)) as steps:
        bar = progress(steps, stage, total=settings.steps, initial=first) if main else steps
        for step, loss in enumerate(bar, start=first + 1):
            average.step(weights.values())
            curve.losses.append(loss)
            checkpoint = step % settings.checkpoint_every == 0 or step == settings.steps
            if checkpoint or step % LOG_EVERY == 0:
                curve.log(step, accelerator)
            if checkpoint and main:
                save(work, step, state, history)
    average.copy_to(weights.values())
    objective.eval()
    curve.end()
    accelerator.wait_for_everyone()


def training_steps(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, batches: "Batches", settings: Training, first: int
) -> Generator[Tensor, None, None]:
    """Take the steps from number `first` on; after each, yield the mean loss () of this process's part of the batch.

    model, optimizer: as `accelerator.prepare` returns them. On a CPU every core takes a share of the batch.
    """
    objective = accelerator.unwrap_model(model)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shares = 1 if accelerator.num_processes > 1 else min(cores(accelerator.device), settings.batch_size)
    with side_by_side(accelerator.device, shares) as run:
        for step in range(first, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(step, settings)
            indices, draws = batches.at(step)
            if shares > 1:
                loss = backward_in_shares(objective, weights, indices, draws, shares, run)
            else:
                with accelerator.autocast():
                    loss = model(indices, draws).mean()
                accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield loss.detach()


@dataclass(frozen=True)
class Batches:
    """The endless stream of samples in batches, of which each process takes an equal part.

    Raises UserError if the batch cannot be divided evenly.
    """

    count: int  # samples to draw from
    size: int  # samples in a batch, of all processes together
    seed: int
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.size % self.processes:
            raise UserError(
                f"batch_size: {self.size} samples cannot be shared evenly by {self.processes} processes; take a "
                "multiple of that number"
            )

    def at(self, step: int) -> tuple[Tensor, list[torch.Generator]]:
        """The samples (b,) int64 of this process at a step, and a generator for each."""
        positions = range(step * self.size, (step + 1) * self.size)[self.process :: self.processes]
        indices = [sample_at(position, self.count, self.seed) for position in positions]
        draws = [torch.Generator().manual_seed(seed_for(self.seed, "draw", position)) for position in positions]
        return torch.tensor(indices), draws


class LossCurve:
    """The loss curve (DVCLive): means over LOG_EVERY steps, fetched from the device together."""

    def __init__(self, stage: str, history: list[dict[str, float]], folder: Path | None) -> None:
        """history: earlier entries, logged at once, to which new ones are appended; folder: None writes no files."""
        self.stage, self.history = stage, history
        self.losses: list[Tensor] = []  # () each, of steps that are not logged yet
        self.live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None) if folder else None
        for entry in history:
            self._write(entry)

    def log(self, step: int, accelerator: Accelerator) -> None:
        """Log the mean of the losses since the last call, over all processes. Raises UserError if one is not finite."""
        values = accelerator.reduce(torch.stack(self.losses), "mean").tolist()
        self.losses = []
        before = step - len(values)
        for number, value in enumerate(values, start=before + 1):
            if not math.isfinite(value):
                raise UserError(
                    f"{self.stage}: the loss is {value} at step {number}: lower its learning rate; nothing was saved "
                    f"after step {before}"
                )
        self.history.append({"step": step, "loss": round(float(np.mean(values)), 6)})
        self._write(self.history[-1])

    def end(self) -> None:
        """Close the curve's files."""
        if self.live:
            self.live.end()

    def _write(self, entry: dict[str, float]) -> None:
        if self.live:
            self.live.step = int(entry["step"])
            self.live.log_metric("loss", entry["loss"])
            self.live.make_summary()


def new_optimizer(
    weights: dict[str, nn.Parameter], settings: Training, rate: Callable[[str], float]
) -> torch.optim.AdamW:
    """AdamW with a group for each learning rate; rate: by a weight's name, as a multiple of that in the settings."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        groups.setdefault(rate(name), []).append(weight)
    return torch.optim.AdamW(
        [{"params": members, "rate": value} for value, members in groups.items()],
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=1e-2,
        fused=True,
    )


def backward_in_shares(
    objective: nn.Module,
    weights: list[nn.Parameter],
    indices: Tensor,
    draws: list[torch.Generator],
    shares: int,
    run: Callable[..., list[Any]],
) -> Tensor:
    """Like `loss.backward()` for the mean loss of a batch, computed by `shares` calls in parallel; returns the loss.

    weights: those to train; indices: (b,); run: what `side_by_side` yields. Gradients of the shares are added in their
    order, so that equal numbers of shares give equal bits. Until they are added, every share needs memory for its own.
    """

    def one_share(places: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = objective(indices[places], [draws[place] for place in places.tolist()]).sum() / len(indices)
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    losses, gradients = zip(*run(one_share, torch.arange(len(indices)).tensor_split(shares)), strict=True)
    for weight, *parts in zip(weights, *gradients, strict=True):
        terms = [part for part in parts if part is not None]
        if terms:  # in the memory layout of the parameter, which a fused optimizer assumes
            weight.grad = torch.zeros_like(weight)
            for term in terms:
                weight.grad += term
    return torch.stack(losses).sum()


def learning_rate(step: int, settings: Training) -> float:
    """The learning rate of a step: linear warm-up, then constant or a half cosine down to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    share = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def sample_at(position: int, count: int, seed: int) -> int:
    """The sample at a position of the endless stream, in which each pass over all `count` samples is shuffled anew."""
    epoch, place = divmod(position, count)
    return int(_permutation(epoch, count, seed)[place])


@lru_cache(maxsize=2)  # a batch spans two passes at most
def _permutation(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed_for(seed, "epoch", epoch)).permutation(count)


def min_snr_weight(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float, prediction: str = "epsilon") -> Tensor:
    """Weights (B,) of the squared error: min(SNR, gamma) / SNR if noise is predicted, / (SNR + 1) if velocity is
    (Hang et al. 2023, eq. 5 and section 3.4)."""
    level = alphas_cumprod[timesteps]
    snr = level / (1 - level)
    return snr.clamp(max=gamma) / (snr + (prediction == "v_prediction"))
