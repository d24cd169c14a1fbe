"""The report: one row for every arm, the right numbers and signs, and no missing number breaks it."""

import csv
import json
import math
from pathlib import Path

import pytest

from lib import plots
from lib.core.images import read_image
from lib.core.params import Params
from lib.core.runtime import write_json, write_text
from lib.report.tables import COLUMNS, markdown, write_report
from tests.category import tiny_params

METRICS = Path("metrics")
# pixel_ap of three seeds; over both categories the seeds' means are 0.5, 0.6, 0.7 without synthesis
VALUES = {
    ("none", "a"): [0.4, 0.5, 0.6],
    ("none", "b"): [0.6, 0.7, 0.8],
    ("mvp_diff", "a"): [0.5, 0.6, 0.7],
    ("mvp_diff", "b"): [0.7, 0.8, 0.9],
}


def write_metrics(undefined: tuple[str, ...] = (), truth: bool = True) -> None:
    """The metrics of two arms on two categories, as the stages before the report leave them."""
    found: dict[str, dict] = {"a": {}, "b": {}}
    for (arm, category), values in VALUES.items():
        seeds = {
            str(seed): {name: None if name in undefined else value for name in COLUMNS}
            for seed, value in enumerate(values)
        }
        of_type = {"mean": {"pixel_ap": values[0] / 8}, "std": {"pixel_ap": 0.0625}}
        if "pixel_ap" in undefined:
            of_type = {"mean": {"pixel_ap": None}, "std": {"pixel_ap": None}}
        found[category][arm] = {"seeds": seeds, "per_type": {"dent": of_type}}
    scores = ("kid", "diversity", "diversity_real", "memorised_share")
    likeness = {name: None if name in undefined else 0.125 for name in scores}
    rejected = {"no visible change": 3}
    gate = {"samples": 12, "acceptance_rate": 0.75, "real_acceptance_rate": 0.9, "rejected": rejected}
    gate["pixels_changed_outside"] = 0
    write_json(METRICS / "detection/unet.json", found)
    write_json(METRICS / "masks/mvp_diff.json", dict.fromkeys(found, gate))
    for category in found:
        curve = METRICS / f"finetune/mvp_diff/{category}/plots/metrics/loss.tsv"
        write_text(curve, "step\tloss\n10\t0.9\n20\t0.5\n")
    write_json(METRICS / "fidelity.json", {"mvp_diff": dict.fromkeys(found, likeness)})
    scores = {"a scratch": {"measured": 0.9, "cosine_rgb_otsu": 0.4, "grey_difference": 0.6}} if truth else {}
    write_json(METRICS / "mask_truth.json", scores)


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    raw = {**raw_params, "generators": ["mvp_diff"], "detectors": ["unet"]}
    return tiny_params(raw, dataset={"categories": ["a", "b"]})


