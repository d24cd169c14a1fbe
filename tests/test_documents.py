"""What the documents beside the README say is so: folders, quoted lines, refusals."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lib.core.errors import UserError
from lib.core.params import load
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# A file's name in backticks on a line of its own, then lines of that file; three dots stand for what is left out.
QUOTATIONS = re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", CONTRIBUTING, re.M | re.S)


def outputs(folder: str) -> list[tuple[str, str]]:
    """Stage and path of everything that the pipeline writes into a folder, as its page writes the path."""
    pairs = []
    for name, stage in STAGES.items():
        for out in (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])):
            path = out if isinstance(out, str) else next(iter(out))
            path = re.sub(r"\$\{item\.(\w+)\}", lambda hit: hit[1].upper(), path)
            if path.startswith(f"{folder}/"):
                pairs.append((name, path.removeprefix(f"{folder}/")))
    return pairs


@pytest.mark.parametrize("folder", ["data", "models", "metrics"])
def test_the_page_of_a_folder_has_a_row_for_everything_that_appears_there(folder: str):
    rows = [row for row in (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines() if row[:2] == "| "]
    assert outputs(folder)
    for stage, path in outputs(folder):
        assert any(f"`{stage}`" in row and f"`{path}" in row for row in rows), f"{path} of the stage {stage}"


def test_git_keeps_of_the_data_folder_its_page_what_people_say_what_dvc_knows_of_own_pictures_and_nothing_else():
    kept = ["data/README.md", "data/mydata.dvc", "data/review/review.csv", "data/review/masks/a/b/c.png"]
    kept += ["data/requests/requests.csv"]
    others = ("data/workpieces", "data/mydata/good/1.png", "data/reviews/1.png")
    for path, ignored in (*((one, False) for one in kept), *((one, True) for one in others)):
        done = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False)
        assert (done.returncode == 0) == ignored, path


@pytest.mark.parametrize(("file", "lines"), QUOTATIONS, ids=[file for file, _ in QUOTATIONS])
def test_quoted_lines_stand_in_their_file_in_this_order(file: str, lines: str):
    text = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert len(lines.splitlines()) > 1
    for line in lines.splitlines():
        if line and line != "...":
            assert line in text, f"{file} has no line {line!r} behind the one before"
            text = text[text.index(line) + 1 :]


@pytest.mark.parametrize("change", ["file", "section"])
def test_a_forgotten_file_or_section_is_refused_in_the_words_that_are_quoted(change: str, tmp_path: Path, raw_params):
    values = dict(raw_params)
    if change == "file":
        values["generators"] = [*raw_params["generators"], "NAME"]
    else:
        del values["cutpaste"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "params.yaml")
    [_, problem] = str(caught.value).splitlines()
    [words] = re.findall(rf"^- the {change}: `(.*)`", CONTRIBUTING, re.M)
    assert all(part in problem for part in words.split("...")), problem
