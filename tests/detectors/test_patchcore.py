"""PatchCore: what is unlike all good pictures scores high, and a few patches stand for many."""

import doctest
import json

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.params import Params
from lib.core.records import GOOD
from lib.detectors import patchcore
from lib.vision.backbones import DEFAULT, load_backbone
from lib.vision.examples import Example
from lib.vision.tiles import tiles
from tests.blobs import BUDGET

SMALL = patchcore.Settings(coreset=100)


def cloth(seed: int, side: int = 128) -> np.ndarray:
    """A regular weave with a little noise: (side, side, 3) uint8."""
    rows, columns = np.mgrid[:side, :side]
    weave = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3)
    return np.clip(weave[..., None] + np.random.default_rng(seed).normal(0, 4, (side, side, 3)), 0, 255).astype(
        np.uint8
    )


def good_pictures(count: int = 4, side: int = 128) -> list[Example]:
    return [Example(cloth(seed, side), None, False, GOOD) for seed in range(count)]


@pytest.fixture(scope="module")
def params(raw_params) -> Params:
    return Params.model_validate(raw_params | {"detect": BUDGET.model_copy(update={"encoder": DEFAULT}).model_dump()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
    out = tmp_path_factory.mktemp("patchcore")
    patchcore.fit(good_pictures(), [], params, SMALL, 0, out)
    return out


def test_a_planted_anomaly_scores_highest_and_scores_lie_over_it(folder):
    model = patchcore.load(folder)
    image, mask = cloth(9), box_mask((72, 40, 88, 52), 128, 128)
    clean = patchcore.predict(model, image)
    image[mask] = 90
    scores = patchcore.predict(model, image)
    assert scores.shape == (128, 128) and scores.dtype == np.float32 and scores.min() >= 0
    assert scores[mask].mean() > 2 * clean.max()
    y, x = np.unravel_index(scores.argmax(), scores.shape)
    assert abs(y - 46) <= 8 and abs(x - 80) <= 8


def test_what_it_remembers_bit_for_bit_is_no_anomaly(params, tmp_path):
    patchcore.fit(good_pictures(1), [], params, patchcore.Settings(coreset=10_000), 0, tmp_path)
    model = patchcore.load(tmp_path)
    assert len(model.memory) == 16 * 16 * (model.memory.shape[0] // 256)
    assert patchcore.predict(model, cloth(0)).max() < 1e-3 * patchcore.predict(model, 255 - cloth(0)).mean()


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_memories(folder, tmp_path, params):
    written = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        patchcore.fit(good_pictures(), [], params, SMALL, seed, tmp_path / str(seed))
        written.append((tmp_path / str(seed) / "model.safetensors").read_bytes())
    assert written[0] == (folder / "model.safetensors").read_bytes() != written[1]


def test_the_curve_is_the_covering_radius_and_never_rises(tmp_path, params):
    history = patchcore.fit(good_pictures(2), [], params, patchcore.Settings(coreset=40), 0, tmp_path)
    radii = [radius for _, radius in history.curves["covering radius"]]
    assert len(radii) == 40 and radii == sorted(radii, reverse=True) and radii[-1] < radii[0] / 2


def test_defects_and_the_val_part_are_not_looked_at(folder, tmp_path, params):
    defect = Example(255 - cloth(0), box_mask((0, 0, 50, 50), 128, 128), False, "stain")
    patchcore.fit([*good_pictures(), defect], [defect], params, SMALL, 0, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_without_good_pictures_or_without_features_it_says_so(tmp_path, params):
    defect = Example(cloth(0), box_mask((0, 0, 50, 50), 128, 128), False, "stain")
    with pytest.raises(UserError, match="no good picture"):
        patchcore.fit([defect], [], params, SMALL, 0, tmp_path)
    blind = params.model_copy(update={"detect": BUDGET})
    with pytest.raises(UserError, match="learns nothing without features"):
        patchcore.fit(good_pictures(1), [], blind, SMALL, 0, tmp_path)


def test_a_model_needs_its_backbone_no_more(tiny_backbone, tmp_path, params):
    detect = params.detect.model_copy(update={"encoder": str(tiny_backbone), "scale": 0.5})
    out = tmp_path / "out"
    out.mkdir()
    patchcore.fit(good_pictures(1), [], params.model_copy(update={"detect": detect}), SMALL, 0, out)
    tiny_backbone.rename(tiny_backbone.with_name("elsewhere"))
    model = patchcore.load(out)
    assert model.memory.shape[1] == 8 + 16 or model.memory.shape[1] == 16 + 16
    assert patchcore.predict(model, cloth(0)).shape == (128, 128)
    assert json.loads((out / "config.json").read_text())["scale"] == 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 300), (130, 61)])
def test_pictures_of_any_size_come_back_at_their_own_size(folder, height, width):
    assert patchcore.predict(patchcore.load(folder), np.full((height, width, 3), 90, np.uint8)).shape == (height, width)


def test_tiles_agree_with_the_whole_picture(folder, monkeypatch):
    model, image = patchcore.load(folder), cloth(5, 320)
    image[150:170, 150:170] = 90
    assert len(tiles(image.shape, patchcore.TILE, patchcore.OVERLAP, 16, patchcore.LARGEST)) == 1
    whole = patchcore.predict(model, image)
    monkeypatch.setattr(patchcore, "TILE", 192)
    monkeypatch.setattr(patchcore, "LARGEST", 192)
    assert len(tiles(image.shape, patchcore.TILE, patchcore.OVERLAP, 16, patchcore.LARGEST)) == 4
    tiled = patchcore.predict(model, image)
    inner = slice(100, 220)
    assert np.abs(tiled - whole)[inner, inner].max() < 0.15 * whole.max()
    assert np.corrcoef(tiled[inner, inner].ravel(), whole[inner, inner].ravel())[0, 1] > 0.98


def test_patches_are_features_averaged_over_their_neighbourhood_at_two_levels():
    backbone = load_backbone(DEFAULT)
    image = cloth(0, 64)
    with torch.inference_mode():
        patches, size = patchcore.patch_features(backbone, patchcore.image_tensor(image[None], torch.device("cpu")))
        *_, fine, coarse = backbone(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    assert size == (8, 8) and patches.shape == (64, 40 + 112)
    grid = patches.view(8, 8, -1)
    torch.testing.assert_close(grid[3, 4, :40], fine[0, :, 2:5, 3:6].mean(dim=(1, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid[0, 0, :40], fine[0, :, :2, :2].mean(dim=(1, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid[0, 0, 40:], coarse[0, :, :2, :2].mean(dim=(1, 2)), rtol=1e-4, atol=1e-5)


def test_the_nearest_distance_is_the_same_in_chunks_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    patches, memory = (torch.from_numpy(rng.normal(size=(n, 5)).astype(np.float32)) for n in (37, 11))
    expected = (patches[:, None] - memory).norm(dim=2).amin(dim=1)
    for chunk in (1, 10, 1000):
        monkeypatch.setattr(patchcore, "CHUNK", chunk)
        torch.testing.assert_close(patchcore.nearest_distance(patches, memory), expected)


@pytest.mark.parametrize("remembered", [1, 7, 50, 130])
def test_the_nearest_by_groups_is_the_nearest_of_all_and_of_equals_the_first(remembered):
    rng = np.random.default_rng(remembered)
    patches, memory = (torch.from_numpy(rng.normal(size=(n, 6)).astype(np.float32)) for n in (90, remembered))
    expected = torch.cdist(patches, memory).argmin(dim=1)
    torch.testing.assert_close(patchcore._nearest_by_groups(patches, memory), expected)
    twice = torch.cat([memory, memory])
    torch.testing.assert_close(patchcore._nearest_by_groups(patches, twice), expected)


def test_a_patch_that_is_remembered_is_at_no_distance_however_long_it_is():
    memory = 100 + torch.from_numpy(np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32))
    assert torch.cdist(memory, memory).amin(dim=1).max() > 0.01, "products alone do not tell"
    assert patchcore.nearest_distance(memory, memory).max() == 0


def test_of_many_patches_as_many_of_each_picture_are_candidates(monkeypatch, params):
    backbone = load_backbone(DEFAULT)
    monkeypatch.setattr(patchcore, "CANDIDATES", 120)
    assert len(patchcore._candidates(backbone, good_pictures(4), 1.0, 0)) == 120
    monkeypatch.setattr(patchcore, "CANDIDATES", 3)
    assert len(patchcore._candidates(backbone, good_pictures(4), 1.0, 0)) == 3


def test_the_examples_of_its_docstrings_hold():
    assert doctest.testmod(patchcore).failed == 0
