"""The batched sampler against diffusers' own pipeline, and what a batch must not change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from lib.core.errors import UserError
from lib.core.params import Base, Synth
from lib.diffusion import sampling
from lib.diffusion.components import decode, embed, encode, load, to_pixels, to_tensor
from lib.diffusion.sampling import SCHEDULERS, inpaint, latent_noise
from tests.tiny import random_pictures, tiny_components


def settings(**changes) -> Synth:
    values = {"scheduler": "ddim", "steps": 4, "guidance_scale": 3.5, "guidance_share": 1.0, "strength": 1.0}
    values |= {"noise_blur": 0.0, "batch_size": 4, "feather": 0}
    return Synth(**{**values, **changes})


@pytest.fixture(scope="module")
def parts(tiny_base: Path):
    return load(Base(model=str(tiny_base), revision=None, allow_download=False), torch.device("cpu"))


def boxes(count: int) -> torch.Tensor:
    masks = torch.zeros(count, 1, 32, 32)
    masks[:, :, 8:24, 10:22] = 1
    return masks


def run(parts, seeds: list[int], chosen: Synth, pictures: np.ndarray | None = None, **options):
    pictures = random_pictures(len(seeds)) if pictures is None else pictures
    text = embed(parts, ["a scratch"] * len(seeds))
    noise = latent_noise(seeds, parts, chosen.noise_blur)
    return inpaint(parts, to_tensor(pictures), boxes(len(seeds)), text, embed(parts, [""]), noise, chosen, **options)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "unipc"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_sampler_agrees_with_diffusers_pipeline(tmp_path: Path, name: str, strength: float):
    parts = tiny_components(tmp_path, "tiny")  # this autoencoder draws no noise of its own
    pipeline = StableDiffusionInpaintPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=SCHEDULERS[name].from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = random_pictures(1)
    start = None
    if strength == 1:  # where the pipeline begins with noise alone, unless it is told
        pipeline.scheduler.set_timesteps(4)
        normal, noise = encode(parts.vae, to_tensor(picture)), latent_noise([7], parts, 0)
        start = pipeline.scheduler.add_noise(normal, noise, pipeline.scheduler.timesteps[:1])
        start = start / pipeline.scheduler.init_noise_sigma
    theirs = pipeline(
        prompt="a scratch",
        image=Image.fromarray(picture[0]),
        mask_image=Image.fromarray((boxes(1)[0, 0].numpy() * 255).astype(np.uint8)),
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        strength=strength,
        latents=start,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images
    ours = run(parts, [7], settings(scheduler=name, strength=strength), picture).generated
    assert np.abs(to_pixels(ours) / 255 - theirs).max() < 5e-3


def test_a_sample_is_the_same_in_a_batch_and_alone(parts):
    pictures = random_pictures(3)
    together = run(parts, [1, 2, 3], settings(), pictures).generated
    alone = run(parts, [2], settings(), pictures[1:2]).generated
    assert torch.allclose(together[1:2], alone, atol=3e-3)


def test_noise_belongs_to_the_sample_not_to_its_place_in_the_batch(parts):
    for blur in (0, 0.125):
        assert torch.equal(latent_noise([1, 2, 3], parts, blur)[2], latent_noise([3, 1], parts, blur)[0])


def test_noise_without_its_slow_waves_is_as_strong_and_has_next_to_none(parts):
    plain, calm = (latent_noise(list(range(50)), parts, blur) for blur in (0, 0.125))
    assert plain.shape == calm.shape and float(calm.std()) == pytest.approx(1, abs=0.01)
    wide = [float(noise.mean(dim=(2, 3)).std()) for noise in (plain, calm)]
    assert wide[0] == pytest.approx(1 / plain.shape[-1], rel=0.2) and wide[1] < wide[0] / 5
    assert float(torch.corrcoef(torch.stack([plain.flatten(), calm.flatten()]))[0, 1]) > 0.9, "the rest is the same"


def test_a_blur_that_would_leave_no_noise_is_refused(parts):
    with pytest.raises(UserError, match=r"synth\.noise_blur: 0\.001 .* set 0"):
        latent_noise([1], parts, 0.001)
    least = 0.5 / parts.unet.config.sample_size
    assert torch.isfinite(latent_noise([1], parts, least)).all()


def test_other_seeds_differ_inside_and_equal_seeds_do_not(parts):
    pictures = np.repeat(random_pictures(1), 3, axis=0)
    made = run(parts, [1, 2, 1], settings(), pictures).generated
    assert not torch.allclose(made[0], made[1], atol=1e-2)
    assert torch.allclose(made[0], made[2], atol=1e-5)


def test_guidance_of_one_equals_the_prediction_with_text_alone(parts):
    plain = run(parts, [5], settings(guidance_scale=1.0)).generated
    nearly = run(parts, [5], settings(guidance_scale=1.0 + 1e-6)).generated
    assert torch.allclose(plain, nearly, atol=1e-3)


def test_guidance_in_no_step_equals_a_scale_of_one(parts):
    without = run(parts, [5], settings(guidance_share=0.0)).generated
    assert torch.equal(without, run(parts, [5], settings(guidance_scale=1.0)).generated)
    assert not torch.equal(without, run(parts, [5], settings(guidance_share=0.5)).generated)


def test_only_the_guided_steps_cost_two_passes(parts, monkeypatch):
    rows = []
    forward = type(parts.unet).forward
    monkeypatch.setattr(
        type(parts.unet), "forward", lambda self, x, *a, **k: rows.append(len(x)) or forward(self, x, *a, **k)
    )
    run(parts, [1], settings(guidance_share=0.5))
    assert rows == [2, 2, 1, 1]


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "unipc"])
def test_states_and_noise_levels_are_float32_whatever_type_the_weights_have(tmp_path: Path, name: str, monkeypatch):
    """diffusers casts its noise levels to the type of the latents: in bfloat16 they have three digits."""
    parts = tiny_components(tmp_path, "tiny")
    for module in (parts.unet, parts.vae, parts.text_encoder):
        module.bfloat16()
    scheduler, noised, stepped = SCHEDULERS[name], [], []
    add_noise, step = scheduler.add_noise, scheduler.step

    def adding(self, normal, noise, timesteps):
        made = add_noise(self, normal, noise, timesteps)
        noised.append((normal, made, add_noise(self, normal.float(), noise, timesteps)))
        return made

    def stepping(self, predicted, timestep, state):
        stepped.append((predicted.dtype, state.dtype))
        return step(self, predicted, timestep, state)

    monkeypatch.setattr(scheduler, "add_noise", adding)
    monkeypatch.setattr(scheduler, "step", stepping)
    run(parts, [1], settings(scheduler=name), keep_background=True)  # two would be shared out to cores
    assert len(noised) == len(stepped) == 4 and set(stepped) == {(torch.float32, torch.float32)}
    assert all(normal.dtype == torch.float32 and torch.equal(made, exact) for normal, made, exact in noised)


def test_several_cores_paint_what_one_paints_and_leave_the_threads_as_they_were(parts):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(parts, [1, 2, 3, 4, 5], settings()).generated
        torch.set_num_threads(2)
        two = run(parts, [1, 2, 3, 4, 5], settings()).generated
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(one, two, atol=3e-3)


def test_the_round_trip_is_the_autoencoder_alone(parts):
    pictures = random_pictures(2)
    round_trip = run(parts, [1, 2], settings(), pictures).round_trip
    assert torch.allclose(round_trip, decode(parts.vae, encode(parts.vae, to_tensor(pictures))), atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "unipc"])
@pytest.mark.parametrize("keep_background", [False, True])
def test_another_text_gives_what_the_same_noise_becomes_without_guidance(parts, name: str, keep_background: bool):
    pictures, seeds, chosen = random_pictures(3), [1, 2, 3], settings(scheduler=name, guidance_share=0.5)
    text = embed(parts, ["flawless"] * 3)
    painted = run(parts, seeds, chosen, pictures, other_text=text, keep_background=keep_background)
    without = run(parts, seeds, chosen, pictures, keep_background=keep_background)
    assert without.other is None and painted.other is not None
    assert torch.allclose(painted.generated, without.generated, atol=1e-3)
    assert torch.allclose(painted.round_trip, without.round_trip, atol=1e-5)
    noise, unguided = latent_noise(seeds, parts, 0), settings(scheduler=name, guidance_scale=1.0)
    alone = inpaint(
        parts, to_tensor(pictures), boxes(3), text, embed(parts, [""]), noise, unguided, keep_background
    ).generated
    assert torch.allclose(painted.other, alone, atol=1e-3)
    assert not torch.allclose(painted.other, painted.generated, atol=1e-2)


def test_another_text_costs_one_pass_a_step(parts, monkeypatch):
    rows = []
    forward = type(parts.unet).forward
    monkeypatch.setattr(
        type(parts.unet), "forward", lambda self, x, *a, **k: rows.append(len(x)) or forward(self, x, *a, **k)
    )
    run(parts, [1], settings(guidance_share=0.5), other_text=embed(parts, ["flawless"]))
    assert rows == [3, 3, 2, 2]


def test_even_at_full_strength_the_start_knows_how_bright_the_hole_was(parts, monkeypatch):
    starts = []
    forward = type(parts.unet).forward
    monkeypatch.setattr(
        type(parts.unet), "forward", lambda self, x, *a, **k: starts.append(x[:1, :4]) or forward(self, x, *a, **k)
    )
    picture = random_pictures(1)
    run(parts, [1], settings(), picture)
    normal, noise = encode(parts.vae, to_tensor(picture)), latent_noise([1], parts, 0)
    level = parts.scheduler.alphas_cumprod[751]  # the first of four timesteps
    assert torch.allclose(starts[0], level.sqrt() * normal + (1 - level).sqrt() * noise, atol=1e-4)


def test_low_strength_runs_fewer_steps_and_stays_nearer_to_the_picture(parts, monkeypatch):
    calls = []
    forward = type(parts.unet).forward
    monkeypatch.setattr(type(parts.unet), "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    run(parts, [1], settings(strength=0.5))
    half = len(calls)
    run(parts, [1], settings())
    assert (half, len(calls) - half) == (2, 4)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "unipc"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_background_that_is_kept_has_the_noise_level_of_every_step_and_none_at_the_end(
    parts, monkeypatch, name: str, strength: float
):
    calls, ends = [], []
    forward, plain = type(parts.unet).forward, sampling.decode
    monkeypatch.setattr(
        type(parts.unet), "forward", lambda self, x, t, *a: calls.append((x, t)) or forward(self, x, t, *a)
    )
    monkeypatch.setattr(sampling, "decode", lambda vae, latents: ends.append(latents) or plain(vae, latents))
    picture, outside = random_pictures(1), (boxes(1)[0, 0, ::2, ::2] == 0)
    run(parts, [1], settings(scheduler=name, strength=strength, guidance_share=0.0), picture, keep_background=True)
    normal, noise = encode(parts.vae, to_tensor(picture))[0], latent_noise([1], parts, 0)[0]
    assert len(calls) == 4 * strength
    for noisy, timestep in calls:
        level = parts.scheduler.alphas_cumprod[int(timestep)]
        expected = level.sqrt() * normal + (1 - level).sqrt() * noise
        assert torch.allclose(noisy[0, :4, outside], expected[:, outside], atol=1e-3)
    assert torch.allclose(ends[0][0, :, outside], normal[:, outside], atol=1e-5)
    assert not torch.allclose(ends[0][0, :, ~outside], normal[:, ~outside], atol=1e-2)


def test_more_steps_than_noise_levels_are_refused(parts):
    with pytest.raises(UserError, match=r"synth\.steps: 1001 steps, at most 1000"):
        run(parts, [0], settings(steps=1001))