@pytest.fixture
def numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: drawing takes longer than all the rest."""
    for drawing in ("bars", "learning_curve"):
        monkeypatch.setattr(plots, drawing, lambda *args: None)


def cells(table: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows of a Markdown table by their first three cells, then by column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {tuple(line[:3]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


@pytest.mark.usefixtures("numbers_only")
def test_every_arm_has_its_row_and_mean_and_deviation_are_right(params: Params):
    write_metrics()
    rows = cells(write_report(params, METRICS))
    assert list(rows) == [("unet", category, arm) for category in ("a", "b", "all") for arm in ("none", "mvp_diff")]
    assert rows["unet", "a", "none"]["pixel AP"] == "0.500 ± 0.100"
    assert rows["unet", "all", "none"]["pixel AP"] == "0.600 ± 0.100"
    assert rows["unet", "all", "mvp_diff"]["AUPRO"] == "0.700 ± 0.100"


@pytest.mark.usefixtures("numbers_only")
def test_a_difference_is_positive_where_synthesis_helps_and_negative_where_it_harms(params: Params):
    write_metrics()
    write_report(params, METRICS)
    assert "+0.100 [+0.100, +0.100]" in (METRICS / "report/report.md").read_text()
    path = METRICS / "detection/unet.json"
    found = json.loads(path.read_text())
    write_json(path, {name: {"none": arms["mvp_diff"], "mvp_diff": arms["none"]} for name, arms in found.items()})
    write_report(params, METRICS)
    assert "-0.100 [-0.100, -0.100]" in (METRICS / "report/report.md").read_text()


@pytest.mark.usefixtures("numbers_only")
def test_the_summary_has_every_metric_of_every_arm(params: Params):
    write_metrics()
    write_report(params, METRICS)
    tree = json.loads((METRICS / "summary.json").read_text())
    assert sorted(tree) == ["acceptance_rate", "mask_iou", "unet"] and sorted(tree["unet"]) == ["mvp_diff", "none"]
    for arm in tree["unet"].values():
        assert set(arm) == {*COLUMNS, "pixel_ap_std"}
    assert tree["unet"]["none"]["pixel_ap"] == 0.6 and tree["unet"]["none"]["pixel_ap_std"] == 0.1


def test_a_metric_that_is_not_defined_breaks_nothing_and_is_null_in_the_summary(params: Params):
    write_metrics(undefined=("aupro", "pixel_ap", "kid"))
    rows = cells(write_report(params, METRICS))
    assert "nan" not in rows["unet", "a", "none"]["pixel AUROC"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((METRICS / "summary.json").read_text(), parse_constant=refuse)
    assert summary["unet"]["none"]["aupro"] is None and summary["unet"]["none"]["pixel_auroc"] == 0.6
    assert read_image(METRICS / "report/aupro.png").size


@pytest.mark.usefixtures("numbers_only")
def test_one_seed_has_a_mean_and_no_deviation(params: Params):
    write_metrics()
    path = METRICS / "detection/unet.json"
    found = json.loads(path.read_text())
    for arms in found.values():
        for each in arms.values():
            each["seeds"] = {"0": each["seeds"]["0"]}
    write_json(path, found)
    assert cells(write_report(params, METRICS))["unet", "a", "none"]["pixel AP"].startswith("0.400")
    assert json.loads((METRICS / "summary.json").read_text())["unet"]["none"]["pixel_ap_std"] is None


@pytest.mark.usefixtures("numbers_only")
def test_the_page_tells_of_samples_and_masks(params: Params):
    write_metrics()
    write_report(params, METRICS)
    page = (METRICS / "report/report.md").read_text()
    assert "| 75% " in page and "3 no visible change" in page and "0.125" in page
    assert "a scratch" in page and "0.900" in page and "0.400" in page
    assert "metrics/fidelity/mvp_diff/" in page and "metrics/fidelity/none/" not in page


@pytest.mark.usefixtures("numbers_only")
def test_the_page_tells_what_each_defect_type_gains(params: Params):
    write_metrics()
    write_report(params, METRICS)
    page = (METRICS / "report/report.md").read_text()
    [row] = [line for line in page.splitlines() if "| dent " in line and "| b " in line]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["unet", "b", "dent", "0.075 ± 0.062", "0.087 ± 0.062"]


@pytest.mark.filterwarnings("error")
def test_a_data_set_without_twins_says_so(params: Params):
    write_metrics(truth=False)
    write_report(params, METRICS)
    assert "no twins" in (METRICS / "report/report.md").read_text()


@pytest.mark.usefixtures("numbers_only")
def test_the_tables_for_plots_hold_every_arm_and_every_logged_step(params: Params):
    write_metrics()
    write_report(params, METRICS)
    arms = list(csv.DictReader((METRICS / "report/arms.csv").open()))
    assert len(arms) == 4 and arms[0]["arm"] == "none a unet"
    assert all(math.isfinite(float(row["pixel_ap"])) for row in arms)
    files = sorted((METRICS / "report/training").iterdir())
    assert [file.name for file in files] == ["mvp_diff-a.csv", "mvp_diff-b.csv"]
    steps = list(csv.DictReader(files[0].open()))
    assert [(float(row["step"]), float(row["loss"])) for row in steps] == [(10, 0.9), (20, 0.5)]


def test_the_pictures_can_be_opened_and_two_reports_are_equal_byte_for_byte(params: Params):
    write_metrics()
    write_report(params, METRICS)
    pictures = sorted((METRICS / "report").glob("*.png"))
    assert [path.stem for path in pictures] == ["aupro", "pixel_ap", "training"]
    assert all(read_image(path).std() > 1 for path in pictures)
    files = [*sorted(path for path in (METRICS / "report").rglob("*") if path.is_file()), METRICS / "summary.json"]
    first = [path.read_bytes() for path in files]
    write_report(params, METRICS)
    assert [path.read_bytes() for path in files] == first


def test_columns_of_a_table_are_as_wide_as_their_widest_cell():
    assert markdown(["a", "long head"], [["wide cell", "1"]]) == (
        "| a         | long head |\n| --------- | --------- |\n| wide cell | 1         |"
    )
