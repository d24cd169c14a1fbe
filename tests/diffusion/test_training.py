"""The training loop: exact resume after kill -9, no stale state, and the objective's formulas."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from lib.core.errors import UserError
from lib.core.params import Training
from lib.core.runtime import side_by_side
from lib.diffusion.inpainting import Cache, InpaintingObjective, blanked, encode_views, latent_masks
from lib.diffusion.training import Batches, backward_in_shares, learning_rate, min_snr_weight, sample_at, train
from tests.conftest import ROOT
from tests.tiny import random_pictures, tiny_components


def settings(**changes) -> Training:
    values = {
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "learning_rate_schedule": "constant",
        "warmup_steps": 2,
        "ema_decay": 0.5,
        "gradient_clip": 1.0,
        "checkpoint_every": 2,
    }
    return Training(**{**values, **changes})


class Line(nn.Module):
    """Fit a line: the smallest objective that has weights, data and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen: list[int] = []

    def forward(self, indices: torch.Tensor, draws: list[torch.Generator]) -> torch.Tensor:
        self.seen += indices.tolist()
        x = indices.float()[:, None] + 0.1 * torch.cat([torch.randn(1, 1, generator=draw) for draw in draws])
        return (self.layer(x) - 2 * x - 1).square().mean(dim=1)


def fit(key: str = "k", **changes) -> Line:
    line = Line()
    train(line, 5, settings(**changes), 0, "line", key, Path("curves"))
    return line


def test_training_learns_and_logs_a_curve(inside: Path):
    line = fit(steps=300, learning_rate=0.05, checkpoint_every=1000)
    assert abs(line.layer.weight.item() - 2) < 0.2
    rows = (inside / "curves" / "plots" / "metrics" / "loss.tsv").read_text().splitlines()
    assert rows[0] == "step\tloss" and len(rows) == 31
    assert float(rows[-1].split("\t")[1]) < float(rows[1].split("\t")[1])


