"""Diffusion in pixel space: levels, steps, what a network sees, and what the objective compares."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.core.params import Training
from lib.diffusion import pixel
from lib.diffusion.pixel import (
    PixelObjective,
    Schedule,
    ask,
    cold_step,
    cosine_schedule,
    ddim_step,
    descend,
    estimate,
    linear_schedule,
    narrow_network,
    receptive_field,
    starting_noise,
    wide_network,
)
from lib.diffusion.training import train

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Levels


def test_the_cosine_schedule_has_the_published_values():
    abar = cosine_schedule().abar
    assert (abar.diff() < 0).all() and abar[0] > 0.9999 and abar[-1] < 1e-6
    for t, expected in ((100, 0.972), (399, 0.647), (400, 0.646), (599, 0.341), (799, 0.094)):
        assert float(abar[t]) == pytest.approx(expected, abs=6e-4)


def test_respaced_linear_levels_have_the_published_values():
    levels = linear_schedule().respaced(250)
    assert len(levels) == 250 and int(levels.timesteps[0]) == 0 and int(levels.timesteps[-1]) == 999
    for t, expected in ((249, 4.04e-5), (200, 1.46e-3), (150, 0.0250), (100, 0.192), (40, 0.761), (20, 0.930)):
        assert float(levels.abar[t]) == pytest.approx(expected, rel=6e-3)


def test_respacing_keeps_the_ends_and_refuses_more_levels_than_there_are():
    schedule = cosine_schedule(50)
    assert schedule.respaced(50).timesteps.tolist() == list(range(50))
    assert schedule.respaced(2).timesteps.tolist() == [0, 49]
    for count in (1, 51):
        with pytest.raises(UserError, match=r"synth\.steps: .* expected 2 to 50"):
            schedule.respaced(count)


@pytest.mark.parametrize("schedule", [cosine_schedule(), linear_schedule().respaced(250)])
def test_noise_and_signal_are_recovered_from_their_mixture_at_every_level(schedule: Schedule):
    x0, eps = noise(1, 3, 4, 4).clamp(-1, 1), noise(1, 3, 4, 4, seed=1)
    for t in range(len(schedule)):
        x = schedule.noisy(x0, t, eps)
        assert torch.allclose(schedule.noise_of(x, t, x0), eps, atol=2e-3)
        assert torch.allclose(schedule.x0_of(x, t, eps), x0, atol=1e-4 / float(schedule.abar[t]) ** 0.5)
    assert torch.equal(schedule.noisy(x0, -1, eps), x0)


def test_every_sample_of_a_batch_may_have_its_own_level():
    schedule, x0, eps = cosine_schedule(), noise(3, 2, 4, 4), noise(3, 2, 4, 4, seed=1)
    levels = torch.tensor([0, 400, 999])
    together = schedule.noisy(x0, levels, eps)
    alone = [schedule.noisy(x0[n : n + 1], int(t), eps[n : n + 1]) for n, t in enumerate(levels)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


# Steps


def test_a_step_is_the_ddim_scheduler_of_diffusers():
    schedule = cosine_schedule()
    theirs = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=True)
    theirs.set_timesteps(1000)
    x, x0 = noise(2, 3, 4, 4), 1.5 * noise(2, 3, 4, 4, seed=1)
    assert (x0.abs() > 1).any()
    for t in (999, 400, 1, 0):
        expected = theirs.step(x0, t, x).prev_sample
        assert torch.allclose(ddim_step(schedule, x, x0, t, t - 1), expected, atol=1e-4)


def test_the_cold_step_differs_from_ddim_by_what_was_cut_off_alone():
    schedule, x, x0 = cosine_schedule(), noise(2, 3, 4, 4), 1.5 * noise(2, 3, 4, 4, seed=1)
    for t in (999, 400, 1, 0):
        cut = float(schedule.abar[t]) ** 0.5 * (x0 - x0.clamp(-1, 1))
        cold, ddim = cold_step(schedule, x, x0, t, t - 1), ddim_step(schedule, x, x0, t, t - 1)
        assert torch.allclose(cold, ddim + cut, atol=1e-4) and not torch.allclose(cold, ddim, atol=1e-4)
        small = x0.clamp(-1, 1)
        assert torch.allclose(
            cold_step(schedule, x, small, t, t - 1), ddim_step(schedule, x, small, t, t - 1), atol=1e-5
        )


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 60))
def test_with_the_true_signal_as_estimate_any_noise_descends_to_it(seed: int, count: int):
    x0 = noise(2, 3, 4, 4, seed=7).clamp(-1, 1)
    for schedule in (cosine_schedule(60).respaced(count), linear_schedule(60).respaced(count)):
        result = descend(schedule, lambda x, t: x0, noise(2, 3, 4, 4, seed=seed))
        assert torch.allclose(result, x0, atol=1e-4)


def test_the_descent_visits_every_level_once_in_falling_order_and_draws_nothing():
    seen: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(t)
        return 0.5 * x

    before = torch.get_rng_state()
    first = descend(cosine_schedule(30), denoise, noise(1, 1, 4, 4))
    assert seen == list(range(29, -1, -1)) and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, descend(cosine_schedule(30), denoise, noise(1, 1, 4, 4)))


def test_starting_noise_belongs_to_its_seed():
    both = starting_noise([3, 4], (2, 4, 4))
    assert torch.equal(both[1:], starting_noise([4], (2, 4, 4))) and not torch.equal(both[0], both[1])


# Networks


def reach(network: nn.Module, side: int, at: tuple[int, int]) -> Tensor:
    """(side, side) bool: the input pixels that one output pixel depends on, normalisation taken out."""
    bare = copy.deepcopy(network).double()
    for module in bare.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    torch.manual_seed(0)
    nn.init.normal_(bare.conv_out.weight)
    channels = int(bare.config.in_channels)
    x = noise(1, channels, side, side).double().requires_grad_()
    bare(x, torch.tensor(3)).sample[0, :, at[0], at[1]].sum().backward()
    assert x.grad is not None
    return (x.grad[0] != 0).any(dim=0)


def extent(seen: Tensor) -> list[tuple[int, int]]:
    """First and last row, first and last column that are seen."""
    return [(int(axis.min()), int(axis.max())) for axis in seen.nonzero().T]


@pytest.mark.parametrize(("levels", "blocks", "expected"), [(1, 2, 25), (2, 1, 45), (2, 2, 69), (3, 1, 101)])
def test_an_output_pixel_of_the_narrow_network_sees_its_receptive_field_and_no_more(
    levels: int, blocks: int, expected: int
):
    assert receptive_field(levels, blocks) == expected
    side = 2 * expected + 6 - (2 * expected + 6) % 4
    network = narrow_network(2, side, [4 * 2**level for level in range(levels)], blocks)
    sides = []
    for at in ((side // 2, side // 2), (side // 2 + 1, side // 2 + 3)):
        for (first, last), centre in zip(extent(reach(network, side, at)), at, strict=True):
            sides.append(last - first + 1)
            assert max(centre - first, last - centre) <= (expected + 2**levels) // 2
    assert max(sides) <= expected and max(sides) >= expected - 2**levels


def test_the_published_narrow_network_sees_157_px():
    assert receptive_field(3, 2) == 157


def test_the_narrow_network_has_neither_attention_nor_middle():
    network = narrow_network(5, 32, [8, 16, 32], 2)
    assert network.mid_block is None
    assert not [name for name, _ in network.named_modules() if "attention" in name]
    assert len(network.down_blocks) == 3


def test_the_wide_network_sees_the_far_corner():
    network = wide_network(2, 64, [4, 4, 8, 16], 1, attention_side=8)
    assert [name for name, _ in network.named_modules() if "attentions" in name]
    assert reach(network, 64, (0, 0)).all()


@pytest.mark.parametrize("channels", [3, 7])
def test_output_and_input_have_one_shape_and_an_untrained_network_returns_nothing(channels: int):
    for network in (wide_network(channels, 16, [16, 32], 1), narrow_network(channels, 16, [16, 32], 1)):
        result = network(noise(2, channels, 16, 16), torch.tensor([0, 999])).sample
        assert result.shape == (2, channels, 16, 16) and (result == 0).all()
        assert all(norm.num_channels >= 4 * norm.num_groups for norm in network.modules() if is_norm(norm))


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(UserError, match="side: 20 px cannot be halved 3 times"):
        narrow_network(3, 20, [4, 4, 4, 4], 1)


def test_a_network_of_kinds_answers_by_kind_and_time():
    network = wide_network(3, 16, [8], 1, classes=2)
    nn.init.normal_(network.conv_out.weight)
    schedule, x = cosine_schedule().respaced(10), noise(1, 3, 16, 16)
    answers = [ask(network, schedule, x, t, torch.tensor([kind])) for t in (2, 9) for kind in (0, 1)]
    assert all(not torch.allclose(a, b) for n, a in enumerate(answers) for b in answers[:n])


def test_a_network_is_told_the_level_s_number_before_respacing():
    class Spy(nn.Module):
        def forward(self, x, timesteps, class_labels):
            self.told = timesteps.tolist()
            return type("Output", (), {"sample": x})()

    spy, schedule = Spy(), cosine_schedule().respaced(10)
    ask(spy, schedule, noise(1, 3, 4, 4), 9)
    assert spy.told == 999
    ask(spy, schedule, noise(2, 3, 4, 4), torch.tensor([0, 1]))
    assert spy.told == [0, 111]


# Training


class Constant(nn.Module):
    """Says 0.25 everywhere, with a weight to train."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.25))

    def forward(self, x, timesteps, class_labels=None):
        return type("Output", (), {"sample": self.level.expand_as(x)})()


