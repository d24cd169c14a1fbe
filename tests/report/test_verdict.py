"""The headline: help, harm or neither in plain words, with the figures and what they rest on."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib.core.params import Params
from lib.report.scores import COLUMNS, SELDOM, differences, read_scores
from lib.report.verdict import harvest, headline, verdict
from tests.category import tiny_params
from tests.report.test_tables import METRICS, write_detection

SEEDS = [0.5, 0.6, 0.7]
BASIS = "3 seeds, 7 test pictures, one split."


def told(params: Params, perlin: list[float], dmgr: list[float] | None = None, **undefined: tuple[str, ...]) -> str:
    seeds = SEEDS[: len(perlin)]
    values = {(arm, "a"): seeds for arm in ("none", "placebo")} | {
        ("perlin", "a"): perlin,
        ("dmgr", "a"): dmgr or seeds,
    }
    write_detection(values, **undefined)
    scores = read_scores(params, METRICS / "detection")
    return headline(differences(params, scores), scores, 7)


@pytest.fixture
def two(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["perlin", "dmgr"], "detectors": ["unet"]}
    return tiny_params(raw, dataset={"categories": ["a"]}, detect={"on_synthetic": ["unet"]})


def test_without_an_effect_that_seeds_do_not_explain_the_best_arm_is_told(two: Params):
    assert told(two, [0.52, 0.62, 0.72], [0.51, 0.61, 0.71]) == (
        "No proven help. Best: perlin +0.020 pixel AP (0.600 to 0.620); other seeds alone move it by up to 0.200 in "
        "19 of 20 runs. " + BASIS
    )


def test_help_and_harm_are_told_with_their_figures(two: Params):
    text = told(two, [0.9, 0.95, 0.99], [0.1, 0.2, 0.3])
    assert text.startswith("Help beyond chance: perlin +0.347 pixel AP (0.600 to 0.947); other seeds alone move it by ")
    assert " Harm beyond chance: dmgr -0.400 pixel AP (0.600 to 0.200); " in text and text.endswith(BASIS)
    assert "No proven help" not in text and "Best" not in text
    assert "With 2 arms, chance alone shows a gain in up to 5 of 100 runs." in text  # 2.5 each


def test_harm_alone_is_no_best_arm(two: Params):
    text = told(two, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert text.startswith("No proven help. Harm beyond chance: ") and text.count("Harm") == 2 and "Best" not in text


def test_one_seed_and_an_undefined_metric_give_no_verdict(two: Params):
    assert told(two, [0.6], [0.5]) == (
        "No verdict: one seed does not tell an effect from chance. Best: perlin +0.100 pixel AP (0.500 to 0.600). "
        "1 seed, 7 test pictures, one split."
    )
    assert told(two, SEEDS, undefined=("pixel_ap",)) == "No verdict: pixel AP is not defined in every arm."


def test_without_a_detector_that_learns_from_defects_the_verdict_says_so():
    none = pd.DataFrame({"metric": [], "arm": [], "verdict": []})
    assert headline(none, none, 7).startswith("No detector learns from synthetic")


def counted(accepted: dict[str, int], samples: int, real: float | None = None) -> dict[str, Any]:
    return {
        "accepted": sum(accepted.values()),
        "samples": samples,
        "accepted_per_type": accepted,
        "real_acceptance_rate": real,
        "real_too_small": {},
    }


def test_a_generator_tells_what_passed_which_types_lack_samples_and_what_is_copied():
    gates = {"perlin": {"nut": counted({"dent": 3, "crack": 2}, 17, 0.5)}, "mvp": {"nut": counted({"dent": 5}, 5, 0.5)}}
    memorised = {"perlin": {"nut": 0.37, "slab": 0.1}, "mvp": {"nut": None}}
    assert harvest(gates, memorised).splitlines() == [
        "- perlin: 5 of 17 samples accepted; fewer than 3 of nut crack (2); copies of real defects (memorised): "
        "37% in nut",
        "- mvp: 5 of 5 samples accepted",
    ]


def test_where_the_gate_refuses_most_real_defects_too_it_is_said():
    gates = {
        name: {
            "nut": counted({"dent": 5}, 5, 0.4),
            "slab": counted({"dent": 5}, 5),
            "tile": counted({"dent": 4}, 5, 0.9),
        }
        for name in ("perlin", "mvp")
    }
    *lines, caution = harvest(gates, {"perlin": {}, "mvp": {}}).splitlines()
    assert len(lines) == 2 and caution.startswith("- the gate accepts few real defects of nut (40%), each compared")


def test_real_defects_that_are_too_small_for_the_gate_are_named_once():
    gates = {name: {"nut": counted({"pit": 5}, 5) | {"real_too_small": {"pit": 2}}} for name in ("perlin", "mvp")}
    *lines, caution = harvest(gates, {"perlin": {}, "mvp": {}}).splitlines()
    assert len(lines) == 2 and caution.endswith("gate.min_area, as which no sample passes: nut pit (2)")


def test_an_arm_without_samples_is_no_arm_that_helps_or_counts(two: Params):
    told(two, SEEDS, SEEDS)
    scores = read_scores(two, METRICS / "detection")
    contrasts = differences(two, scores, [("dmgr", "a")])
    assert "Best: perlin" in headline(contrasts, scores, 7)
    assert set(contrasts[contrasts["arm"] == "dmgr"]["verdict"]) == {"no samples"}
    assert contrasts[contrasts["arm"] == "dmgr"]["equal_arms"].isna().all(), "no range is drawn for what is no arm"
    lines = verdict(contrasts).splitlines()
    assert "- unet, dmgr: no sample was accepted, so that this arm is real defects alone once more" in lines
    count = len(COLUMNS) - len(SELDOM)
    assert lines[-1].startswith(f"Over all metrics, 0 of {count} differences of generators"), "those of one generator"
    none = headline(differences(two, scores, [("dmgr", "a"), ("perlin", "a")]), scores, 7)
    assert none == "No verdict: no synthetic sample was accepted, so that every arm is real defects alone."


def test_a_placebo_beyond_its_range_tells_that_ranges_are_narrow(two: Params):
    told(two, SEEDS)
    scores = read_scores(two, METRICS / "detection")
    scores.loc[scores["arm"] == "placebo", "value"] += 0.9
    line = next(line for line in verdict(differences(two, scores)).splitlines() if "placebo" in line)
    assert "more than the spread over seeds explains (up to 0.227): ranges from so few seeds are too narrow" in line
