"""MvP-Diff on tiny random weights: what learns, what is painted where, and what a seed and a batch may change."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lib.core.errors import UserError
from lib.core.geometry import Window, box_mask, window_around
from lib.core.images import png_bytes, read_image
from lib.core.params import Params
from lib.core.records import GOOD, Sample
from lib.diffusion.components import Components, load
from lib.diffusion.inpainting import Cache
from lib.generators import NON_FINITE, Failed, Made, RealData, mvp_diff, read_real
from lib.generators.mvp_diff import LORA_FILE, Settings, View, adapted, finetune, hole, synthesize, view_of
from lib.language import normal_caption
from tests.category import CATEGORY, placement, tiny_params

pytestmark = pytest.mark.usefixtures("workplace")

CPU = torch.device("cpu")
Finetuned = tuple[Path, dict[str, dict[str, str]], dict[str, dict[str, str]]]


def hashes(parts: Components) -> dict[str, dict[str, str]]:
    """A hash of every weight of the base; adapters, and the name that wrapping a layer adds, are left out."""
    return {
        part: {
            name.replace(".base_layer", ""): hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest()
            for name, value in getattr(parts, part).state_dict().items()
            if "lora" not in name
        }
        for part in ("unet", "vae", "text_encoder")
    }


@pytest.fixture(scope="module")
def params(raw_params: dict, tiny_base: Path) -> Params:
    return tiny_params(raw_params, tiny_base)


def settings_of(params: Params) -> Settings:
    return params.section("mvp_diff", Settings)


def finetuned(params: Params, out: Path, patch: pytest.MonkeyPatch) -> Finetuned:
    """Fine-tune into a folder; also the hashes of the base's weights before and after."""
    loaded: list[Components] = []
    before: list[dict[str, dict[str, str]]] = []

    def spying(*args) -> Components:
        loaded.append(load(*args))
        before.append(hashes(loaded[-1]))
        return loaded[-1]

    with patch.context() as patched:
        patched.setattr(mvp_diff, "load", spying)
        finetune(params, settings_of(params), read_real(CATEGORY), out.name, out, out / "curves")
    return out, before[0], hashes(loaded[0])


@pytest.fixture(scope="module")
def lora(params: Params, workplace: Path, monkeymodule: pytest.MonkeyPatch) -> Finetuned:
    return finetuned(params, workplace / "lora", monkeymodule)


@pytest.fixture(scope="module")
def full(raw_params: dict, tiny_base: Path, workplace: Path, monkeymodule: pytest.MonkeyPatch) -> Finetuned:
    chosen = tiny_params(raw_params, tiny_base, mvp_diff={"adapter": "full"})
    return finetuned(chosen, workplace / "full", monkeymodule)


# Fine-tuning


def test_only_adapters_learn_and_base_autoencoder_and_text_encoder_stay_as_they_were(lora: Finetuned):
    _, before, after = lora
    assert len(before["unet"]) > 50 and before == after


def test_without_adapters_the_unet_learns_and_nothing_else(full: Finetuned):
    _, before, after = full
    assert (before["vae"], before["text_encoder"]) == (after["vae"], after["text_encoder"])
    changed = [name for name, value in before["unet"].items() if after["unet"][name] != value]
    assert len(changed) == len(before["unet"])


def predictions(unet: torch.nn.Module) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 9, 16, 16, generator=draw), torch.randn(2, 77, 16, generator=draw)
    with torch.inference_mode():
        return unet(noisy, torch.tensor([10, 700]), text).sample


def test_the_adapters_load_in_diffusers_own_pipeline_and_predict_what_ours_merged_predict(
    params: Params, tiny_base: Path, lora: Finetuned
):
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tiny_base, local_files_only=True, safety_checker=None)
    base = predictions(pipeline.unet)
    pipeline.load_lora_weights(lora[0])
    theirs, ours = predictions(pipeline.unet), predictions(adapted(params, lora[0], CPU, torch.float32).unet)
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not torch.allclose(base, ours, atol=1e-3), "it has learnt something"


def test_a_whole_unet_is_read_back_as_it_was_saved(params: Params, tiny_base: Path, full: Finetuned):
    parts = adapted(params, full[0], CPU, torch.float32)
    assert hashes(parts)["unet"] == full[2]["unet"]
    assert hashes(parts)["vae"] == full[1]["vae"]
    assert not any(value.requires_grad for value in parts.unet.parameters())


def test_the_model_says_what_it_is_and_which_base_it_stands_on(tiny_base: Path, lora: Finetuned, full: Finetuned):
    facts = [json.loads((folder / "model.json").read_text()) for folder, _, _ in (lora, full)]
    assert [fact["adapter"] for fact in facts] == ["lora", "full"]
    assert facts[0]["base"] == str(tiny_base) and len(facts[0]["revision"]) == 16
    assert facts[0]["revision"] == facts[1]["revision"]
    assert (lora[0] / "curves/plots/metrics/loss.tsv").exists()


