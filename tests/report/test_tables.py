"""The report: one row for every arm, the right numbers, signs and verdicts, and no missing number breaks it."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.core.images import read_image
from lib.core.params import Params
from lib.core.records import Sample, write_records
from lib.core.runtime import write_json, write_text
from lib.report.cells import markdown
from lib.report.missed import FOUND
from lib.report.scores import (
    COLUMNS,
    RESAMPLED,
    SELDOM,
    differences,
    over_categories,
    over_pictures,
    read_scores,
    spread,
)
from lib.report.tables import read_evidence, write_report
from lib.report.tradeoff import LEVELS
from lib.report.verdict import verdict
from tests.category import tiny_params

METRICS = Path("metrics")
METRICS_TOLD = [name for name in COLUMNS if name not in SELDOM]  # by detectors that tell no types apart
PAGE = METRICS / "report/report.md"
# pixel_ap of three seeds; over both categories the seeds' means are 0.5, 0.6, 0.7 without synthesis
VALUES = {
    ("none", "a"): [0.4, 0.5, 0.6],
    ("none", "b"): [0.6, 0.7, 0.8],
    ("placebo", "a"): [0.6, 0.4, 0.5],
    ("placebo", "b"): [0.6, 0.8, 0.7],
    ("mvp_diff", "a"): [0.5, 0.6, 0.7],
    ("mvp_diff", "b"): [0.7, 0.8, 0.9],
}
GATE = {
    "samples": 14,
    "accepted": 10,
    "accepted_per_type": {"dent": 10},
    "acceptance_rate": 0.714286,
    "real_acceptance_rate": 0.9,
    "real_too_small": {},
    "rejected": {"no visible change": 3},
    "failed": 1,
    "failures": {"no candidate fits": 1},
    "masks": "known",
    "pixels_changed_outside": 0,
}


def write_detection(values: dict[tuple[str, str], list[float]], undefined: tuple[str, ...] = ()) -> None:
    """Metrics of all arms with `unet`, of the arms without synthesis with `patchcore`; a placebo's seeds are others."""
    scores: dict[str, dict] = {category: {} for _, category in values}
    for (arm, category), of_seeds in values.items():
        first = 1000 if arm == "placebo" else 9  # 9, 10, 11: no alphabetic order
        seeds = {
            str(first + rank): {name: None if name in undefined else value for name in METRICS_TOLD}
            for rank, value in enumerate(of_seeds)
        }
        of_type = {"mean": {"pixel_ap": of_seeds[0] / 8}, "std": {"pixel_ap": 0.0625}}
        if "pixel_ap" in undefined:
            of_type = {"mean": {"pixel_ap": None}, "std": {"pixel_ap": None}}
        scores[category][arm] = {"seeds": seeds, "per_type": {"dent": of_type}}
    write_json(METRICS / "detection/unet.json", scores)
    without = {name: {arm: arms[arm] for arm in ("none", "placebo")} for name, arms in scores.items()}
    write_json(METRICS / "detection/patchcore.json", without)
    for arm, category in values:
        write_resamples("unet", category, arm, [0.0, 0.0])
        if arm in ("none", "placebo"):
            write_resamples("patchcore", category, arm, [0.0, 0.0])


def write_resamples(detector: str, category: str, arm: str, gains: list[float]) -> None:
    """Pixel AP and image AUROC of as many resamples of the test part as there are gains, one defect and levels."""
    write_text(METRICS / f"detection/{detector}/{category}/{arm}/{FOUND}", "picture,type,area,a,b,c\nq,dent,9,0,1,0\n")
    levels = "picture,defect,seed-0,seed-1,seed-2\nq,1,0.5,0.75,0.5\ng,0,0.25,0.5,0.75\n"
    write_text(METRICS / f"detection/{detector}/{category}/{arm}/{LEVELS}", levels)
    rows = "".join(f"{0.5 + gain:.6f},{0.6 + gain:.6f}\n" for gain in gains)
    write_text(METRICS / f"detection/{detector}/{category}/{arm}/{RESAMPLED}", f"pixel_ap,image_auroc\n{rows}")


def good(category: str, number: int) -> Sample:
    """Good pictures of both parts, in turns."""
    split = ("train", "test")[number % 2]
    return Sample(f"good-{number}", category, "good", "", None, str(number), split, (8, 8), "")


