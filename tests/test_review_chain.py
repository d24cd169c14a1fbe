"""Under real DVC: what a person says of samples, or asks for, reruns the stages that it concerns and no others."""

import json
import re
from pathlib import Path

import pytest
import yaml

from lib.core.forms import REQUESTS, REVIEW
from tests.conftest import ROOT
from tests.test_chain import clone, run

pytestmark = pytest.mark.slow

MASKS = "masks@cutpaste"
MANIFEST = "data/masks/cutpaste/hex_nut/manifest.jsonl"


def reran(folder: Path) -> tuple[set[str], str]:
    output = run(folder, "dvc", "repro", MASKS).stdout
    return set(re.findall(r"Running stage '(\w+)", output)), output


def records(folder: Path, name: str) -> dict[str, dict]:
    rows = map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())
    return {row.get("placement", row.get("id")): row for row in rows}


def test_the_tables_of_people_concern_two_stages_and_the_report():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for form, concerned in ((REVIEW, {"masks", "report"}), (REQUESTS, {"random_boxes", "report"})):
        assert {n for n, stage in stages.items() if form.path.parent.as_posix() in stage["deps"]} == concerned


def test_a_verdict_reruns_masks_alone_and_a_request_paints_what_is_asked_for(tmp_path: Path, tiny_base: Path):
    folder = clone(tmp_path, tiny_base)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["generators"] = ["cutpaste"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "masks" in reran(folder)[0], "without any table"
    assert reran(folder)[0] == set()
    before = records(folder, MANIFEST)

    name, seen = next((name, row) for name, row in before.items() if row["accepted"])
    row = f"hex_nut,cutpaste,{name},{seen['painted_sha256']},bad,\nhex_nut,cutpaste,{name},{'0' * 64},bad,\n"
    (folder / REVIEW.path).write_text(f"{','.join(REVIEW.columns)}\n{row}")
    stages, output = reran(folder)
    assert stages == {"masks"}
    assert "samples refused: 1, masks corrected: 0; rows that name no sample" in output and "1 (lines 3)" in output
    after = records(folder, MANIFEST)
    assert after == before | {name: seen | {"accepted": False, "reason": "reviewed"}}
    numbers = json.loads((folder / "metrics/masks/cutpaste.json").read_text())["hex_nut"]
    assert numbers["rejected"]["reviewed"] == 1 and numbers["review"] == {"bad": 1, "masks": 0, "stale": 1}

    samples = records(folder, "data/prepared/hex_nut/samples.jsonl").values()
    good = next(one["id"] for one in samples if one["defect_type"] == "good" and one["split"] == "train")
    random = (folder / "data/placements/hex_nut.jsonl").read_bytes()
    (folder / REQUESTS.path).write_text(f"{','.join(REQUESTS.columns)}\nhex_nut,{good},chipped_edge,60 60 90 84,,2,\n")
    assert reran(folder)[0] == {"random_boxes", "synth", "masks"}
    assert (folder / "data/placements/hex_nut.jsonl").read_bytes().startswith(random)
    asked = {name: row for name, row in records(folder, MANIFEST).items() if name not in after}
    assert len(asked) == 2 and all(row["box"] == [60, 60, 90, 84] and row["normal"] == good for row in asked.values())
    assert {name: row for name, row in records(folder, MANIFEST).items() if name in after} == after
    assert run(folder, "git", "status", "--porcelain", "--", "data").stdout.split() == [
        "??",
        REQUESTS.path.as_posix(),
        "??",
        REVIEW.path.as_posix(),
    ], "both are seen by Git, to be committed"
