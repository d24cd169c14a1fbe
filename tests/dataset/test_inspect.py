"""The dry run: it says what would be read, writes nothing, and its exit code tells whether there are problems."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands import run_here
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared/data"


def inspect(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    return run_here(folder, "lib.dataset.inspect", *arguments)


def write_nuts(root: Path) -> Path:
    """Good pictures and ones with a crack, in plain folders, six of each."""
    for kind in ("good", "crack"):
        for number in range(6):
            seed = number + 10 * (kind == "good")
            picture = np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)
            (root / "nut" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / f"nut/{kind}/{number}.png")
            if kind == "crack":
                (root / "nut/masks/crack").mkdir(parents=True, exist_ok=True)
                mask = np.pad(np.full((6, 6), 255, np.uint8), ((9, 9), (4, 22)))
                Image.fromarray(mask).save(root / f"nut/masks/crack/{number}.png")
    return root


def files(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def test_it_says_what_would_be_read_and_writes_nothing(tmp_path):
    root = write_nuts(tmp_path / "set")
    before = files(tmp_path)
    done = inspect(root, folder=tmp_path)
    assert done.returncode == 0 and files(tmp_path) == before, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "nut: read as plain: folders of types, such as crack (dataset.layout)"
    assert "nut: 12 pictures" in lines and "good - 6 32 x 24" in lines and "crack - 6 32 x 24 6 file" in lines
    assert "0 problem(s)" in lines and not any("split.rule" in line for line in lines)
    assert "nut: by split.rule first_third: 4 train, 2 val, 6 test" in inspect(root).stdout


def test_problems_are_all_told_and_end_with_one(tmp_path):
    root = write_nuts(tmp_path / "set")
    (root / "nut/masks/crack/0.png").unlink()
    (root / "nut/good/1.png").write_bytes(b"no picture")
    done = inspect(root)
    assert done.returncode == 1 and "2 problem(s)" in done.stdout
    assert "crack/0.png: a defect picture without a mask" in done.stdout and "good/1.png: cannot be read" in done.stdout


def test_the_layout_and_the_categories_can_be_named(tmp_path):
    root = write_nuts(tmp_path / "set")
    (root / "bolt").mkdir()
    assert inspect(root).returncode == 1, "an empty category"
    assert inspect(root, "--category", "nut").returncode == 0
    done = inspect(root, "--category", "nut", "--layout", "mvtec")
    assert done.returncode == 1 and "read as mvtec: as dataset.layout says" in done.stdout
    done = inspect(root, "--layout", "nonsense")
    assert done.returncode == 2 and "invalid choice" in done.stderr
    done = inspect(tmp_path / "nowhere")
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_a_data_set_that_is_one_category_may_be_called_anything(tmp_path):
    root = write_nuts(tmp_path / "set") / "nut"
    done = inspect(root)
    assert done.returncode == 0 and done.stdout.startswith("nut: read as plain"), done.stdout
    done = inspect(root, "--category", "one", "--category", "two")
    assert done.returncode == 1 and "is one category, which one, two would all be" in done.stdout


def test_the_parameters_of_the_folder_count(tmp_path):
    root = write_nuts(tmp_path / "set")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"path": "set", "categories": ["nut"], "group_pattern": "("}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = inspect("set", folder=tmp_path)
    assert done.returncode == 1 and "no regular expression" in done.stdout
    for other in (root, "./set/../set", root / ".." / "set"):
        again = inspect(other, folder=tmp_path)
        assert (again.returncode, again.stdout) == (1, done.stdout), "the same folder, named in another way"
    (tmp_path / "link").symlink_to(root)
    assert inspect("link", folder=tmp_path).returncode == 1
    done = inspect(tmp_path, folder=tmp_path)
    assert done.returncode == 2 and "holds this project" in done.stderr


def test_folders_that_params_yaml_leaves_out_are_named(tmp_path):
    root = write_nuts(tmp_path / "set")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"path": "set", "categories": ["nut"], "foreground": "drawn/objects"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "drawn/objects").mkdir(parents=True)
    assert "leaves out" not in inspect("set", folder=tmp_path).stdout
    for name in ("flange", "steel bolt"):
        (root / name).mkdir()
    done = inspect("set", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("nut: ") and "flange" not in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == (
        "not read by prepare: flange, steel bolt, which dataset.categories in params.yaml leaves out"
    )
    (root / "nut").rename(root / "bolt")
    done = inspect("set", folder=tmp_path)
    assert done.returncode == 1 and "nut: this folder is missing; set holds: bolt, " in done.stdout


def test_a_data_set_that_is_one_category_has_the_name_that_params_yaml_gives_it(tmp_path):
    write_nuts(tmp_path / "set")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"path": "set/nut", "categories": ["hex"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = inspect("set/nut", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("hex: ") and "leaves out" not in done.stdout, done.stdout


def test_a_name_too_long_for_a_folder_is_refused():
    done = inspect("x" * 5000)
    assert done.returncode == 2 and "name too long" in done.stderr.lower() and "Traceback" not in done.stderr


def test_it_starts_without_torch():
    check = (
        "import sys, lib.dataset.inspect; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deeppcb", "deeppcb: read as deeppcb"),
        ("magnetic_tile", "tile: read as mvtec"),
        ("mvtec_ad", "bottle, leather: read as mvtec"),
        ("ball_screw", "spindle: read as mvtec"),
    ],
)
def test_data_sets_of_other_people_are_recognised(name, said):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the sample {name} is not on this machine")
    done = inspect(SHARED / name)
    assert done.returncode == 0 and done.stdout.startswith(said) and "0 problem(s)" in done.stdout