def test_the_losses_are_squared_errors_over_all_channels():
    signals = noise(4, 5, 8, 8)
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    losses = PixelObjective(Constant(), signals, cosine_schedule(), "x0")(torch.tensor([3, 1]), draws)
    assert torch.allclose(losses, (0.25 - signals[[3, 1]]).square().mean(dim=(1, 2, 3)))

    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    losses = PixelObjective(Constant(), signals, cosine_schedule(), "epsilon")(torch.tensor([3, 1]), draws)
    eps = torch.cat([noise(1, 5, 8, 8, seed=seed) for seed in range(2)])
    assert torch.allclose(losses, (0.25 - eps).square().mean(dim=(1, 2, 3)))


def test_a_velocity_is_that_of_diffusers():
    signals, schedule = noise(4, 3, 8, 8), linear_schedule()
    theirs = DDIMScheduler(beta_start=1e-4, beta_end=0.02)
    draws, again = ([torch.Generator().manual_seed(seed) for seed in range(2)] for _ in range(2))
    losses = PixelObjective(Constant(), signals, schedule, "velocity")(torch.tensor([3, 1]), draws)
    eps = torch.stack([torch.randn(3, 8, 8, generator=draw) for draw in again])
    t = torch.cat([torch.randint(1000, (1,), generator=draw) for draw in again])
    velocity = theirs.get_velocity(signals[[3, 1]], eps, t)
    assert torch.allclose(losses, (0.25 - velocity).square().mean(dim=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "velocity", "correction"])
