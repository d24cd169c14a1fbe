"""The estimate of time: more work takes longer, and a machine is compared with that of the figures."""

from collections import Counter

import pytest
import yaml

from lib.budget import pace, seconds
from lib.core.params import Params, methods
from tests.conftest import ROOT

COUNTS = Counter(train=8, val=7, test=18)
RAW = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def total(**changes: dict) -> float:
    values = {
        section: {**knobs, **changes.get(section, {})} if isinstance(knobs, dict) else changes.get(section, knobs)
        for section, knobs in RAW.items()
    }
    return sum(seconds(Params.model_validate(values), COUNTS, 5, 0.26).values())


@pytest.mark.parametrize(
    "more",
    [
        {"detect": {"steps": 1000}},
        {"detect": {"window": 256}},
        {"detect": {"seeds": [0, 1, 2, 3]}},
        {"detect": {"batch_size": 16}},
        {"unet": {"encoder_rate": 0.1}},
        {"finetune": {"steps": 400}},
        {"placements": {"per_type": 100}},
        {"generators": [*RAW["generators"], "dmgr"]},
        {"detectors": [*RAW["detectors"], "rgpkd"]},
    ],
)
def test_more_work_takes_longer(more: dict):
    assert total(**more) > total()


def test_smaller_pictures_take_less():
    assert total(detect={"scale": 0.25}) < total()


def test_every_generator_has_its_figures():
    from lib.budget import PAINT, STEP

    assert STEP.keys() == PAINT.keys() == set(methods("generators"))


def test_the_pace_of_a_machine_is_a_positive_number():
    assert 0 < pace() < 1000
