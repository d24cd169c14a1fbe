"""Exports as folders: equal bytes, all or nothing, nobody's files lost, never the test part unless asked for."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from lib.core.errors import UserError
from lib.core.images import write_png
from lib.core.params import Format, Params
from lib.core.records import RegionMap
from lib.export.datasets import FORMATS, write_dataset
from lib.export.items import masks_of, read_items
from tests.commands import run_here
from tests.conftest import ROOT
from tests.export.conftest import CATEGORY, GENERATORS, SIZE, Truth


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_params_yaml_may_name_exactly_the_formats_that_there_are():
    assert set(get_args(Format)) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_equal_input_gives_equal_bytes(name: str, truth: Truth):
    for out in ("a", "b"):
        write_dataset(name, Path(out), [CATEGORY], ["train", "val"], GENERATORS)
    assert digests(Path("a")) == digests(Path("b"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_test_part_is_there_when_it_is_asked_for_and_never_else(name: str, truth: Truth):
    write_dataset(name, Path("out"), [CATEGORY], ["train", "val"], GENERATORS)
    assert not [file for file in digests(Path("out")) if "crack-1" in file or "good-3" in file]
    write_dataset(name, Path("out"), [CATEGORY], ["test"], [])
    pictures = [file for file in digests(Path("out")) if "crack-1" in file or "good-3" in file]
    assert any("crack-1" in file for file in pictures) and any("good-3" in file for file in pictures)
    assert not [file for file in digests(Path("out")) if "dent" in file]


def test_foreign_files_are_named_and_stay(truth: Truth):
    write_dataset("coco", Path("out"), [CATEGORY], ["train"], [])
    (Path("out") / CATEGORY / "note.txt").write_text("mine")
    before = digests(Path("out"))
    with pytest.raises(UserError, match=r"slab/note\.txt"):
        write_dataset("coco", Path("out"), [CATEGORY], ["val"], [])
    assert digests(Path("out")) == before


def test_files_at_odds_with_their_records_are_all_named_and_nothing_is_written(truth: Truth):
    picture, mask = Path("data/mine/slab/train/dent-1.png"), Path(f"data/masks/cutpaste/{CATEGORY}-dent-00000.png")
    write_png(picture, truth.pixels["train-dent-10"])
    mask.unlink()
    with pytest.raises(UserError, match=r"2 file\(s\)") as caught:
        write_dataset("csv", Path("out"), [CATEGORY], ["train"], GENERATORS)
    assert f"{picture}: is not the file" in str(caught.value) and f"{mask}: not found" in str(caught.value)
    assert not Path("out").exists()


def test_a_sample_whose_good_picture_is_no_longer_prepared_is_told(truth: Truth):
    manifest = Path(f"data/masks/cutpaste/{CATEGORY}/manifest.jsonl")
    manifest.write_text(manifest.read_text().replace('"normal": "good-0"', '"normal": "good-999"'))
    with pytest.raises(UserError, match="made from good-999, which `prepare` no longer has"):
        write_dataset("coco", Path("out"), [CATEGORY], ["train"], GENERATORS)


def test_pixels_that_never_count_are_no_defect_in_any_format(truth: Truth):
    regions = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    regions[:, :16] = (255, 0, 0)  # red never counts
    regions[:, 16:] = 255
    place = Path("data/mine/regions.png")
    write_png(place, regions)
    [item] = [one for one in read_items(CATEGORY, ["train"], []) if one.name == "train-dent-1"]
    hidden = replace(item, regions=RegionMap(place.as_posix(), "0" * 64))
    (_, whole), (_, counting) = masks_of(item)[0], masks_of(hidden)[0]
    assert whole[:, :16].any() and not counting[:, :16].any() and np.array_equal(whole[:, 16:], counting[:, 16:])


def test_a_mask_of_another_size_is_refused(truth: Truth):
    records = Path(f"data/prepared/{CATEGORY}/samples.jsonl")
    records.write_text(records.read_text().replace("[48, 40]", "[40, 40]"))
    with pytest.raises(UserError, match="the picture has"):
        write_dataset("coco", Path("out"), [CATEGORY], ["train"], [])
    assert not Path("out").exists()


def test_a_category_without_any_picture_is_refused(truth: Truth):
    Path(f"data/prepared/{CATEGORY}/samples.jsonl").write_text("")
    with pytest.raises(UserError, match="slab: no picture"):
        write_dataset("coco", Path("out"), [CATEGORY], ["train"], [])


@pytest.mark.parametrize(
    ("value", "problem"),
    [({"formats": ["voc"], "parts": ["train"]}, "formats"), ({"formats": [], "parts": []}, "parts"),
     ({"formats": ["coco", "coco"], "parts": ["train"]}, "once")],
)  # fmt: skip
def test_impossible_settings_are_refused(value: dict, problem: str, raw_params: dict):
    with pytest.raises(ValueError, match=problem):
        Params.model_validate(raw_params | {"export": value})


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_the_stage_and_the_command_write_the_same_without_torch(truth: Truth, inside: Path, raw_params: dict):
    (inside / "torch.py").write_text("raise ImportError('an export imports torch')\n")
    raw = raw_params | {"generators": list(GENERATORS), "dataset": raw_params["dataset"] | {"categories": [CATEGORY]}}
    (inside / "params.yaml").write_text(yaml.safe_dump(raw))
    done = run("stages.export", "--format", "coco", cwd=inside)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("lib.export", "coco", "csv", "--out", "elsewhere", cwd=inside)
    assert (done.returncode, done.stderr) == (0, "") and "elsewhere/csv: pictures: 12 of slab" in done.stdout
    assert digests(Path("elsewhere/coco")) == digests(Path("data/export/coco"))
    for asked, words in (
        (["--generators", "dmgr"], "dmgr: not among generators"),
        (["--categories", "../x"], "../x: not among dataset.categories"),
    ):
        done = run_here(inside, "lib.export", "coco", "--out", "no", *asked)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    Path("file").write_text("mine")
    done = run_here(inside, "lib.export", "coco", "--out", "file/below")
    assert done.returncode == 2 and "Not a directory" in done.stderr and "Traceback" not in done.stderr
    Path("dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    for place in ("data/prepared", "data/export", "data/masks"):
        done = run_here(inside, "lib.export", "csv", "--out", place)
        assert done.returncode == 2 and f"{place}/csv" in done.stderr and "belongs to the stage" in done.stderr
    assert not Path("data/prepared/csv").exists()
    done = run_here(inside, "lib.export", "csv", "--out", "real", "--generators", "--parts", "val")
    assert done.returncode == 0 and "2 of slab" in done.stdout
