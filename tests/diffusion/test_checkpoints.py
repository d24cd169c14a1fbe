"""Checkpoints: what comes back is what was there, also the scale of the loss in half precision."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from lib.diffusion import training
from lib.diffusion.checkpoints import TrainingState, checkpoints, resume, save
from tests.diffusion.test_training import Line, fit


def scaler() -> torch.amp.GradScaler:
    """Begins with a scale that overflows float32, and comes down in large steps."""
    return torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=2.0**-4, growth_interval=1000)


def new_state(seed: int) -> TrainingState:
    """A layer with channels-last weights, one weight that no loss reaches, and a scaler."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    layer.spare = nn.Parameter(torch.randn(2))
    weights = dict(layer.named_parameters())
    return TrainingState(weights, torch.optim.AdamW(weights.values()), EMAModel(weights.values()), scaler())


def take_step(state: TrainingState) -> None:
    """One step of the scaled loss, which may overflow."""
    assert state.scaler is not None
    state.scaler.scale(state.weights["weight"].square().sum() + state.weights["bias"].sum()).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.average.step(state.weights.values())


def test_a_resumed_state_goes_on_bit_for_bit_with_its_moments_average_and_scale(tmp_path: Path):
    state, other = new_state(0), new_state(1)
    for _ in range(5):
        take_step(state)
    history = [{"step": 5, "loss": 0.5}]
    save(tmp_path, 5, state, history)
    assert resume(tmp_path, other) == (5, history)
    assert other.scaler.state_dict() == state.scaler.state_dict() != scaler().state_dict()
    for one in (state, other):
        take_step(one)
    for name, weight in state.weights.items():
        assert torch.equal(weight, other.weights[name]), name
    for one, two in zip(state.average.shadow_params, other.average.shadow_params, strict=True):
        assert torch.equal(one, two)


def test_the_two_newest_checkpoints_stay(tmp_path: Path):
    state = new_state(0)
    for step in (1, 2, 3, 10):
        save(tmp_path, step, state, [])
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-0000010", "step-0000003"]


def test_without_a_checkpoint_a_run_begins_at_its_first_step(tmp_path: Path):
    assert resume(tmp_path, new_state(0)) == (0, [])


class HalfPrecision(Accelerator):
    """Scales the loss as half precision on a GPU does, here in float32 on a CPU."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.scaler = scaler()

    def unscale_gradients(self, optimizer=None) -> None:
        for prepared in self._optimizers:
            self.scaler.unscale_(prepared.optimizer)


def test_a_run_in_half_precision_goes_on_with_the_scale_that_it_had(inside: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "Accelerator", HalfPrecision)
    monkeypatch.setattr(training, "cores", lambda where: 1)  # as on a GPU: no shares
    whole = fit(key="a", steps=12)
    assert whole.layer.weight.item() != 0, "the scale has come down far enough to learn"
    plain = Line.forward

    def dies_in_step_9(self, indices, draws):
        if len(self.seen) == 8 * 4:
            raise KeyboardInterrupt
        return plain(self, indices, draws)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Line, "forward", dies_in_step_9)
        fit(key="b", steps=12)
    resumed = fit(key="b", steps=12)
    assert len(resumed.seen) == 4 * 4
    assert torch.equal(whole.layer.weight, resumed.layer.weight) and torch.equal(whole.layer.bias, resumed.layer.bias)
