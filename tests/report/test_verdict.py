"""The headline: help, harm or neither in plain words, with the figures and what they rest on."""

from pathlib import Path

import pandas as pd
import pytest

from lib.core.params import Params
from lib.report.scores import differences, read_scores
from lib.report.verdict import harvest, headline
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
        "No proven help. Best: perlin +0.020 pixel AP (0.600 to 0.620); other seeds alone move it by up to 0.200. "
        + BASIS
    )


def test_help_and_harm_are_told_with_their_figures(two: Params):
    text = told(two, [0.9, 0.95, 0.99], [0.1, 0.2, 0.3])
    assert text.startswith("Help beyond chance: perlin +0.347 pixel AP (0.600 to 0.947); other seeds alone move it by ")
    assert " Harm beyond chance: dmgr -0.400 pixel AP (0.600 to 0.200); " in text and text.endswith(BASIS)
    assert "No proven help" not in text and "Best" not in text


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


def test_a_generator_tells_what_passed_which_types_lack_samples_and_what_is_copied():
    rows = [("perlin", "nut", "dent", 9, 3), ("perlin", "nut", "crack", 8, 2), ("mvp", "nut", "dent", 5, 5)]
    counts = pd.DataFrame(rows, columns=["generator", "category", "type", "asked", "accepted"])
    memorised = {"perlin": {"nut": 0.37, "slab": 0.1}, "mvp": {"nut": None}}
    lines = [
        "- perlin: 5 of 17 samples accepted; fewer than 3 of nut crack (2); copies of real defects (memorised): "
        "37% in nut",
        "- mvp: 5 of 5 samples accepted",
    ]
    assert harvest(counts, memorised, {"nut": 0.5, "slab": None}).splitlines() == lines
    *same, caution = harvest(counts, memorised, {"nut": 0.4, "slab": 0.9}).splitlines()
    assert same == lines and caution.startswith("- the gate accepts few real defects of nut (40%), each compared")
