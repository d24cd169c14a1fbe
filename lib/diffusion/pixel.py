"""Diffusion in pixel space: noise levels, deterministic steps, U-Nets and their training objective.

Symbols are those of Ho et al. 2020 and Song et al. 2021: x0 is the clean signal, x = sqrt(abar_t) x0 + sqrt(1 - abar_t)
noise, and t = -1 is the level without noise. A signal (B, C, H, W) has channels in about [-1, 1]: pictures, or pictures
and label maps concatenated. A method defines `denoise(x, t)`, which calls its networks, and samples with `descend` or a
loop of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.core.errors import UserError, first_line

WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
HEAD_CHANNELS = 16  # of an attention head, as published for Defect-Gen's wide network, or fewer to divide all levels
GROUPS = 32  # of group norms, as published, or fewer to divide all levels
GROUP_CHANNELS = 4  # fewest channels of a group: a norm of a single channel would remove the picture's brightness

Level = int | Tensor  # one noise level for all samples, or (B,) int64 with one each
Denoise = Callable[[Tensor, int], Tensor]  # (x, t) -> estimate of x0
Prediction = Literal["x0", "epsilon", "velocity", "correction"]  # what a network predicts
DETAIL = 0.1  # spread of the fine detail in a signal that corrections keep, about that of grain in photographs


@dataclass(frozen=True)
class Schedule:
    """T noise levels, from almost no noise (0) to pure noise (T - 1).

    abar: (T,) the share of the signal in the variance, falling; timesteps: (T,) int64, the network's input for a level:
    its number before respacing.
    """

    abar: Tensor
    timesteps: Tensor

    def __len__(self) -> int:
        return len(self.abar)

    def respaced(self, count: int) -> "Schedule":
        """`count` of the levels, evenly spaced, including the first and the last.

        Raises UserError if there are fewer.
        """
        if not 2 <= count <= len(self):
            raise UserError(f"synth.steps: {count} steps, expected 2 to {len(self)}, the number of noise levels")
        levels = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long()
        return Schedule(self.abar[levels], self.timesteps[levels])

    def signal(self, t: Level) -> Any:
        """abar_t, (B, 1, 1, 1) or a number; 1 at t = -1."""
        if isinstance(t, Tensor):
            return self.abar.to(t.device)[t].view(-1, 1, 1, 1)
        return float(self.abar[t]) if t >= 0 else 1.0

    def timestep(self, t: Level) -> Tensor:
        """The network's input for the level: () or (B,) int64."""
        return self.timesteps.to(t.device)[t] if isinstance(t, Tensor) else self.timesteps[t]

    def noisy(self, x0: Tensor, t: Level, noise: Tensor) -> Tensor:
        """q(x_t | x0) for given noise (Ho et al. 2020, eq. 4)."""
        abar = self.signal(t)
        return abar**0.5 * x0 + (1 - abar) ** 0.5 * noise

    def noise_of(self, x: Tensor, t: Level, x0: Tensor) -> Tensor:
        """The noise in x, given x0."""
        abar = self.signal(t)
        return (x - abar**0.5 * x0) / (1 - abar) ** 0.5

    def x0_of(self, x: Tensor, t: Level, noise: Tensor) -> Tensor:
        """The signal x0 in x, given the noise."""
        abar = self.signal(t)
        return (x - (1 - abar) ** 0.5 * noise) / abar**0.5


def cosine_schedule(levels: int = 1000) -> Schedule:
    """abar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17, s = 0.008), betas at most 0.999."""
    return _schedule(DDIMScheduler(num_train_timesteps=levels, beta_schedule="squaredcos_cap_v2"))


def linear_schedule(levels: int = 1000) -> Schedule:
    """Betas that rise linearly from 0.0001 to 0.02 (Ho et al. 2020, section 4)."""
    return _schedule(DDIMScheduler(num_train_timesteps=levels, beta_start=1e-4, beta_end=0.02))


def _schedule(scheduler: Any) -> Schedule:
    return Schedule(scheduler.alphas_cumprod, torch.arange(len(scheduler.alphas_cumprod)))


