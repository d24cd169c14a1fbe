"""Missed defects: thirds by size, and the list of those that the fewest trainings find."""

from pathlib import Path

import pandas as pd
import pytest

from lib.core.params import Params
from lib.core.runtime import write_text
from lib.report.missed import FOUND, LISTED, most_missed, read_found, sizes_table
from tests.category import tiny_params

FOLDER = Path("metrics/detection")


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["perlin"], "detectors": ["unet", "patchcore"]}
    return tiny_params(raw, dataset={"categories": ["a"]}, detect={"on_synthetic": ["unet"]})


def write_found(params: Params, found: dict[str, list[str]], kind: str = "dent") -> None:
    """What the seeds of each arm of `unet` found of defects of 10, 20, 30, ... pixels; `patchcore` finds nothing."""
    for detector in params.detectors:
        for arm in params.arms(detector):
            rows = [
                f"00{n},{kind},{10 * n + 10},{','.join(of if detector == 'unet' else '0' * len(of))}"
                for n, of in enumerate(found[arm])
            ]
            head = ",".join(["picture", "type", "area", *(f"seed-{n}" for n in range(len(found[arm][0])))])
            write_text(FOLDER / detector / "a" / arm / FOUND, "\n".join([head, *rows, ""]))


def test_small_middle_and_large_defects_are_told_apart(params: Params):
    write_found(params, {"none": ["00"] * 2 + ["01"] * 2 + ["11"] * 2, "placebo": ["11"] * 6, "perlin": ["10"] * 6})
    table = sizes_table(read_found(params, FOLDER))
    assert table.columns.tolist() == ["detector", "category", "size", "px", "none", "placebo", "perlin"]
    assert table["detector"].tolist() == ["unet"] * 3 + ["patchcore"] * 3, "in the order of params.yaml"
    unet = table[table["detector"] == "unet"]
    assert unet.drop(columns=["detector", "category"]).to_numpy().tolist() == [
        ["small", "10 to 20", "100%", "0%", "50%"],
        ["middle", "30 to 40", "50%", "0%", "50%"],
        ["large", "50 to 60", "0%", "0%", "50%"],
    ]
    others = table[table["detector"] == "patchcore"]
    assert (others["none"] == "100%").all() and (others["perlin"] == "-").all()


@pytest.mark.parametrize("kind", ["NA", "null", "None"])
def test_a_type_may_have_a_name_that_pandas_takes_for_nothing(params: Params, kind: str):
    write_found(params, {arm: ["00"] * 3 for arm in ("none", "placebo", "perlin")}, kind)
    assert most_missed(read_found(params, FOLDER))["type"].tolist() == [kind] * 3


def test_the_list_begins_with_what_is_missed_most_and_names_who_finds_it(params: Params):
    write_found(params, {"none": ["11", "00", "11"], "placebo": ["11", "00", "01"], "perlin": ["11", "00", "11"]})
    found = read_found(params, FOLDER)
    table = most_missed(found)
    assert table["picture"].tolist() == ["001", "002", "000"], "names that look like numbers stay as they are"
    assert table["missed"].tolist() == ["100%", "50%", "40%"]
    assert table["best"].tolist() == ["-", "unet none, 100%", "unet none, 100%"]
    assert most_missed(found.assign(found=1.0)).empty
    many = pd.concat([found.assign(picture=found["picture"] + str(n)) for n in range(LISTED)])
    assert len(most_missed(many)) == LISTED
