"""The networks and scores of dual-space purification."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from lib.vision.purification import (
    Fusion,
    Purified,
    Purifier,
    Reconstruction,
    cielab,
    colour_difference,
    focal_loss,
    structure_difference,
)
from lib.vision.reconstruction import cosine_maps

CHANNELS = (6, 10, 12)


def features(batch: int = 2, side: int = 64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channel, side // stride, side // stride, generator=generator)
        for channel, stride in zip(CHANNELS, (4, 8, 16), strict=True)
    ]


def pictures(batch: int = 2, side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def network(branches="both") -> Purifier:
    torch.manual_seed(0)
    return Purifier(CHANNELS, 8, branches)


def test_cielab_is_that_of_scikit_image():
    rgb = pictures(1, 32)
    expected = rgb2lab(rgb[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(cielab(rgb)[0].permute(1, 2, 0).numpy(), expected, atol=0.02)


def test_equal_pictures_have_no_colour_difference_and_white_is_100_from_black():
    white, black = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    assert colour_difference(white, white).abs().max() == 0
    assert colour_difference(white, black).mean().item() == pytest.approx(100, abs=0.1)
    grey = torch.full((1, 3, 8, 8), 0.5)
    assert colour_difference(grey, grey + 0.05).min() > 1, "a change of grey alone counts"
    dark, bright = torch.full((1, 3, 4, 4), 10 / 255), torch.full((1, 3, 4, 4), 20 / 255)
    torch.testing.assert_close(colour_difference(dark, bright), colour_difference(bright, dark))


def test_the_slope_of_the_colour_difference_is_finite_where_pictures_are_equal():
    for value in (0.0, 0.003, 0.04045, 1.0):
        a = torch.full((1, 3, 4, 4), value, requires_grad=True)
        colour_difference(a, torch.full((1, 3, 4, 4), value)).sum().backward()
        assert torch.isfinite(a.grad).all()


def test_structure_sees_an_edge_that_is_gone_at_equal_mean_colour():
    edge = torch.full((1, 3, 32, 32), 0.4)
    edge[..., 16:] = 0.6
    smooth = torch.full_like(edge, 0.5)
    assert structure_difference(edge, edge).abs().max() < 1e-3
    assert structure_difference(edge, smooth)[..., 12:20].min() > 0.2


def test_focal_loss_at_gamma_zero_is_cross_entropy_and_looks_away_from_what_is_right():
    logits, masks = torch.randn(2, 8, 8), (torch.rand(2, 8, 8) > 0.5).float()
    torch.testing.assert_close(focal_loss(logits, masks, 0.0), F.binary_cross_entropy_with_logits(logits, masks))
    right = 4 * (2 * masks - 1)
    assert focal_loss(right, masks, 2.0) < 0.01 * F.binary_cross_entropy_with_logits(right, masks)
    assert torch.isfinite(focal_loss(torch.full((1, 4, 4), 80.0), torch.zeros(1, 4, 4), 2.0))
    by_hand = torch.tensor(0.7**2 * -np.log(0.3), dtype=torch.float32)  # p_t = 0.3
    torch.testing.assert_close(focal_loss(torch.logit(torch.tensor([[0.3]])), torch.ones(1, 1), 2.0), by_hand)


def test_feature_distance_is_0_for_equal_2_for_opposite_and_blind_to_length():
    one = features()
    assert max(m.abs().max() for m in cosine_maps(one, one)) < 1e-5
    assert min(m.min() for m in cosine_maps(one, [-f for f in one])) == pytest.approx(2, abs=1e-5)
    for a, b in zip(
        cosine_maps(one, features(seed=1)), cosine_maps([7 * f for f in one], features(seed=1)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_rebuilt_features_have_the_shapes_of_the_given_ones_and_the_picture_its_range():
    purified = Reconstruction(CHANNELS, 8)(features(), (64, 64))
    assert [one.shape for one in purified.features] == [one.shape for one in features()]
    assert purified.picture.shape == (2, 3, 64, 64)
    assert purified.picture.min() > 0 and purified.picture.max() < 1


def test_all_that_is_rebuilt_passes_the_deepest_map():
    """No skip: within a cell of the deepest map, an arrangement of fine features that keeps their mean is not seen."""
    model, given = Reconstruction(CHANNELS, 8).eval(), features(1)
    swapped = [given[0].clone(), *given[1:]]
    swapped[0][..., 0, 0], swapped[0][..., 3, 3] = given[0][..., 3, 3], given[0][..., 0, 0]  # cells are 4 x 4
    for a, b in zip(model(given, (64, 64)).features, model(swapped, (64, 64)).features, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_fused_features_have_the_stated_channels():
    assert Fusion(10, 8)(torch.randn(2, 10, 8, 8), torch.randn(2, 10, 8, 8)).shape == (2, 8, 8, 8)


def test_scores_have_the_pictures_size_and_do_not_depend_on_other_windows():
    model, given, picture = network().eval(), features(), pictures()
    together, _ = model(picture, given)
    assert together.shape == (2, 64, 64)
    alone, _ = model(picture[1:], [one[1:] for one in given])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


def test_each_branch_can_be_left_out():
    given, picture = features(), pictures()
    rebuilt = Purified(features(seed=3), pictures(seed=3))
    other_picture = Purified(rebuilt.features, pictures(seed=4))
    other_features = Purified(features(seed=5), rebuilt.picture)
    for branches, blind_to, sees in (
        ("features", other_picture, other_features),
        ("picture", other_features, other_picture),
    ):
        model = network(branches)
        score = model.score(picture, given, rebuilt)
        assert torch.equal(score, model.score(picture, given, blind_to))
        assert not torch.equal(score, model.score(picture, given, sees))
    model, score = network(), network().score(picture, given, rebuilt)
    assert not torch.equal(score, model.score(picture, given, other_picture))
    assert not torch.equal(score, model.score(picture, given, other_features))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_has_finite_slopes_where_pixels_are_saturated(gamma: float):
    logits = torch.tensor([[40.0, -40.0, 200.0, 0.5]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), gamma)
    loss.backward()
    assert logits.grad is not None and loss.isfinite() and logits.grad.isfinite().all() and logits.grad[0, 3] != 0
