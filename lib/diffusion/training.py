"""The one training loop of Blemish; what differs between methods is the objective that is handed in.

An objective is a module whose call `objective(indices, draws)` gives the losses of the samples `indices`. All
randomness of a sample comes from its own generator in `draws`, seeded by the run's seed and the sample's position in
the endless shuffled stream. So nothing about chance needs to be saved: a run that was killed and one that was not,
one process or four, see the same samples with the same noise.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from dvclive import Live
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.params import Training
from lib.core.runtime import (
    atomic_folder,
    cores,
    device,
    mixed_precision,
    progress,
    seed_for,
    side_by_side,
    work_folder,
    write_json,
)

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
    """Train the parameters of `objective` that require a gradient; they end as their exponential moving average.

    objective: called as `objective(indices (b,) int64, draws: list of b CPU generators)`, returns losses (b,).
    count: number of samples to draw from. stage, key: where checkpoints lie, and the fingerprint of all inputs: a
    killed run with an equal key continues, bit for bit on a CPU, and any other key starts afresh.
    curves: folder for the loss curve (DVCLive), rewritten by every run. rate: the learning rate of a parameter, by its
    name, in multiples of the settings' one.
    Raises FloatingPointError, naming the step, when a loss is not finite; no checkpoint is written after that step.
    """
    where = device()
    accelerator = Accelerator(mixed_precision=mixed_precision(where), cpu=where.type == "cpu")
    if settings.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size: {settings.batch_size} samples cannot be shared evenly by "
            f"{accelerator.num_processes} processes; take a multiple"
        )
    work = work_folder(stage, key)
    named = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    weights = list(named.values())
    rates = {name: rate(name) for name in named}
    groups = [
        {"params": [named[name] for name in named if rates[name] == value], "rate": value}
        for value in dict.fromkeys(rates.values())
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, fused=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    ema = EMAModel(named.values(), decay=settings.ema_decay)
    first, history = _resume(work, named, optimizer, ema)
    accelerator.wait_for_everyone()

    main = accelerator.is_main_process
    live = Live(str(curves), save_dvc_exp=False, dvcyaml=None, report=None) if main else None
    for past in history:
        _log(live, past)
    objective.train()
    unseen: list[Tensor] = []
    left = range(first, settings.steps)
    shares = 1 if accelerator.num_processes > 1 else min(cores(where), settings.batch_size)
    with side_by_side(where, shares) as run:
        for step in progress(left, stage, total=settings.steps, initial=first) if main else left:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(step, settings)
            positions = range(step * settings.batch_size, (step + 1) * settings.batch_size)
            mine = positions[accelerator.process_index :: accelerator.num_processes]
            indices = torch.tensor([sample_at(position, count, seed) for position in mine])
            draws = [torch.Generator().manual_seed(seed_for(seed, "draw", position)) for position in mine]
            if shares > 1:
                loss = backward_in_shares(objective, weights, indices, draws, shares, run)
            else:
                with accelerator.autocast():
                    loss = prepared(indices, draws).mean()
                accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(named.values())
            unseen.append(loss.detach())

            done = step + 1
            if done % LOG_EVERY == 0 or done == settings.steps or done % settings.checkpoint_every == 0:
                losses = accelerator.reduce(torch.stack(unseen), "mean").tolist()
                _refuse_nan(losses, done)
                unseen = []
                history.append({"step": done, "loss": round(float(np.mean(losses)), 6)})
                _log(live, history[-1])
            if main and (done % settings.checkpoint_every == 0 or done == settings.steps):
                _save(work, done, named, optimizer, ema, history)
    ema.copy_to(named.values())
    objective.eval()
    if live:
        live.end()
    accelerator.wait_for_everyone()


def backward_in_shares(
    objective: nn.Module,
    weights: list[nn.Parameter],
    indices: Tensor,
    draws: list[torch.Generator],
    shares: int,
    run: Callable[..., list[Any]],
) -> Tensor:
    """The mean loss of a batch, its gradient put where `loss.backward()` would put it, by `shares` calls side by side.

    weights: those to train; indices: (b,); run: what `side_by_side` yields. The shares' gradients are added up in
    their order, so that they are the same bits in every run with as many shares. For the time of the sum every share
    holds gradients of its own.
    """

    def one_share(places: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = objective(indices[places], [draws[place] for place in places.tolist()]).sum() / len(indices)
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    losses, gradients = zip(*run(one_share, torch.arange(len(indices)).tensor_split(shares)), strict=True)
    for value, *parts in zip(weights, *gradients, strict=True):
        known = [part for part in parts if part is not None]
        if known:  # laid out in memory like its parameter, which a fused optimizer takes for granted
            value.grad = torch.zeros_like(value)
            for part in known:
                value.grad += part
    return torch.stack(losses).sum()


def learning_rate(step: int, settings: Training) -> float:
    """Linear warm-up, then constant or a half cosine down to zero, as a function of the step alone."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    share = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def sample_at(position: int, count: int, seed: int) -> int:
    """The sample at a position of the endless stream that shuffles all `count` samples anew for every pass."""
    epoch, place = divmod(position, count)
    return int(_permutation(epoch, count, seed)[place])


