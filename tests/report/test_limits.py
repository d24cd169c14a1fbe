"""The limits that the page names are those by which the gate refuses."""

import pytest

from lib.core.params import Params
from lib.labels.gate import RELATIVE, _reason
from lib.report.limits import Limit, described, limits, titled
from tests.category import tiny_params

MARGIN = 0.01
FINE = {"contrast": 50.0, "area": 100.0, "fill": 0.5, "outside": 0.0, "clipped": 0.0, "grain": 1.0}
FINE |= dict.fromkeys(RELATIVE, 1.0)


@pytest.fixture
def params(raw_params: dict) -> Params:
    return tiny_params(raw_params)


def test_every_score_of_the_gate_is_described(params: Params):
    assert set(limits(params.gate)) == set(FINE)


@pytest.mark.parametrize("name", sorted(FINE))
def test_the_gate_refuses_just_beyond_a_limit_and_not_before(params: Params, name: str):
    limit = limits(params.gate)[name]
    assert _reason(FINE, params.gate) is None
    if limit.least is not None:
        assert _reason(FINE | {name: limit.least * (1 + MARGIN)}, params.gate) is None
        assert _reason(FINE | {name: limit.least * (1 - MARGIN)}, params.gate)
    elif limit.most is not None:
        assert _reason(FINE | {name: limit.most * (1 - MARGIN)}, params.gate) is None
        assert _reason(FINE | {name: limit.most * (1 + MARGIN) + MARGIN}, params.gate)
    else:
        assert _reason(FINE | {name: 1.0}, params.gate) is None


def test_axes_name_unit_and_limit_and_an_unknown_score_keeps_its_name(params: Params):
    bounds = limits(params.gate)
    assert titled("thickness", bounds) == "thickness, x the thickest real one (at most 2.00)"
    assert titled("size", bounds) == "size, x the smallest real area (at least 0.33)"
    assert titled("clipped", bounds) == "clipped, of the mask pure black or white"
    assert titled("new", bounds) == "new"
    assert described({"a": Limit("px", 0, most=0)}) == {"a": {"unit": "px", "digits": 0, "most": 0}}