class Convolved(nn.Module):
    """Weights whose layout in memory is not the usual one, one weight that nothing uses, and noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3)
        self.layer.weight.data = self.layer.weight.data.contiguous(memory_format=torch.channels_last)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, indices: torch.Tensor, draws: list[torch.Generator]) -> torch.Tensor:
        noise = torch.stack([torch.randn((3, 6, 6), generator=draw) for draw in draws])
        return self.layer(noise + indices.view(-1, 1, 1, 1)).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_the_shares_of_a_batch_add_up_to_its_gradient(shares: int):
    whole, shared, indices = Convolved(), Convolved(), torch.arange(5)

    def draws() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(5)]

    loss = whole(indices, draws()).mean()
    loss.backward()
    with side_by_side(torch.device("cpu"), shares) as run:
        found_loss = backward_in_shares(shared, list(shared.parameters()), indices, draws(), shares, run)
        assert torch.allclose(found_loss, loss)
    for expected, found in zip(whole.parameters(), shared.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None
        else:
            assert found.grad is not None and torch.allclose(found.grad, expected.grad, rtol=1e-5)
            assert found.grad.stride() == found.stride()


def test_processes_share_a_batch_evenly_or_not_at_all():
    whole, _ = Batches(7, 6, seed=3).at(5)
    parts = [Batches(7, 6, 3, process, 3).at(5)[0] for process in range(3)]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist()) and {len(part) for part in parts} == {2}
    with pytest.raises(UserError, match="batch_size: 6 samples cannot be shared evenly by 4 processes"):
        Batches(7, 6, 3, 0, 4)


def test_a_weight_may_learn_at_a_rate_of_its_own(inside: Path):
    line = Line()
    train(line, 5, settings(), 0, "line", "k", Path("curves"), rate=lambda name: 0.0 if name.endswith("bias") else 1.0)
    assert line.layer.bias.item() == 0 and line.layer.weight.item() != 0


def test_every_pass_sees_every_sample_once():
    stream = [sample_at(position, 7, seed=3) for position in range(21)]
    assert all(sorted(stream[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert stream[:7] != stream[7:14]


def test_stopping_and_going_on_gives_the_same_weights_as_one_go(inside: Path, monkeypatch):
    whole = fit(key="a")
    plain = Line.forward

    def dies_in_step_6(self, indices, draws):
        if len(self.seen) == 5 * 4:
            raise KeyboardInterrupt
        return plain(self, indices, draws)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Line, "forward", dies_in_step_6)
        fit(key="b")
    resumed = fit(key="b")
    assert len(resumed.seen) == 2 * 4, "steps 5 and 6 alone were left"
    assert torch.equal(whole.layer.weight, resumed.layer.weight) and torch.equal(whole.layer.bias, resumed.layer.bias)


def test_a_finished_run_is_read_back_and_a_changed_key_starts_afresh(inside: Path):
    first = fit(key="a")
    again = fit(key="a")
    assert again.seen == [] and torch.equal(first.layer.weight, again.layer.weight)
    changed = fit(key="b", learning_rate=0.02)
    assert len(changed.seen) == 24 and not torch.equal(first.layer.weight, changed.layer.weight)
    assert not (inside / ".work" / "line" / "a").exists(), "stale checkpoints are gone"


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(inside: Path, capsys):
    whole = fit(key="a")
    newest = inside / ".work" / "line" / "a" / "step-0000006" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    resumed = fit(key="a")
    assert "step-0000006: damaged checkpoint skipped" in capsys.readouterr().out
    assert len(resumed.seen) == 2 * 4 and torch.equal(whole.layer.weight, resumed.layer.weight)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_saves_nothing_after(inside: Path, monkeypatch):
    plain = Line.forward
    monkeypatch.setattr(
        Line, "forward", lambda self, i, d: plain(self, i, d) * (float("nan") if len(self.seen) > 16 else 1)
    )
    with pytest.raises(UserError, match=r"line: the loss is nan at step 5: lower.*nothing was saved after step 4"):
        fit(key="a")
    assert sorted(path.name for path in (inside / ".work" / "line" / "a").iterdir()) == [
        "step-0000002",
        "step-0000004",
    ]


KILLED = """
import os, sys, time
sys.path.insert(0, {root!r})
import lib
from pathlib import Path
import torch
from safetensors.torch import save_file
from tests.diffusion.test_training import Line, settings
from lib.diffusion.training import train
line = Line()
plain = Line.forward
Line.forward = lambda self, i, d: time.sleep(0.02) or plain(self, i, d)
train(line, 5, settings(steps=60, checkpoint_every=1), 0, "line", "k", Path("curves"))
save_file(dict(line.state_dict()), "weights.safetensors")
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_and_rerun_give_bit_equal_weights(tmp_path: Path, inside: Path):
    script = textwrap.dedent(KILLED).format(root=str(ROOT))

    def start(folder: Path) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", script], cwd=folder, stderr=subprocess.DEVNULL)

    whole = dict(fit("k", steps=60, checkpoint_every=1).state_dict())
    for kills, after in enumerate((0.15, 0.4)):
        run = start(tmp_path / "killed")
        while not list((tmp_path / "killed").glob(f".work/line/k/step-00000{kills + 1}*")):
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        time.sleep(after)
        run.kill()  # SIGKILL, where there is one
        run.wait()
    assert start(tmp_path / "killed").wait() == 0
    killed = load_file(tmp_path / "killed/weights.safetensors")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    curves = [(tmp_path / name / "curves/plots/metrics/loss.tsv").read_text() for name in (".", "killed")]
    assert curves[0] == curves[1]


