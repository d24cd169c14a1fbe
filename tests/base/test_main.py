"""The recipe as a whole, in small: its two commands make a model that the pipeline loads."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from lib.base import pool
from lib.base.__main__ import main
from lib.core.params import Base
from lib.diffusion.components import load
from tests.commands import run_here
from tests.conftest import ROOT


@pytest.mark.slow
def test_the_two_commands_make_a_model_that_the_pipeline_loads(params, inside: Path, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 2)
    (inside / "models/base").mkdir(parents=True)
    (inside / "models/base.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    for part in ("autoencoder", "unet"):
        monkeypatch.setattr(sys, "argv", ["lib.base", part])
        main()
    parts = load(Base(model="models/base", revision=None, allow_download=False), torch.device("cpu"))
    assert parts.resolution == params.windows.crop and parts.scheduler.config.prediction_type == "v_prediction"
    assert all(torch.isfinite(value).all() for value in parts.unet.parameters())
    assert not list((inside / "models/base").glob("*.tmp-*"))


def test_the_recipe_explains_itself_as_models_dvc_yaml_calls_it():
    command = yaml.safe_load((ROOT / "models/dvc.yaml").read_text(encoding="utf-8"))["stages"]["base"]["cmd"][0]
    program, option, *words = command.split()[:-1]
    assert (program, option) == ("python", "-m")
    done = run_here(ROOT, *words, "--help")
    assert done.returncode == 0 and "{autoencoder,unet}" in done.stdout