def write_metrics(undefined: tuple[str, ...] = (), truth: bool = True) -> None:
    """The metrics of a generator, on two categories, as the stages before the report leave them."""
    write_detection(VALUES, undefined)
    for category in "ab":
        write_records(Path(f"data/prepared/{category}/samples.jsonl"), [good(category, n) for n in range(4)])
    numbers = ("kernel_distance", "diversity", "diversity_real", "memorised_share")
    likeness = {name: None if name in undefined else 0.125 for name in numbers}
    write_json(METRICS / "masks/mvp_diff.json", dict.fromkeys("ab", GATE))
    for category in "ab":
        curve = METRICS / f"finetune/mvp_diff/{category}/plots/metrics/loss.tsv"
        write_text(curve, "step\tloss\n10\t0.9\n20\t0.5\n")
    write_json(METRICS / "fidelity.json", {"mvp_diff": dict.fromkeys("ab", likeness)})
    ious = {"a scratch": {"measured": 0.9, "cosine_rgb_otsu": 0.4, "grey_difference": 0.6}} if truth else {}
    write_json(METRICS / "mask_truth.json", ious)


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["mvp_diff"], "detectors": ["unet", "patchcore"]}
    return tiny_params(raw, dataset={"categories": ["a", "b"]}, detect={"on_synthetic": ["unet"]})


