"""The layers of SqueezeNet 1.0 (Iandola et al. 2016) up to 1/16 of the picture's size: what natural pictures have in
common, for a network that has few pictures of its own to learn from.

    python -m lib.squeezenet squeezenet1_0-b66bff10.pth squeezenet1_0.safetensors

turns the weights that torchvision publishes (download.pytorch.org/models) into the file that `detect.encoder` names.
"""

import argparse
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lib.core.runtime import write_bytes

CHANNELS = (96, 256, 512, 512)  # of the features at 1/2, 1/4, 1/8 and 1/16
READ = (1, 5, 10, 12)  # the layers that give them, the last of each size
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, which the weights expect


class SqueezeNet(nn.Module):
    """(B, 3, H, W) float in [0, 1], H and W multiples of 16 -> features (B, CHANNELS[i], H / 2^(i+1), W / 2^(i+1)).

    Layers and names are those of torchvision's `squeezenet1_0`. Two of them pad here what they do not pad there, the
    first convolution and the second pooling: so every map's pixels lie over the part of the picture that they
    describe, to within 2.5 of its pixels, where they would drift by 9.5 on the smallest map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, padding=1),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, 64, 256),
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.std
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in READ:
                maps.append(x)
        return maps

    @classmethod
    def read(cls, path: Path) -> "SqueezeNet":
        """With the weights of a safetensors file with torchvision's names; its classifier is not looked at.

        Raises ValueError that names the file where it is missing, is no such file, or is of another network.
        """
        if not path.is_file():
            raise ValueError(f"{path}: not found; expected the weights of torchvision's squeezenet1_0 as safetensors")
        try:
            return cls.of(load_file(path))
        except (SafetensorError, KeyError, RuntimeError) as error:
            hint = "`python -m lib.squeezenet --help` says how they are made"
            raise ValueError(
                f"{path}: not the weights of torchvision's squeezenet1_0 as safetensors ({error}); {hint}"
            ) from error

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "SqueezeNet":
        """With these weights, whatever others are among them. Raises KeyError or RuntimeError where they do not fit."""
        network = cls()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        return network


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and by 3x3 convolutions, side by side."""

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", type=Path, help="the .pth file of torchvision's squeezenet1_0")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    args = parser.parse_args()
    try:
        network = SqueezeNet.of(torch.load(args.published, map_location="cpu", weights_only=True))
    except (OSError, EOFError, pickle.UnpicklingError, KeyError, RuntimeError, TypeError) as error:
        parser.error(f"{args.published}: not the weights of torchvision's squeezenet1_0: {error}")
    write_bytes(args.out, save(network.state_dict()))


if __name__ == "__main__":
    main()
