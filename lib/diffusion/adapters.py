"""LoRA adapters in the file format of diffusers: which layers have them, and whether a file is complete."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import nn

from lib.core.errors import UserError

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # all attention projections of a U-Net
UNET_HALVES = ("lora.down.weight", "lora.up.weight")


def adapter_keys(part: str, network: nn.Module, targets: Sequence[str], halves: Sequence[str]) -> set[str]:
    """The keys that a file has for the adapters of a network; part: the network's name in the pipeline."""
    endings = tuple(f".{target}" for target in targets)
    return {f"{part}.{name}.{half}" for name, _ in network.named_modules() if name.endswith(endings) for half in halves}


def check_adapters(file: Path, expected: set[str]) -> None:
    """Raise UserError unless a file has exactly these keys: diffusers would load the others without a warning."""
    with safe_open(file, framework="pt") as weights:
        keys = set(weights.keys())
    if wrong := sorted(expected ^ keys):
        raise UserError(
            f"{file}: {len(expected - keys)} of {len(expected)} weights are missing and {len(keys - expected)} belong "
            f"to no layer of the base, such as {wrong[0]}: the file is damaged, or was made for another base; delete "
            f"the folder and run `dvc repro`"
        )
