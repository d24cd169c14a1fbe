"""The recipe of the embedded base, in small: what it is taught, and that its two commands make a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import language
from lib.base import recipe as base
from lib.core.params import Base
from lib.dataset.surfaces import random_pair
from lib.diffusion.components import encode, load, to_tensor
from tests.conftest import ROOT

BRIEF = {"steps": 2, "batch_size": 2, "warmup_steps": 0, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def params() -> base.BaseParams:
    values = yaml.safe_load((ROOT / "models/base.yaml").read_text(encoding="utf-8"))
    values["pool"]["pairs"] = 4
    for part in ("autoencoder", "sharpening", "decoder", "unet", "lines", "strokes", "windows"):
        values[part] |= BRIEF
    values["strokes"]["pairs"] = values["windows"]["pairs"] = 8
    values["autoencoder"]["width"] = 8
    values["unet"]["channels"] = [16, 16, 16]
    return base.BaseParams.model_validate(values)


@pytest.mark.slow
def test_the_two_commands_make_a_model_that_the_pipeline_loads(params, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BASE", tmp_path / "base")
    monkeypatch.setattr(base, "CHUNK", 2)
    renderer = tmp_path / base.RENDERER
    renderer.parent.mkdir(parents=True)
    renderer.write_bytes((ROOT / base.RENDERER).read_bytes())
    pool = base.rendered_pool(params.pool.pairs, params.seed)
    assert len(pool) == 4 and all(np.array_equal(a.defect, b.defect) for a, b in zip(pool, again(params), strict=True))
    (tmp_path / "base").mkdir()
    base.make_autoencoder(params, pool)
    base.make_unet(params, pool)
    parts = load(Base(model=str(tmp_path / "base"), revision=None, allow_download=False), torch.device("cpu"))
    assert parts.resolution == params.windows.crop and parts.scheduler.config.prediction_type == "v_prediction"
    assert all(torch.isfinite(value).all() for value in parts.unet.parameters())


def again(params) -> list:
    """The same pool once more, now read from the files of the first time."""
    return base.rendered_pool(params.pool.pairs, params.seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_a_hole_covers_the_defect_and_never_the_whole_picture(seed: int):
    rng = np.random.default_rng(seed)
    pair = random_pair(rng, base.SIDE)
    hole = base.hole_of(pair, rng, 0.5)
    assert hole.shape == pair.mask.shape and hole.dtype == bool
    assert not (pair.mask & ~hole).any()


@given(st.integers(0, 2**31))
def test_a_piece_shows_the_hole_and_cuts_all_pictures_alike(seed: int):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, base.SIDE - 40, 2)
    hole = np.zeros((base.SIDE, base.SIDE), bool)
    hole[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = True
    picture = rng.integers(0, 255, (base.SIDE, base.SIDE, 3), dtype=np.uint8)
    grey, mine, cut = base.piece((picture[..., 0], picture, hole), 96, rng)
    assert mine.shape == (96, 96, 3) and cut.shape == (96, 96)
    assert cut.sum() == hole.sum() and np.array_equal(grey, mine[..., 0])
    assert np.array_equal(np.sort(mine[cut], axis=None), np.sort(picture[hole], axis=None))


def test_a_piece_smaller_than_the_hole_lies_within_it():
    hole = np.zeros((base.SIDE, base.SIDE), bool)
    hole[10:120, 4:124] = True
    assert base.piece((hole,), 96, np.random.default_rng(0))[0].all()


def test_pairs_with_a_line_are_seen_as_often_as_the_phase_says(params):
    pool = [random_pair(np.random.default_rng(index), base.SIDE) for index in range(8)]
    captions = [([f"defect {index}"], [f"good {index}"]) for index in range(8)]
    chosen = base.samples(pool, captions, params.lines, params.pool, seed=1)
    for index, pair in enumerate(pool):
        shown = [image for image, _, texts in chosen if texts == [f"defect {index}"]]
        assert len(shown) == (4 if pair.defect_type in ("crack", "scratch", "thread") else 1)
        assert len({image.tobytes() for image in shown}) == len(shown), "another piece each time"
    assert {pair.defect_type in base.LINES for pair in pool} == {True, False}
    assert all(image.shape == (96, 96, 3) and hole.any() for image, hole, _ in chosen)
    again = base.samples(pool, captions, params.lines, params.pool, seed=1)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(chosen, again, strict=True))


def test_strokes_are_learnt_on_small_holes_and_few_other_defects(params):
    pool = [random_pair(np.random.default_rng(index), base.SIDE) for index in range(60)]
    captions = [([f"defect {index}"], [f"good {index}"]) for index in range(60)]
    chosen = base.samples(pool, captions, params.strokes, params.pool, seed=1)
    lines = [pair.defect_type in base.LINES for pair in pool]
    shown = {int(texts[0].removeprefix("defect ")) for _, _, texts in chosen if texts[0].startswith("defect")}
    assert 0 < sum(not lines[index] for index in shown) <= np.ceil(60 / 4)
    assert any(lines[index] for index in shown) and not {n for n, line in enumerate(lines) if line} <= shown
    for image, hole, _ in chosen:
        assert image.shape == (80, 80, 3) and all(np.ptp(extent) < 68 for extent in np.nonzero(hole))


def test_windows_are_cut_around_the_hole_as_the_pipeline_cuts_them(params):
    pool = [random_pair(np.random.default_rng(index), base.SIDE) for index in range(60)]
    captions = [([f"defect {index}"], [f"good {index}"]) for index in range(60)]
    chosen = base.samples(pool, captions, params.windows, params.pool, seed=1)
    side, (nearest, widest) = params.windows.crop, params.windows.context
    shares = []
    for image, hole, _ in chosen:
        assert image.shape == (side, side, 3) and hole.shape == (side, side)
        rows, columns = (np.ptp(extent) + 1 for extent in np.nonzero(hole))
        shares.append(max(rows, columns) / side)
    assert 1 / widest - 0.05 < np.median(shares) < 1 / nearest and max(shares) <= 1
    shown = {int(texts[0].removeprefix("defect ")) for _, _, texts in chosen if texts[0].startswith("defect")}
    assert shown == set(range(60)), "defects of every size"


@given(st.integers(0, 2**31))
def test_a_window_shows_the_whole_hole_at_its_scale(seed: int):
    rng = np.random.default_rng(seed)
    x, y, wide, high = (int(value) for value in (*rng.integers(0, base.SIDE - 60, 2), *rng.integers(10, 60, 2)))
    hole = np.zeros((base.SIDE, base.SIDE), bool)
    hole[y : y + high, x : x + wide] = True
    settings = base.Windows.model_construct(context=(1.5, 1.5), min_side=48, crop=96)
    picture, cut = base.window_of((hole * np.uint8(200), hole), settings, rng)
    scale = 96 / max(48, np.ceil(1.5 * max(wide, high)))
    rows, columns = (np.ptp(extent) + 1 for extent in np.nonzero(cut))
    assert abs(rows - high * scale) <= 1 and abs(columns - wide * scale) <= 1
    assert np.mean((picture > 100) == cut) > 0.9, "picture and hole are cut alike"


def test_rounded_weights_keep_their_first_bits_and_no_others():
    layer = torch.nn.Linear(64, 64)
    before = layer.weight.detach().clone()
    base.round_mantissa(layer, 6)
    assert ((layer.weight - before).abs() <= before.abs() * 2**-7 + 1e-12).all(), "to the nearest"
    assert not (layer.weight.detach().view(torch.int32) & (2**17 - 1)).any(), "17 of 23 bits are zero"
    again = layer.weight.detach().clone()
    base.round_mantissa(layer, 6)
    assert torch.equal(layer.weight, again)


def test_latents_are_scaled_to_the_asked_spread():
    pool = [random_pair(np.random.default_rng(index), base.SIDE) for index in range(3)]
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                          num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    base.scale_latents(vae, pool, 2.5)
    pixels = torch.cat([to_tensor(pair.defect[None]) for pair in pool])
    assert float(encode(vae, pixels).detach().std()) == pytest.approx(2.5, rel=1e-3)


def test_the_tokenizer_spells_every_caption_within_its_length():
    texts = [
        text for name in ("scratch", "chipped_edge") for text in language.captions(name, "hex_nut", "in the center")
    ]
    tokenizer = base.make_tokenizer(texts)
    for text in texts:
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= base.TOKENS and tokenizer.unk_token_id not in tokens[1:-1]
        spelt = tokenizer.decode(tokens, skip_special_tokens=True)
        assert "".join(spelt.split()) == "".join(text.lower().split())


def test_a_reconstruction_sees_the_same_view_for_the_same_draw(params):
    pool = [random_pair(np.random.default_rng(index), base.SIDE) for index in range(2)]
    vae = torch.nn.Module()
    objective = base.ReconstructionObjective(vae, pool, params.sharpening)
    views = [objective._view(1, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert views[0].shape == (1, 3, params.sharpening.crop, params.sharpening.crop)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert views[0].abs().max() <= 1