TWO = """
import sys
sys.path.insert(0, {root!r})
import lib, os
from pathlib import Path
from safetensors.torch import save_file
from tests.diffusion.test_training import Line, settings
from lib.diffusion.training import train
line = Line()
train(line, 5, settings(), 0, "line", "k", Path("curves"))
save_file(dict(line.state_dict()), f"weights-{{os.environ['RANK']}}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, inside: Path):
    (tmp_path / "two.py").write_text(TWO.format(root=str(ROOT)))
    alone = dict(fit().state_dict())
    two = tmp_path / "both"
    two.mkdir()
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(tmp_path / "two.py")], cwd=two, env=environment, check=True)
    ranks = [load_file(two / f"weights-{rank}.safetensors") for rank in (0, 1)]
    for name in alone:
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert torch.allclose(ranks[0][name], alone[name], atol=1e-6)


@given(st.floats(0.5, 50))
def test_min_snr_weights_are_one_at_low_snr_and_never_grow_with_it(gamma: float):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    timesteps = torch.arange(1000)
    weights = min_snr_weight(alphas, timesteps, gamma)
    snr = alphas / (1 - alphas)
    assert (weights <= 1).all()
    assert (weights[snr <= gamma] == 1).all()
    assert (weights.diff() >= 0).all(), "the signal falls with t, so the weight may only rise"


def test_published_min_snr_figures_of_stable_diffusion():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weights = min_snr_weight((1 - betas).cumprod(0), torch.arange(1000), 10.0)
    assert (weights[88:] == 1).all() and weights[87] < 1
    assert abs(float(weights[0]) - 0.0085) < 1e-4


def test_the_learning_rate_warms_up_and_a_cosine_ends_near_zero():
    constant, cosine = settings(steps=100), settings(steps=100, learning_rate_schedule="cosine")
    assert learning_rate(0, constant) == 0.005 and learning_rate(50, constant) == 0.01
    assert learning_rate(2, cosine) == 0.01 and learning_rate(99, cosine) < 1e-5


@pytest.mark.parametrize(("decay", "kept"), [(0.9999, 3 / 12), (0.1, 0.1)])
def test_the_moving_average_keeps_its_decay_and_less_in_the_first_steps(inside: Path, decay: float, kept: float):
    fit(steps=3, checkpoint_every=1, ema_decay=decay)
    two, three = (load_file(f".work/line/k/step-000000{n}/state.safetensors") for n in (2, 3))
    for name in ("layer.weight", "layer.bias"):
        expected = kept * two[f"ema/{name}"] + (1 - kept) * three[f"weight/{name}"]
        torch.testing.assert_close(three[f"ema/{name}"], expected)
        assert not torch.equal(three[f"ema/{name}"], three[f"weight/{name}"])


class Slopes(nn.Module):
    """Two weights that fall by their learning rate in the first step of Adam."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.slow = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, indices: torch.Tensor, draws: list[torch.Generator]) -> torch.Tensor:
        return (self.fast + self.slow).expand(len(indices))


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_a_parameter_learns_at_its_own_rate_and_from_the_first_step(inside: Path, warmup_steps: int):
    slopes, chosen = Slopes(), settings(steps=1, ema_decay=0.0, warmup_steps=warmup_steps, gradient_clip=100)
    train(slopes, 5, chosen, 0, "slopes", "k", Path("curves"), lambda name: 0.25 if name == "slow" else 1.0)
    first = 1e-2 / max(warmup_steps, 1)
    assert slopes.fast.item() == pytest.approx(-first, rel=1e-3)
    assert slopes.slow.item() == pytest.approx(-first / 4, rel=1e-3)


