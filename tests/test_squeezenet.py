import sys

import pytest
import torch
from safetensors.torch import save_file

from lib.squeezenet import CHANNELS, SqueezeNet, main
from tests.conftest import ROOT

REAL = ROOT.parent / "shared/weights/squeezenet1_0/squeezenet1_0.safetensors"


@pytest.fixture(scope="module")
def network() -> SqueezeNet:
    torch.manual_seed(0)
    return SqueezeNet()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 80), (144, 128)])
def test_features_have_four_sizes(network, height, width):
    maps = network(torch.rand(2, 3, height, width))
    expected = [(2, channels, height >> n, width >> n) for n, channels in enumerate(CHANNELS, start=1)]
    assert [tuple(found.shape) for found in maps] == expected


def test_features_lie_over_what_they_describe(network):
    side, middle = 256, 100
    image = torch.full((1, 3, side, side), 0.5)
    dotted = image.clone()
    dotted[:, :, middle - 2 : middle + 2, middle - 2 : middle + 2] = 1
    with torch.inference_mode():
        for level, (plain, changed) in enumerate(zip(network(image), network(dotted), strict=True), start=1):
            changes = (changed - plain).abs().sum(dim=(0, 1, 2))
            centre = (changes * (torch.arange(changes.numel()) + 0.5)).sum() / changes.sum() * 2**level
            assert abs(centre - middle) < 2**level / 2 + 2.5


def test_weights_are_read_by_torchvisions_names_whatever_the_classifier(network, tmp_path):
    file = tmp_path / "squeezenet.safetensors"
    save_file({**network.state_dict(), "classifier.1.weight": torch.zeros(7)}, file)
    other = SqueezeNet.read(file)
    image = torch.rand(1, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(network(image), other(image), strict=True))
    assert {"features.0.weight", "features.12.expand3x3.bias"} <= set(network.state_dict())


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real weights are not at {REAL}")
def test_the_real_weights_know_an_edge_from_an_even_surface():
    network = SqueezeNet.read(REAL)
    even, edge = torch.full((2, 1, 3, 64, 64), 0.3)
    edge[..., 32:] = 0.8
    with torch.inference_mode():
        for plain, parted in zip(network(even), network(edge), strict=True):
            assert parted.isfinite().all()
            width = plain.shape[-1]
            change = (parted - plain).abs().mean(dim=(0, 1, 2))[: width // 2 + 1]
            assert change.argmax() >= width // 2 - 1, "at the edge, not at the far rim of the dark half"


def test_other_files_are_refused_by_their_name(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.safetensors: not found"):
        SqueezeNet.read(tmp_path / "missing.safetensors")
    text, other, wrong = (tmp_path / f"{name}.safetensors" for name in ("text", "other", "wrong"))
    text.write_text("no tensors")
    save_file({"weight": torch.zeros(1)}, other)
    save_file({name: torch.zeros(1) for name in SqueezeNet().state_dict()}, wrong)
    for file in (text, other, wrong):
        with pytest.raises(ValueError, match=f"{file.name}: not the weights of torchvision's squeezenet1_0"):
            SqueezeNet.read(file)


def test_published_weights_become_the_file_that_is_read(network, tmp_path, monkeypatch):
    published, out = tmp_path / "squeezenet.pth", tmp_path / "squeezenet.safetensors"
    torch.save({**network.state_dict(), "classifier.1.bias": torch.zeros(1000)}, published)
    monkeypatch.setattr(sys, "argv", ["squeezenet", str(published), str(out)])
    main()
    read = SqueezeNet.read(out).state_dict()
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("content", [None, b"no weights", b""])
def test_what_torchvision_did_not_publish_is_refused_by_its_name(tmp_path, monkeypatch, capsys, content):
    published = tmp_path / "squeezenet.pth"
    if content is not None:
        published.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["squeezenet", str(published), str(tmp_path / "out.safetensors")])
    with pytest.raises(SystemExit):
        main()
    assert "squeezenet.pth: not the weights" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
