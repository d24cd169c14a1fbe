"""The committed settings of the base, cut down to four pairs and two steps a phase."""

import pytest
import yaml

from lib.base.settings import BaseParams
from tests.conftest import ROOT

BRIEF = {"steps": 2, "batch_size": 2, "warmup_steps": 0, "checkpoint_every": 2}


@pytest.fixture(scope="package")
def params() -> BaseParams:
    values = yaml.safe_load((ROOT / "models/base.yaml").read_text(encoding="utf-8"))
    values["pool"]["pairs"] = 4
    for part in ("autoencoder", "sharpening", "decoder", "unet", "lines", "strokes", "windows"):
        values[part] |= BRIEF
    values["strokes"]["pairs"] = values["windows"]["pairs"] = 8
    values["autoencoder"]["width"] = 8
    values["unet"]["channels"] = [16, 16, 16]
    return BaseParams.model_validate(values)
