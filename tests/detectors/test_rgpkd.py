"""RGPKD: unequal partners, a bank that never answers with the picture that asks, and a score that stands alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import write_png
from lib.core.params import Params
from lib.core.records import GOOD, RegionMap
from lib.detectors import rgpkd
from lib.vision.backbones import DEFAULT, load_backbone
from lib.vision.distillation import (
    Bank,
    Encoder,
    Pretrained,
    Prompt,
    Student,
    Teacher,
    cosine_maps,
    score_map,
    total_loss,
)
from lib.vision.examples import Example
from lib.vision.fitting import copied
from lib.vision.reconstruction import ssim
from tests.blobs import BUDGET

DETECT = BUDGET.model_copy(update={"encoder": DEFAULT, "window": 64, "steps": 2, "validate_every": 1, "batch_size": 2})


def cloth(seed: int, side: int = 64) -> np.ndarray:
    """A regular weave with a little noise: (side, side, 3) uint8."""
    rows, columns = np.mgrid[:side, :side]
    weave = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3 + seed)
    noisy = weave[..., None] + np.random.default_rng(seed).normal(0, 4, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def good(count: int, first: int = 0, side: int = 64) -> list[Example]:
    return [Example(cloth(seed, side), None, False, GOOD) for seed in range(first, first + count)]


@pytest.fixture(scope="module")
def params(raw_params) -> Params:
    return Params.model_validate(raw_params | {"detect": DETECT.model_dump()})


@pytest.fixture(scope="module")
def small(raw_params) -> rgpkd.Settings:
    return rgpkd.Settings.model_validate(raw_params["rgpkd"] | {"width": 8, "bank": 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, params, small):
    """A fit of a few steps, with the history beside it."""
    out = tmp_path_factory.mktemp("rgpkd")
    folder.history = rgpkd.fit(good(5), good(2, 5), params, small, 0, out)
    return out


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(load_backbone(DEFAULT))


@pytest.fixture(scope="module")
def bank(teacher) -> Bank:
    return rgpkd.remember(teacher, good(5), DETECT, 5, 0)


def student_for(teacher: Teacher, skips="picture", prompts=True, encoder="teacher") -> Student:
    torch.manual_seed(0)
    own = {
        "teacher": lambda: None,
        "pretrained": lambda: Pretrained(load_backbone(DEFAULT)),
        "scratch": lambda: Encoder(8),
    }
    return Student(teacher.channels, own[encoder](), 8, skips, prompts)


def pictures(count: int, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([cloth(seed, side) for seed in range(count)])).permute(0, 3, 1, 2).float() / 255


# Shapes and freezing


@pytest.mark.parametrize("encoder", ["teacher", "pretrained", "scratch"])
@pytest.mark.parametrize("skips", ["none", "picture", "features"])
@pytest.mark.parametrize("side", [224, 256, 320])
def test_student_and_teacher_have_three_maps_of_equal_shapes_and_the_picture_its_own(teacher, side, skips, encoder):
    image = pictures(1, side)
    _, *targets = seen = teacher(image)
    students, picture = student_for(teacher, skips, encoder=encoder)(image, seen, targets)
    expected = [(1, channels, side // stride, side // stride) for channels, stride in ((24, 4), (40, 8), (112, 16))]
    assert [tuple(x.shape) for x in targets] == [tuple(x.shape) for x in students] == expected
    assert picture.shape == image.shape and picture.min() > 0 and picture.max() < 1


def test_sides_that_are_no_multiples_of_32_are_refused(teacher, params, small, tmp_path):
    with pytest.raises(ValueError, match=r"200 x 256 px.* multiples of 32"):
        student_for(teacher, prompts=False)(torch.zeros(1, 3, 256, 200), [], None)
    odd = params.model_copy(update={"detect": DETECT.model_copy(update={"window": 48})})
    with pytest.raises(UserError, match=r"detect\.window: rgpkd needs a multiple of 32"):
        rgpkd.fit(good(2), good(1), odd, small, 0, tmp_path)


def test_the_teacher_stays_as_photographs_taught_it_and_gets_no_gradient(params, small):
    teacher, student = rgpkd._untrained(params, small, 0)
    bank = rgpkd.remember(teacher, good(4), DETECT, 3, 0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    list(rgpkd._training(rgpkd.Model(teacher.train(), student, bank, small, 64, 1.0), good(4), DETECT, 0))
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    published = load_backbone(DEFAULT).state_dict()
    assert all(torch.equal(value, published[name]) for name, value in teacher.backbone.state_dict().items())


@pytest.mark.parametrize("encoder", ["teacher", "pretrained", "scratch"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 0)])
def test_student_and_prompts_learn_and_the_head_of_the_picture_from_the_picture_alone(teacher, weights, encoder):
    image, student = pictures(2), student_for(teacher, encoder=encoder)
    _, *targets = seen = teacher(image)
    students, picture = student(image, seen, targets)
    total_loss(targets, students, image, picture, "cosine", weights).backward()
    head = {id(weight) for part in (student.picture_up, student.picture_out) for weight in part.parameters()}
    trained = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {name for name, _ in student.named_children()}
    for name, weight in trained.items():
        if id(weight) in head and weights[1:] == (0, 0):
            assert weight.grad is None, name
        else:
            shifts_a_softmax = name.endswith("phi.bias")  # by the same for all positions: a gradient of nothing
            assert shifts_a_softmax or weight.grad.abs().max() > 0, name


def test_a_pretrained_encoder_goes_on_slowly_from_what_it_knows(params, small):
    for encoder, rates in (("teacher", [0.003]), ("pretrained", [0.003, 0.0003]), ("scratch", [0.003])):
        settings = small.model_copy(update={"encoder": encoder, "learning_rate": 0.003, "encoder_rate": 0.1})
        teacher, student = rgpkd._untrained(params, settings, 0)
        groups = rgpkd._groups(student, settings)
        assert [group["lr"] for group in groups] == pytest.approx(rates)
        trained = [id(weight) for group in groups for weight in group["params"]]
        assert sorted(trained) == sorted(map(id, student.parameters()))
        assert all(weight.requires_grad for weight in student.parameters())
        assert not {id(weight) for weight in teacher.parameters()} & set(trained)


@pytest.mark.parametrize("encoder", ["teacher", "scratch"])
@pytest.mark.parametrize("skips", ["none", "picture", "features"])
def test_nothing_of_a_picture_goes_around_the_deepest_map_into_what_is_compared(teacher, skips, encoder):
    student = student_for(teacher, skips, encoder=encoder)
    student.deepest = torch.nn.Identity()  # shut: the same map, whatever the picture
    student.deepest.forward = lambda e4: torch.ones(len(e4), 64, e4.shape[2] // 2, e4.shape[3] // 2)
    image = pictures(2)
    seen = teacher(image)
    entries = [x[:1].expand_as(x) for x in seen[1:]]
    students, picture = student(image, seen, entries)
    parted = [bool((x[0] - x[1]).abs().max() > 1e-4) for x in (*students, picture)]
    assert parted == [skips == "features"] * 3 + [skips != "none"]


# Loss


def test_the_loss_is_the_weighted_sum_of_its_terms_and_a_weight_of_0_removes_one():
    torch.manual_seed(0)
    targets, students = ([torch.randn(2, c, n, n) for c, n in ((4, 8), (6, 4), (8, 2))] for _ in range(2))
    image, picture = torch.rand(2, 2, 3, 32, 32)
    for distance, features in (
        ("mse", sum(((s - f) ** 2).mean() for s, f in zip(students, targets, strict=True))),
        ("cosine", sum((1 - torch.cosine_similarity(s, f)).mean() for s, f in zip(students, targets, strict=True))),
    ):
        terms = [features, ((picture - image) ** 2).mean(), 1 - ssim(picture, image).mean()]
        for weights in ((1, 1, 1), (2, 0.5, 3), (0, 1, 1), (1, 0, 1), (1, 1, 0)):
            loss = total_loss(targets, students, image, picture, distance, weights)
            torch.testing.assert_close(loss, sum(w * term for w, term in zip(weights, terms, strict=True)))
        for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
            assert total_loss(targets, targets, image, image, distance, weights).abs() < 1e-5


def test_a_loss_without_any_term_is_refused(small):
    with pytest.raises(ValidationError, match="must be above 0"):
        rgpkd.Settings.model_validate(small.model_dump() | {"feature_weight": 0, "picture_weight": 0, "ssim_weight": 0})


def test_scales_in_another_order_raise_instead_of_being_broadcast():
    targets = [torch.randn(1, c, n, n) for c, n in ((4, 8), (6, 4), (8, 2))]
    with pytest.raises(ValueError, match="cannot be compared"):
        cosine_maps(targets, targets[::-1])
    flat = [torch.randn(1, 4, 1, 1), *targets[1:]]
    with pytest.raises(ValueError, match="cannot be compared"):
        total_loss(targets, flat, torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "mse", (1, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_structural_similarity_is_1_for_equals_symmetric_and_has_a_gradient(channels):
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, channels, 24, 30)
    torch.testing.assert_close(ssim(a, a), torch.ones_like(a))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    assert ssim(a, b).shape == a.shape and ssim(a, b).abs().max() <= 1 + 1e-5 and ssim(a, 1 - a).mean() < 0
    a.requires_grad_()
    ssim(a, b).mean().backward()
    assert a.grad.abs().max() > 0 and a.grad.isfinite().all()


def test_structural_similarity_is_that_of_its_formula_in_a_uniform_window():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 1, 11, 11)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    alike = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    scale = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var(correction=0) + b.var(correction=0) + 9e-4)
    torch.testing.assert_close(ssim(a, b)[0, 0, 5, 5], alike / scale)


def test_picture_and_target_share_their_range(monkeypatch, params, small):
    """Both lie in [0, 1], and the target is the window itself, not what a backbone makes of it."""
    seen = []

    def watched(targets, students, image, picture, *rest):
        seen.append([x.item() for x in (image.min(), image.max(), picture.min(), picture.max())])
        return total_loss(targets, students, image, picture, *rest)

    monkeypatch.setattr(rgpkd, "total_loss", watched)
    teacher, student = rgpkd._untrained(params, small, 0)
    bank = rgpkd.remember(teacher, good(4), DETECT, 3, 0)
    list(rgpkd._training(rgpkd.Model(teacher, student, bank, small, 64, 1.0), good(4), DETECT, 0))
    for low, high, rebuilt_low, rebuilt_high in seen:
        assert 0.1 < low < 0.4 and 0.5 < high <= 1 and rebuilt_low > 0 and rebuilt_high < 1


# Bank and retrieval


def test_a_bank_has_an_entry_for_every_window_and_twice_the_same(teacher, bank):
    assert len(bank.keys) == 5 and bank.owners.tolist() == [0, 1, 2, 3, 4]
    assert [tuple(x.shape) for x in bank.entries] == [(5, 24, 16, 16), (5, 40, 8, 8), (5, 112, 4, 4)]
    again = rgpkd.remember(teacher, good(5), DETECT, 5, 0).tensors()
    assert all(torch.equal(again[name], value) for name, value in bank.tensors().items())
    large = rgpkd.remember(teacher, good(2, side=128), DETECT, 100, 0)
    assert large.owners.tolist() == [0] * 4 + [1] * 4, "four tiles each"


def test_entries_are_the_teachers_maps_of_the_pictures_as_they_are(teacher, bank):
    for n, maps in enumerate(zip(*bank.entries, strict=True)):
        for entry, expected in zip(maps, teacher(pictures(5)[n : n + 1])[1:], strict=True):
            torch.testing.assert_close(entry.float(), expected[0], atol=1e-2, rtol=2e-3)


def test_what_is_stored_finds_itself_and_with_its_picture_excluded_never(teacher, bank):
    deepest, own = teacher(pictures(5))[-1], torch.arange(5)
    assert bank.nearest(deepest).tolist() == own.tolist()
    for scale in (1e-3, 50):
        assert bank.nearest(scale * deepest).tolist() == own.tolist()
    torch.testing.assert_close((rgpkd.key_of(deepest) * bank.keys).sum(dim=1), torch.ones(5))
    assert (bank.nearest(deepest, exclude=own) != own).all()


def test_an_answer_is_one_entry_for_each_picture_with_its_three_maps(teacher, bank):
    numbers = bank.nearest(teacher(pictures(3))[-1])
    assert numbers.shape == (3,) and not numbers.is_floating_point()
    assert [tuple(x.shape) for x in bank.fetch(numbers)] == [(3, 24, 16, 16), (3, 40, 8, 8), (3, 112, 4, 4)]


def test_in_training_no_window_gets_an_entry_of_its_own_picture(monkeypatch, params, small):
    asked = []

    def watched(self, deepest, exclude=None):
        numbers = nearest(self, deepest, exclude)
        asked.append((exclude, self.owners[numbers]))
        return numbers

    nearest = Bank.nearest
    monkeypatch.setattr(Bank, "nearest", watched)
    teacher, student = rgpkd._untrained(params, small, 0)
    bank = rgpkd.remember(teacher, good(4), DETECT, 4, 0)
    model = rgpkd.Model(teacher, student, bank, small, 64, 1.0)
    list(rgpkd._training(model, good(4), DETECT.model_copy(update={"steps": 4}), 0))
    assert len(asked) == 4 and all((owners != pictures).all() for pictures, owners in asked)
    rgpkd.predict(model, cloth(0))
    assert asked[-1][0] is None and asked[-1][1].tolist() == [0], "in use a picture may find its like"


def test_a_coreset_keeps_as_many_distinct_entries_as_asked_for(teacher):
    for size in (2, 3, 5, 9):
        bank = rgpkd.remember(teacher, good(5), DETECT, size, 0)
        assert len(bank.owners.unique()) == len(bank.keys) == min(size, 5)


def test_a_bank_of_one_picture_is_refused_and_none_is_a_mode_of_its_own(params, small, tmp_path):
    with pytest.raises(UserError, match=r"rgpkd\.bank: all of its entries are of one picture"):
        rgpkd.fit(good(1), good(1), params, small, 0, tmp_path)
    rgpkd.fit(good(1), good(1), params, small.model_copy(update={"bank": 0}), 0, tmp_path)
    model = rgpkd.load(tmp_path)
    assert model.bank is None and len(model.student.prompts) == 0
    assert rgpkd.predict(model, cloth(3)).shape == (64, 64)


def test_a_student_with_prompts_refuses_to_go_without_and_one_without_refuses_them(teacher):
    image = pictures(1)
    seen = teacher(image)
    for prompts, entries in ((True, None), (False, seen[1:])):
        with pytest.raises(ValueError, match="needs bank entries"):
            student_for(teacher, prompts=prompts)(image, seen, entries)


def test_a_model_comes_back_as_it_was_with_its_bank_and_needs_its_backbone_no_more(
    tiny_backbone, tmp_path, params, small
):
    out = tmp_path / "out"
    out.mkdir()
    detect = DETECT.model_copy(update={"encoder": str(tiny_backbone), "scale": 0.5})
    rgpkd.fit(good(4, side=128), good(2), params.model_copy(update={"detect": detect}), small, 0, out)
    tiny_backbone.rename(tiny_backbone.with_name("elsewhere"))
    model, weights = rgpkd.load(out), load_file(out / "model.safetensors")
    assert (model.window, model.scale, model.settings) == (64, 0.5, small)
    assert all(torch.equal(value, weights[f"bank.{name}"]) for name, value in model.bank.tensors().items())
    assert rgpkd.predict(model, cloth(0, 100)).shape == (100, 100)


def test_a_bank_of_another_category_is_refused(folder, tmp_path, params, small):
    (tmp_path / "other").mkdir()
    rgpkd.fit(
        [Example(255 - one.image, None, False, GOOD) for one in good(4)], good(1), params, small, 0, tmp_path / "other"
    )
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(tmp_path / "other/model.safetensors", mixed)
    with pytest.raises(UserError, match="holds another bank"):
        rgpkd.load(mixed)


# Prompt module


@pytest.fixture
def prompt() -> Prompt:
    torch.manual_seed(0)
    module = Prompt(12, 7, 6)
    torch.nn.init.normal_(module.gate)
    return module


def test_a_prompt_keeps_the_shape_and_its_affinities_sum_to_1(prompt):
    x, p = torch.randn(2, 12, 8, 6), torch.randn(2, 7, 5, 4)
    assert prompt(x, p).shape == x.shape
    rows = prompt.affinity(x, p)
    assert rows.shape == (2, 48, 20) and (rows >= 0).all()
    torch.testing.assert_close(rows.sum(dim=2), torch.ones(2, 48))


def test_a_constant_entry_adds_the_same_everywhere_and_its_positions_have_no_order(prompt):
    x = torch.randn(2, 12, 8, 6)
    added = prompt(x, torch.randn(2, 7, 1, 1).expand(2, 7, 5, 4)) - x
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), atol=1e-5, rtol=1e-4)
    p = torch.randn(2, 7, 20)
    shuffled = p[..., torch.randperm(20)]
    torch.testing.assert_close(prompt(x, p.unflatten(2, (5, 4))), prompt(x, shuffled.unflatten(2, (5, 4))))
    assert (prompt(x, p.unflatten(2, (5, 4))) - prompt(x, p.flip(0).unflatten(2, (5, 4)))).abs().max() > 1e-3


def test_large_entries_are_pooled(prompt, monkeypatch):
    seen = []
    monkeypatch.setattr(prompt, "affinity", lambda x, p: seen.append(p.shape) or Prompt.affinity(prompt, x, p))
    assert prompt(torch.randn(1, 12, 64, 64), torch.randn(1, 7, 64, 64)).shape == (1, 12, 64, 64)
    assert seen == [(1, 7, 32, 32)]


# Score


def test_equal_features_score_0_opposite_ones_most_and_their_scale_says_nothing():
    torch.manual_seed(0)
    targets, students = ([torch.randn(2, c, n, n) for c, n in ((4, 8), (6, 4), (8, 2))] for _ in range(2))

    def scores(students, weights=(1, 1, 1)):
        return score_map(targets, students, (32, 32), weights)

    assert scores(targets).abs().max() < 1e-5
    torch.testing.assert_close(scores([-x for x in targets]), torch.full((2, 32, 32), 6.0))
    scaled = [x * factor for x, factor in zip(students, (0.1, 5, 30), strict=True)]
    torch.testing.assert_close(scores(scaled), scores(students))
    alone = [scores(students, weights) for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    torch.testing.assert_close(scores(students, (3, 0.5, 2)), 3 * alone[0] + 0.5 * alone[1] + 2 * alone[2])
    for distance, f, s in zip(cosine_maps(targets, students), targets, students, strict=True):
        unit = torch.nn.functional.normalize(f, dim=1) - torch.nn.functional.normalize(s, dim=1)
        torch.testing.assert_close(distance, unit.square().sum(dim=1) / 2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 150), (130, 61)])
def test_a_map_has_the_size_of_its_picture(folder, height, width):
    scores = rgpkd.predict(rgpkd.load(folder), np.full((height, width, 3), 90, np.uint8))
    assert scores.shape == (height, width) and scores.dtype == np.float32 and scores.min() >= 0


def test_a_windows_score_does_not_depend_on_those_beside_it(folder):
    model = rgpkd.load(folder)
    windows = np.stack([cloth(0), 255 - cloth(1), np.zeros((64, 64, 3), np.uint8), cloth(2)])
    together = rgpkd.scores_of(model, windows)
    for n in range(4):
        np.testing.assert_allclose(rgpkd.scores_of(model, windows[n : n + 1])[0], together[n], atol=1e-4)
    np.testing.assert_allclose(rgpkd.scores_of(model, windows[::-1].copy())[::-1], together, atol=1e-4)


def test_the_difference_of_the_pictures_counts_as_much_as_is_asked_for(folder):
    model = rgpkd.load(folder)
    window = cloth(0)[None]
    maps = [
        rgpkd.scores_of(
            rgpkd.Model(model.teacher, model.student, model.bank, settings, model.window, model.scale), window
        )
        for settings in (model.settings.model_copy(update={"picture_score": weight}) for weight in (0, 1, 2))
    ]
    np.testing.assert_allclose(maps[2] - maps[0], 2 * (maps[1] - maps[0]), atol=1e-4)
    assert (maps[1] - maps[0]).min() > -1e-4 and (maps[1] - maps[0]).max() > 0.01


def test_scales_count_by_their_weights_and_maps_are_smoothed_as_asked_for(folder):
    model, window = rgpkd.load(folder), cloth(0)[None]

    def scores(*weights: float) -> np.ndarray:
        settings = model.settings.model_copy(update={"scale_weights": weights, "picture_score": 0.0})
        return rgpkd.scores_of(replace(model, settings=settings), window)

    fine, middle, coarse = scores(1, 0, 0), scores(0, 1, 0), scores(0, 0, 1)
    assert min(np.abs(one - other).max() for one, other in ((fine, middle), (middle, coarse))) > 0.01
    np.testing.assert_allclose(scores(3, 0.5, 2), 3 * fine + 0.5 * middle + 2 * coarse, atol=1e-4)
    for smoothing in (0.0, 1.5):
        settings = model.settings.model_copy(update={"smoothing": smoothing})
        assert rgpkd.sight(replace(model, settings=settings)).smoothing == smoothing


@pytest.mark.slow
def test_a_painted_square_scores_highest_after_a_short_training(tmp_path, params, small):
    detect = DETECT.model_copy(update={"steps": 40, "validate_every": 20, "batch_size": 4})
    rgpkd.fit(good(8), good(3, 8), params.model_copy(update={"detect": detect}), small, 0, tmp_path)
    model, image, mask = rgpkd.load(tmp_path), cloth(20, 96), box_mask((50, 30, 70, 50), 96, 96)
    image[mask] = (60, 70, 160)
    scores = rgpkd.predict(model, image)
    places = [scores[y : y + 20, x : x + 20].mean() for y in range(0, 77, 4) for x in range(0, 77, 4)]
    assert scores[mask].mean() > 2 * scores[~mask].mean() and scores[mask].mean() > 0.9 * max(places)


# Training and selection


def test_equal_seeds_end_in_equal_bytes_and_other_seeds_in_others(folder, tmp_path, params, small):
    written = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        torch.manual_seed(seed + 7)
        rgpkd.fit(good(5), good(2, 5), params, small, seed, tmp_path / str(seed))
        written.append((tmp_path / str(seed) / "model.safetensors").read_bytes())
    assert written[0] == (folder / "model.safetensors").read_bytes() != written[1]


def test_the_weights_are_those_of_the_best_validation_on_pseudo_anomalies(tmp_path, params, small, monkeypatch):
    kept, scores = [], iter([0.2, 0.5, 0.3])

    def scored(*_):
        kept.append(copied(student[0]))
        return next(scores)

    student = []
    untrained = rgpkd._untrained

    def watched(*args):
        networks = untrained(*args)
        student.append(networks[1])
        return networks

    monkeypatch.setattr(rgpkd, "_untrained", watched)
    monkeypatch.setattr(rgpkd, "average_precision", scored)
    longer = params.model_copy(update={"detect": DETECT.model_copy(update={"steps": 3})})
    history = rgpkd.fit(good(4), good(2, 5), longer, small, 0, tmp_path)
    assert history.curves["pixel AP of pseudo anomalies on val"] == [(1, 0.2), (2, 0.5), (3, 0.3)]
    weights = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, weights[f"student.{name}"]) for name, value in kept[1].items())


def test_pixels_that_never_count_have_no_part_in_the_selection(tmp_path, params, small, monkeypatch):
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[:, :32] = (255, 0, 0)
    regions = RegionMap((tmp_path / "regions.png").as_posix(), write_png(tmp_path / "regions.png", picture))
    asked = []
    monkeypatch.setattr(
        rgpkd, "average_precision", lambda scores, truth: asked.append((scores.size, truth.size)) or 0.5
    )
    rgpkd.fit(good(5), [replace(one, regions=regions) for one in good(2, 5)], params, small, 0, tmp_path)
    assert set(asked) == {(rgpkd.PSEUDO * 64 * 32,) * 2}


def test_real_defects_neither_train_nor_select(folder, tmp_path, params, small):
    defect = Example(255 - cloth(0), box_mask((0, 0, 30, 30), 64, 64), False, "stain")
    rgpkd.fit([*good(5), defect], [defect, *good(2, 5)], params, small, 0, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_pseudo_anomalies_are_windows_of_good_pictures_with_exact_masks():
    plain = Example(np.full((90, 70, 3), 100, np.uint8), None, False, GOOD)
    images, masks, counting = rgpkd.pseudo_anomalies([plain], DETECT, 0)
    assert images.shape == (rgpkd.PSEUDO, 64, 64, 3) and masks.shape == images.shape[:3]
    assert np.array_equal(masks, (images != 100).any(axis=3)) and masks.any(axis=(1, 2)).all() and counting.all()
    again, *_ = rgpkd.pseudo_anomalies(good(2), DETECT, 0)
    assert np.array_equal(again, rgpkd.pseudo_anomalies(good(2), DETECT, 0)[0])


def test_without_good_pictures_to_learn_from_or_to_select_on_it_says_so(tmp_path, params, small):
    defect = Example(cloth(0), box_mask((0, 0, 30, 30), 64, 64), False, "stain")
    with pytest.raises(UserError, match="no good picture to learn from"):
        rgpkd.fit([defect], good(1), params, small, 0, tmp_path)
    with pytest.warns(UserWarning, match="val part holds no good picture"):
        history = rgpkd.fit(good(3), [defect], params, small, 0, tmp_path)
    assert history.curves["pixel AP of pseudo anomalies on val"] == []
    blind = params.model_copy(update={"detect": BUDGET.model_copy(update={"window": 64})})
    with pytest.raises(UserError, match="learns nothing without features"):
        rgpkd.fit(good(3), good(1), blind, small, 0, tmp_path)


def test_what_it_wrote_is_weights_with_the_bank_and_one_page_of_json(folder, small):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == small.model_dump(mode="json") and (config["window"], config["scale"]) == (64, 1.0)
    parts = {name.split(".")[0] for name in load_file(folder / "model.safetensors")}
    assert parts == {"teacher", "student", "bank"}