def cached(params: Params, share: float) -> tuple[Cache, list[str]]:
    chosen = settings_of(params).model_copy(update={"good_share": share})
    return mvp_diff.cached_views(params, chosen, read_real(CATEGORY), load(params.base, CPU))


def test_the_unet_gets_the_train_part_alone(params: Params, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    monkeypatch.setattr(mvp_diff, "read_image", lambda path: read.append(path.stem) or read_image(path))
    cache, captions = cached(params, 0)
    assert set(read) == {"scratch-0", "scratch-1", "dent-0"}
    assert len(cache.latents) == len(cache.masked) == len(cache.masks) == len(cache.captions) == 3 * 2
    assert captions[0] == "" and all(captions[row] for rows in cache.captions for row in rows)
    assert set(cache.masks.unique().tolist()) == {0, 1} and (cache.masks.flatten(1).sum(dim=1) > 0).all()


def test_a_share_of_the_views_shows_good_pictures_under_the_caption_of_one(
    params: Params, monkeypatch: pytest.MonkeyPatch
):
    defects, known = cached(params, 0)
    read: list[str] = []
    monkeypatch.setattr(mvp_diff, "read_image", lambda path: read.append(path.stem) or read_image(path))
    cache, captions = cached(params, 0.34)
    good = {Path(one.image).stem for one in read_real(CATEGORY).samples.values() if one.defect_type == GOOD}
    assert set(read) & good and set(read) - good == {"scratch-0", "scratch-1", "dent-0"}
    assert captions == [*known, normal_caption(CATEGORY)]
    assert cache.captions == (*defects.captions, *[(len(known),)] * 3), "three of nine"
    assert torch.equal(cache.latents[:6], defects.latents), "views of defects stay as they were"
    assert (cache.masks[6:].flatten(1).sum(dim=1) > 0).all()


def test_good_views_are_spread_over_the_boxes_of_all_defects_and_differ():
    samples = {name: Sample(name, "a", GOOD, "", None, name, "train", (30, 20), "") for name in "xyz"}
    views = [View("d", (n, n, n + 9, n + 8), (False, n > 3), n) for n in range(6)]
    real = RealData("a", samples, (), {})
    for share, count in ((0, 0), (0.25, 2), (0.5, 6), (0.75, 18)):
        good = mvp_diff.good_views(real, views, share)
        assert len(good) == len({view.seed for view in good}) == count
    assert {view.sample for view in good} == set("xyz")
    assert {(view.box, view.flips) for view in good} == {(view.box, view.flips) for view in views}
    assert mvp_diff.good_views(RealData("a", {}, (), {}), views, 0.5) == []


@given(
    x0=st.integers(0, 50),
    y0=st.integers(0, 50),
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
)
def test_a_box_is_moved_into_a_smaller_picture(x0: int, y0: int, width: int, height: int, size: tuple[int, int]):
    box = (x0, y0, x0 + width, y0 + height)
    left, top, right, bottom = mvp_diff.fitting(box, *size)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert (right - left, bottom - top) == (min(width, size[0]), min(height, size[1]))
    if box[2] <= size[0] and box[3] <= size[1]:
        assert (left, top, right, bottom) == box


@settings(max_examples=50)
@given(
    x0=st.integers(0, 38),
    y0=st.integers(0, 38),
    width=st.integers(1, 10),
    height=st.integers(1, 10),
    flips=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**63 - 1),
)
def test_picture_and_mask_are_shifted_and_flipped_together(
    raw_params: dict, x0: int, y0: int, width: int, height: int, flips: tuple[bool, bool], seed: int
):
    chosen = tiny_params(raw_params, window={"min_side": 32})  # no resizing: the mask is exact
    box = (x0, y0, x0 + width, y0 + height)
    normal = np.random.default_rng(0).integers(0, 200, (48, 48, 3), dtype=np.uint8)
    defect = normal + 50 * box_mask(box, 48, 48)[..., None].astype(np.uint8)
    (toy, mask), (plain, same) = (view_of(image, box, flips, chosen, 32, seed) for image in (defect, normal))
    assert toy.shape == (32, 32, 3) and np.array_equal(mask, same)
    assert np.array_equal(mask, (toy != plain).any(axis=2)) and mask.sum() == width * height
    unflipped, where = view_of(defect, box, (False, False), chosen, 32, seed)
    axes = [axis for axis, flipped in ((1, flips[0]), (0, flips[1])) if flipped]
    assert np.array_equal(toy, np.flip(unflipped, axes)) and np.array_equal(mask, np.flip(where, axes))


# Composition


@st.composite
def compositions(draw: st.DrawFn) -> tuple[np.ndarray, Window, tuple[int, int, int, int]]:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    normal = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return normal, window_around(box, (height, width), draw(st.floats(1, 4)), draw(st.integers(1, 64))), box


@settings(max_examples=40)
@given(compositions())
def test_the_hole_covers_the_box_at_every_scale(case: tuple):
    _, window, box = case
    mask = hole(box, window, 32)
    scale = 32 / window.side
    x0, y0, x1, y1 = (edge * scale for edge in window.inside(box))
    assert mask.shape == (32, 32)
    assert mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))].all()
    assert mask.sum() <= (x1 - x0 + 2) * (y1 - y0 + 2)