def test_of_a_network_that_says_what_the_objective_asks_for_the_estimate_is_the_signal(prediction: pixel.Prediction):
    class Asked(nn.Module):
        """Keeps what it is given and says `answer`."""

        answer: Tensor | float = 0.0

        def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> object:
            self.x, self.t = x, timesteps
            return type("Output", (), {"sample": self.answer + 0 * x})()

    signals, schedule, network = noise(3, 3, 8, 8).clamp(-1, 1), linear_schedule(), Asked()
    objective = PixelObjective(network, signals, schedule, prediction)
    for seed in range(5):
        network.answer = 0.0
        objective(torch.tensor([seed % 3]), [torch.Generator().manual_seed(seed)])
        x, x0, t = network.x, signals[[seed % 3]], int(network.t)
        eps, abar = schedule.noise_of(x, t, x0), schedule.signal(t)
        answers = {"x0": x0, "epsilon": eps, "velocity": abar**0.5 * eps - (1 - abar) ** 0.5 * x0}
        # c_skip and c_out of Karras et al. 2022 for the noise sigma of x / sqrt(abar) and data of the spread DETAIL
        sigma, spread = ((1 - abar) / abar) ** 0.5, pixel.DETAIL
        skip, out = spread**2 / (sigma**2 + spread**2), sigma * spread / (sigma**2 + spread**2) ** 0.5
        answers["correction"] = (x0 - skip * x / abar**0.5) / out
        network.answer = answers[prediction]
        assert objective(torch.tensor([seed % 3]), [torch.Generator().manual_seed(seed)]).item() < 1e-6
        found = estimate(network, schedule, x, t, prediction)
        assert torch.allclose(found, x0, atol=1e-4 / abar**0.5), t


