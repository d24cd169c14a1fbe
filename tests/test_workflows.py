"""The workflow of pull requests: its actions are pinned, and its scripts do on a small pipeline what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from tests.conftest import ROOT
from tests.test_chain import clone, run

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
# Lines of the workflows that cannot run here, and why.
NOT_RUN_HERE = {
    "python -m pip install --requirement requirements-dev.txt": "network",
    "python -m pip install --requirement requirements.txt": "network",
    'python -m pytest -m "not slow"': "these are the tests themselves",
    ".ci/run": "likewise",
    'gh pr comment "$NUMBER" --body-file comment.md --edit-last --create-if-none': "network, and a pull request",
}


def steps(file: Path) -> list[dict]:
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_githubs_own_at_a_version_or_pinned_by_their_commit(file: Path):
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+|[\w./-]+@[0-9a-f]{40}", name) for name in used)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_line_that_runs_is_a_script_of_the_repository_or_named_with_a_reason(file: Path):
    for step in steps(file):
        for line in step.get("run", "").splitlines():
            script = re.search(r"\$RUNNER_TEMP/ci/(\w+)", line)
            plain = line.startswith(("cp -r .ci ", "cat comment.md >> "))
            assert plain or line in NOT_RUN_HERE or (script and (ROOT / ".ci" / script[1]).is_file()), line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actionlint_finds_nothing(file: Path):
    linter = shutil.which("actionlint")
    if linter is None:
        pytest.skip("actionlint is not on the PATH")
    done = subprocess.run([linter, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hooks_before_a_commit_are_local_and_what_make_lint_runs():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"], "a hook from elsewhere would be fetched"
    entries = [hook["entry"].removeprefix(".venv/bin/") for repo in repos for hook in repo["hooks"]]
    linted = run(ROOT, "make", "--dry-run", "--always-make", "lint").stdout
    assert entries == ["ruff check", "ruff format --check", "mypy"] and all(entry in linted for entry in entries)
    for entry in entries:
        program = Path(sys.executable).with_name(entry.split()[0])
        assert subprocess.run([program, "--version"], capture_output=True).returncode == 0


MEASURE = """
import json, pathlib, shutil
lines = pathlib.Path("data/placements/hex_nut.jsonl").read_text().splitlines()
pathlib.Path("metrics/summary.json").write_text(json.dumps({"placements": len(lines)}))
pathlib.Path("metrics/synth/cutpaste").mkdir(parents=True, exist_ok=True)
shutil.copy("metrics/placements/hex_nut.png", "metrics/synth/cutpaste/hex_nut.png")
"""


@pytest.fixture
def small(tmp_path: Path, tiny_base: Path) -> Path:
    """A clone whose pipeline ends behind the placements, with one metric and one contact sheet, and a bare remote."""
    (tmp_path / "clone").mkdir()
    folder = clone(tmp_path / "clone", tiny_base)
    (folder / "measure.py").write_text(MEASURE)
    program = yaml.safe_load((folder / "dvc.yaml").read_text())
    names = ("workpieces", "prepare", "boxes", "random_boxes")
    stages = {name: program["stages"][name] for name in names}
    stages["measure"] = {
        "cmd": "python measure.py",
        "deps": ["data/placements", "metrics/placements"],
        "outs": ["metrics/synth/cutpaste/hex_nut.png"],
        "metrics": [{"metrics/summary.json": {"cache": False}}],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "presets/ci.yaml").write_text("# small\nsplit:\n  val_fraction: 0.3\n")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "small")
    run(folder, "git", "branch", "main")
    run(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    run(folder, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    return folder


@pytest.mark.slow
def test_a_pull_request_gets_a_comment_with_parameters_metrics_and_pictures(small: Path, tmp_path: Path):
    params = (small / "params.yaml").read_text()
    (small / "params.yaml").write_text(params.replace("per_type: 2", "per_type: 3"))
    run(small, "git", "commit", "--quiet", "--all", "--message", "more placements")
    head = run(small, "git", "rev-parse", "HEAD").stdout.strip()
    ci = tmp_path / "ci"  # as in the workflow: the scripts of the head, whatever is checked out
    shutil.copytree(small / ".ci", ci)
    run(small, str(ci / "micro"), "main", "before")
    run(small, str(ci / "micro"), head, "after")
    assert run(small, "git", "status", "--porcelain").stdout == ""
    comment = run(small, str(ci / "comment"), "before", "after", "https://example.org/7").stdout
    assert re.search(r"\| params.yaml *\| placements.per_type *\| 2 *\| 3 *\|", comment)
    assert re.search(r"\| placements *\| 6 *\| 9 *\| 3 *\|", comment)
    assert "![cutpaste-hex_nut.png](https://example.org/7/cutpaste-hex_nut.png)" in comment
    assert run(small, str(ci / "comment"), "after", "after").stdout.count("No difference.") == 2
    for number in ("7", "8", "7"):
        run(small, str(ci / "pictures"), "ci-pictures", number, "origin")
    listed = run(tmp_path / "remote.git", "git", "ls-tree", "-r", "--name-only", "ci-pictures").stdout.split()
    assert listed == ["7/cutpaste-hex_nut.png", "8/cutpaste-hex_nut.png"]
    sent = ("git", "show", "ci-pictures:7/cutpaste-hex_nut.png")
    shown = subprocess.run(sent, cwd=tmp_path / "remote.git", capture_output=True, check=True)
    sheet = small / "metrics/synth/cutpaste/hex_nut.png"
    assert shown.stdout == sheet.read_bytes() and cv2.imread(str(sheet)) is not None
    refused = run(small, str(ci / "micro"), "nowhere", "x", check=False)
    assert refused.returncode != 0
