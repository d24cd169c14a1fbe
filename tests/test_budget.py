"""The estimate of time: more work takes longer, and a machine is compared with that of the figures."""

from collections import Counter

import pytest
import yaml

from lib.budget import pace, seconds
from lib.core.params import Params
from lib.proposal import choices, settings_of
from tests.conftest import ROOT
from tests.test_proposal import PLAIN

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
        {"detect": {"validate_every": 10}},
    ],
)
def test_more_work_takes_longer(more: dict):
    assert total(**more) > total()


def test_smaller_pictures_take_less():
    assert total(detect={"scale": 0.25}) < total()


@pytest.mark.parametrize(("kind", "name"), [("generators", "mvp_diff"), ("detectors", "patchcore")])
def test_an_arm_less_takes_less(kind: str, name: str):
    assert total(**{kind: [other for other in RAW[kind] if other != name]}) < total()


@pytest.mark.parametrize("thorough", [False, True])
def test_every_method_that_is_proposed_has_its_figures(thorough: bool):
    assert total(**settings_of(choices(PLAIN, thorough))) > 0


def test_the_run_that_was_measured_takes_as_long_as_it_took():
    """33 photographs of leather, a first look with 100 steps of finetune: 232 processor seconds, of which 40 for it."""
    chosen = settings_of(choices(PLAIN))
    detect, finetune = {**chosen["detect"], "scale": 1.0, "window": 128}, {**chosen["finetune"], "steps": 100}
    measured = {**chosen, "generators": ["cutpaste", "mvp_diff"], "detect": detect, "finetune": finetune}
    assert total(**measured) == pytest.approx(232, rel=0.15)


def test_the_pace_of_a_machine_is_a_positive_number():
    assert 0 < pace() < 1000


def test_a_busy_machine_takes_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    idle = pace()
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 9.0, 9.0), raising=False)
    assert 2 < pace() / idle < 12