def test_a_network_that_is_given_something_sees_it_beside_the_noisy_signal():
    class Spy(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> object:
            self.x = x
            return type("Output", (), {"sample": 0 * x[:, :3]})()

    spy, signals, given = Spy(), noise(4, 3, 8, 8), noise(4, 2, 8, 8, seed=1)
    objective = PixelObjective(spy, signals, linear_schedule(), "velocity", given=given)
    objective(torch.tensor([3, 1]), [torch.Generator().manual_seed(seed) for seed in range(2)])
    assert torch.equal(spy.x[:, 3:], given[[3, 1]]) and spy.x.shape[1] == 5
    found = estimate(spy, linear_schedule(), signals[:1], 500, "velocity", given=given[:1])
    assert torch.equal(spy.x, torch.cat([signals[:1], given[:1]], dim=1)) and found.shape == (1, 3, 8, 8)
    network = wide_network(3, 16, [8], 1, given=2)
    assert network.config.in_channels == 5 and network.config.out_channels == 3


def test_a_network_that_says_nothing_keeps_what_is_hardly_noisy_and_drops_what_is_lost():
    class Silent(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> object:
            return type("Output", (), {"sample": 0 * x})()

    schedule, x0 = cosine_schedule(), noise(1, 3, 8, 8).clamp(-1, 1)
    for t, share in ((0, 0.99), (700, 0.01)):
        found = estimate(Silent(), schedule, schedule.noisy(x0, t, 0 * x0), t, "correction")
        assert float((found / x0).mean()) == pytest.approx(share, abs=0.01)


def test_a_network_learns_the_levels_alone_that_it_is_asked_at():
    class Spy(Constant):
        def forward(self, x, timesteps, class_labels=None):
            self.t = timesteps
            return super().forward(x, timesteps)

    spy = Spy()
    objective = PixelObjective(spy, noise(1, 1, 2, 2), cosine_schedule(), "x0", levels=range(20, 30))
    objective(torch.zeros(200, dtype=torch.int64), [torch.Generator().manual_seed(n) for n in range(200)])
    assert set(spy.t.tolist()) == set(range(20, 30))


def test_the_network_gets_the_mixture_at_a_level_drawn_evenly_and_the_sample_s_kind():
    class Spy(Constant):
        def forward(self, x, timesteps, class_labels=None):
            self.x, self.t, self.kinds = x, timesteps, class_labels
            return super().forward(x, timesteps)

    spy, signals, schedule = Spy(), noise(3, 1, 2, 2), cosine_schedule()
    objective = PixelObjective(spy, signals, schedule, "x0", classes=torch.tensor([5, 6, 7]))
    objective(torch.zeros(2000, dtype=torch.int64) + 2, [torch.Generator().manual_seed(n) for n in range(2000)])
    assert spy.t.min() < 10 and spy.t.max() > 990 and abs(float(spy.t.float().mean()) - 499.5) < 25
    assert (spy.kinds == 7).all()
    eps = starting_noise(range(2000), (1, 2, 2))
    assert torch.allclose(spy.x, schedule.noisy(signals[2:], spy.t, eps), atol=1e-6)


def test_a_loss_depends_on_its_own_sample_and_generator_alone():
    torch.manual_seed(0)
    network = narrow_network(3, 16, [8, 8], 1)
    nn.init.normal_(network.conv_out.weight, std=0.1)
    objective = PixelObjective(network, noise(4, 3, 16, 16), cosine_schedule(), "x0")
    together = objective(torch.tensor([0, 2]), [torch.Generator().manual_seed(n) for n in (8, 9)])
    alone = objective(torch.tensor([2]), [torch.Generator().manual_seed(9)])
    assert torch.allclose(together[1], alone[0], rtol=1e-4)
    assert not list(objective.buffers()), "nothing is kept on the module"


def test_what_training_leaves_is_the_moving_average(inside: Path):
    network = Constant()
    values = {
        "steps": 3,
        "batch_size": 2,
        "learning_rate": 0.1,
        "learning_rate_schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.9999,
        "gradient_clip": 1.0,
        "checkpoint_every": 1,
    }
    objective = PixelObjective(network, torch.ones(2, 1, 4, 4), cosine_schedule(), "x0")
    train(objective, 2, Training(**values), 0, "constant", "k", Path("curves"))
    state = load_file(next(Path(".work/constant/k").glob("step-*3")) / "state.safetensors")
    average, last = state["ema/network.level"], state["weight/network.level"]
    assert torch.equal(network.level.detach(), average) and abs(average - 1) > abs(last - 1)


# Folders


def test_a_network_is_read_back_as_it_was_saved_and_frozen(tmp_path: Path):
    for network in (wide_network(4, 16, [8, 16], 1), narrow_network(4, 16, [8, 16], 1)):
        nn.init.normal_(network.conv_out.weight)
        pixel.save(network, tmp_path / "n")
        again = pixel.load(tmp_path / "n", CPU)
        x = noise(1, 4, 16, 16)
        assert again.conv_in.weight.is_contiguous(memory_format=torch.channels_last), "which is faster"
        network.eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert torch.equal(network(x, 5).sample, again(x, 5).sample)
        assert not any(value.requires_grad for value in again.parameters()) and not again.training


def test_a_weight_of_another_name_or_shape_or_none_is_refused(tmp_path: Path):
    pixel.save(narrow_network(4, 16, [8, 16], 1), tmp_path / "n")
    file = tmp_path / "n" / pixel.WEIGHTS
    good = load_file(file)
    for bad in (
        {**good, "conv_out.bias": torch.zeros(5)},
        {**good, "stranger": torch.zeros(5)},
        {name: value for name, value in good.items() if name != "conv_in.weight"},
    ):
        save_file(bad, file)
        with pytest.raises(UserError, match="delete the model's folder"):
            pixel.load(tmp_path / "n", CPU)
    file.unlink()
    with pytest.raises(UserError, match=pixel.WEIGHTS):
        pixel.load(tmp_path / "n", CPU)