# Synthesis


def painted(params: Params, model: Path, *batches: list) -> list[np.ndarray]:
    answers = list(synthesize(params, settings_of(params), read_real(CATEGORY), model, batches))
    assert [len(batch) for batch in answers] == [len(batch) for batch in batches]
    return [answer.image for batch in answers for answer in batch]


def test_a_sample_changes_inside_of_its_box_alone_and_by_its_seed_alone(params: Params, lora: Finetuned):
    batch = [placement(0), placement(1), placement(2, "good-1"), placement(3, "good-2", (30, 44, 40, 56))]
    images = painted(params, lora[0], batch)
    for image, item in zip(images, batch, strict=True):
        normal = read_image(Path(f"data/prepared/{CATEGORY}/images/{item.normal}.png"))
        inside = box_mask(item.box, *normal.shape[1::-1])
        assert image.shape == normal.shape and image.dtype == np.uint8
        assert np.array_equal(image[~inside], normal[~inside])
        assert (image != normal)[inside].mean() > 0.2
    inside = box_mask(batch[0].box, 48, 48)
    assert (images[0] != images[1])[inside].any(axis=1).mean() > 0.2, "another seed, another defect"


def test_equal_runs_give_equal_bytes(params: Params, lora: Finetuned):
    batch = [placement(0), placement(1)]
    first, second = painted(params, lora[0], batch), painted(params, lora[0], batch)
    assert [png_bytes(image) for image in first] == [png_bytes(image) for image in second]


def test_a_batch_of_four_is_four_batches_of_one_within_two_grey_levels(params: Params, lora: Finetuned):
    batch = [placement(number, f"good-{number % 3}") for number in range(4)]
    together = painted(params, lora[0], batch)
    alone = painted(params, lora[0], *([item] for item in batch))
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2


def test_an_empty_box_leaves_the_picture_as_it_is(params: Params, lora: Finetuned):
    [image] = painted(params, lora[0], [placement(0, box=(20, 20, 20, 20))])
    assert np.array_equal(image, read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png")))


def test_where_the_text_asks_for_what_is_there_nothing_changes_however_the_model_repaints_it(
    params: Params, lora: Finetuned
):
    flawless = replace(placement(0), prompt=normal_caption(CATEGORY))
    unguided = params.model_copy(update={"synth": params.synth.model_copy(update={"guidance_scale": 1.0})})
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png"))
    for reference, changed in (("flawless", False), ("round_trip", True)):
        chosen = settings_of(params).model_copy(update={"reference": reference})
        [[answer]] = synthesize(unguided, chosen, read_real(CATEGORY), lora[0], [[flawless]])
        assert isinstance(answer, Made) and (answer.image != normal).any() == changed


def test_a_whole_unet_paints_too(params: Params, full: Finetuned):
    [image] = painted(params, full[0], [placement(0)])
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png"))
    assert ((image != normal).any(axis=2) <= box_mask(placement(0).box, 48, 48)).all() and (image != normal).any()


def damaged(folder: Path, lora: Path, change) -> Path:
    """A copy of the adapters with another set of weights."""
    shutil.copytree(lora, folder)
    weights = load_file(folder / LORA_FILE)
    save_file(change(weights), folder / LORA_FILE)
    return folder


def test_an_adapter_with_a_missing_or_a_foreign_key_is_refused(params: Params, lora: Finetuned, tmp_path: Path):
    first = sorted(load_file(lora[0] / LORA_FILE))[0]
    short = damaged(tmp_path / "short", lora[0], lambda weights: {k: v for k, v in weights.items() if k != first})
    with pytest.raises(UserError, match=rf"1 of \d+ weights are missing and 0 belong to no layer .* {first}"):
        adapted(params, short, CPU, torch.float32)
    foreign = damaged(
        tmp_path / "foreign", lora[0], lambda w: {k.replace(first, "unet.other"): v for k, v in w.items()}
    )
    with pytest.raises(UserError, match=r"1 of \d+ weights are missing and 1 belong to no layer"):
        adapted(params, foreign, CPU, torch.float32)


def test_a_sample_that_is_not_finite_fails_and_spoils_no_other(
    params: Params, lora: Finetuned, monkeypatch: pytest.MonkeyPatch
):
    batch = [placement(0), placement(1)]
    plain, whole = mvp_diff.inpaint, painted(params, lora[0], batch)

    def with_nan(*args, **values):
        sampled = plain(*args, **values)
        sampled.generated[0, 1, 3, 3] = torch.nan
        return sampled

    monkeypatch.setattr(mvp_diff, "inpaint", with_nan)
    [[first, second]] = synthesize(params, settings_of(params), read_real(CATEGORY), lora[0], [batch])
    assert first == Failed(NON_FINITE)
    assert isinstance(second, Made) and np.array_equal(second.image, whole[1])