def ddim_step(schedule: Schedule, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
    """From level t to level s without fresh noise (Song et al. 2021, eq. 12 with sigma = 0), x0 clamped to [-1, 1].

    The noise is computed from x0 before clamping.
    """
    return schedule.noisy(x0.clamp(-1, 1), s, schedule.noise_of(x, t, x0))


def cold_step(schedule: Schedule, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
    """From level t to level s by removing one degradation and adding the other (Bansal et al. 2023, algorithm 2).

    Equal to `ddim_step` where x0 is not clamped; elsewhere the excess stays in x for later levels to correct.
    """
    noise, x0 = schedule.noise_of(x, t, x0), x0.clamp(-1, 1)
    return x - schedule.noisy(x0, t, noise) + schedule.noisy(x0, s, noise)


def descend(schedule: Schedule, denoise: Denoise, x: Tensor) -> Tensor:
    """From noise x (B, C, H, W) to a signal, through all levels of the schedule in falling order; deterministic."""
    for t in reversed(range(len(schedule))):
        x = cold_step(schedule, x, denoise(x, t), t, t - 1)
    return x


def starting_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise (B, *shape), each sample's from its own CPU generator: equal in every batch, order and process."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def wide_network(
    channels: int,
    side: int,
    widths: Sequence[int],
    blocks: int,
    attention_side: int = 32,
    classes: int | None = None,
    given: int = 0,
) -> UNet2DModel:
    """A U-Net that sees the whole picture: with attention at levels of at most `attention_side` px, and in the middle.

    channels: of the signal, in and out. widths: channels at each level, each half as large as the one before. blocks:
    residual blocks per level. classes: number of classes for `class_labels`, or None. given: channels of what it is
    conditioned on (`ask`). The timestep scales and shifts the normalised features (Dhariwal & Nichol 2021). An
    untrained network returns 0.
    """
    attention = [side // 2**level <= attention_side for level in range(len(widths))]
    return _network(
        channels,
        side,
        widths,
        blocks,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
        attention_head_dim=math.gcd(HEAD_CHANNELS, *widths),
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=classes,
        in_channels=channels + given,
    )


def narrow_network(channels: int, side: int, widths: Sequence[int], blocks: int) -> UNet2DModel:
    """A U-Net with a small receptive field (`receptive_field`): no attention and no middle block.

    Parameters as in `wide_network`. An untrained network returns 0.
    """
    return _network(
        channels,
        side,
        widths,
        blocks,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        mid_block_type=None,
        add_attention=False,
        in_channels=channels,
    )


def _network(channels: int, side: int, widths: Sequence[int], blocks: int, **others: Any) -> UNet2DModel:
    if side % 2 ** (len(widths) - 1):
        raise UserError(f"side: {side} px cannot be halved {len(widths) - 1} times, as {len(widths)} levels need")
    groups = math.gcd(GROUPS, *widths)
    while groups > 1 and min(widths) < GROUP_CHANNELS * groups:
        groups //= 2
    network = UNet2DModel(
        sample_size=side,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=blocks,
        norm_num_groups=groups,
        **others,
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    return network


def receptive_field(levels: int, blocks: int) -> int:
    """Side in px of the square on which one output pixel of such a U-Net depends through its convolutions.

    It has no middle block. Attention, which sees everything, and normalisation, which adds weak dependence on all
    pixels, are not counted.
    """
    reach = 2  # first and last convolution
    for level in range(levels):
        cell = 2**level  # px
        reach += cell * 2 * (blocks + blocks + 1)  # two convolutions in each block, one block more on the way up
        if level + 1 < levels:
            reach += 2 * cell  # the convolutions that halve and that follow doubling
    return 2 * reach + 1


def ask(
    network: Any,
    schedule: Schedule,
    x: Tensor,
    t: Level,
    classes: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """The network's output for x (B, C, H, W) at level t.

    classes: (B,) int64, for a class-conditional network. given: (B, G, H, W), what the network is conditioned on, as
    further channels of its input (Saharia et al. 2022, section 3).
    """
    seen = x if given is None else torch.cat([x, given], dim=1)
    return network(seen, schedule.timestep(t).to(x.device), class_labels=classes).sample.float()


def estimate(
    network: Any,
    schedule: Schedule,
    x: Tensor,
    t: Level,
    prediction: Prediction,
    classes: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """The estimate of x0 for x (B, C, H, W) at level t, from what the network predicts; not clamped."""
    answer, abar = ask(network, schedule, x, t, classes, given), schedule.signal(t)
    if prediction == "velocity":
        return abar**0.5 * x - (1 - abar) ** 0.5 * answer
    if prediction == "correction":
        kept, size = kept_of(abar)
        return kept * x + size * answer
    return schedule.x0_of(x, t, answer) if prediction == "epsilon" else answer


def kept_of(abar: Any) -> tuple[Any, Any]:
    """For the prediction `correction`, x0 = kept x + size answer: what is kept of x, and how large corrections are.

    The preconditioning of Karras et al. 2022 (table 1), c_skip and c_out, for x / sqrt(abar) with noise of the spread
    sigma = sqrt((1 - abar) / abar), and DETAIL for the spread of the data: below it x is kept, above it replaced. A
    small network cannot pass fine detail on through its layers, and would blur what it is only to correct.
    """
    variance = (1 - abar) / abar
    total = variance + DETAIL**2
    return DETAIL**2 / total / abar**0.5, DETAIL * (variance / total) ** 0.5


class PixelObjective(nn.Module):
    """Mean squared error of the signal (x0), of the noise (epsilon), of sqrt(abar) noise - sqrt(1 - abar) x0
    (velocity: Salimans & Ho 2022, appendix D), or of what x lacks (correction: `kept_of`), over all channels, with
    equal weight for all noise levels.

    signals: (N, C, H, W) float in [-1, 1], the training set. classes: (N,) int64, for a class-conditional network.
    levels: those that the network learns; None: all of the schedule. given: (N, G, H, W), what it is conditioned on.
    """

    def __init__(
        self,
        network: nn.Module,
        signals: Tensor,
        schedule: Schedule,
        prediction: Prediction,
        classes: Tensor | None = None,
        levels: range | None = None,
        given: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network, self.signals, self.schedule = network, signals, schedule
        self.prediction, self.classes, self.given = prediction, classes, given
        self.levels = range(len(schedule)) if levels is None else levels

    def forward(self, indices: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Losses (b,)."""
        where = self.signals.device
        indices = indices.to(where)
        x0 = self.signals[indices]
        noise = torch.stack([torch.randn(x0.shape[1:], generator=draw) for draw in draws]).to(where)
        levels = self.levels
        t = torch.cat([torch.randint(levels.start, levels.stop, (1,), generator=draw) for draw in draws])
        classes = None if self.classes is None else self.classes[indices]
        given = None if self.given is None else self.given[indices]
        x = self.schedule.noisy(x0, t.to(where), noise)
        if self.prediction == "velocity":
            target = self.schedule.noisy(noise, t.to(where), -x0)
        elif self.prediction == "correction":
            kept, size = kept_of(self.schedule.signal(t.to(where)))
            target = (x0 - kept * x) / size
        else:
            target = x0 if self.prediction == "x0" else noise
        return (ask(self.network, self.schedule, x, t, classes, given) - target).square().mean(dim=(1, 2, 3))


def save(network: UNet2DModel, folder: Path) -> None:
    """Save a network in the folder format of diffusers."""
    network.save_pretrained(folder, safe_serialization=True)


def load(folder: Path, where: torch.device) -> UNet2DModel:
    """Load a network that `save` wrote, frozen, in evaluation mode, with channels last in memory, which on a CPU makes
    it a fifth faster (and training a tenth slower).

    Raises UserError unless the file has exactly the weights of the network in config.json: diffusers would initialise
    missing ones at random.
    """
    try:
        network = UNet2DModel.from_config(UNet2DModel.load_config(folder))
        network.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: {first_line(error)}; delete the model's folder and run `dvc repro`") from error
    return network.requires_grad_(False).eval().to(where, memory_format=torch.channels_last)
