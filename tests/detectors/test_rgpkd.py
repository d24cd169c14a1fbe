"""RGPKD: a frozen teacher, a student without ways around, a bank that nobody finds himself in, scores by cosine."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.backbones import DEFAULT, load_backbone
from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.params import Params
from lib.core.records import GOOD
from lib.detectors import Example, rgpkd
from lib.detectors.rgpkd import Settings, bank_windows, loss_of, pseudo_anomalies, score_maps
from lib.distillation import POOLED, STRIDES, Bank, Prompt, Student, Teacher, key_of
from lib.reconstruction import cosine_maps, ssim, summed
from tests.blobs import BUDGET

OWN = Settings(
    width=4,
    bank=6,
    skips=False,
    feature=1.0,
    picture=1.0,
    structure=1.0,
    picture_term=0.0,
    smoothing=0.0,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weave(seed: int, side: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    cloth = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3)
    grain = np.random.default_rng(seed).normal(0, 4, (side, side, 3))
    return np.clip(cloth[..., None] + grain, 0, 255).astype(np.uint8)


def goods(count: int, first: int = 0) -> list[Example]:
    return [Example(weave(first + number), None, False, GOOD) for number in range(count)]


@pytest.fixture(scope="module")
def params(raw_params) -> Params:
    detect = BUDGET.model_copy(update={"encoder": DEFAULT, "window": 64, "steps": 40, "validate_every": 20})
    return Params.model_validate(raw_params | {"detect": detect.model_dump()})


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(load_backbone(DEFAULT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params):
    out = tmp_path_factory.mktemp("rgpkd")
    history = rgpkd.fit(goods(4), goods(2, 10), params, OWN, 0, out)
    assert {"loss", "pixel AP on pseudo anomalies"} == set(history.curves)
    losses = [value for _, value in history.curves["loss"]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    return out


# Shapes and freezing


@pytest.mark.parametrize("side", [64, 96, 160])
def test_student_and_teacher_give_features_of_equal_shapes(teacher: Teacher, side: int):
    images = torch.rand(2, 3, side, side)
    targets = teacher(images)
    features, picture = Student(teacher.channels, 4, skips=False)(
        images, [rgpkd.Bank.of(targets, torch.arange(2)).entries[n] for n in range(3)]
    )
    assert [one.shape for one in features] == [one.shape for one in targets]
    assert [one.shape[-1] for one in features] == [side // stride for stride in STRIDES]
    assert picture.shape == images.shape and picture.min() > 0 and picture.max() < 1


def test_a_window_of_no_fitting_side_is_refused(params: Params, tmp_path):
    odd = params.model_copy(update={"detect": params.detect.model_copy(update={"window": 80})})
    with pytest.raises(UserError, match=r"detect\.window is 80, but rgpkd needs a multiple of 32"):
        rgpkd.fit(goods(1), [], odd, OWN, 0, tmp_path)


def test_the_teacher_stays_as_it_is_and_takes_no_gradient(params: Params, folder):
    model, fresh = rgpkd.load(folder), load_backbone(DEFAULT)
    for name, value in fresh.state_dict().items():
        assert torch.equal(model.teacher.backbone.state_dict()[name], value)
    assert not any(weight.requires_grad for weight in model.teacher.parameters())
    assert not any(module.training for module in model.teacher.train().modules())


def test_every_part_of_the_student_learns_and_the_picture_head_by_its_terms_alone(teacher: Teacher):
    images = torch.rand(2, 3, 64, 64)
    targets = teacher(images)
    prompts = [one.flip(0) for one in Bank.of(targets, torch.arange(2)).entries]
    for settings, head_learns in ((OWN, True), (OWN.model_copy(update={"picture": 0.0, "structure": 0.0}), False)):
        torch.manual_seed(0)
        student = Student(teacher.channels, 4, skips=False)
        features, picture = student(images, prompts)
        loss_of(features, targets, picture, images, settings).backward()
        for name, weight in student.named_parameters():
            moves = weight.grad is not None and bool(weight.grad.abs().max() > 0)
            if name.startswith(("picture", "decoder.3")):
                assert moves is head_learns, name
            elif name.endswith("key.bias"):
                continue  # it shifts a whole row of the affinity, which softmax does not see
            else:
                assert moves, name


def test_no_way_leads_around_the_bottleneck_unless_it_is_asked_for(teacher: Teacher):
    images = torch.rand(1, 3, 64, 64)
    for skips in (False, True):
        torch.manual_seed(0)
        student = Student(teacher.channels, 4, skips)
        student.encoder[4].register_forward_hook(lambda module, args, out: torch.zeros_like(out))
        one, _ = student(images, None)
        other, _ = student(1 - images, None)
        assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True)) is skips


# Loss


def test_the_loss_is_the_weighted_sum_of_its_terms_and_nothing_where_all_agree(teacher: Teacher):
    images, picture = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    targets = teacher(images)
    features = [one + 0.1 for one in targets]
    parts = {}
    for term in ("feature", "picture", "structure"):
        alone = OWN.model_copy(update={name: float(name == term) for name in ("feature", "picture", "structure")})
        parts[term] = float(loss_of(features, targets, picture, images, alone))
    assert parts["feature"] == pytest.approx(0.03, rel=1e-3) and min(parts.values()) > 0
    weighted = OWN.model_copy(update={"feature": 2.0, "picture": 3.0, "structure": 0.5})
    expected = 2 * parts["feature"] + 3 * parts["picture"] + 0.5 * parts["structure"]
    assert float(loss_of(features, targets, picture, images, weighted)) == pytest.approx(expected, rel=1e-4)
    assert float(loss_of(targets, targets, images, images, OWN)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_structural_similarity_is_one_of_equals_symmetric_and_at_most_one(channels: int):
    a, b = torch.rand(2, 2, channels, 32, 32)
    assert torch.allclose(ssim(a, a), torch.ones_like(a), atol=1e-4)
    assert torch.allclose(ssim(a, b), ssim(b, a), atol=1e-6)
    assert ssim(a, b).shape == a.shape and ssim(a, b).abs().max() <= 1 + 1e-4


def test_scales_in_the_wrong_order_are_refused(teacher: Teacher):
    images = torch.rand(1, 3, 64, 64)
    targets = teacher(images)
    with pytest.raises(ValueError, match="different shapes"):
        loss_of(targets[::-1], targets, images, images, OWN)
    with pytest.raises(ValueError, match="cannot be compared"):
        cosine_maps(targets[::-1], targets)


# Bank and retrieval


def bank_of(teacher: Teacher, count: int = 5) -> tuple[Bank, list[Tensor]]:
    features = teacher(torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    return Bank.of(features, torch.arange(count)), features


def test_a_window_finds_itself_and_with_its_picture_left_out_never(teacher: Teacher):
    bank, features = bank_of(teacher)
    numbers = torch.arange(5)
    assert torch.equal(bank.nearest(features[-1]), numbers)
    assert torch.allclose((key_of(features[-1]) * bank.keys).sum(dim=1), torch.ones(5), atol=1e-5)
    assert (bank.nearest(features[-1], numbers) != numbers).all()
    assert torch.equal(bank.nearest(7 * features[-1]), numbers), "how strong a query is does not matter"
    lonely = bank.kept(torch.tensor([2]))
    assert lonely.nearest(features[-1], torch.tensor([2] * 5)).tolist() == [0] * 5, "there is nothing else"


def test_prompts_are_one_entry_for_each_window_in_the_teachers_channels(teacher: Teacher):
    bank, _ = bank_of(teacher)
    prompts = bank.prompts(torch.tensor([3, 3]))
    assert [tuple(one.shape[:2]) for one in prompts] == [(2, channels) for channels in teacher.channels]
    assert max(max(one.shape[-2:]) for one in prompts) <= POOLED
    assert torch.equal(prompts[0][0], bank.entries[0][3])


def test_the_bank_is_the_same_each_time_and_covers_every_good_picture():
    pictures = [weave(seed) for seed in range(3)]
    (windows, owners), (again, _) = bank_windows(pictures, 64, 0), bank_windows(pictures, 64, 0)
    assert torch.equal(windows, again) and set(owners.tolist()) == {0, 1, 2}
    assert windows.shape[1:] == (3, 64, 64) and windows.max() <= 1


def test_a_coreset_keeps_distinct_entries_and_a_large_one_all(params: Params, tmp_path, folder):
    assert len(rgpkd.load(folder).bank.keys) == 6
    (tmp_path / "all").mkdir()
    short = params.model_copy(update={"detect": params.detect.model_copy(update={"steps": 1})})
    rgpkd.fit(goods(2), [], short, OWN.model_copy(update={"bank": 10_000}), 0, tmp_path / "all")
    bank = rgpkd.load(tmp_path / "all").bank
    assert len(bank.keys) == len(bank_windows([weave(0), weave(1)], 64, 0)[1])
    assert len(bank.keys.unique(dim=0)) == len(bank.keys)


def test_without_a_bank_the_student_has_no_prompts_in_training_and_later(params: Params, tmp_path):
    short = params.model_copy(update={"detect": params.detect.model_copy(update={"steps": 2})})
    rgpkd.fit(goods(2), goods(1, 10), short, OWN.model_copy(update={"bank": 0}), 0, tmp_path)
    model = rgpkd.load(tmp_path)
    assert model.bank is None and rgpkd.predict(model, weave(5)).shape == (96, 96)


# Prompt module


def test_a_prompt_is_looked_up_by_attention_wherever_its_places_are():
    torch.manual_seed(0)
    prompt, x, p = Prompt(8, 6), noise(2, 8, 8, 8), noise(2, 6, 4, 4, seed=1)
    assert prompt(x, p).shape == x.shape
    affinity = prompt.affinity(x, p)
    assert affinity.shape == (2, 64, 16) and torch.allclose(affinity.sum(dim=-1), torch.ones(2, 64), atol=1e-5)
    order = torch.randperm(16)
    shuffled = p.flatten(2)[:, :, order].view_as(p)
    torch.testing.assert_close(prompt(x, shuffled), prompt(x, p), rtol=1e-4, atol=1e-5)
    added = prompt(x, torch.ones_like(p)) - x
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=1e-4, atol=1e-5)


# Score


def test_equal_features_score_nothing_opposite_ones_most_whatever_their_strength():
    a = noise(2, 5, 8, 8)
    for other, expected in ((a, 0.0), (3 * a, 0.0), (-a, 2.0)):
        torch.testing.assert_close(cosine_maps([a], [other])[0], torch.full((2, 8, 8), expected), atol=1e-5, rtol=0)
    assert summed([torch.ones(1, 4, 4), torch.ones(1, 2, 2)], (16, 16)).eq(2).all()


def test_a_window_scores_the_same_alone_and_in_company(folder):
    model = rgpkd.load(folder)
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = score_maps(model, images), score_maps(model, images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_painted_square_scores_highest_inside_and_maps_have_the_pictures_size(folder):
    model = rgpkd.load(folder)
    image, mask = weave(20), box_mask((40, 30, 60, 50), 96, 96)
    image[mask] = (200, 40, 40)
    scores = rgpkd.predict(model, image)
    assert scores.shape == (96, 96) and scores.dtype == np.float32 and scores.min() >= 0
    assert scores[mask].mean() > 1.5 * scores[~mask].mean()
    assert rgpkd.predict(model, weave(3)[:50, :70]).shape == (50, 70)
    smooth = rgpkd.predict(replace(model, smoothing=3.0), image)
    assert smooth.max() < scores.max()


def test_pseudo_anomalies_lie_on_good_val_pictures_and_follow_the_seed():
    sources, val = [weave(0)], goods(3, 10)
    first, again = pseudo_anomalies(sources, val, 1.0, 0), pseudo_anomalies(sources, val, 1.0, 0)
    for (image, mask), (same, _), example in zip(first, again, val, strict=True):
        assert np.array_equal(image, same) and mask.any()
        assert np.array_equal((image != example.image).any(axis=2), mask)


def test_equal_seeds_give_equal_bytes_and_defects_are_not_looked_at(params: Params, folder, tmp_path):
    defect = Example(weave(50) // 2, np.ones((96, 96), bool), False, "hole")
    rgpkd.fit([*goods(4), defect], [*goods(2, 10), defect], params, OWN, 0, tmp_path)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_without_good_pictures_it_refuses_and_without_good_val_ones_it_warns(params: Params, tmp_path):
    defect = Example(weave(50), np.ones((96, 96), bool), False, "hole")
    with pytest.raises(UserError, match="holds no good picture"):
        rgpkd.fit([defect], [], params, OWN, 0, tmp_path)
    short = params.model_copy(update={"detect": params.detect.model_copy(update={"steps": 1})})
    with pytest.warns(UserWarning, match="no good picture: the last weights are kept"):
        rgpkd.fit(goods(1), [], short, OWN, 0, tmp_path)
    assert math.isfinite(float(rgpkd.predict(rgpkd.load(tmp_path), weave(1)).max()))
