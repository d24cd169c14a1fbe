"""Shared fixtures. `lib` comes before torch: it sets what torch's threads read once."""

import lib  # noqa: F401  isort: skip

import os

# Files of tests that run side by side share the cores; before torch, which reads it once.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

from pathlib import Path

import pytest
import yaml
from hypothesis import settings

os.environ.setdefault("ACCELERATE_USE_CPU", "1")  # tests promise equal bits, which a GPU does not

settings.register_profile("blemish", deadline=None)  # a busy machine may take long over one example
settings.load_profile("blemish")

ROOT = Path(__file__).resolve().parents[1]
# Files that take minutes, the longest one first.
LONG = ["tests/test_chain.py", "tests/test_machines.py", "tests/test_methods.py", "tests/test_inputs.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first, so that no worker is left alone with one of them at the end."""
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.location[0], len(order)))


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in an empty folder, where relative outputs and unfinished work can do no harm."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def raw_params() -> dict:
    """The committed params.yaml as plain data, to be changed by a test and validated again."""
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny random components in the layout of Stable Diffusion inpainting."""
    from lib.diffusion.components import save
    from tests.tiny import tiny_components

    folder = tmp_path_factory.mktemp("base")
    save(tiny_components(folder / "tokens"), folder / "model")
    return folder / "model"


@pytest.fixture
def tiny_backbone(tmp_path: Path) -> Path:
    """A folder with a tiny random ResNet of two stages, at strides 4 and 8, as `detect.encoder` may name one."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path / "backbone"
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    return folder
