"""Checkpoints of a training run: written whole or not at all; the newest readable one is resumed."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.runtime import atomic_folder, write_json

CHECKPOINTS = 2  # that are kept: if the newest is damaged, the one before is used


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training step changes, beside the step's number."""

    weights: dict[str, nn.Parameter]  # by name
    optimizer: Any  # of these weights: its moments, Adam's
    average: EMAModel  # of these weights, in their order
    scaler: torch.amp.GradScaler | None = None  # of the loss, where half precision needs one


def save(work: Path, step: int, state: TrainingState, history: list[dict[str, float]]) -> None:
    """Write the checkpoint of a step, and then remove all but the newest ones."""
    slots: dict[str, Tensor] = {}
    for (name, weight), shadow in zip(state.weights.items(), state.average.shadow_params, strict=True):
        slots[f"weight/{name}"], slots[f"ema/{name}"] = weight.detach(), shadow
        for slot, content in state.optimizer.state[weight].items():
            slots[f"adam/{slot}/{name}"] = content
    facts = {
        "step": step,
        "ema_steps": state.average.optimization_step,
        "history": history,
        "scaler": state.scaler.state_dict() if state.scaler else None,
    }
    with atomic_folder(work / f"step-{step:07d}") as folder:
        save_file({name: content.contiguous().cpu() for name, content in slots.items()}, folder / "state.safetensors")
        write_json(folder / "state.json", facts)
    for old in checkpoints(work)[CHECKPOINTS:]:
        shutil.rmtree(old)


def checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    return sorted((folder for folder in work.glob("step-*") if folder.suffix == ""), reverse=True)


def resume(work: Path, state: TrainingState) -> tuple[int, list[dict[str, float]]]:
    """Load the newest readable checkpoint into the state; return its step and its history, or 0 and an empty list.

    A damaged checkpoint is reported and skipped.
    """
    for folder in checkpoints(work):
        try:
            slots = load_file(folder / "state.safetensors")
            facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if set(state.weights) != {name.removeprefix("ema/") for name in slots if name.startswith("ema/")}:
                raise ValueError("its weights are not those of this objective")
        except Exception as error:  # whatever a damaged file leads to
            print(f"{folder}: damaged checkpoint skipped: {error}")
            continue
        _restore(state, slots, facts)
        return facts["step"], facts["history"]
    return 0, []


def _restore(state: TrainingState, slots: dict[str, Tensor], facts: dict[str, Any]) -> None:
    for (name, weight), shadow in zip(state.weights.items(), state.average.shadow_params, strict=True):
        weight.data.copy_(slots[f"weight/{name}"])
        shadow.copy_(slots[f"ema/{name}"])
        if f"adam/step/{name}" in slots:  # a weight that no loss has reached has no moments
            state.optimizer.state[weight] = {
                # Laid out like the weight, as the optimizer would have made them: the same kernels, the same bits.
                slot: torch.empty_like(weight).copy_(slots[f"adam/{slot}/{name}"])
                for slot in ("exp_avg", "exp_avg_sq")
            } | {"step": slots[f"adam/step/{name}"].to(weight.device)}
    state.average.optimization_step = facts["ema_steps"]
    if state.scaler and facts["scaler"]:
        state.scaler.load_state_dict(facts["scaler"])