class Spy(nn.Module):
    """Stands in for the U-Net and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, sample, timesteps, text):
        self.sample, self.timesteps, self.text = sample, timesteps, text
        return type("Output", (), {"sample": sample[:, :4] * self.scale})()


def test_the_unet_sees_noisy_mask_masked_and_is_asked_for_the_noise_of_the_anomaly(tmp_path: Path):
    parts = tiny_components(tmp_path)
    pictures = random_pictures(3)
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 8:16, 4:20] = True
    views = [(pictures, masks.numpy(), torch.tensor([0, 1, 2]))]
    latents, masked, small = encode_views(parts.vae, views)
    assert small.shape == (3, 1, 16, 16) and set(small.unique().tolist()) == {0.0, 1.0}
    assert small.sum() == 3 * 4 * 8

    spy, alphas = Spy(), parts.scheduler.alphas_cumprod
    text = torch.arange(4.0)[:, None, None].expand(4, 2, 1)
    cache = Cache(latents, masked, small, ((1,), (2, 3), (1,)))
    objective = InpaintingObjective(spy, lambda rows: text[rows], 0, cache, parts.scheduler, 10.0, caption_dropout=0.0)
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    losses = objective(torch.tensor([1, 2]), draws)

    again = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    noise = torch.stack([torch.randn(4, 16, 16, generator=draw) for draw in again])
    level = alphas[spy.timesteps].view(-1, 1, 1, 1)
    assert spy.sample.shape == (2, 9, 16, 16)
    assert torch.equal(spy.sample[:, :4], level.sqrt() * latents[1:] + (1 - level).sqrt() * noise)
    assert torch.equal(spy.sample[:, 4:5], small[1:]) and torch.equal(spy.sample[:, 5:], masked[1:])
    expected = min_snr_weight(alphas, spy.timesteps, 10.0) * noise.square().mean(dim=(1, 2, 3))
    assert torch.allclose(losses, expected), "a U-Net that predicts zero errs by the noise itself"
    assert spy.text[0, 0, 0] in (2, 3) and spy.text[1, 0, 0] == 1


@pytest.mark.parametrize("autoencoder", ["kl", "tiny"])
def test_the_latents_of_a_view_do_not_depend_on_the_batch_that_it_is_encoded_in(tmp_path: Path, autoencoder: str):
    vae = tiny_components(tmp_path, autoencoder).vae
    pictures, masks, seeds = random_pictures(5), np.zeros((5, 32, 32), bool), torch.arange(5) + 40
    masks[:, 8:16, 4:20] = True
    batches = {size: [slice(start, start + size) for start in range(0, 5, size)] for size in (1, 2, 5)}
    together, pairs, alone = (
        encode_views(vae, [(pictures[part], masks[part], seeds[part]) for part in batches[size]]) for size in (5, 2, 1)
    )
    for whole, by_two, by_one in zip(together, pairs, alone, strict=True):
        assert torch.allclose(whole, by_one, atol=1e-5) and torch.allclose(whole, by_two, atol=1e-5)
    other = encode_views(vae, [(pictures, masks, seeds + 1)])
    assert torch.equal(other[0], together[0]) == (autoencoder == "tiny"), "a variational one is sampled by the seed"


def test_a_velocity_model_is_asked_for_the_velocity_with_its_own_weights():
    latents, scheduler = torch.randn(2, 4, 8, 8), DDIMScheduler(prediction_type="v_prediction")
    spy, cache = Spy(), Cache(latents, latents, torch.zeros(2, 1, 8, 8), ((0,), (0,)))
    objective = InpaintingObjective(spy, lambda rows: torch.zeros(2, 1, 1), 0, cache, scheduler, 5.0, 0.0)
    losses = objective(torch.tensor([0, 1]), [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    again = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    noise = torch.stack([torch.randn(4, 8, 8, generator=draw) for draw in again])
    velocity = scheduler.get_velocity(latents, noise, spy.timesteps)
    snr = scheduler.alphas_cumprod[spy.timesteps] / (1 - scheduler.alphas_cumprod[spy.timesteps])
    assert torch.allclose(losses, snr.clamp(max=5) / (snr + 1) * velocity.square().mean(dim=(1, 2, 3)), rtol=1e-4)


def test_captions_are_dropped_at_the_asked_rate(tmp_path: Path):
    spy = Spy()
    cache = Cache(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), torch.zeros(1, 1, 4, 4), ((1,),))
    text = torch.arange(2.0)[:, None, None]
    objective = InpaintingObjective(spy, lambda rows: text[rows], 0, cache, DDIMScheduler(), 10.0, 0.25)
    objective(torch.zeros(2000, dtype=torch.int64), [torch.Generator().manual_seed(seed) for seed in range(2000)])
    assert abs(float((spy.text == 0).float().mean()) - 0.25) < 0.04


@pytest.mark.parametrize("at", range(8))
def test_a_line_of_one_pixel_is_masked_in_every_cell_of_the_latents_that_it_crosses(at: int):
    across, along = torch.zeros(2, 1, 1, 64, 64)
    across[..., 8 + at, :], along[..., :, 48 + at] = 1, 1
    small = latent_masks(torch.cat([across, along]), torch.zeros(2, 4, 8, 8))
    assert small.shape == (2, 1, 8, 8)
    assert small[0, 0].nonzero().tolist() == [[1, n] for n in range(8)]
    assert small[1, 0].nonzero().tolist() == [[n, 6] for n in range(8)]


def test_the_masked_picture_is_zero_inside_of_the_box_and_untouched_outside():
    pixels = torch.rand(1, 3, 8, 8) - 0.5
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., 2:5, 3:6] = 1
    result = blanked(pixels, masks)
    assert (result[..., 2:5, 3:6] == 0).all()
    assert torch.equal(result * (1 - masks), pixels * (1 - masks))
