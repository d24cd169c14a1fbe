"""What a line stops for: misses and false alarms of 100, their changes and verdicts, and what few pictures tell."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from lib.core.params import Params
from lib.core.records import Sample, write_records
from lib.core.runtime import write_json
from lib.report.line import Sizes, line_table, on_the_line, sizes_of_test
from lib.report.scores import differences, read_json, read_scores
from tests.category import tiny_params
from tests.report.test_tables import METRICS, write_detection

Rates = Mapping[
    str, tuple[list[float], Sequence[float | None]]
]  # by arm: shares of defects found and of false alarms, by seed
SAME = ([0.9, 0.8, 1.0], [0.25, 0.5, 0.0])


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["perlin"], "detectors": ["unet"]}
    return tiny_params(raw, dataset={"categories": ["a"]}, detect={"on_synthetic": ["unet"]})


def write_rates(rates: Rates, categories: str = "a", defects: int = 15, good: int = 3, of_group: int = 1) -> None:
    """Metrics of `unet` with these shares, on a test part of so many pictures of each category, `of_group` a part."""
    write_detection({(arm, category): [0.5, 0.5, 0.5] for arm in rates for category in categories})
    told = read_json(METRICS / "detection/unet.json")
    for category in categories:
        for arm, (found, false) in rates.items():
            for seed, *shares in zip(told[category][arm]["seeds"].values(), found, false, strict=True):
                seed |= dict(zip(("defects_alarmed", "good_alarmed"), shares, strict=True))
        names = ["dent"] * defects + ["good"] * good
        samples = [
            Sample(f"{n}", category, name, "", None, str(n // of_group), "test", (8, 8), "")
            for n, name in enumerate(names)
        ]
        write_records(Path(f"data/prepared/{category}/samples.jsonl"), samples)
    write_json(METRICS / "detection/unet.json", told)


def told(params: Params, of: Callable[[Params, pd.DataFrame, pd.DataFrame], object]) -> object:
    scores = read_scores(params, METRICS / "detection")
    return of(params, scores, differences(params, scores))


def test_rates_are_of_100_and_changes_go_down_where_fewer_are_missed(params: Params):
    write_rates({"none": SAME, "placebo": SAME, "perlin": ([1.0, 1.0, 1.0], [0.25, 0.5, 0.0])})
    table = told(params, line_table)
    assert isinstance(table, pd.DataFrame)
    assert table.columns[0] == "arm", "neither the only detector nor the only category is named"
    none, placebo, perlin = table.to_dict("records")
    assert none == {
        "arm": "none",
        "missed, of 100": "10.0 ± 10.0",
        "change of missed": "-",
        "false alarms, of 100": "25.0 ± 25.0",
        "change of false alarms": "-",
    }
    assert placebo["change of missed"] == "+0.0 within"
    assert (perlin["missed, of 100"], perlin["change of missed"]) == ("0.0 ± 0.0", "-10.0 within")


def test_each_category_follows_the_mean_without_a_verdict(inside: Path, raw_params: dict):
    raw = {**raw_params, "generators": ["perlin"], "detectors": ["unet"]}
    both = tiny_params(raw, dataset={"categories": ["a", "b"]}, detect={"on_synthetic": ["unet"]})
    write_rates({"none": SAME, "placebo": SAME, "perlin": ([0.1] * 3, [1.0] * 3)}, "ab")
    table = told(both, line_table)
    assert isinstance(table, pd.DataFrame)
    rows = table[table["arm"] == "perlin"].set_index("category")["change of missed"]
    assert rows.to_dict() == {"all categories": "+80.0 beyond", "a": "+80.0", "b": "+80.0"}
    assert list(table["category"])[::3] == ["all categories", "a", "b"]
    assert sizes_of_test(both) == {"a": (15, 3, 15, 3), "b": (15, 3, 15, 3)}


def test_the_sentences_name_what_lies_beyond_chance_and_what_few_pictures_leave_open(params: Params):
    write_rates({"none": SAME, "placebo": SAME, "perlin": (SAME[0], [1.0, 1.0, 1.0])})
    text = told(params, on_the_line)
    assert text == (
        "At the thresholds from val: unet with real pictures alone misses 10.0 of 100 pictures with a defect and gives "
        "a false alarm on 25.0 of 100 good ones. Beyond chance: perlin makes it 100.0 false alarms. The test part has "
        "15 pictures with a defect and 3 good ones: even without an error on any of them, up to 18 of 100 defects "
        "could be missed and 63 of 100 good ones be a false alarm (95% bounds)."
    )  # 1 - 0.05 ** (1 / 15) and 1 - 0.05 ** (1 / 3)


def test_bounds_rest_on_parts_and_not_on_pictures_of_the_same_ones(params: Params):
    write_rates({"none": SAME, "placebo": SAME, "perlin": SAME}, of_group=3)
    text = str(told(params, on_the_line))
    assert "15 pictures with a defect and 3 good ones, of 5 and 1 capture groups: even without an error" in text
    assert "up to 45 of 100 defects could be missed and 95 of 100 good ones" in text  # 1 - 0.05 ** (1 / 5), 1 - 0.05


def test_bounds_are_those_of_the_category_with_the_fewest_pictures(inside: Path, raw_params: dict, monkeypatch):
    raw = {**raw_params, "generators": ["perlin"], "detectors": ["unet"]}
    both = tiny_params(raw, dataset={"categories": ["a", "b"]}, detect={"on_synthetic": ["unet"]})
    write_rates({"none": SAME, "placebo": SAME, "perlin": SAME}, "ab")
    sizes = {"a": Sizes(36, 16, 36, 16), "b": Sizes(50, 8, 50, 8)}
    monkeypatch.setattr("lib.report.line.sizes_of_test", lambda params: sizes)
    text = str(told(both, on_the_line))
    assert "86 pictures with a defect and 24 good ones: even without" in text
    assert "up to 8 of 100 defects of a could be missed and 31 of 100 good ones of b be a false alarm" in text


def test_one_seed_tells_no_change(params: Params):
    write_rates({"none": SAME, "placebo": SAME, "perlin": (SAME[0], [0.8, 0.8, 0.8])})
    scores = read_scores(params, METRICS / "detection")
    alone = scores[scores["seed"] == scores["seed"].unique()[0]]
    text = on_the_line(params, alone, differences(params, alone))
    assert "Whether a generator changes either, one seed does not tell." in text and "No generator" not in text


def test_a_placebo_beyond_its_range_is_a_warning_and_no_effect(params: Params):
    write_rates({"none": SAME, "placebo": (SAME[0], [1.0, 1.0, 1.0]), "perlin": SAME})
    text = str(told(params, on_the_line))
    assert "No generator is seen to change either" in text and "But placebo, which differs in its seeds alone" in text


def test_a_test_part_without_good_pictures_has_no_false_alarms_to_tell(params: Params):
    unknown: list[float | None] = [None] * 3
    write_rates(dict.fromkeys(("none", "placebo", "perlin"), (SAME[0], unknown)), good=0)
    table = told(params, line_table)
    assert isinstance(table, pd.DataFrame) and set(table["false alarms, of 100"]) == {"-"}
    assert "on - of 100 good ones" in str(told(params, on_the_line))
