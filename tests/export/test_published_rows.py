"""The rows of MvP-Diff's published script, and the stages that lead to them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from lib.boxes import mask_boxes
from lib.core.errors import UserError
from lib.core.images import read_image, read_mask
from lib.core.records import DefectBox, Description, Placement, read_records, write_records
from lib.export.published_rows import published_rows
from lib.language import location_of
from lib.placement.random_boxes import place_boxes
from tests.conftest import ROOT
from tests.toy import toy_category


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_category(tmp_path_factory.mktemp("toy"))


def test_published_rows_can_be_read_back_and_name_the_cell_of_their_own_box(toy, tmp_path):
    samples, boxes = toy
    placements = place_boxes(samples, boxes, 5, 0.15, 0)
    rows = published_rows(placements, samples, tmp_path)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    for row, placement in zip(rows, placements, strict=True):
        assert set(row) == {"good", "mask", "text"}
        mask = Path(row["mask"])
        assert mask.parent.name == placement.defect_type and mask.stem == placement.id
        assert set(np.unique(cv2.imread(mask, cv2.IMREAD_UNCHANGED))) == {0, 255}
        height, width = read_image(Path(row["good"])).shape[:2]
        (item,) = mask_boxes(read_mask(mask), 0.0, 1)
        assert item.box == placement.box and location_of(item.box, width, height) in row["text"]


def test_a_placement_on_an_unknown_picture_is_refused_by_name(toy, tmp_path):
    placement = place_boxes(*toy, 1, 0.1, 0)[0]
    with pytest.raises(UserError, match=f"{placement.id}: no sample"):
        published_rows([placement], [], tmp_path)


def params_of_toy(folder):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"]["categories"] = ["toy"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def run(module, folder, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_the_stages_chain_from_prepared_samples_to_published_rows_without_torch(tmp_path):
    samples, _ = toy_category(tmp_path / "pictures")
    params_of_toy(tmp_path)
    write_records(tmp_path / "data/prepared/toy/samples.jsonl", samples)
    (tmp_path / "torch.py").write_text("raise ImportError('a light stage imports torch')\n")
    for stage in ("describe", "boxes", "random_boxes"):
        done = run(f"stages.{stage}", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    done = run("lib.export.published_rows", tmp_path, "--category", "toy", "--out", "rows")
    assert (done.returncode, done.stderr) == (0, "")

    boxes = read_records(tmp_path / "data/boxes/toy.jsonl", DefectBox)
    descriptions = read_records(tmp_path / "data/descriptions/toy.jsonl", Description)
    placements = read_records(tmp_path / "data/placements/toy.jsonl", Placement)
    assert [(b.sample, b.component) for b in boxes] == [(d.sample, d.component) for d in descriptions]
    assert descriptions[0].location == "in the center" and len(descriptions[0].captions) >= 4
    assert len((tmp_path / "rows/rows.jsonl").read_text().splitlines()) == len(placements)


def test_rows_are_not_written_where_a_stage_writes(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages:\n  random_boxes:\n    cmd: x\n    outs:\n    - data/placements\n")
    done = run("lib.export.published_rows", tmp_path, "--category", "toy", "--out", "data/placements/rows")
    assert done.returncode == 2 and "belongs to the stage random_boxes" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_stage_says_in_one_line_what_is_wrong(tmp_path):
    params_of_toy(tmp_path)
    (tmp_path / "data/prepared/toy").mkdir(parents=True)
    (tmp_path / "data/prepared/toy/samples.jsonl").write_text('{"id": 1, "colour": "red"}\n')
    done = run("stages.boxes", tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "samples.jsonl, line 1" in done.stderr and "colour" in done.stderr
