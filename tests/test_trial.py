"""`make try` runs the whole chain and leaves everything of the user's as it is."""

import hashlib
from pathlib import Path

import pytest
import yaml

from tests.test_chain import MICRO, clone, run

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file, but those of tries and of Git's and Python's own bookkeeping."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    own = {name: path for name, path in files.items() if name.parts[0] not in (".work", ".git")}
    return {
        name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in own.items()
        if "__pycache__" not in name.parts
    }


def test_a_try_ends_with_a_report_and_nothing_of_the_users_has_changed(tmp_path: Path, tiny_base: Path):
    project = clone(tmp_path, tiny_base)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["dataset"]["path"] = "data/mine"  # of which the try wants nothing
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    small = {section: values for section, values in MICRO.items() if section not in ("dataset", "rtdetr")}
    for name, values in {"fast": small, "try": {"base": MICRO["base"]}}.items():
        preset = project / f"presets/{name}.yaml"
        knobs = yaml.safe_load(preset.read_text())
        for section, more in values.items():
            knobs[section] = {**knobs.get(section, {}), **more}
        if name == "try":
            knobs["workpieces"] = MICRO["workpieces"]
        preset.write_text("# small\n" + yaml.safe_dump(knobs))
    for name in ("dvc.lock", "data/mine/a.png", "metrics/summary.json", "models/detectors/mine"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("the user's own" if name != "dvc.lock" else "schema: '2.0'\nstages: {}\n")
    run(project, "git", "add", "--force", "tiny")
    before, status = contents(project), run(project, "git", "status", "--porcelain").stdout

    done = run(project, "python", "-m", "lib.trial")
    page = Path(project, done.stdout.rsplit(": ", 1)[1].strip())
    assert page.is_file() and page.name == "index.html" and page.is_relative_to(project / ".work/try")
    assert "stage 1 of" in done.stderr and "| mvp_diff " in done.stdout
    assert contents(project) == before
    assert run(project, "git", "status", "--porcelain").stdout == status
    [one] = (project / ".work/try").iterdir()
    assert yaml.safe_load((one / "params.yaml").read_text())["dataset"]["categories"] == ["hex_nut"]

    again = run(project, "python", "-m", "lib.trial")
    assert "Running stage" not in again.stdout, "what is done and has not changed is not done again"
    (project / "lib/plots.py").write_text((project / "lib/plots.py").read_text() + "\n# changed\n")
    (project / "stages/workpieces.py").write_text("raise SystemExit(3)\n")
    assert run(project, "python", "-m", "lib.trial", check=False).returncode == 255
    [other] = (project / ".work/try").iterdir()
    assert other != one, "what has changed begins another one"