_last_permutation: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(epoch: int, count: int, seed: int) -> np.ndarray:
    key = (epoch, count, seed)
    if key not in _last_permutation:
        while len(_last_permutation) > 1:  # a batch spans two passes at most
            _last_permutation.pop(next(iter(_last_permutation)))
        _last_permutation[key] = np.random.default_rng(seed_for(seed, "epoch", epoch)).permutation(count)
    return _last_permutation[key]


def min_snr_weight(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float, prediction: str = "epsilon") -> Tensor:
    """Weights (B,) of the squared error: min(SNR, gamma) over SNR where noise is predicted, over SNR + 1 where
    velocity is (Hang et al. 2023, eq. 5 and section 3.4)."""
    level = alphas_cumprod[timesteps]
    snr = level / (1 - level)
    return snr.clamp(max=gamma) / (snr + (prediction == "v_prediction"))


def _refuse_nan(losses: list[float], done: int) -> None:
    for back, loss in enumerate(losses):
        if not math.isfinite(loss):
            step = done - len(losses) + back + 1
            raise FloatingPointError(
                f"the loss is {loss} at step {step}: lower the learning rate; nothing was saved after step "
                f"{done - len(losses)}"
            )


def _log(live: Live | None, entry: dict[str, float]) -> None:
    if live:
        live.step = int(entry["step"])
        live.log_metric("loss", entry["loss"])
        live.make_summary()


def _save(work: Path, step: int, named: dict, optimizer: torch.optim.Optimizer, ema: EMAModel, history: list) -> None:
    """Write the checkpoint of a step, whole, and only then remove all but the two newest."""
    slots: dict[str, Tensor] = {}
    for (name, value), shadow in zip(named.items(), ema.shadow_params, strict=True):
        slots[f"weight/{name}"], slots[f"ema/{name}"] = value.detach(), shadow
        for slot, content in optimizer.state[value].items():
            slots[f"adam/{slot}/{name}"] = content
    with atomic_folder(work / f"step-{step:07d}") as folder:
        save_file({name: content.contiguous().cpu() for name, content in slots.items()}, folder / "state.safetensors")
        write_json(folder / "state.json", {"step": step, "ema_steps": ema.optimization_step, "history": history})
    for old in _checkpoints(work)[2:]:
        shutil.rmtree(old)


def _checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted((folder for folder in work.glob("step-*") if folder.suffix == ""), reverse=True)


def _resume(work: Path, named: dict, optimizer: torch.optim.Optimizer, ema: EMAModel) -> tuple[int, list]:
    """Load the newest readable checkpoint; a damaged one is named and skipped in favour of the one before."""
    for folder in _checkpoints(work):
        try:
            slots = load_file(folder / "state.safetensors")
            state = json.loads((folder / "state.json").read_text())
            if set(named) != {name.removeprefix("ema/") for name in slots if name.startswith("ema/")}:
                raise ValueError("its weights are not those of this objective")
        except Exception as error:
            print(f"{folder}: damaged checkpoint skipped: {error}")
            continue
        for (name, value), shadow in zip(named.items(), ema.shadow_params, strict=True):
            value.data.copy_(slots[f"weight/{name}"])
            shadow.copy_(slots[f"ema/{name}"])
            optimizer.state[value] = {
                # Laid out like the weight, as the optimizer would have made them: the same kernels, the same bits.
                slot: torch.empty_like(value).copy_(slots[f"adam/{slot}/{name}"])
                for slot in ("exp_avg", "exp_avg_sq")
            } | {"step": slots[f"adam/step/{name}"].to(value.device)}
        ema.optimization_step = state["ema_steps"]
        return state["step"], state["history"]
    return 0, []