@pytest.fixture
def numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: drawing takes longer than all the rest."""
    for drawing in ("bars", "learning_curve", "trade_offs"):
        monkeypatch.setattr(plots, drawing, lambda *args: None)


def cells(text: str, heading: str = "", keys: int = 3) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of the first table below a heading by their first cells, then by column."""
    lines = text[text.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return {tuple(line[:keys]): dict(zip(table[0], line, strict=True)) for line in table[2:]}


def report_of(params: Params) -> str:
    """Write the report; what a terminal shows."""
    return write_report(params, METRICS, read_evidence(params, METRICS))


def arms(params: Params, heading: str = "## All metrics") -> dict[tuple[str, ...], dict[str, str]]:
    """Write the report; the rows of one of its tables of arms."""
    report_of(params)
    return cells(PAGE.read_text(encoding="utf-8"), heading)


def contrasts_of(params: Params, values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """`differences` of these values of `unet`."""
    write_detection(values)
    return differences(params, read_scores(params, METRICS / "detection"))


@pytest.mark.usefixtures("numbers_only")
def test_differences_have_their_interval_over_test_pictures(params: Params):
    write_metrics()
    write_resamples("unet", "a", "mvp_diff", [0.1, 0.3])
    contrasts = over_pictures(
        params, differences(params, read_scores(params, METRICS / "detection")), METRICS / "detection"
    )
    rows = contrasts.set_index(["detector", "metric", "arm"])
    # Of the mean over categories, 0.05 and 0.15, the quantiles of two values lie between them.
    low, high = rows.loc[("unet", "pixel_ap", "mvp_diff"), ["pictures_low", "pictures_high"]]
    assert (low, high) == (pytest.approx(0.05 + 0.025 * 0.1), pytest.approx(0.15 - 0.025 * 0.1))
    assert rows.loc[("unet", "image_auroc", "placebo"), "pictures_high"] == 0
    assert rows.loc[("unet", "aupro", "mvp_diff"), ["pictures_low", "pictures_high"]].isna().all(), "not resampled"
    report_of(params)
    shown = cells((METRICS / "report/report.md").read_text(encoding="utf-8"), "## Difference", 3)
    assert shown["unet", "pixel AP", "mvp_diff"]["test pictures"] == "[+0.053, +0.148]"
    assert shown["unet", "AUPRO", "mvp_diff"]["test pictures"] == "-"


def test_a_resample_is_hard_or_easy_for_both_arms_and_their_difference_does_not_know_it(params: Params):
    write_metrics()
    for category in "ab":
        write_resamples("unet", category, "none", [0.0, 0.3, -0.2])
        write_resamples("unet", category, "mvp_diff", [0.1, 0.4, -0.1])
    contrasts = differences(params, read_scores(params, METRICS / "detection"))
    rows = over_pictures(params, contrasts, METRICS / "detection").set_index(["detector", "metric", "arm"])
    bounds = rows.loc[("unet", "pixel_ap", "mvp_diff"), ["pictures_low", "pictures_high"]]
    assert bounds.tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.usefixtures("numbers_only")
def test_types_that_a_detector_tells_apart_have_their_columns_and_table(params: Params):
    write_metrics()
    assert "mIoU of types" not in report_of(params), "nobody tells types apart"
    file = METRICS / "detection/unet.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    for category in told.values():
        for arm in category.values():
            for seed in arm["seeds"].values():
                seed |= {"type_miou": 0.25, "type_accuracy": 0.75, "box_map50": 0.5, "box_map": 0.125}
            for of_type in arm["per_type"].values():
                of_type["mean"]["type_iou"], of_type["std"]["type_iou"] = 0.5, 0.0
    write_json(file, told)
    rows = arms(params)
    assert rows["unet", "a", "none"]["mIoU of types"] == "0.250 ± 0.000"
    assert rows["unet", "a", "none"]["box mAP50"] == "0.500 ± 0.000"
    assert rows["patchcore", "a", "none"]["type accuracy"] == "-"
    page = (METRICS / "report/report.md").read_text(encoding="utf-8")
    table = cells(page, "## IoU by defect type", 3)
    assert {row["none"] for row in table.values()} == {"0.500 ± 0.000"} and {key[0] for key in table} == {"unet"}


@pytest.mark.usefixtures("numbers_only")
def test_every_arm_has_its_row_and_mean_and_deviation_are_right(params: Params):
    write_metrics()
    rows = arms(params)
    expected = {"unet": ("none", "placebo", "mvp_diff"), "patchcore": ("none", "placebo")}
    assert list(rows) == [
        (detector, category, arm)
        for detector, names in expected.items()
        for category in ("a", "b", "all categories")
        for arm in names
    ]
    assert list(rows["unet", "a", "none"])[3:] == [COLUMNS[metric] for metric in METRICS_TOLD]
    assert rows["unet", "a", "none"]["pixel AP"] == "0.500 ± 0.100"
    assert rows["unet", "all categories", "none"]["pixel AP"] == "0.600 ± 0.100"
    assert rows["unet", "all categories", "mvp_diff"]["AUPRO"] == "0.700 ± 0.100"


@pytest.mark.usefixtures("numbers_only")
def test_iou_stands_at_the_best_threshold_of_test_and_at_that_of_val(params: Params):
    write_metrics()
    file = METRICS / "detection/unet.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    for seed in told["a"]["none"]["seeds"].values():
        seed |= {"pixel_iou_max": 0.5, "pixel_iou_at_val_threshold": 0.25}
    write_json(file, told)
    row = arms(params)["unet", "a", "none"]
    assert (row["pixel IoU-max"], row["pixel IoU at val"]) == ("0.500 ± 0.000", "0.250 ± 0.000")
    note = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "IoU-max are taken at the threshold that suits the test part best" in note


def test_seeds_are_averaged_over_categories_by_their_rank_before_their_spread_is_taken(params: Params):
    write_detection(VALUES)
    scores = read_scores(params, METRICS / "detection")
    none = scores.query("detector == 'unet' and category == 'a' and arm == 'none' and metric == 'aupro'")
    assert none["value"].tolist() == [0.4, 0.5, 0.6] and none["seed"].tolist() == [0, 1, 2], "9 before 10 before 11"
    table = spread(over_categories(scores))
    placebo = table.loc["unet", "all categories", "placebo", "pixel_ap"]
    assert placebo["mean"] == pytest.approx(0.6) and placebo["std"] == pytest.approx(0), "0.6 of every rank"


@pytest.mark.usefixtures("numbers_only")
def test_a_difference_is_positive_where_synthesis_helps_and_negative_where_it_harms(params: Params):
    write_metrics()
    report_of(params)
    row = cells(PAGE.read_text(), "## Difference")["unet", "pixel AP", "mvp_diff"]
    assert (row["difference"], row["pairs"]) == ("+0.100", "[+0.100, +0.100]")
    swapped = {"none": "mvp_diff", "mvp_diff": "none", "placebo": "placebo"}
    write_detection({(swapped[arm], category): values for (arm, category), values in VALUES.items()})
    report_of(params)
    row = cells(PAGE.read_text(), "## Difference")["unet", "pixel AP", "mvp_diff"]
    assert (row["difference"], row["pairs"]) == ("-0.100", "[-0.100, -0.100]")


def test_pairs_of_equal_seeds_that_agree_make_no_effect_as_long_as_other_seeds_change_as_much(params: Params):
    table = contrasts_of(params, VALUES)
    row = table.query("detector == 'unet' and metric == 'pixel_ap' and arm == 'mvp_diff'").iloc[0]
    assert row["low"] > 0 and row["verdict"] == "within"
    half = 2.178813 * math.sqrt(2 * 0.1**2 / 3 / 2)  # 12 degrees of freedom: 3 arms, 2 categories, 3 seeds
    assert row["equal_arms"] == pytest.approx(half, abs=1e-5)


@pytest.mark.parametrize("effect", [0.15, -0.35])
def test_a_gain_or_a_harm_that_no_seed_explains_is_beyond(params: Params, effect: float):
    gain = {(arm, c): [v + effect * (arm == "mvp_diff") for v in values] for (arm, c), values in VALUES.items()}
    table = contrasts_of(params, gain).set_index(["detector", "metric", "arm"])
    assert table.loc[("unet", "aupro", "mvp_diff"), "verdict"] == "beyond"
    assert table.loc[("unet", "aupro", "placebo"), "verdict"] == "within"


def test_arms_that_are_equal_to_the_last_digit_are_within_although_nothing_scatters(params: Params):
    rows = contrasts_of(params, {key: [0.5, 0.5, 0.5] for key in VALUES})
    assert set(rows[rows["metric"] == "pixel_ap"]["verdict"]) == {"within"}


def test_a_category_without_samples_adds_nothing_to_what_chance_does(params: Params):
    """There the arm is `none` under another name: its seeds' spread would hide a gain in the other category."""
    same = VALUES | {("mvp_diff", "a"): VALUES["none", "a"]}
    write_detection(same)
    table = differences(params, read_scores(params, METRICS / "detection"), [("mvp_diff", "a")])
    row = table.query("detector == 'unet' and metric == 'pixel_ap' and arm == 'mvp_diff'").iloc[0]
    half = 2.446912 * math.sqrt(2 * 0.1**2 / 3) / 2  # of category b alone: 6 degrees of freedom, half the difference
    assert row["equal_arms"] == pytest.approx(half, abs=1e-5) and row["verdict"] == "within"


def test_a_generator_that_fails_changes_no_verdict_on_another_one(inside: Path, raw_params: dict):
    raw = {**raw_params, "generators": ["mvp_diff", "perlin"], "detectors": ["unet"]}
    both = tiny_params(raw, dataset={"categories": ["a", "b"]}, detect={"on_synthetic": ["unet"]})
    tables = []
    for wild in ([0.5, 0.5, 0.5], [0.0, 1.0, 0.0]):
        table = contrasts_of(both, VALUES | {("perlin", "a"): wild, ("perlin", "b"): wild})
        tables.append(table[table["arm"] != "perlin"])
    pd.testing.assert_frame_equal(*tables)


def test_of_equal_arms_five_in_a_hundred_are_said_to_differ(params: Params):
    """Over drawn runs, with a category that scatters ten times as much as the other one."""
    write_detection(VALUES)
    scores = read_scores(params, METRICS / "detection")
    scale = np.where(scores["category"] == "a", 0.1, 0.01)
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(25):
        draw = scores.assign(value=0.5 + scale * rng.normal(size=len(scores)))  # every metric is a draw of its own
        verdicts += differences(params, draw)["verdict"].tolist()
    assert len(verdicts) == 25 * 3 * len(METRICS_TOLD) and np.mean(
        [word == "beyond" for word in verdicts]
    ) == pytest.approx(0.05, abs=0.025)


@pytest.mark.parametrize(
    ("change", "sentence", "pairs"),
    [
        (
            lambda v: v + 0.15,
            "pixel AP +0.250, more than other seeds alone move it by (up to 0.126)",
            "[+0.250, +0.250]",
        ),
        (
            lambda v: v,
            "pixel AP +0.100, no more than other seeds alone move it by (up to 0.126)",
            "[+0.100, +0.100]",
        ),
    ],
)
def test_the_verdict_is_one_sentence_for_each_arm(
    params: Params, change: Callable[[float], float], sentence: str, pairs: str
):
    runs = {k: [change(v) if k[0] == "mvp_diff" else v for v in values] for k, values in VALUES.items()}
    lines = verdict(contrasts_of(params, runs)).splitlines()
    assert lines[0] == f"- unet, mvp_diff: {sentence}; pairs of seeds {pairs}"
    check = "placebo (chance check: the same arm under other seeds)"
    told = [line.split(": pixel")[0] for line in lines[:3]]
    assert told == ["- unet, mvp_diff", f"- unet, {check}", f"- patchcore, {check}"], "generators first"
    beyond = len(METRICS_TOLD) if ", more than" in sentence else 0
    assert f"{beyond} of {len(METRICS_TOLD)} differences" in lines[-1] and "about 1 of" in lines[-1], (
        "the placebo is not counted"
    )


def test_one_seed_and_an_undefined_metric_have_no_verdict(params: Params):
    table = contrasts_of(params, {key: values[:1] for key, values in VALUES.items()})
    assert set(table["verdict"]) == {"-"}
    assert "mvp_diff: pixel AP +0.100, no verdict: one seed" in verdict(table)
    write_detection(VALUES, undefined=("pixel_ap",))
    table = differences(params, read_scores(params, METRICS / "detection"))
    assert set(table.query("metric == 'pixel_ap'")["verdict"]) == {"-"}
    assert "mvp_diff: pixel AP is not defined" in verdict(table)
    assert f"0 of {len(METRICS_TOLD) - 1} differences" in verdict(table)


@pytest.mark.usefixtures("numbers_only")
def test_the_text_report_opens_with_the_headline_and_counts_the_test_pictures(params: Params):
    write_metrics()
    terminal = report_of(params)
    first = PAGE.read_text(encoding="utf-8").split("\n\n")[1]
    assert first == terminal.split("\n\n")[0] and first.startswith("No proven help. Best: mvp_diff +0.100 pixel AP")
    assert first.endswith("3 seeds, 4 test pictures, one split."), "two of each category"


@pytest.mark.usefixtures("numbers_only")
def test_the_summary_has_every_metric_of_every_arm(params: Params):
    write_metrics()
    report_of(params)
    tree = json.loads((METRICS / "summary.json").read_text())
    assert sorted(tree) == ["acceptance_rate", "mask_iou", "patchcore", "unet"]
    assert sorted(tree["unet"]) == ["mvp_diff", "none", "placebo"] and sorted(tree["patchcore"]) == ["none", "placebo"]
    for arm in tree["unet"].values():
        assert set(arm) == {*METRICS_TOLD, "pixel_ap_std"}
    assert tree["unet"]["none"]["pixel_ap"] == 0.6 and tree["unet"]["none"]["pixel_ap_std"] == 0.1
    assert tree["acceptance_rate"] == {"mvp_diff": 0.7143}


def test_a_metric_that_is_not_defined_breaks_nothing_and_is_null_in_the_summary(params: Params):
    write_metrics(undefined=("aupro", "pixel_ap", "kernel_distance", "memorised_share"))
    rows = arms(params)
    assert rows["unet", "a", "none"]["AUPRO"] == "-" and "nan" not in PAGE.read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((METRICS / "summary.json").read_text(), parse_constant=refuse)
    assert summary["unet"]["none"]["aupro"] is None and summary["unet"]["none"]["pixel_auroc"] == 0.6
    assert read_image(METRICS / "plots/pictures/aupro.png").size


def test_a_value_that_one_seed_lacks_is_not_averaged_away(params: Params):
    write_detection(VALUES)
    path = METRICS / "detection/unet.json"
    scores = json.loads(path.read_text())
    scores["a"]["none"]["seeds"]["10"]["aupro"] = None
    write_json(path, scores)
    table = read_scores(params, METRICS / "detection")
    assert spread(table).loc["unet", "a", "none", "aupro"].isna().all()
    assert spread(over_categories(table)).loc["unet", "all categories", "none", "aupro"].isna().all()
    rows = differences(params, table).query("detector == 'unet' and metric == 'aupro'")
    assert set(rows["verdict"]) == {"-"}


@pytest.mark.usefixtures("numbers_only")
def test_one_seed_has_a_mean_and_no_deviation(params: Params):
    write_metrics()
    write_detection({key: values[:1] for key, values in VALUES.items()})
    assert arms(params)["unet", "a", "none"]["pixel AP"] == "0.400"
    row = cells(PAGE.read_text(), "## Difference")["unet", "pixel AP", "mvp_diff"]
    assert [row[name] for name in ("difference", "equal arms", "verdict")] == ["+0.100", "-", "-"]
    assert json.loads((METRICS / "summary.json").read_text())["unet"]["none"]["pixel_ap_std"] is None


@pytest.mark.usefixtures("numbers_only")
def test_every_request_has_an_outcome_and_the_table_says_where_masks_come_from(params: Params):
    write_metrics()
    report_of(params)
    row = cells(PAGE.read_text(), "## Synthetic samples", keys=2)["mvp_diff", "b"]
    outcomes = [row[name] for name in ("requests", "accepted", "rejected", "failed")]
    assert outcomes == ["14", "10 (71%)", "3", "1"]
    assert row["rejected or failed because"] == "3 no visible change; 1 no candidate fits"
    assert (row["masks"], row["real ones accepted"], row["memorised"]) == ("known", "90%", "12%")
    write_json(METRICS / "masks/mvp_diff.json", dict.fromkeys("ab", GATE | {"failed": 0}))
    with pytest.raises(ValueError, match="mvp_diff, a: 14 requests, 13 with an outcome"):
        report_of(params)


@pytest.mark.usefixtures("numbers_only")
def test_the_page_tells_of_masks_and_pictures(params: Params):
    write_metrics()
    report_of(params)
    page = PAGE.read_text()
    row = cells(page, "## Masks", keys=1)[("a scratch",)]
    assert list(row.values())[1:] == ["0.900", "0.400", "0.600"]
    assert "metrics/fidelity/mvp_diff/" in page and "metrics/fidelity/none/" not in page


@pytest.mark.usefixtures("numbers_only")
def test_the_page_tells_what_each_defect_type_gains(params: Params):
    write_metrics()
    report_of(params)
    rows = cells(PAGE.read_text(), "## Pixel AP by defect type")
    assert list(rows["unet", "b", "dent"].values())[3:] == ["0.075 ± 0.062", "0.075 ± 0.062", "0.087 ± 0.062"]
    assert rows["patchcore", "b", "dent"]["mvp_diff"] == "-", "learns from good pictures alone"


@pytest.mark.filterwarnings("error")
def test_a_data_set_without_twins_says_so(params: Params):
    write_metrics(truth=False)
    report_of(params)
    assert "no twins" in PAGE.read_text()


@pytest.mark.usefixtures("numbers_only")
def test_the_tables_for_plots_hold_every_arm_and_every_logged_step(params: Params):
    write_metrics()
    report_of(params)
    arms = list(csv.DictReader((METRICS / "plots/arms.csv").open()))
    assert len(arms) == 6 + 4 and arms[0] == {"arm": "none a unet", "pixel_ap": "0.5"}
    files = sorted((METRICS / "plots/training").iterdir())
    assert [file.name for file in files] == ["mvp_diff-a.csv", "mvp_diff-b.csv"]
    steps = list(csv.DictReader(files[0].open()))
    assert [(float(row["step"]), float(row["loss"])) for row in steps] == [(10, 0.9), (20, 0.5)]
    verdicts = list(csv.DictReader((METRICS / "report/differences.csv").open()))
    assert len(verdicts) == len(METRICS_TOLD) * (2 + 1) and {row["verdict"] for row in verdicts} == {"within"}


def test_the_pictures_can_be_opened_and_two_reports_are_equal_byte_for_byte(params: Params):
    write_metrics()
    report_of(params)
    pictures = sorted((METRICS / "plots/pictures").glob("*.png"))
    assert [path.stem for path in pictures] == ["alarms", "aupro", "pixel_ap", "training"]
    assert all(read_image(path).std() > 1 for path in pictures)
    written = [path for name in ("report", "plots") for path in (METRICS / name).rglob("*") if path.is_file()]
    files = [*sorted(written), METRICS / "summary.json"]
    first = [path.read_bytes() for path in files]
    report_of(params)
    assert [path.read_bytes() for path in files] == first


def test_cells_of_a_table_stay_as_they_are_written():
    table = markdown(pd.DataFrame({"a": ["wide cell", "0.500"], "long head": ["1", "+0.100"]}))
    assert table.splitlines()[2:] == ["| wide cell | 1           |", "| 0.500     | +0.100      |"]
